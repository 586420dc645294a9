"""Signs, without any truth, that an outline or a result should not be relied on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recontour.errors import RefinerError
from recontour.memo import content, recall
from recontour.refiners.discriminant import cross_fitted, project_view
from recontour.types import BACKGROUND, Geometry, PatchSet

MIN_CELLS = 200  # fewer say little about what a class looks like
MIN_SHARE = 0.02
FAR = 2.0  # times the outlined area, or one part in: more than careless drawing explains
FOLDS = 5
BLOCKS = 100  # spatial blocks a slide is cut into, about
MOST_COLUMNS = 1024  # features a model is made of; of 25,088 it would take hours
MOST_CELLS = 20_000  # a linear model of 64 numbers learns nothing more from more


@dataclass(frozen=True)
class TrustReport:
    """What was noticed about the coarse labels.

    Attributes
    ----------
    warnings : sentences for the user, most important first
    facts : figures for `run.json` (JSON types): `cells` and `share` of each class, `unlabelled`,
        and `agreement`, None where it cannot be measured
    """

    warnings: tuple[str, ...]
    facts: Mapping[str, Any]


def check_labels(patches: PatchSet, seed: int = 0) -> TrustReport:
    """Whether the coarse labels can be learned from: enough cells, and (in the facts) their look.

    The agreement is the mean recall of the coarse labels under a balanced linear discriminant (on
    64 principal components of at most 1,024 evenly spaced features) that is predicted by spatially
    blocked 5-fold cross-validation: near 1/K, what was outlined looks like what was not. Features
    that are not finite are left to the refiner to refuse: no agreement.

    Parameters
    ----------
    patches : one slide
    seed : of the folds
    """
    labels = np.asarray(patches.labels)
    counts = np.bincount(labels[labels >= 0], minlength=len(patches.classes))
    agreement = _agreement(patches, seed)
    warnings = _few(patches.classes, counts)
    total = max(int(counts.sum()), 1)
    facts = {
        "cells": {name: int(c) for name, c in zip(patches.classes, counts, strict=True)},
        "share": {name: float(c / total) for name, c in zip(patches.classes, counts, strict=True)},
        "unlabelled": int((labels < 0).sum()),
        "agreement": agreement,
    }
    return TrustReport(tuple(warnings), facts)


def check_areas(
    classes: Sequence[str],
    areas: Sequence[Geometry],
    drawn: Sequence[Geometry],
    tissue: Geometry,
) -> tuple[str, ...]:
    """A warning for each class of which nothing was found, or much more or less than was drawn.

    Parameters
    ----------
    classes : K names, background first
    areas, drawn : refined and coarse area of each class k >= 1, level-0 px
    tissue : what was drawn on glass does not count
    """
    warnings = []
    for name, area, outline in zip(classes[1:], areas, drawn, strict=True):
        before = outline.intersection(tissue).area
        if area.is_empty:
            warnings.append(
                f"nothing of class {name!r} is left: no cell was probable enough, or all that was "
                "found is too small; a lower --threshold or --min-area-um2 keeps more"
            )
        elif before > 0 and not 1 / FAR <= area.area / before <= FAR:
            warnings.append(
                f"class {name!r} now covers {area.area / before:.1f} times the tissue that was "
                "outlined: look at the picture before using it, and try --method logistic or "
                "--within-um"
            )
    return tuple(warnings)


def noise_found(patches: PatchSet, probs: NDArray[np.float32]) -> dict[str, Any]:
    """How many coarse labels the probabilities contradict; JSON types, for `run.json`.

    Parameters
    ----------
    patches : n cells with coarse labels
    probs : (n, K); a cell belongs to its most probable class (the earlier one on a tie)

    Returns
    -------
    `cells` labelled, `changed` of them, their `share`, and for each class how many `stayed`,
    `left` (coarse label of this class, found to be another) and `joined` (the reverse)
    """
    labels = np.asarray(patches.labels)
    known = labels >= 0
    k = len(patches.classes)
    found = np.argmax(probs, axis=1)
    table = np.bincount(labels[known] * np.int64(k) + found[known], minlength=k * k).reshape(k, k)
    cells, stayed = int(table.sum()), np.diag(table)
    return {
        "cells": cells,
        "changed": cells - int(stayed.sum()),
        "share": float((cells - stayed.sum()) / max(cells, 1)),
        "classes": {
            name: {
                "stayed": int(stayed[i]),
                "left": int(table[i].sum() - stayed[i]),
                "joined": int(table[:, i].sum() - stayed[i]),
            }
            for i, name in enumerate(patches.classes)
        },
    }


def _few(classes: tuple[str, ...], counts: NDArray[np.int64]) -> list[str]:
    total = int(counts.sum())
    sentences = []
    for name, count in zip(classes, counts, strict=True):
        if count >= MIN_CELLS and count >= MIN_SHARE * total:
            continue
        cells = f"{count:,} of {total:,} tissue cells"
        if name == BACKGROUND:
            sentences.append(
                f"the outline leaves little outside: {cells} are background; "
                f"too few to learn what the outlined class is not"
            )
        else:
            sentences.append(
                f"few cells of class {name!r}: {cells} lie inside its outline; "
                f"a smaller --cell-um gives more"
            )
    return sentences


def predict_blocked(
    patches: PatchSet, seed: int = 0
) -> tuple[NDArray[np.intp], NDArray[np.intp]] | None:
    """The class of each cell by a discriminant that never saw its neighbourhood.

    A balanced linear discriminant of the coarse labels on 64 principal components of at most 1,024
    evenly spaced features, by spatially blocked 5-fold cross-validation on at most 20,000 cells.

    Returns
    -------
    indices (m,) of the cells asked about and their classes (m,); None with too few cells of a
    class, or where a feature is not finite
    """
    # A run asks twice.
    asked = content(np.asarray(patches.labels), patches.grid.rows, patches.grid.cols)
    name = ("blocked", seed, len(patches.classes), asked)
    return recall(patches.memo, name, [patches.features], lambda: _predict_blocked(patches, seed))


def _predict_blocked(
    patches: PatchSet, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]] | None:
    rng = np.random.default_rng(seed)
    labels = np.asarray(patches.labels)
    used = np.flatnonzero(labels >= 0)
    if len(used) > MOST_CELLS:
        used = np.sort(rng.choice(used, MOST_CELLS, replace=False))
    y, k = labels[used], len(patches.classes)
    if k < 2 or np.bincount(y, minlength=k).min() < 2 * FOLDS:
        return None
    fold = _folds(patches, rng)[used]
    rows = None if len(used) == len(labels) else used
    try:
        x = project_view(patches, "features", rows=rows, most_columns=MOST_COLUMNS)
    except RefinerError:  # features that are not finite
        return None
    scores = cross_fitted([x], y, fold, k)
    # A class that lives in one fold cannot be learned without it.
    asked = np.isfinite(scores).all(axis=1)
    return used[asked], scores[asked].argmax(axis=1)


def mean_recall(labels: NDArray[Any], found: NDArray[np.intp], k: int) -> float | None:
    """Mean over classes of the share of labels (m,) that were found; None without one of them."""
    asked = np.bincount(labels, minlength=k)
    if asked.min() < 1:
        return None
    return float(np.mean(np.bincount(labels[labels == found], minlength=k) / asked))


def _agreement(patches: PatchSet, seed: int) -> float | None:
    """Mean recall by blocked cross-validation; None with too few cells of a class."""
    blocked = predict_blocked(patches, seed)
    if blocked is None:
        return None
    cells, found = blocked
    return mean_recall(np.asarray(patches.labels)[cells], found, len(patches.classes))


def _folds(patches: PatchSet, rng: np.random.Generator) -> NDArray[np.int64]:
    """(n,) fold of each cell; neighbours share a block, and blocks are dealt out evenly."""
    side = max(round((len(patches) / BLOCKS) ** 0.5), 1)
    rows, cols = patches.grid.rows // side, patches.grid.cols // side
    _, block = np.unique(np.stack([rows, cols], axis=1), axis=0, return_inverse=True)
    block = block.reshape(-1)
    return (rng.permutation(int(block.max()) + 1) % FOLDS)[block]
