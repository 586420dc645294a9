"""A second, finer look at the border: cells of half the stride, in a band around what was traced.

Only the border gains from finer cells, so only they are embedded: the first pass says where it
runs, fine cells within one coarse cell of it are asked again, and elsewhere its probabilities are
interpolated. A fine cell is shown as much of the slide as a coarse one, so that the refiner that
was fitted to those can judge it. The band moves borders; objects may split or join by that,
but none is made where there was none, and none ends. What a person has reviewed stays as it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recontour.grid import label_patches, make_grid
from recontour.postprocess import Rules, decide_cells, smooth_probs
from recontour.preparation import Work, embed_cells
from recontour.recipe import Runtime
from recontour.review import hold_labels, hold_probs
from recontour.tracing import trace_regions
from recontour.types import Geometry, PatchGrid, PatchSet, Refiner

WIDTH_CELLS = 1.0
"""To each side of the border, in coarse cells: interpolated, it lies within one of where it is."""


class Surface(NamedTuple):
    """What is traced: probabilities (n, K), smoothed, and the label of every cell of a lattice."""

    grid: PatchGrid
    probs: NDArray[np.float32]
    labels: NDArray[np.int8]
    rules: Rules


def sharpen(
    first: Surface,
    work: Work,
    patches: PatchSet,
    probs: NDArray[np.float32],
    refiner: Refiner,
    factor: int,
    runtime: Runtime,
) -> Surface:
    """The surface at a stride `factor` times finer, asked anew in a band around its borders.

    Parameters
    ----------
    first : of the coarse cells
    patches, probs : those cells, and P (n, K) before smoothing
    refiner : fitted
    factor : 1: `first` as it is
    """
    stride = max(1, round(first.grid.stride / factor))
    if stride == first.grid.stride or not first.labels.any():
        return first
    choice = replace(work.choice, cell_px=stride, size_px=first.grid.size)
    fine = make_grid(
        work.slide.size,
        work.slide.mpp,
        work.tissue,
        choice,
        patch_px=first.grid.patch_px,
        origin=first.grid.origin,
    )
    areas = trace_regions(*first, slide_size=work.slide.size)
    before = label_finely(first, fine, areas)
    inside = find_band(fine, before, first.grid.stride / stride)
    if not inside.any():
        return first
    band = replace(fine, rows=fine.rows[inside], cols=fine.cols[inside])
    features = embed_cells(work.slide, band, work.encoder, runtime)
    nearest = nearest_cells(first.grid, band)
    asked = PatchSet(
        patches.slide_id,
        band,
        features.cell,
        patches.labels[nearest],
        patches.classes,
        features.context,
        None if patches.trust is None else patches.trust[nearest],
    )
    merged = interpolate(first.grid, probs, fine)
    merged[inside] = hold_probs(asked, refiner.predict_proba(asked))
    ratio = first.grid.stride / stride
    rules = replace(
        first.rules,
        sigma_cells=first.rules.sigma_cells * ratio,
        min_area_cells=first.rules.min_area_cells * ratio**2,
        by_evidence=False,
    )
    smooth = smooth_probs(fine, merged, rules)
    smooth[inside] = hold_probs(asked, smooth[inside])
    labels = before.copy()
    labels[band.rows, band.cols] = decide_cells(smooth[inside], rules)
    return Surface(fine, smooth, hold_labels(asked, move_only(labels, before)), rules)


def label_finely(first: Surface, fine: PatchGrid, areas: list[Geometry]) -> NDArray[np.int8]:
    """int8, the label of every cell of the fine lattice: by the polygons; off tissue as coarse."""
    ratio = fine.stride / first.grid.stride
    row, col = (
        np.minimum(((np.arange(n) + 0.5) * ratio).astype(np.intp), most - 1)
        for n, most in zip(fine.shape, first.grid.shape, strict=True)
    )
    labels: NDArray[np.int8] = first.labels[np.ix_(row, col)]
    labels[fine.rows, fine.cols] = label_patches(fine, [[area] for area in areas])
    return labels


def find_band(fine: PatchGrid, labels: NDArray[np.int8], ratio: float) -> NDArray[np.bool_]:
    """bool (n,), cells within `WIDTH_CELLS` of a border between labels; `ratio`: fine in coarse."""
    from scipy.ndimage import distance_transform_edt

    border = np.zeros(labels.shape, bool)
    down, across = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    border[1:] |= down
    border[:-1] |= down
    border[:, 1:] |= across
    border[:, :-1] |= across
    if not border.any():
        return np.zeros(len(fine), bool)
    near: NDArray[np.bool_] = distance_transform_edt(~border) <= WIDTH_CELLS * ratio
    found: NDArray[np.bool_] = near[fine.rows, fine.cols]
    return found


def nearest_cells(grid: PatchGrid, fine: PatchGrid) -> NDArray[np.intp]:
    """(m,) the cell of `grid` whose centre is nearest to each of `fine`."""
    from scipy.spatial import cKDTree

    _, found = cKDTree(grid.centres).query(fine.centres)
    return np.asarray(found, np.intp)


def interpolate(
    grid: PatchGrid, probs: NDArray[np.floating], fine: PatchGrid
) -> NDArray[np.float32]:
    """Probabilities (m, K) at the centres of `fine`, between those of the up to four cells around.

    Cells off tissue have no weight; where all four are, the nearest cell counts.
    """
    from scipy.ndimage import map_coordinates

    x, y = fine.centres.T
    at = [
        (y - grid.origin[1]) / grid.stride - 0.5,
        (x - grid.origin[0]) / grid.stride - 0.5,
    ]

    def between(values: NDArray[np.floating]) -> NDArray[np.float64]:
        laid = np.nan_to_num(grid.scatter(values), nan=0.0).astype(np.float64)
        return np.asarray(map_coordinates(laid, at, order=1, mode="grid-constant"))

    weight = between(np.ones(len(grid), np.float32))
    out = np.stack([between(probs[:, k]) for k in range(probs.shape[1])], axis=1)
    alone = weight < 1e-6
    out[~alone] /= out[~alone].sum(axis=1, keepdims=True)
    if alone.any():
        left = replace(fine, rows=fine.rows[alone], cols=fine.cols[alone])
        out[alone] = probs[nearest_cells(grid, left)]
    return out.astype(np.float32)


def move_only(labels: NDArray[np.int8], before: NDArray[np.int8]) -> NDArray[np.int8]:
    """Undo every part that was not there before and bring back every one that is gone.

    A part is an object, a hole, or what hangs together of one class.
    """
    out = labels.copy()
    for k in np.unique(labels):
        new = _parts_without(labels == k, before == k)
        out[new] = before[new]
    for k in np.unique(before):
        gone = _parts_without(before == k, out == k)
        out[gone] = k
    return out


def _parts_without(mask: NDArray[np.bool_], others: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The connected parts of `mask` in which no cell is in `others`."""
    from scipy.ndimage import label

    parts, count = label(mask)
    met = np.bincount(parts[others], minlength=count + 1) > 0
    met[0] = True
    found: NDArray[np.bool_] = ~met[parts]
    return found
