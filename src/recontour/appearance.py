"""How a slide looks, block by block, and how well an outline follows where its look changes.

An outline that belongs to the tissue parts what looks different. Moved anywhere else it parts less:
its displaced copies are what chance does with the same shape on the same tissue, so that the
comparison means the same on every slide (a permutation test that keeps neighbours together).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recontour.memo import content, recall
from recontour.types import PatchSet

MOST_BLOCKS = 8_000
"""Cells are averaged in squares until there are no more: the shape of an outline needs no more."""
MOST_BOX = 60_000
"""And until the rectangle around them holds no more: copies are tried everywhere in it."""
MOST_COLUMNS = 1024
COLUMNS_AT_ONCE = 64
"""The features of a slide never exist twice."""
COMPONENTS = 24
RIDGE = 0.05
"""Of the mean variance: directions with less are noise and count for less."""
SURROUNDINGS = 4.0
"""The larger side counts as far as it is this many times the smaller one: a small lesion is
compared with what lies around it, not with all of a large slide."""
ON_TISSUE = 0.5
"""Displaced copies that have less than this share of the outline's cells on tissue do not count."""
NOTHING = 1e-3
"""Contrast, in squared standard deviations of the look, that is no contrast."""


@dataclass(frozen=True)
class Look:
    """The labelled cells of a slide in square blocks.

    Attributes
    ----------
    x : float64 (m, p), their look: principal components, whitened
    z : float64 (m, p'), the same, not whitened
    rows, cols : int (m,), of the lattice of blocks, its corner at the first labelled one
    shape : (rows, cols) of that lattice
    labels : int8 (m,), that of most cells of the block
    side : cells along a block's side
    first : (row, col) of the cell at the lattice's corner
    of_cell : int (n,), the block of each cell of the patch set; -1 of an unlabelled one
    """

    x: NDArray[np.float64]
    z: NDArray[np.float64]
    rows: NDArray[np.intp]
    cols: NDArray[np.intp]
    shape: tuple[int, int]
    labels: NDArray[np.int8]
    side: int
    first: tuple[int, int]
    of_cell: NDArray[np.intp]

    @property
    def tissue(self) -> NDArray[np.bool_]:
        """(rows, cols), whether there is a block."""
        found = np.zeros(self.shape, bool)
        found[self.rows, self.cols] = True
        return found

    def majority(self, labels: NDArray[np.integer], k: int) -> NDArray[np.int8]:
        """(m,) label that most cells of each block have, of labels (n,) in grid order."""
        return _majority(labels, self.of_cell, len(self.rows), k)

    def mean(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """(m,) mean over the cells of each block, of values (n,) in grid order."""
        used = self.of_cell >= 0
        counts = np.bincount(self.of_cell[used], minlength=len(self.rows))
        sums = np.bincount(self.of_cell[used], values[used], minlength=len(self.rows))
        return np.asarray(sums / counts)


def look_at(patches: PatchSet) -> Look | None:
    """The look of the labelled cells; None where a feature is not finite.

    Parameters
    ----------
    patches : at least two labelled cells
    """
    used = np.flatnonzero(np.asarray(patches.labels) >= 0)
    views = [patches.features] if patches.context is None else [patches.features, patches.context]
    name = ("look", content(used, patches.grid.rows, patches.grid.cols))
    look = recall(patches.memo, name, views, lambda: _look(patches, views, used))
    if look is None:
        return None
    labels = look.majority(np.asarray(patches.labels), len(patches.classes))
    return replace(look, labels=labels)


def _look(
    patches: PatchSet, views: Sequence[NDArray[np.floating]], used: NDArray[np.intp]
) -> Look | None:
    """The look of the cells `used`, labels still missing; None where a feature is not finite."""
    rows, cols = patches.grid.rows[used], patches.grid.cols[used]
    first = (int(rows.min()), int(cols.min()))
    side, down, across, block = _blocks(rows - first[0], cols - first[1])
    parts = []
    for view in views:
        mean = _block_means(view, used, block, len(down))
        if not np.isfinite(mean).all():
            return None
        parts.append(_components(mean))
    z = np.concatenate(parts, axis=1)
    z -= z.mean(axis=0)
    variance, basis = np.linalg.eigh(z.T @ z / len(z))
    variance, basis = variance[::-1][:COMPONENTS], basis[:, ::-1][:, :COMPONENTS]
    spread = np.sqrt(np.maximum(variance, 0) + RIDGE * max(variance.mean(), 0) + 1e-12)
    of_cell = np.full(len(patches), -1, np.intp)
    of_cell[used] = block
    return Look(
        x=z @ basis / spread,
        z=z,
        rows=down,
        cols=across,
        shape=(int(down.max()) + 1, int(across.max()) + 1),
        labels=np.full(len(down), -1, np.int8),
        side=side,
        first=first,
        of_cell=of_cell,
    )


def belonging(look: Look, labels: NDArray[np.int8]) -> float:
    """Logarithm of how many times more an outline parts than the median of its displaced copies.

    What it parts is the variance between the classes of the look, each class by its mean; copies
    are moved by every number of blocks along and across, as on a torus, also mirrored. Copies of an
    outline that has nothing to do with the tissue part as much: about 0.

    Parameters
    ----------
    look : m blocks
    labels : int8 (m,), 0 background; at least two classes are there
    """
    masks = _surroundings(look, labels)
    planes = _planes(look)
    found, own = [], 0.0
    for step in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        flipped = [mask[:: step[0], :: step[1]] for mask in masks]
        contrast, held = contrast_everywhere(planes, flipped)
        if step == (1, 1):
            own, wanted = float(contrast[0, 0]), ON_TISSUE * float(held[0, 0])
        found.append(contrast[held >= wanted])
    return float(np.log((own + NOTHING) / (np.median(np.concatenate(found)) + NOTHING)))


def contrast_everywhere(
    planes: NDArray[np.complex128],
    masks: list[NDArray[np.bool_]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What masks part when they are moved by (i, j) blocks, all of them together.

    Parameters
    ----------
    planes : Fourier transforms of the look and, last, of the tissue
    masks : (rows, cols) for each class, background first

    Returns
    -------
    (rows, cols) variance between the classes, squared standard deviations of the look, and
    (rows, cols) blocks of tissue in all masks but the first
    """
    from scipy import fft

    box = masks[0].shape
    total, weight, squares, held = 0.0, 0.0, 0.0, np.zeros(box)
    for i, mask in enumerate(masks):
        spectrum = np.conj(fft.rfft2(mask.astype(np.float64)))
        sums = fft.irfft2(spectrum * planes, s=box)
        n = np.maximum(sums[-1], 0.0)
        held = held + n if i else held
        squares = squares + (sums[:-1] ** 2).sum(axis=0) / np.maximum(n, 0.5)
        total, weight = total + sums[:-1], weight + n
    weight = np.maximum(weight, 0.5)
    between = squares / weight - (np.asarray(total) ** 2).sum(axis=0) / weight**2
    return np.maximum(between, 0.0), held


def _planes(look: Look) -> NDArray[np.complex128]:
    """(p + 1, …) Fourier transforms of the look laid out on the lattice, and of the tissue."""
    from scipy import fft

    laid = np.zeros((look.x.shape[1] + 1, *look.shape))
    laid[:-1, look.rows, look.cols] = look.x.T
    laid[-1, look.rows, look.cols] = 1
    return np.asarray(fft.rfft2(laid))


def _surroundings(look: Look, labels: NDArray[np.int8]) -> list[NDArray[np.bool_]]:
    """(rows, cols) of each class, glass as the nearest tissue; near the other side only."""
    from scipy import ndimage

    laid = np.full(look.shape, -1, np.int64)
    laid[look.rows, look.cols] = labels
    if (laid < 0).any():
        nearest = ndimage.distance_transform_edt(
            laid < 0, return_distances=False, return_indices=True
        )
        laid = laid[tuple(nearest)]
    inside, tissue = laid > 0, look.tissue
    near = np.ones(look.shape, bool)
    most = int(SURROUNDINGS * min((tissue & inside).sum(), (tissue & ~inside).sum()))
    for side in (inside, ~inside):
        away = ndimage.distance_transform_edt(side)
        cells = np.sort(away[side & tissue])
        if 0 < most < len(cells):
            near &= ~side | (away <= cells[most - 1])
    return [near & (laid == k) for k in range(int(labels.max()) + 1)]


def _blocks(
    rows: NDArray[np.int32], cols: NDArray[np.int32]
) -> tuple[int, NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Side of a block in cells, row and column of each block, and the block of each cell."""
    # No fewer cells to a side could do: a block holds side² of them at most.
    box = (int(rows.max()) + 1) * (int(cols.max()) + 1)
    side = max(1, math.ceil(math.sqrt(max(len(rows) / MOST_BLOCKS, box / MOST_BOX))))
    while True:
        width = int(cols.max()) // side + 1
        keys, block = np.unique(
            (rows // side).astype(np.int64) * width + cols // side, return_inverse=True
        )
        box = (int(rows.max()) // side + 1) * width
        if len(keys) <= MOST_BLOCKS and box <= MOST_BOX:
            return side, keys // width, keys % width, block.reshape(-1)
        side += 1


def _block_means(
    view: NDArray[np.floating], used: NDArray[np.intp], block: NDArray[np.intp], m: int
) -> NDArray[np.float32]:
    """float32 (m, d') mean features of each block; of many columns, evenly spaced ones."""
    step = -(-view.shape[1] // MOST_COLUMNS)
    if m == len(used):
        return view[:, ::step][used[np.argsort(block)]].astype(np.float32)
    order = np.argsort(block, kind="stable")
    starts = np.searchsorted(block[order], np.arange(m))
    counts = np.diff(np.append(starts, len(order)))
    thin = view[:, ::step]
    sums = np.empty((m, thin.shape[1]), np.float32)
    for i in range(0, thin.shape[1], COLUMNS_AT_ONCE):
        columns = slice(i, i + COLUMNS_AT_ONCE)
        x = thin[:, columns][used[order]].astype(np.float32)
        sums[:, columns] = np.add.reduceat(x, starts, axis=0)
    return np.asarray(sums / counts[:, None], np.float32)


def _components(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """z-scored (m, d) on its first principal components, of mean square 1 and not whitened."""
    x = x - x.mean(axis=0)
    std = np.sqrt(np.einsum("ij,ij->j", x, x) / len(x))
    x /= np.where(std > 1e-6, std, np.inf)
    _, vectors = np.linalg.eigh((x.T @ x).astype(np.float64))
    z = x.astype(np.float64) @ vectors[:, ::-1][:, :COMPONENTS]
    level = np.sqrt(np.mean(z**2))
    return np.asarray(z / level if level > 0 else z)


def _majority(
    labels: NDArray[np.integer], of_cell: NDArray[np.intp], m: int, k: int
) -> NDArray[np.int8]:
    used = of_cell >= 0
    votes = np.bincount(of_cell[used] * k + labels[used], minlength=m * k).reshape(m, k)
    return np.asarray(np.argmax(votes, axis=1), np.int8)
