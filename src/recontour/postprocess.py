"""From probabilities to a label map: smooth, decide, drop what is too small."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recontour.errors import UnknownNameError, UsageError
from recontour.recipe import Recipe
from recontour.types import PatchGrid

PRESETS = ("default", "published", "none")

MIN_AREA_CELLS = 6
"""Smallest object and hole: below six cells the classifier's errors outnumber real detail."""
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
    min_area_cells : objects, then holes, of fewer cells are removed
    simplify_px : tolerance of the simplification, level-0 px; 0: none
    over_tissue : the Gaussian is normalised over tissue; False: cells off tissue count as 0
    """

    threshold: float = 0.5
    sigma_cells: float = 0.7
    min_area_cells: float = MIN_AREA_CELLS
    simplify_px: float = 0.0
    over_tissue: bool = True


def rules_for(recipe: Recipe, grid: PatchGrid) -> Rules:
    """The rules a recipe means on a grid.

    `postprocess="published"` is the LC-MIL paper's: Gaussian σ = 1 with 0 off tissue, threshold
    0.6, objects then holes below 100 cells. It replaces threshold, smoothing and minimum area.
    `postprocess="none"` is the prototype paper's: the threshold alone, no smoothing, nothing
    removed.

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
    if not 0 <= recipe.smooth_cells <= MOST_SMOOTH_CELLS:
        raise UsageError(
            f"--smooth-cells {recipe.smooth_cells:g} must lie between 0 and {MOST_SMOOTH_CELLS}"
        )
    min_area: float = MIN_AREA_CELLS
    if recipe.min_area_um2 is not None:
        if not 0 <= recipe.min_area_um2 < np.inf:
            raise UsageError(f"--min-area-um2 {recipe.min_area_um2:g} must be 0 or more")
        min_area = recipe.min_area_um2 / grid.cell_um**2
    return Rules(recipe.threshold, recipe.smooth_cells, min_area, simplify_px)


def smooth_probs(grid: PatchGrid, probs: NDArray[np.floating], rules: Rules) -> NDArray[np.float32]:
    """Smooth probabilities over neighbouring cells.

    Over tissue (the default) each cell becomes the Gaussian-weighted mean of the tissue cells
    around it, so a probability does not fade towards the tissue's edge. The published way lets
    it fade, and leaves a map of only 0 and 1 as it is.

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
    hold cells off tissue.

    Parameters
    ----------
    probs : (n, K), smoothed
    raw : the same before smoothing: with it and two classes the published way decides every cell of
        the lattice, on tissue or not, before it drops what is small (see `decide_published`)

    Returns
    -------
    int8 (rows, cols), 0 background, k class k
    """
    _check(grid, probs)
    if raw is not None and not rules.over_tissue and probs.shape[1] == 2:
        return decide_published(grid.scatter(raw[:, 1]), rules).astype(np.int8)
    foreground = 1.0 - np.asarray(probs[:, 0], np.float64) > rules.threshold
    best = 1 + np.argmax(probs[:, 1:], axis=1)
    labels = np.zeros(grid.shape, np.int8)
    labels[grid.rows, grid.cols] = np.where(foreground, best, 0)
    labels[small_parts(labels > 0, rules.min_area_cells)] = 0
    if probs.shape[1] > 2:
        _absorb_small_parts(labels, rules.min_area_cells)
    _fill_small_holes(labels, rules.min_area_cells)
    return labels


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
    mask[small_parts(mask, rules.min_area_cells)] = False
    mask[small_parts(~mask, rules.min_area_cells)] = True
    return mask


def small_parts(mask: NDArray[np.bool_], min_cells: float) -> NDArray[np.bool_]:
    """Cells of those parts of `mask` (joined over sides) that have fewer than `min_cells`."""
    from scipy.ndimage import label

    if min_cells <= 1:
        return np.zeros(mask.shape, bool)
    parts, _ = label(mask)
    small = np.bincount(parts.ravel()) < min_cells
    small[0] = False
    found: NDArray[np.bool_] = small[parts]
    return found


def _absorb_small_parts(labels: NDArray[np.int8], min_cells: float) -> None:
    """Give parts of one class that are too small to the classes around them, in place."""
    from scipy.ndimage import label

    top = int(labels.max())
    open_cells = np.zeros(labels.shape, bool)
    for k in range(1, top + 1):
        open_cells |= small_parts(labels == k, min_cells)
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


def _fill_small_holes(labels: NDArray[np.int8], min_cells: float) -> None:
    """Fill background parts that are too small with the class most common around, in place."""
    from scipy.ndimage import label

    holes = small_parts(labels == 0, min_cells)
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
