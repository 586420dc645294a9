"""Features of every cell: read windows, embed them once, pool to cells and to their surroundings.

The lattice is cut into fixed blocks of cells. A block is read as one window, embedded in one pass
and kept as one shard, so that a killed run resumes at the block it was in. Where windows lie
depends on the grid and the encoder alone, so that the features do too.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recontour.cache import FeatureCache, Shards
from recontour.errors import EncoderError, OutputError
from recontour.types import DenseEncoder, Encoder, PatchGrid, Progress, Slide, no_progress

logger = logging.getLogger(__name__)

FORMAT = 1  # raise when what is computed from the same pixels changes
WINDOW_PX = 2560  # smaller windows are mostly halo, the map of larger ones takes much memory
ROUND_WINDOWS = 4  # in units of `align`: few window shapes, since each has to be set up once
READ_AHEAD = 3  # windows read before they are needed; bounds the memory

Float16 = NDArray[np.float16]


@dataclass(frozen=True)
class Features:
    """Features of n cells.

    Attributes
    ----------
    cell : float16 (n, d), the patch of `grid.size` px centred on the cell
    context : float16 (n, d), the window twice as wide (of a dense encoder: what of it lies
        inside the slide); None of an encoder that says `context = False`
    seconds_read : spent reading the slide, in threads beside the computation
    seconds_embed : spent in the encoder and in pooling
    from_cache : number of cells that were not computed
    notes : sentences for the user
    """

    cell: Float16
    context: Float16 | None
    seconds_read: float = 0.0
    seconds_embed: float = 0.0
    from_cache: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Block:
    """Some cells that are embedded together: positions in grid order, all in one lattice tile."""

    index: int
    cells: NDArray[np.intp]


def embed_patches(
    slide: Slide,
    grid: PatchGrid,
    encoder: Encoder,
    *,
    cache: FeatureCache | None = None,
    progress: Progress = no_progress,
    threads: int | None = None,
) -> Features:
    """Features of the cells of `grid`, from the cache as far as they are there.

    A dense encoder sees windows of about 1,024 px (at `grid.mpp_embed`) with a halo; its map is
    averaged over each cell by exact overlap, so that cells need not fit its stride. Any other
    encoder sees each patch alone, resized to `grid.patch_px`.

    Parameters
    ----------
    cache : None computes everything and keeps nothing
    progress : called as progress("embed", cells done, n)
    threads : threads that read the slide; None: two

    Raises
    ------
    SlideError : the slide cannot be read
    EncoderError : the features hold NaN or infinity
    """
    n, d = len(grid), encoder.dim
    out = {name: np.empty((n, d), np.float16) for name in views_of(encoder)}
    blocks = plan_blocks(grid, encoder)
    computer = block_computer(slide, grid, encoder)
    notes: list[str] = []
    spent = {"read": 0.0, "embed": 0.0}
    done = 0
    progress("embed", 0, n)
    with contextlib.ExitStack() as stack:
        shards = _open_shards(stack, cache, cache_key(slide, grid, encoder), notes)
        missing = []
        for block in blocks:
            shape = (len(block.cells), d)
            shard = shards and shards.load(block.index, dict.fromkeys(out, shape))
            if not shard:
                missing.append(block)
                continue
            for name, values in shard.items():
                out[name][block.cells] = values
            done += len(block.cells)
        from_cache = done
        if done:
            progress("embed", done, n)
        for block, pixels, seconds in _read_ahead(computer, missing, threads or 2):
            start = time.perf_counter()
            fresh = _finite(computer.features(block, pixels), encoder)
            spent["embed"] += time.perf_counter() - start
            spent["read"] += seconds
            shards = _save(shards, block, fresh, notes)
            for name in out:
                out[name][block.cells] = fresh[name]
            done += len(block.cells)
            progress("embed", done, n)
    return Features(
        out["cell"], out.get("context"), spent["read"], spent["embed"], from_cache, tuple(notes)
    )


def views_of(encoder: Encoder) -> dict[str, int]:
    """What is embedded of a cell: the width of each view in units of `grid.size`."""
    views = {"cell": 1, "context": 2}
    if not getattr(encoder, "context", True):
        del views["context"]
    return views


def cache_key(slide: Slide, grid: PatchGrid, encoder: Encoder) -> dict[str, Any]:
    """Everything the features depend on."""
    import hashlib

    cells = hashlib.sha256(np.stack([grid.rows, grid.cols]).astype("<i4").tobytes())
    return {
        "format": FORMAT,
        "slide": slide.fingerprint,
        "slide_mpp": slide.mpp,
        "reader": slide.reader,
        "encoder": encoder.identifier,
        "origin": [float(v) for v in grid.origin],
        "shape": [int(v) for v in grid.shape],
        "cells": cells.hexdigest(),
        "n_cells": len(grid),
        "stride": int(grid.stride),
        "size": int(grid.size),
        "patch_px": int(grid.patch_px),
        "mpp": float(grid.mpp),
        "mpp_embed": float(grid.mpp_embed),
        "window_px": WINDOW_PX,
    }


def estimate(grid: PatchGrid, encoder: Encoder) -> dict[str, int]:
    """What embedding `grid` takes, before anything is read.

    Returns
    -------
    cells, windows, pixels : to be read and embedded
    feature_bytes : of all views, in memory and on disk
    peak_bytes : of features and the windows in flight, without the encoder's own
    """
    blocks = plan_blocks(grid, encoder)
    computer = block_computer(None, grid, encoder)
    pixels = [computer.n_pixels(block) for block in blocks]
    feature_bytes = len(grid) * encoder.dim * 2 * len(views_of(encoder))
    return {
        "cells": len(grid),
        "windows": len(blocks),
        "pixels": sum(pixels),
        "feature_bytes": feature_bytes,
        "peak_bytes": feature_bytes + 3 * (READ_AHEAD + 1) * max(pixels, default=0),
    }


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


class _Dense:
    """Blocks through a dense encoder."""

    def __init__(self, slide: Slide | None, grid: PatchGrid, encoder: DenseEncoder) -> None:
        self.slide, self.grid, self.encoder = slide, grid, encoder
        self.views = views_of(encoder)
        self.scale = grid.mpp / grid.mpp_embed  # embed px per level-0 px
        rows, cols = grid.shape
        lattice = grid.origin[0] + cols * grid.stride, grid.origin[1] + rows * grid.stride
        self.extent = lattice if slide is None else slide.size

    def n_pixels(self, block: Block) -> int:
        _, (width, height) = self._window(block)
        return width * height

    def read(self, block: Block) -> tuple[NDArray[np.uint8], ...]:
        assert self.slide is not None
        (x, y), size = self._window(block)
        corner = x / self.scale, y / self.scale
        return (self.slide.read_region(*corner, size, self.grid.mpp_embed),)

    def features(self, block: Block, pixels: tuple[NDArray[np.uint8], ...]) -> dict[str, Float16]:
        grid, stride = self.grid, self.encoder.dense_stride
        dense = self.encoder.dense(pixels[0][None])[0]  # (h, w, d)
        (x, y), _ = self._window(block)
        rows, row_of = np.unique(grid.rows[block.cells], return_inverse=True)
        cols, col_of = np.unique(grid.cols[block.cells], return_inverse=True)
        centre_y = ((grid.origin[1] + (rows + 0.5) * grid.stride) * self.scale - y) / stride
        centre_x = ((grid.origin[0] + (cols + 0.5) * grid.stride) * self.scale - x) / stride
        out = {}
        for name, width in self.views.items():
            half = width * grid.size * self.scale / stride / 2
            down = overlap_weights(centre_y, half, dense.shape[0])
            across = overlap_weights(centre_x, half, dense.shape[1])
            pooled = _pool(dense, down, across)
            out[name] = _half(pooled[row_of, col_of])
        return out

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


class _PatchWise:
    """Blocks through an encoder that sees one patch at a time."""

    def __init__(self, slide: Slide | None, grid: PatchGrid, encoder: Encoder) -> None:
        self.slide, self.grid, self.encoder = slide, grid, encoder
        self.views = views_of(encoder)

    def n_pixels(self, block: Block) -> int:
        return len(self.views) * len(block.cells) * self.grid.patch_px**2

    def read(self, block: Block) -> tuple[NDArray[np.uint8], ...]:
        return tuple(self._patches(block, width * self.grid.size) for width in self.views.values())

    def features(self, block: Block, pixels: tuple[NDArray[np.uint8], ...]) -> dict[str, Float16]:
        views = zip(self.views, pixels, strict=True)
        return {name: _half(self.encoder(patches)) for name, patches in views}

    def _patches(self, block: Block, size: int) -> NDArray[np.uint8]:
        """(B, patch_px, patch_px, 3): squares of `size` level-0 px centred on the cells."""
        assert self.slide is not None
        grid, px = self.grid, self.grid.patch_px
        mpp = size * grid.mpp / px
        corners = grid.centres[block.cells] - size / 2
        step = grid.stride * px / size  # patch px from one cell to the next
        if not step.is_integer():
            patches = [self.slide.read_region(x, y, (px, px), mpp) for x, y in corners]
            return np.stack(patches)
        # Whole steps: one read for all, and the patches are cut from it.
        rows = (grid.rows[block.cells] - grid.rows[block.cells].min()) * int(step)
        cols = (grid.cols[block.cells] - grid.cols[block.cells].min()) * int(step)
        extent = int(cols.max()) + px, int(rows.max()) + px
        x, y = corners.min(axis=0)
        window = self.slide.read_region(float(x), float(y), extent, mpp)
        return np.stack([window[r : r + px, c : c + px] for r, c in zip(rows, cols, strict=True)])


def block_computer(slide: Slide | None, grid: PatchGrid, encoder: Encoder) -> _Dense | _PatchWise:
    """What reads and embeds the blocks of `grid`; without a slide it only knows their windows."""
    if isinstance(encoder, DenseEncoder):
        return _Dense(slide, grid, encoder)
    return _PatchWise(slide, grid, encoder)


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


def _pool(
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


def _read_ahead(
    computer: _Dense | _PatchWise, blocks: list[Block], threads: int
) -> Iterator[tuple[Block, tuple[NDArray[np.uint8], ...], float]]:
    """Blocks with their pixels and the seconds that reading them took, in order."""

    def read(block: Block) -> tuple[tuple[NDArray[np.uint8], ...], float]:
        start = time.perf_counter()
        return computer.read(block), time.perf_counter() - start

    waiting: deque[tuple[Block, Future[tuple[tuple[NDArray[np.uint8], ...], float]]]] = deque()
    pool = ThreadPoolExecutor(max(1, min(threads, READ_AHEAD)), "recontour-read")
    try:
        for block in blocks:
            waiting.append((block, pool.submit(read, block)))
            if len(waiting) > READ_AHEAD:
                first, future = waiting.popleft()
                yield first, *future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, *future.result()
    finally:
        # On an error or Ctrl-C the reads that have not begun are dropped.
        pool.shutdown(wait=True, cancel_futures=True)


def _half(values: NDArray[np.float32]) -> Float16:
    with np.errstate(over="ignore"):  # infinities are refused later, by name
        return values.astype(np.float16)


def _finite(values: dict[str, Float16], encoder: Encoder) -> dict[str, Float16]:
    if not all(np.isfinite(array).all() for array in values.values()):
        raise EncoderError(
            f"encoder {encoder.identifier} returned NaN or infinity (or beyond float16)"
        )
    return values


def _open_shards(
    stack: contextlib.ExitStack,
    cache: FeatureCache | None,
    key: dict[str, Any],
    notes: list[str],
) -> Shards | None:
    if cache is None:
        return None
    try:
        return stack.enter_context(cache.use(key))
    except OutputError as error:
        _give_up(error, notes)
        return None


def _save(
    shards: Shards | None, block: Block, values: dict[str, Float16], notes: list[str]
) -> Shards | None:
    if shards is None:
        return None
    try:
        shards.save(block.index, values)
    except OutputError as error:
        _give_up(error, notes)
        return None
    return shards


def _give_up(error: OutputError, notes: list[str]) -> None:
    """A cache that cannot be written costs a resume, not the run."""
    notes.append(f"features are not kept: {error}")
    logger.warning(notes[-1])
