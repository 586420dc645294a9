"""How sure to be of each cell: probabilities that mean what they say, without any truth.

A refiner's own probabilities are overconfident: it has fitted its labels. What a cell's tissue says
is asked of a model that has not seen that part of the slide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recontour.errors import RefinerError, UsageError
from recontour.refiners.discriminant import cross_fitted, project_view, softmax
from recontour.refiners.oracle import deal_blocks
from recontour.review import reviewed_cells
from recontour.types import UNLABELLED, PatchSet

FOLDS = 5
LEAST = 10  # cells of a class: fewer cannot be dealt to the folds and learnt from
MOST_COLUMNS = 1024  # features a model is made of; of 25,088 it would take minutes
MOST_CELLS = 20_000  # that the components are found on; more would not change them
HEAT = 2.0  # logits are divided by it where nothing can be measured; `docs/research/calibration.md`
SURE = 1e-4  # no probability is nearer to 0 or 1 before review: logits stay finite
REVIEWED_WEIGHT = 1 / 3  # of a reviewed cell: neighbours look alike, nine are worth about three
HOLD_SLOPE, HOLD_SHIFT = 4.0, 0.3  # pull of the calibration before review on that after it

Probs = NDArray[np.float32]


@dataclass(frozen=True)
class Calibration:
    """Calibrated probabilities, and how they were come by.

    Attributes
    ----------
    probs : float32 (n, K), rows sum to 1; the likeliest class is that of the refiner
    unseen : float32 (n, K), rows sum to 1; what a model says that saw neither the cell nor its
        surroundings, before any correction by reviewed cells. It may contradict the refiner
    source : "cross-fitted", "sample" (corrected by reviewed cells) or "assumed" (nothing could be
        measured)
    facts : for `run.json` (JSON types)
    """

    probs: Probs
    unseen: Probs
    source: str
    facts: Mapping[str, Any]


def calibrate(
    patches: PatchSet,
    probs: NDArray[np.floating],
    *,
    seed: int = 0,
    sample: bool = False,
) -> Calibration:
    """Turn a refiner's probabilities into the chance of being right.

    1. The slide is cut into blocks and these into five folds. A balanced discriminant learns the
       given labels of four folds and scores the cells of the fifth: a class score that owes nothing
       to the cell's own label or its neighbours'. Where an outline is careless, or the tissue hard
       to tell apart, these scores agree with the labels less.
    2. How often cells of such a score are labelled with each class gives the probability (one
       slope, one shift a class: Platt 1999 for many classes). It restores what balancing leaves
       out: that a class is common or rare.
    3. Nothing overturns the refiner. Where the two disagree about tumour or not, the probability
       becomes one half; where they disagree about which class, both are equally likely.
    4. With `sample`, cells reviewed by a person (trust 1) correct slope and shift, held near what
       they were by a penalty, as a few regions hold little information. Only reviewed regions that
       were chosen without regard to the result can do so: of regions chosen because they were wrong
       one would learn that all is wrong.

    Reviewed cells are certain. Where a class has fewer than ten cells, or the features are not
    finite, the refiner's logits are halved instead (`source` says "assumed").

    Parameters
    ----------
    patches : what the refiner learned from
    probs : (n, K), rows sum to 1
    seed : deals the blocks
    sample : the reviewed cells are a fair sample of the slide
    """
    probs = np.asarray(probs, np.float64)
    labels = np.asarray(patches.labels).astype(np.intp)
    if probs.shape != (len(patches), len(patches.classes)):
        raise ValueError(f"probs {probs.shape} for {len(patches)} x {len(patches.classes)}")
    certain = reviewed_cells(patches)
    scores = _cross_fitted(patches, labels, seed)
    if scores is None:
        logits = np.log(np.clip(probs, SURE, 1)) / HEAT
        unseen, source = softmax(logits), "assumed"
    else:
        known = (labels >= 0) & (_trust(patches) > 0)
        slope, shifts = _platt(scores[known], labels[known])
        unseen, source = softmax(slope * scores + shifts), "cross-fitted"
    found = unseen
    if sample and certain.any() and scores is not None:
        logits = np.log(np.clip(unseen, SURE, 1))
        slope, shifts = _platt(
            logits[certain],
            labels[certain],
            weight=REVIEWED_WEIGHT,
            hold=(HOLD_SLOPE, HOLD_SHIFT),
        )
        found, source = softmax(slope * logits + shifts), "sample"
    found = _not_overturning(found, probs)
    found[certain] = np.eye(probs.shape[1])[labels[certain]]
    facts = {
        "source": source,
        "reviewed_cells": int(certain.sum()),
        "expected_error": float(np.mean(1 - decided_share(found, probs))) if len(found) else 0.0,
    }
    return Calibration(found.astype(np.float32), unseen.astype(np.float32), source, facts)


def decisions(probs: NDArray[np.floating]) -> NDArray[np.intp]:
    """(n,) class of each cell: foreground where that is likelier than not, then the likeliest."""
    best = 1 + np.argmax(probs[:, 1:], axis=1)
    found: NDArray[np.intp] = np.where(1.0 - probs[:, 0] > 0.5, best, 0)
    return found


def decided_share(
    calibrated: NDArray[np.floating], probs: NDArray[np.floating]
) -> NDArray[np.float64]:
    """(n,) calibrated probability of the class that the refiner's `probs` decide for."""
    chosen = decisions(probs)[:, None]
    found = np.take_along_axis(np.asarray(calibrated, np.float64), chosen, axis=1)[:, 0]
    return np.clip(found, 0.0, 1.0)


@dataclass(frozen=True)
class Sure:
    """The cells that meet an error target.

    Attributes
    ----------
    cells : bool (n,)
    facts : for `run.json`: `target`, `share`, `expected_error` of the sure cells, `how` it was
        found ("estimate" or "conformal"), `regions` reviewed
    """

    cells: NDArray[np.bool_]
    facts: Mapping[str, Any]


def sure_cells(
    patches: PatchSet,
    probs: NDArray[np.floating],
    calibration: Calibration,
    target: float,
) -> Sure:
    """As many cells as can be called sure while the share of wrong ones stays below a target.

    With enough reviewed regions of a fair sample the bar is set on them: the lowest confidence c at
    which (Σ_r e_r(c) + 1) / (R + 1) is at most target · s(c). Of region r e_r is the share of its
    cells that are as confident as c and wrong, R the number of regions, s the share of the slide's
    cells that are as confident as c. The left side is that of conformal risk control (Angelopoulos
    et al. 2024), with regions as the units because neighbouring cells err together: it bounds the
    expected share for any c that does not depend on the regions; that c is chosen on them makes the
    promise approximate. At least 1 / target regions are needed, 20 for 5 %. What is wrong is judged
    by the model that has not seen the region.

    Else the calibrated probabilities decide: the most confident cells whose mean chance of being
    wrong is below the target. That is an estimate, not a guarantee.

    Parameters
    ----------
    probs : (n, K), what decides
    calibration : of the same cells
    target : above 0, below 1

    Raises
    ------
    UsageError : a target that is none
    """
    check_target(target)
    confidence = decided_share(calibration.probs, probs)
    wrong = 1 - confidence
    certain = reviewed_cells(patches)
    regions = _regions(patches, certain)
    bar = None
    if calibration.source == "sample":
        before = decided_share(_not_overturning(calibration.unseen.astype(float), probs), probs)
        labels = np.asarray(patches.labels)
        bar = _conformal_bar(calibration.unseen, labels, regions, before[~certain], target)
    if bar is not None:
        sure, how = (before >= bar) | certain, "conformal"
    else:
        order = np.argsort(wrong, kind="stable")
        mean = np.cumsum(wrong[order]) / np.arange(1, len(order) + 1)
        within = np.flatnonzero(mean <= target)
        last = wrong[order[within[-1]]] if len(within) else -1.0
        sure, how = wrong <= last, "estimate"
        if sure.any() and wrong[sure].mean() > target:  # ties would break the promise
            sure = wrong < last
    facts = {
        "target": target,
        "share": float(sure.mean()) if len(sure) else 0.0,
        "expected_error": float(wrong[sure].mean()) if sure.any() else None,
        "how": how,
        "regions": len(regions),
    }
    return Sure(sure, facts)


def check_target(target: float | None) -> None:
    """Refuse an error target that is none.

    Raises
    ------
    UsageError : not between 0 and 1
    """
    if target is not None and not 0 < target < 1:
        raise UsageError(f"--error-target {target:g} must lie between 0 and 1, e.g. 0.05")


def _trust(patches: PatchSet) -> NDArray[np.float64]:
    if patches.trust is None:
        return np.full(len(patches), 0.5)  # of a coarse outline: neither certain nor nothing
    return np.asarray(patches.trust, np.float64)


def _cross_fitted(
    patches: PatchSet, labels: NDArray[np.intp], seed: int
) -> NDArray[np.float64] | None:
    """(n, K) scores of each cell by discriminants that did not see its block; None: cannot be."""
    k = len(patches.classes)
    usable = np.where(_trust(patches) > 0, labels, UNLABELLED).astype(np.int8)
    if np.bincount(usable[usable >= 0], minlength=k).min() < LEAST:
        return None
    try:
        fold = deal_blocks(patches.grid, usable, k, FOLDS, None, seed)
        views = _views(patches)
    except RefinerError:  # one block only, or features that are not finite
        return None
    scores = cross_fitted(views, usable, fold, k)
    if not np.isfinite(scores).all():  # all of a class lies in one fold
        return None
    scores -= scores.mean(axis=1, keepdims=True)
    return scores


def _views(patches: PatchSet) -> list[NDArray[np.float32]]:
    """Components of the cell, and of its context where there is one."""
    few = None
    if len(patches) > MOST_CELLS:
        few = np.sort(np.random.default_rng(0).permutation(len(patches))[:MOST_CELLS])
    return [
        project_view(patches, view, learn=few, most_columns=MOST_COLUMNS)
        for view in ("features", "context")
        if getattr(patches, view) is not None
    ]


def _platt(
    scores: NDArray[np.float64],
    labels: NDArray[np.integer],
    *,
    weight: float = 1.0,
    hold: tuple[float, float] = (0.0, 1e-3),
) -> tuple[float, NDArray[np.float64]]:
    """Slope and shifts (K,) of softmax(slope · scores + shifts) by penalised likelihood.

    The penalty is hold[0] (slope - 1)² + hold[1] Σ shifts². The slope is never negative.
    """
    from scipy.optimize import minimize

    k = scores.shape[1]
    right = np.eye(k)[labels]

    def loss(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        p = softmax(w[0] * scores + w[1:])
        chosen = np.maximum(np.einsum("ij,ij->i", p, right), 1e-300)
        rest = weight * (p - right)
        value = -weight * np.log(chosen).sum()
        value += hold[0] * (w[0] - 1) ** 2 + hold[1] * (w[1:] ** 2).sum()
        slope = (rest * scores).sum() + 2 * hold[0] * (w[0] - 1)
        return value / len(scores), np.r_[slope, rest.sum(axis=0) + 2 * hold[1] * w[1:]] / len(
            scores
        )

    start = np.r_[1.0, np.zeros(k)]
    bounds = [(0.0, None), *[(None, None)] * k]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return float(found[0]), found[1:]


def _not_overturning(
    unseen: NDArray[np.float64], probs: NDArray[np.floating]
) -> NDArray[np.float64]:
    """`unseen` brought so far towards `probs` that both decide alike. (n, K), rows sum to 1."""
    chosen = decisions(probs)
    inside = chosen > 0
    foreground = 1 - unseen[:, 0]
    share = np.where(inside, np.maximum(foreground, 0.5), np.minimum(foreground, 0.5))
    classes = unseen[:, 1:] / np.maximum(foreground, 1e-12)[:, None]
    rows = np.flatnonzero(inside)
    best, mine = np.argmax(classes[rows], axis=1), chosen[rows] - 1
    both = (classes[rows, best] + classes[rows, mine]) / 2
    classes[rows, best] = both
    classes[rows, mine] = both
    classes /= np.maximum(classes.sum(axis=1, keepdims=True), 1e-12)
    return np.concatenate([1 - share[:, None], classes * share[:, None]], axis=1)


def _regions(patches: PatchSet, certain: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    """The cells of each reviewed region; cells that touch, over corners too, are one region."""
    from scipy.ndimage import label

    laid = np.zeros(patches.grid.shape, bool)
    laid[patches.grid.rows[certain], patches.grid.cols[certain]] = True
    parts, count = label(laid, structure=np.ones((3, 3)))
    cells = np.flatnonzero(certain)
    of_cell = parts[patches.grid.rows[cells], patches.grid.cols[cells]]
    order = np.argsort(of_cell, kind="stable")
    ends = np.searchsorted(of_cell[order], np.arange(1, count + 1), side="right")
    return np.split(cells[order], ends[:-1]) if count else []


def _conformal_bar(
    unseen: Probs,
    labels: NDArray[np.integer],
    regions: list[NDArray[np.intp]],
    others: NDArray[np.float64],
    target: float,
) -> float | None:
    """The lowest confidence that meets the target on reviewed regions; None where none does.

    Parameters
    ----------
    unseen : (n, K), of the model that has not seen the regions
    others : (m,) confidence of the cells that were not reviewed
    """
    if not len(others) or 1 / (len(regions) + 1) > target:
        return None
    called = decisions(unseen)
    confidence = np.take_along_axis(unseen, called[:, None], axis=1)[:, 0]
    cells = np.concatenate(regions)
    share = np.concatenate([np.full(len(region), 1 / len(region)) for region in regions])
    bars, at = np.unique(confidence[cells], return_inverse=True)
    # Σ_r e_r at each bar: what is wrong and at least as confident.
    wrong = np.bincount(at, share * (called != labels)[cells], minlength=len(bars))
    bad = np.cumsum(wrong[::-1])[::-1]
    sure = 1 - np.searchsorted(np.sort(others), bars) / len(others)
    met = np.flatnonzero((bad + 1) / (len(regions) + 1) <= target * sure)
    return float(bars[met[0]]) if len(met) else None
