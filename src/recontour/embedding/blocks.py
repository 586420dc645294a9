"""Blocks of cells: where their windows lie, what is read of them, and how a map becomes features.

The lattice is cut into fixed blocks of cells. A block is read as one window and embedded in one
pass. Where windows lie depends on the grid and the encoder alone, so that the features do too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from recontour.embedding.passes import Passes
from recontour.types import DenseEncoder, Encoder, PatchGrid, Slide

WINDOW_PX = 2560  # smaller windows are mostly halo, the map of larger ones takes much memory
ROUND_WINDOWS = 4  # in units of `align`: few window shapes, since each has to be set up once

Float16 = NDArray[np.float16]
Pixels = tuple[NDArray[np.uint8], ...]
Read = tuple[float, float, tuple[int, int], float]
"""(x, y, size, mpp) of a call of `Slide.read_region`."""
Weights = tuple[NDArray[np.float32], NDArray[np.float32]]
"""float32 (R, h) and (C, w): what each row of cells is of the rows of a map, and columns."""


@runtime_checkable
class PoolingEncoder(DenseEncoder, Protocol):
    """A dense encoder on a device of its own, which pools its maps before they leave it.

    `pools` says whether it should: on a CPU there is nothing to gain.
    """

    pools: bool

    def pooled(
        self, windows: NDArray[np.uint8], weights: Sequence[Sequence[Weights]]
    ) -> list[list[NDArray[np.float32]]]:
        """What `pool` gives of the map of each window, with each of its pairs of weights."""
        ...


@dataclass(frozen=True)
class Block:
    """Some cells that are embedded together: positions in grid order, all in one lattice tile."""

    index: int
    cells: NDArray[np.intp]


def views_of(encoder: Encoder) -> dict[str, int]:
    """What is embedded of a cell: the width of each view in units of `grid.size`."""
    views = {"cell": 1, "context": 2}
    if not getattr(encoder, "context", True):
        del views["context"]
    return views


def plan_blocks(grid: PatchGrid, encoder: Encoder) -> list[Block]:
    """Cut the lattice into square tiles whose window is about `WINDOW_PX` wide; skip empty ones."""
    if isinstance(encoder, DenseEncoder):
        scale = grid.mpp / grid.mpp_embed
        widest = max(views_of(encoder).values())
        margin = (widest * grid.size - grid.stride) * scale + 2 * encoder.halo
        side = max(1.0, (WINDOW_PX - margin) / (grid.stride * scale))
    else:
        side = max(1.0, WINDOW_PX / (grid.patch_px * grid.stride / grid.size))
    # Tiles of equal size, somewhat smaller or larger than wished, rather than a thin last one.
    n_down, n_across = (max(1, round(length / side)) for length in grid.shape)
    tile_rows = grid.rows.astype(np.int64) * n_down // grid.shape[0]
    tile_cols = grid.cols.astype(np.int64) * n_across // grid.shape[1]
    tile = tile_rows * n_across + tile_cols
    order = np.argsort(tile, kind="stable")
    starts = np.flatnonzero(np.diff(tile[order], prepend=-1))
    return [Block(i, cells) for i, cells in enumerate(np.split(order, starts[1:])) if len(cells)]


class DenseBlocks:
    """Blocks through a dense encoder."""

    def __init__(self, slide: Slide | None, grid: PatchGrid, encoder: DenseEncoder) -> None:
        self.slide, self.grid, self.encoder = slide, grid, encoder
        self.views = views_of(encoder)
        self.scale = grid.mpp / grid.mpp_embed  # embed px per level-0 px
        rows, cols = grid.shape
        lattice = grid.origin[0] + cols * grid.stride, grid.origin[1] + rows * grid.stride
        self.extent = lattice if slide is None else slide.size

    def n_pixels(self, block: Block) -> int:
        """Pixels of the window of `block`."""
        _, (width, height) = self._window(block)
        return width * height

    def alike(self, one: Block, other: Block) -> bool:
        """Whether the windows of two blocks fit into one pass: they have the same shape."""
        return self._window(one)[1] == self._window(other)[1]

    def regions(self, block: Block) -> list[Read]:
        """What is read of `block`: one window."""
        (x, y), size = self._window(block)
        return [(x / self.scale, y / self.scale, size, self.grid.mpp_embed)]

    def read(self, block: Block) -> Pixels:
        """The window, uint8 (h, w, 3)."""
        assert self.slide is not None
        return tuple(self.slide.read_region(*region) for region in self.regions(block))

    def features(
        self, blocks: Sequence[Block], pixels: Sequence[Pixels], passes: Passes
    ) -> list[dict[str, Float16]]:
        """(n, d) of each view, of each of `blocks`; their windows are alike."""
        windows = [window for (window,) in pixels]
        weights = [
            self._weights(block, window) for block, window in zip(blocks, windows, strict=True)
        ]

        def some(part: slice) -> list[list[NDArray[np.float32]]]:
            stacked = windows[part.start][None] if _one(part) else np.stack(windows[part])
            if isinstance(self.encoder, PoolingEncoder) and self.encoder.pools:
                return self.encoder.pooled(stacked, weights[part])
            maps = self.encoder.dense(stacked)
            return [
                [pool(dense, *view) for view in views]
                for dense, views in zip(maps, weights[part], strict=True)
            ]

        pooled = passes.run(some, len(windows))
        return [self._of_cells(*pair) for pair in zip(blocks, pooled, strict=True)]

    def _weights(self, block: Block, window: NDArray[np.uint8]) -> list[Weights]:
        """Of each view: how rows and columns of the map add up to rows and columns of cells."""
        grid, stride = self.grid, self.encoder.dense_stride
        height, width = (side // stride for side in window.shape[:2])
        (x, y), _ = self._window(block)
        rows, cols = np.unique(grid.rows[block.cells]), np.unique(grid.cols[block.cells])
        centre_y = ((grid.origin[1] + (rows + 0.5) * grid.stride) * self.scale - y) / stride
        centre_x = ((grid.origin[0] + (cols + 0.5) * grid.stride) * self.scale - x) / stride
        found = []
        for wide in self.views.values():
            half = wide * grid.size * self.scale / stride / 2
            down = overlap_weights(centre_y, half, height)
            found.append((down, overlap_weights(centre_x, half, width)))
        return found

    def _of_cells(self, block: Block, pooled: list[NDArray[np.float32]]) -> dict[str, Float16]:
        """From (R, C, d) of each view, the rows of the cells of `block`."""
        _, row_of = np.unique(self.grid.rows[block.cells], return_inverse=True)
        _, col_of = np.unique(self.grid.cols[block.cells], return_inverse=True)
        views = zip(self.views, pooled, strict=True)
        return {name: _half(values[row_of, col_of]) for name, values in views}

    def _window(self, block: Block) -> tuple[tuple[int, int], tuple[int, int]]:
        """Corner (x, y) and size (w, h) in embed px; the corner lies on multiples of `align`.

        The window ends where the slide ends: beyond it there is nothing worth computing.
        """
        grid, encoder = self.grid, self.encoder
        reach = max(self.views.values()) * grid.size / 2
        spans = []
        axes = zip(grid.origin, (grid.cols, grid.rows), self.extent, strict=True)
        for at, cells, extent in axes:
            centres = at + (cells[block.cells] + 0.5) * grid.stride
            low = (float(centres.min()) - reach) * self.scale - encoder.halo
            high = (float(centres.max()) + reach) * self.scale + encoder.halo
            start = math.floor(low / encoder.align) * encoder.align
            unit = encoder.align * ROUND_WINDOWS
            stop = start + math.ceil((high - start) / unit) * unit
            limit = math.ceil(extent * self.scale / encoder.align) * encoder.align
            start, stop = max(start, 0), min(stop, limit)
            spans.append((start, stop - start))
        return (spans[0][0], spans[1][0]), (spans[0][1], spans[1][1])


class PatchBlocks:
    """Blocks through an encoder that sees one patch at a time."""

    def __init__(self, slide: Slide | None, grid: PatchGrid, encoder: Encoder) -> None:
        self.slide, self.grid, self.encoder = slide, grid, encoder
        self.views = views_of(encoder)

    def n_pixels(self, block: Block) -> int:
        """Pixels of all patches of `block`."""
        return len(self.views) * len(block.cells) * self.grid.patch_px**2

    def alike(self, one: Block, other: Block) -> bool:
        """Never: one block has patches enough for a pass."""
        return False

    def regions(self, block: Block) -> list[Read]:
        """What is read of `block`: of each view one window, or each patch."""
        return [region for width in self.views.values() for region in self._reads(block, width)]

    def read(self, block: Block) -> Pixels:
        """The patches (B, patch_px, patch_px, 3) of each view."""
        return tuple(self._patches(block, width) for width in self.views.values())

    def features(
        self, blocks: Sequence[Block], pixels: Sequence[Pixels], passes: Passes
    ) -> list[dict[str, Float16]]:
        """(n, d) of each view, of each of `blocks`."""

        def encode(patches: NDArray[np.uint8]) -> Float16:
            parts = passes.run(lambda part: [self.encoder(patches[part])], len(patches))
            return _half(parts[0] if len(parts) == 1 else np.concatenate(parts))

        return [dict(zip(self.views, map(encode, views), strict=True)) for views in pixels]

    def _reads(self, block: Block, width: int) -> list[Read]:
        grid, px = self.grid, self.grid.patch_px
        size = width * grid.size
        mpp = size * grid.mpp / px
        corners = grid.centres[block.cells] - size / 2
        if not self._step(width).is_integer():
            return [(float(x), float(y), (px, px), mpp) for x, y in corners]
        # Whole steps: one read for all, and the patches are cut from it.
        rows, cols = self._places(block, width)
        x, y = corners.min(axis=0)
        return [(float(x), float(y), (int(cols.max()) + px, int(rows.max()) + px), mpp)]

    def _patches(self, block: Block, width: int) -> NDArray[np.uint8]:
        """(B, patch_px, patch_px, 3): squares of `width` times the size, centred on the cells."""
        assert self.slide is not None
        px = self.grid.patch_px
        read = [self.slide.read_region(*region) for region in self._reads(block, width)]
        if not self._step(width).is_integer():
            return np.stack(read)
        places = zip(*self._places(block, width), strict=True)
        return np.stack([read[0][r : r + px, c : c + px] for r, c in places])

    def _step(self, width: int) -> float:
        """Patch px from one cell to the next."""
        return self.grid.stride * self.grid.patch_px / (width * self.grid.size)

    def _places(self, block: Block, width: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Row and column of each patch in the window that holds all of them."""
        rows, cols = self.grid.rows[block.cells], self.grid.cols[block.cells]
        step = int(self._step(width))
        return (rows - rows.min()) * step, (cols - cols.min()) * step


BlockComputer = DenseBlocks | PatchBlocks


def block_computer(slide: Slide | None, grid: PatchGrid, encoder: Encoder) -> BlockComputer:
    """What reads and embeds the blocks of `grid`; without a slide it only knows their windows."""
    if isinstance(encoder, DenseEncoder):
        return DenseBlocks(slide, grid, encoder)
    return PatchBlocks(slide, grid, encoder)


def overlap_weights(centres: NDArray[np.float64], half: float, length: int) -> NDArray[np.float32]:
    """How much of the interval centre ± half each of `length` unit pixels covers.

    Rows sum to 1 over what of the interval lies inside; a row wholly outside is zero.

    Returns
    -------
    float32 (len(centres), length)
    """
    edges = np.arange(length)
    low = np.maximum(edges[None], (centres - half)[:, None])
    high = np.minimum(edges[None] + 1, (centres + half)[:, None])
    weights = np.clip(high - low, 0, None)
    total = np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    normed: NDArray[np.float32] = (weights / total).astype(np.float32)
    return normed


def pool(
    dense: NDArray[np.float32], down: NDArray[np.float32], across: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(h, w, d), (R, h), (C, w) -> (R, C, d), weighted means.

    Row by row: each needs only the few rows of the map that its weights touch.
    """
    rows = np.empty((len(down), *dense.shape[1:]), np.float32)
    for row, weights in zip(rows, down, strict=True):
        touched = _touched(weights)
        np.einsum("h,hwd->wd", weights[touched], dense[touched], out=row)
    pooled = np.empty((len(down), len(across), dense.shape[2]), np.float32)
    for i, weights in enumerate(across):
        touched = _touched(weights)
        np.einsum("w,rwd->rd", weights[touched], rows[:, touched], out=pooled[:, i])
    return pooled


def _touched(weights: NDArray[np.float32]) -> slice:
    """The range of indices outside which the weights are zero."""
    at = np.flatnonzero(weights)
    return slice(int(at[0]), int(at[-1]) + 1) if len(at) else slice(0, 0)


def _one(part: slice) -> bool:
    return bool(part.stop - part.start == 1)


def _half(values: NDArray[np.float32]) -> Float16:
    with np.errstate(over="ignore"):  # infinities are refused later, by name
        return values.astype(np.float16)
