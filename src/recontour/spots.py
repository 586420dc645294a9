"""Where on a slide most errors are expected: cells of changes, one screen at a time."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from recontour.types import Geometry, PatchGrid

SCREEN_CELLS = 20
"""Side of what is looked at in one go: 640 µm of cells of 32 µm."""
SPOT_CELLS = 7
"""Side of the window in which the spot of a place is looked for."""


def cells_of(
    parts: Sequence[Geometry], grid: PatchGrid
) -> tuple[list[NDArray[np.intp]], list[int]]:
    """The cells whose centre each part holds, else the nearest one; and how many it holds."""
    tree = grid.tree
    shapes = np.array(parts, dtype=object)
    which, found = tree.query(shapes, predicate="contains")
    order = np.lexsort((found, which))
    held = np.bincount(which, minlength=len(shapes))
    cells = np.split(found[order], np.cumsum(held)[:-1])
    empty = np.flatnonzero(held == 0)
    for i, near in zip(empty, tree.nearest(shapes[empty]), strict=True):
        cells[int(i)] = np.array([near], np.intp)
    return cells, [int(n) for n in held]


def first_places(
    cells: Sequence[NDArray[np.intp]],
    held: Sequence[int],
    grid: PatchGrid,
    wrong: NDArray[np.float64],
    most: int,
) -> Iterator[tuple[int, NDArray[np.intp], bool]]:
    """(part, the new cells of the place, whether that is all of it), most new errors first.

    Of a part larger than a screen the place is the window of it with most expected errors, and the
    rest may come later.

    What a place adds only shrinks as others are taken, so the best by old figures is taken when its
    new one is as good (lazy greedy, Minoux 1978).
    """
    covered = np.zeros(len(grid), bool)

    def best(i: int) -> tuple[float, NDArray[np.intp]]:
        fresh = cells[i][~covered[cells[i]]]
        fresh = _window(grid, fresh, wrong)
        return -float(wrong[fresh].sum()), fresh

    queue = [(best(i)[0], i) for i in range(len(cells)) if held[i]]
    heapq.heapify(queue)
    found = 0
    while queue and found < most:
        _, i = heapq.heappop(queue)
        now, fresh = best(i)
        if now >= 0:
            continue
        if queue and (now, i) > queue[0]:
            heapq.heappush(queue, (now, i))
            continue
        whole = _fits(grid, cells[i])
        covered[fresh] = True
        found += 1
        yield i, fresh, whole
        if not whole:
            heapq.heappush(queue, (best(i)[0], i))


def _fits(grid: PatchGrid, cells: NDArray[np.intp]) -> bool:
    rows, cols = grid.rows[cells], grid.cols[cells]
    return bool(np.ptp(rows) < SCREEN_CELLS and np.ptp(cols) < SCREEN_CELLS)


def _window(
    grid: PatchGrid, cells: NDArray[np.intp], wrong: NDArray[np.float64]
) -> NDArray[np.intp]:
    """Those of the cells that lie in the window of one screen with most expected errors."""
    if not len(cells) or _fits(grid, cells):
        return cells
    x, y = _densest(grid, cells, wrong, SCREEN_CELLS)
    rows, cols = grid.rows[cells], grid.cols[cells]
    # As `uniform_filter` places an even window: half of it before the middle.
    top, left = y - SCREEN_CELLS // 2, x - SCREEN_CELLS // 2
    near = (rows >= top) & (rows < top + SCREEN_CELLS)
    near &= (cols >= left) & (cols < left + SCREEN_CELLS)
    return cells[near]


def _densest(
    grid: PatchGrid, cells: NDArray[np.intp], wrong: NDArray[np.float64], side: int
) -> tuple[int, int]:
    """(col, row) of that of the cells in whose window of `side` cells most errors are expected."""
    from scipy.ndimage import uniform_filter

    rows, cols = grid.rows[cells], grid.cols[cells]
    top, left = int(rows.min()), int(cols.min())
    laid = np.zeros((int(rows.max()) - top + 1, int(cols.max()) - left + 1))
    laid[rows - top, cols - left] = wrong[cells]
    around = uniform_filter(laid, side, mode="constant")[rows - top, cols - left]
    best = int(np.argmax(np.round(around, 12)))
    return int(cols[best]), int(rows[best])


def spot_of(
    grid: PatchGrid, cells: NDArray[np.intp], wrong: NDArray[np.float64]
) -> tuple[float, float]:
    """(x, y), level-0 px: the cell around which most errors are expected."""
    col, row = _densest(grid, cells, wrong, SPOT_CELLS)
    return (
        grid.origin[0] + (col + 0.5) * grid.stride,
        grid.origin[1] + (row + 0.5) * grid.stride,
    )


def middle_of(grid: PatchGrid, cells: NDArray[np.intp]) -> tuple[float, float]:
    """(x, y), level-0 px: that of the cells nearest to the middle of all."""
    centres = grid.centres[cells]
    apart = np.linalg.norm(centres - centres.mean(axis=0), axis=1)
    x, y = centres[int(np.argmin(apart))]
    return float(x), float(y)
