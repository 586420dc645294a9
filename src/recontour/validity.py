"""Whether a coarse outline is worth refining, told without any truth.

An outline is valid (LC-MIL, arXiv 2109.10778) when more than half of what it holds, and more than
half of what it leaves out, is rightly labelled. That takes two things. It must lie where the look
of the tissue changes ("place": an outline of another slide, a shifted one or a scribble does not),
and the class must be inside of it ("side": a flipped outline lies in the right place). The chance
that it is valid is the product of the two, each a logistic of two signals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recontour.appearance import Look, belonging, look_at
from recontour.trust import mean_recall, predict_blocked
from recontour.types import PatchSet

LEAST_CELLS = 50
LEAST_OF_A_SIDE = 10
"""Fewer cells say nothing: no verdict but "doubtful"."""


@dataclass(frozen=True)
class Validity:
    """What is thought of a coarse outline.

    Attributes
    ----------
    verdict : "valid", "doubtful" or "invalid"
    score : 0..1, the chance that it is valid
    ppv, npv : estimated share of the outlined cells, and of the cells outside, that are rightly
        labelled
    error_rate : estimated share of all labels that are wrong
    reasons : sentences for the user, most important first; none where it is valid
    signals : what the verdict was made of; see `measure`
    """

    verdict: str
    score: float
    ppv: float
    npv: float
    error_rate: float
    reasons: tuple[str, ...]
    signals: Mapping[str, float]


# Measured and printed by `python benchmarks/validity.py`: a logistic on each pair of signals.
PLACE = (-10.0, {"belongs": 4.12, "agreement": 9.47})
SIDE = (0.37, {"rim": -4.04, "varied": -5.09})
VALID, INVALID = 0.3, 0.1
"""Scores from which an outline is valid, and below which it is invalid."""
RIM_LEAST = 0.05
NEAR_CHANCE = 0.2  # 0: as good as guessing, 1: perfect; a balanced agreement of 0.6 for two classes


def judge(patches: PatchSet, probs: NDArray[np.float32], *, seed: int = 0) -> Validity:
    """Whether a coarse outline can be relied on, without any truth.

    Parameters
    ----------
    patches : n cells with coarse labels
    probs : (n, K), what a refiner made of them, for the estimates
    seed : of the folds

    Returns
    -------
    Validity; "doubtful" with a score of one half, and the reason, where nothing can be told: fewer
    than 50 labelled cells, fewer than 10 inside or outside, features that are not finite
    """
    labels = np.asarray(patches.labels)
    known = labels >= 0
    inside, outside = labels > 0, labels == 0
    ppv = _mean(probs[inside, labels[inside]])
    npv = _mean(probs[outside, 0])
    error = 1 - _mean(probs[known, labels[known]])
    sides = int(inside.sum()), int(outside.sum())

    def unjudged(why: str) -> Validity:
        reason = f"whether the outline is right cannot be judged: {why}"
        return Validity("doubtful", 0.5, ppv, npv, error, (reason,), {})

    if sum(sides) < LEAST_CELLS or min(sides) < LEAST_OF_A_SIDE:
        return unjudged(
            f"{sides[0]:,} cells lie inside and {sides[1]:,} outside; it takes {LEAST_CELLS} in "
            f"all and {LEAST_OF_A_SIDE} of each (a smaller --cell-um gives more)"
        )
    look = look_at(patches)
    if look is None or not np.isfinite(probs).all():
        return unjudged("features or probabilities are not finite")
    if min((look.labels > 0).sum(), (look.labels == 0).sum()) < LEAST_OF_A_SIDE:
        return unjudged("it is too small beside all of the tissue")
    signals = measure(look, patches, probs, seed)
    place, side = chances(signals)
    score = place * side
    chance = 1 / len(patches.classes)
    alike = (signals["agreement"] - chance) / (1 - chance) < NEAR_CHANCE
    verdict = "valid" if score >= VALID else "doubtful" if score >= INVALID else "invalid"
    if verdict == "valid" and alike:
        verdict = "doubtful"
    reasons = () if verdict == "valid" else _reasons(signals, place, side, ppv, npv, alike, chance)
    told = {**signals, "place": place, "side": side}
    return Validity(verdict, score, ppv, npv, error, reasons, told)


def chances(signals: Mapping[str, float]) -> tuple[float, float]:
    """The chances that the outline lies in its place, and that the class is inside of it."""
    found = []
    for bias, weights in (PLACE, SIDE):
        z = bias + sum(weight * signals[name] for name, weight in weights.items())
        found.append(1 / (1 + math.exp(-min(max(z, -30.0), 30.0))))
    return found[0], found[1]


def _reasons(
    signals: Mapping[str, float],
    place: float,
    side: float,
    ppv: float,
    npv: float,
    alike: bool,
    chance: float,
) -> tuple[str, ...]:
    reasons = []
    if side < 0.5 and side <= place:
        reasons.append(
            "most of what the outline holds looks like what should lie outside (the rim of the "
            "tissue, or the more varied part of it): are inside and outside swapped, or is it the "
            "wrong class?"
        )
    if place < 0.5 or not reasons:
        times = math.exp(signals["belongs"])
        reasons.append(
            f"the tissue changes only {times:.1f} times as much across the outline as across the "
            "same outline put elsewhere on the slide: is it of another slide, shifted, or was the "
            "main lesion missed?"
        )
    if alike:
        reasons.append(
            f"the outlined tissue hardly looks different from the rest: a simple model agrees with "
            f"the outline in {signals['agreement']:.0%} of the cells where guessing would in "
            f"{chance:.0%}"
        )
    if ppv < 0.5:
        reasons.append(
            f"only {ppv:.0%} of what it holds is estimated to be right: wrong class, flipped, or "
            "wrong slide?"
        )
    if npv < 0.5:
        reasons.append(
            f"only {npv:.0%} of what it leaves out is estimated to be right: lesions missed?"
        )
    return tuple(reasons)


def _mean(values: NDArray[np.floating]) -> float:
    """Of nothing: one half, as nothing is known."""
    return float(values.mean(dtype=np.float64)) if len(values) else 0.5


def measure(
    look: Look, patches: PatchSet, probs: NDArray[np.float32], seed: int
) -> dict[str, float]:
    """The signals, all finite. The verdict rests on the first four, which no refiner takes part in.

    - `belongs`: how much more the outline parts than its displaced copies (`belonging`)
    - `agreement`: mean recall of the coarse labels by a model that learned them elsewhere on the
      slide (`predict_blocked`)
    - `rim`: logarithm of how many times more often (odds) the rim of the tissue is outlined than
      all of it
    - `varied`: logarithm of the variance of the look inside over that outside, as the same model
      sees inside and outside: a class is one tissue, the background is all others
    - `agree`, `recall_inside`, `recall_outside`: of the coarse labels in the refined ones
    - `ambiguity`: mean of 4q(1 − q), q the refined probability of background
    """
    k = len(patches.classes)
    labels = np.asarray(patches.labels)
    known = labels >= 0
    inside, q = labels[known] > 0, probs[known, 0].astype(np.float64)
    same = np.argmax(probs, axis=1)[known] == labels[known]
    belief, agreement = (labels > 0).astype(np.float64), None
    blocked = predict_blocked(patches, seed)
    if blocked is not None:
        cells, found = blocked
        belief = np.full(len(labels), 0.5)
        belief[cells] = found > 0
        agreement = mean_recall(labels[cells], found, k)
    return {
        "belongs": belonging(look, look.labels),
        "agreement": 1 / k if agreement is None else agreement,
        "rim": _rim(look, look.labels),
        "varied": _varied(look, look.mean(belief)),
        "agree": float(same.mean()),
        "recall_inside": float(same[inside].mean()),
        "recall_outside": float(same[~inside].mean()),
        "ambiguity": float(np.mean(4 * q * (1 - q))),
    }


def _rim(look: Look, labels: NDArray[np.int8]) -> float:
    from scipy import ndimage

    whole = ndimage.binary_fill_holes(np.pad(look.tissue, 1))
    rim = (whole & ~ndimage.binary_erosion(whole))[1:-1, 1:-1][look.rows, look.cols]
    inside = labels > 0

    def log_odds(cells: NDArray[np.bool_]) -> float:
        share = float(inside[cells].mean())
        return math.log((share + RIM_LEAST) / (1 - share + RIM_LEAST))

    return log_odds(rim) - log_odds(np.ones(len(rim), bool))


def _varied(look: Look, belief: NDArray[np.float64]) -> float:
    traces = []
    for q in (belief, 1 - belief):
        q = np.clip(q, 1e-3, 1)
        w = q / q.sum()
        traces.append(float((w @ look.z**2 - (w @ look.z) ** 2).sum()))
    return float(np.log((traces[0] + 1e-9) / (traces[1] + 1e-9)))
