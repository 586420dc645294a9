"""From probabilities to a label map: smooth, decide, drop what is too small."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recontour.errors import UnknownNameError, UsageError
from recontour.evidence import Evidence
from recontour.recipe import Recipe
from recontour.refiners import smoothing_of
from recontour.small_parts import ByEvidence, BySize, Judge, smaller_parts, smoothed_away
from recontour.types import PatchGrid

PRESETS = ("default", "published", "none")

MIN_AREA_CELLS = 6
"""Smallest gap in the tissue that stays a hole, and smallest uncertain area that is listed."""
SIMPLIFY_CELLS = 1 / 20
"""Tolerance of the simplification: well below what a cell can resolve."""

MOST_SMOOTH_CELLS = 100
"""Far beyond anything useful, and what the Gaussian can still do without filling the memory."""


@dataclass(frozen=True)
class Rules:
    """How probabilities become areas.

    Attributes
    ----------
    threshold : a cell is foreground where 1 - P(background) exceeds this
    sigma_cells : σ of the Gaussian, in cells; 0: none
    min_area_cells : objects, then holes, of fewer cells are removed; by evidence: of holes that
        are off tissue only
    simplify_px : tolerance of the simplification, level-0 px; 0: none
    over_tissue : the Gaussian is normalised over tissue; False: cells off tissue count as 0
    by_evidence : objects and holes go where the probabilities speak against them (see
        `recontour.evidence`), however small or large they are; and smoothing leaves what they
        speak for
    """

    threshold: float = 0.5
    sigma_cells: float = 0.7
    min_area_cells: float = MIN_AREA_CELLS
    simplify_px: float = 0.0
    over_tissue: bool = True
    by_evidence: bool = False


def rules_for(recipe: Recipe, grid: PatchGrid, method: str | None = None) -> Rules:
    """The rules a recipe means on a grid.

    `postprocess="published"` is the LC-MIL paper's: Gaussian σ = 1 with 0 off tissue, threshold
    0.6, objects then holes below 100 cells. It replaces threshold, smoothing and minimum area.
    `postprocess="none"` is the prototype paper's: the threshold alone, no smoothing, nothing
    removed.

    Small parts are judged by their evidence, unless the recipe gives a minimum area. Where it
    gives no smoothing, the method says how much its answers need.

    Parameters
    ----------
    method : whose answers are judged; None: the recipe's

    Raises
    ------
    UnknownNameError : no such preset
    UsageError : a setting out of its range
    """
    simplify_px = SIMPLIFY_CELLS * grid.stride
    if recipe.simplify_um is not None:
        simplify_px = recipe.simplify_um / grid.mpp
    if not 0 <= simplify_px < np.inf:
        raise UsageError(f"simplify_um {recipe.simplify_um} must be 0 or more")
    if recipe.postprocess == "published":
        return Rules(0.6, 1.0, 100, simplify_px, over_tissue=False)
    if recipe.postprocess not in PRESETS:
        raise UnknownNameError.of("post-processing", recipe.postprocess, PRESETS)
    if not 0 < recipe.threshold < 1:
        raise UsageError(f"--threshold {recipe.threshold:g} must lie between 0 and 1")
    if recipe.postprocess == "none":
        return Rules(recipe.threshold, 0.0, 0, simplify_px)
    sigma = recipe.smooth_cells
    if sigma is None:
        sigma = smoothing_of(recipe.method if method is None else method)
    if not 0 <= sigma <= MOST_SMOOTH_CELLS:
        raise UsageError(f"--smooth-cells {sigma:g} must lie between 0 and {MOST_SMOOTH_CELLS}")
    min_area: float = MIN_AREA_CELLS
    if recipe.min_area_um2 is not None:
        if not 0 <= recipe.min_area_um2 < np.inf:
            raise UsageError(f"--min-area-um2 {recipe.min_area_um2:g} must be 0 or more")
        min_area = recipe.min_area_um2 / grid.cell_um**2
    return Rules(
        recipe.threshold,
        sigma,
        min_area,
        simplify_px,
        by_evidence=recipe.min_area_um2 is None,
    )


def smooth_probs(grid: PatchGrid, probs: NDArray[np.floating], rules: Rules) -> NDArray[np.float32]:
    """Smooth probabilities over neighbouring cells.

    Over tissue (the default) each cell becomes the Gaussian-weighted mean of the tissue cells
    around it, so a probability does not fade towards the tissue's edge. The published way lets
    it fade, and leaves a map of only 0 and 1 as it is. By evidence, cells whose class smoothing
    would change against the evidence (a lesion of one cell) keep their probabilities.

    Parameters
    ----------
    probs : (n, K), rows sum to 1

    Returns
    -------
    float32 (n, K), rows sum to 1; what is lost to cells off tissue goes to the background
    """
    _check(grid, probs)
    probs = np.asarray(probs, np.float32)
    binary = not rules.over_tissue and bool(np.isin(probs, (0.0, 1.0)).all())
    if rules.sigma_cells == 0 or binary or not len(grid):
        return probs.copy()
    from scipy.ndimage import gaussian_filter

    def blur(values: NDArray[np.float32]) -> NDArray[np.float32]:
        laid = np.nan_to_num(grid.scatter(values), nan=0.0)
        # As scikit-image does it: the edge is repeated, four σ.
        mode = "constant" if rules.over_tissue else "nearest"
        blurred = gaussian_filter(laid, rules.sigma_cells, mode=mode, truncate=4.0)
        picked: NDArray[np.float32] = blurred[grid.rows, grid.cols]
        return picked

    weight = blur(np.ones(len(grid), np.float32)) if rules.over_tissue else np.float32(1)
    out = np.empty_like(probs)
    for k in range(1, probs.shape[1]):
        out[:, k] = np.clip(blur(probs[:, k]) / weight, 0.0, 1.0)
    out[:, 0] = np.clip(1.0 - out[:, 1:].sum(axis=1), 0.0, 1.0)
    if rules.by_evidence:
        evidence = Evidence.of(grid, probs, rules.threshold)
        kept = smoothed_away(grid, evidence, decide_cells(probs, rules), decide_cells(out, rules))
        out[kept] = probs[kept]
    return out


def clean_labels(
    grid: PatchGrid,
    probs: NDArray[np.floating],
    rules: Rules,
    *,
    raw: NDArray[np.floating] | None = None,
) -> NDArray[np.int8]:
    """Decide each cell and drop what is too small.

    A cell is foreground where 1 - P(background) > threshold, and then of its likeliest class
    (of equal ones the first). Foreground objects of fewer than `min_area_cells` become
    background; parts of one class smaller than that inside a larger object go to the
    neighbouring class; then holes smaller than that are filled with the class most common
    around them. Objects and holes hang together over sides, not corners, and are counted on the
    full grid, cells off tissue included: a lumen is a hole like any other, and a filled hole may
    hold cells off tissue. By evidence it is not the small ones that go but those the
    probabilities speak against.

    Parameters
    ----------
    probs : (n, K), smoothed
    raw : the same before smoothing, which evidence is weighed by. With it and two classes the
        published way decides every cell of the lattice, on tissue or not, before it drops what is
        small (see `decide_published`)

    Returns
    -------
    int8 (rows, cols), 0 background, k class k
    """
    _check(grid, probs)
    if raw is not None and not rules.over_tissue and probs.shape[1] == 2:
        return decide_published(grid.scatter(raw[:, 1]), rules).astype(np.int8)
    labels = np.zeros(grid.shape, np.int8)
    labels[grid.rows, grid.cols] = decide_cells(probs, rules)
    judge: Judge = BySize(rules.min_area_cells)
    if rules.by_evidence:
        seen = probs if raw is None else raw
        judge = ByEvidence(
            grid, Evidence.of(grid, seen, rules.threshold), max(rules.min_area_cells, 1)
        )
    labels[judge.objects(labels)] = 0
    if probs.shape[1] > 2:
        _absorb(labels, judge.class_parts(labels))
    _fill(labels, judge.holes(labels))
    return labels


def decide_cells(probs: NDArray[np.floating], rules: Rules) -> NDArray[np.int8]:
    """int8 (n,), the class of each cell by its own probabilities."""
    foreground = 1.0 - np.asarray(probs[:, 0], np.float64) > rules.threshold
    best = 1 + np.argmax(probs[:, 1:], axis=1)
    return np.where(foreground, best, 0).astype(np.int8)


def decide_published(values: NDArray[np.floating], rules: Rules) -> NDArray[np.bool_]:
    """Post-processing to the letter of the LC-MIL code.

    0 off tissue, scikit-image's Gaussian (in the map's own precision, edges repeated, four σ),
    above the threshold, objects and then holes of too few cells removed; all on the whole lattice.
    A map of only 0 and 1 goes straight to the morphology.

    Parameters
    ----------
    values : (rows, cols) in [0, 1], NaN off tissue

    Returns
    -------
    bool (rows, cols)
    """
    filled = np.nan_to_num(values, nan=0.0)
    if bool(np.isin(values[np.isfinite(values)], (0, 1)).all()):
        mask = filled == 1
    else:
        from scipy.ndimage import gaussian_filter

        # As scikit-image: halves in single precision, what is longer than doubles in double.
        filled = filled.astype(np.float32 if filled.dtype.itemsize <= 4 else np.float64)
        smooth = gaussian_filter(filled, rules.sigma_cells, mode="nearest", truncate=4.0)
        mask = smooth > rules.threshold
    mask = np.asarray(mask, bool)
    mask[smaller_parts(mask, rules.min_area_cells)] = False
    mask[smaller_parts(~mask, rules.min_area_cells)] = True
    return mask


def _absorb(labels: NDArray[np.int8], open_cells: NDArray[np.bool_]) -> None:
    """Give some parts of one class to the classes around them, in place."""
    from scipy.ndimage import label

    top = int(labels.max())
    open_cells = open_cells.copy()
    if not open_cells.any():
        return
    before = labels.copy()
    labels[open_cells] = 0
    while True:  # from the rim inwards; a part has few cells, so few rounds
        votes = np.stack([_neighbours(labels == k) for k in range(1, top + 1)])
        reached = open_cells & (votes.max(axis=0) > 0)
        if not reached.any():
            break
        labels[reached] = 1 + np.argmax(votes[:, reached], axis=0)
        open_cells &= ~reached
    # Objects that consist of small parts only: their most common class takes all.
    parts, count = label(open_cells)
    votes = np.stack(
        [np.bincount(parts[before == k], minlength=count + 1) for k in range(1, top + 1)]
    )
    winner = 1 + np.argmax(votes, axis=0)
    labels[open_cells] = winner[parts[open_cells]]


def _fill(labels: NDArray[np.int8], holes: NDArray[np.bool_]) -> None:
    """Fill background parts with the class most common around, in place."""
    from scipy.ndimage import label

    if not holes.any() or not labels.any():
        return
    parts, count = label(holes)
    top = int(labels.max())
    votes = np.stack(
        [
            np.bincount(parts.ravel(), _neighbours(labels == k).ravel(), count + 1)
            for k in range(1, top + 1)
        ]
    )
    winner = (1 + np.argmax(votes, axis=0)).astype(np.int8)
    labels[holes] = winner[parts[holes]]


def _neighbours(mask: NDArray[np.bool_]) -> NDArray[np.int8]:
    """How many of a cell's four neighbours are in `mask`."""
    count = np.zeros(mask.shape, np.int8)
    count[1:] += mask[:-1]
    count[:-1] += mask[1:]
    count[:, 1:] += mask[:, :-1]
    count[:, :-1] += mask[:, 1:]
    return count


def _check(grid: PatchGrid, probs: NDArray[np.floating]) -> None:
    if probs.ndim != 2 or len(probs) != len(grid) or probs.shape[1] < 2:
        raise ValueError(f"probs must be ({len(grid)}, K >= 2), not {probs.shape}")
    if not np.isfinite(probs).all():
        raise ValueError("probs must be finite")
