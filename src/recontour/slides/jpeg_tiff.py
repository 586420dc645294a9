"""TIFF made of JPEG tiles, read tile by tile: SVS, CAMELYON's .tif, pyramids, JPEG OME-TIFF.

Much faster than OpenSlide, which spends most of its time on composing. Stored levels come out pixel
for pixel as OpenSlide gives them. Where the wanted pixels are whole blocks of 2, 4 or 8 stored
ones, tiles are shrunk while they are decoded (within 41 dB of the mean of the blocks, and better).
Sizes, pixel size and bounds are OpenSlide's wherever it opens the file.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recontour.errors import SlideError
from recontour.slides.fingerprint import fingerprint
from recontour.slides.jpeg_structure import NotJpegTiff, find_structure
from recontour.slides.jpeg_tiles import JOINED, DamagedTile, JpegTiles
from recontour.slides.mpp import resolve_mpp
from recontour.slides.openslide import stated_bounds
from recontour.slides.resample import (
    best_level,
    check_region,
    footprint,
    nominal_downsample,
    on_white,
    resample,
    whole_blocks,
)
from recontour.slides.tile_plan import Region, Tile, TilePlan

Pixels = NDArray[np.uint8]
THREADS = 4
"""Threads that fill one large region, where there are as many cores."""


class _View(NamedTuple):
    """A region as seen on a stored level.

    Attributes
    ----------
    level : which
    shrink : how much its tiles are shrunk while decoding; the rest is in px of that shrunk level
    extent : (width, height) of the level
    corner, size, scale : as `resample` takes them
    block : (x, y) where nothing is left to resample, else None
    """

    level: int
    shrink: int
    extent: tuple[int, int]
    corner: tuple[float, float]
    size: tuple[int, int]
    scale: float
    block: tuple[int, int] | None


class JpegTiffReader:
    """A `PlanningSlide` over the JPEG tiles of a TIFF. Safe to use from several threads."""

    reader = "jpeg_tiff"

    @classmethod
    def can_open(cls, path: Path) -> bool:
        """Whether all levels are JPEG tiles, and the structure is undamaged."""
        try:
            find_structure(path)
        except NotJpegTiff:
            return False
        return True

    def __init__(self, path: Path, mpp: float | None = None) -> None:
        try:
            structure = find_structure(path)
        except NotJpegTiff as why:
            raise SlideError(
                f"{path.name} cannot be read by jpeg_tiff: {why}; leave --reader out"
            ) from why
        properties, sizes = structure.properties, structure.sizes
        self.mpp, self.mpp_source = resolve_mpp(path.name, properties, mpp)
        self._path, self._whole = path, structure.whole
        self._sizes, self._ratios = sizes, structure.ratios
        self._downsamples = tuple(
            nominal_downsample(sizes[0], size, ratio)
            for size, ratio in zip(sizes, structure.ratios, strict=True)
        )
        self._tiles = tuple(
            JpegTiles(grid, self._bytes, partial(self._second_look, level))
            for level, grid in enumerate(structure.levels)
        )
        self.id = path.name.removesuffix(path.suffix).removesuffix(".ome")
        self.size = sizes[0]
        self.level_mpps = tuple(self.mpp * factor for factor in self._downsamples)
        self.bounds = stated_bounds(properties, sizes[0])
        self.fingerprint = fingerprint(path, properties.get("openslide.quickhash-1", ""))
        self._scales: dict[float, tuple[int, float]] = {}
        self.threads = min(THREADS, os.cpu_count() or 1)
        self.plan = TilePlan(self._tiles_of)
        self._state = threading.Condition()
        self._readers, self._closed = 0, False
        self._pool: ThreadPoolExecutor | None = None
        self._own = threading.local()
        self._other: Any = None
        self._file = path.open("rb", buffering=0)
        weakref.finalize(self, self._file.close)

    def read_region(
        self, x: float, y: float, size: tuple[int, int], mpp: float
    ) -> NDArray[np.uint8]:
        """RGB uint8 (h, w, 3) of `size` = (w, h) px at `mpp`, whose corner is (x, y) level-0 px.

        Outside the slide is white.

        Raises
        ------
        SlideError : the file is damaged there, or the slide was closed
        """
        region = _plain(x, y, size, mpp)
        with self._state:
            if self._closed:
                raise SlideError(f"{self._path.name} was closed")
            self._readers += 1
        try:
            view = self._view(*region)
            return self._read(view, self.plan.planned(region))
        except DamagedTile as error:
            raise self._damaged(view.level, error) from error
        finally:
            self.plan.done(region)
            with self._state:
                self._readers -= 1
                if self._closed:
                    self._state.notify_all()

    def plan_reads(
        self, regions: Sequence[tuple[float, float, tuple[int, int], float]]
    ) -> contextlib.AbstractContextManager[None]:
        """Expect these regions: each tile is decoded once and kept while one of them needs it.

        At most `PLAN_BYTES` are kept; beyond that, tiles are decoded again.
        """
        return self.plan.expecting([_plain(*region) for region in regions])

    def close(self) -> None:
        """Release the file, once the reads under way have ended."""
        with self._state:
            self._closed = True
            self._state.wait_for(lambda: not self._readers)
            pool, self._pool = self._pool, None
            other, self._other = self._other, None
        self._file.close()
        if pool is not None:
            pool.shutdown()
        if other is not None:
            other.close()

    def _view(self, x: float, y: float, size: tuple[int, int], mpp: float) -> _View:
        known = self._scales.get(mpp)
        if known is None:
            level = best_level(self.level_mpps, mpp)
            known = self._scales[mpp] = level, mpp / self.mpp / self._downsamples[level]
        level, scale = known
        factor = self._downsamples[level]
        corner = u, v = x / factor, y / factor
        width, height = self._sizes[level]
        if scale == 1.0 and min(size) > 0 and u.is_integer() and v.is_integer():
            # Stored pixels as they are: most reads, and what follows takes as long as a tenth tile.
            at = int(u), int(v)
            return _View(level, 1, (width, height), corner, size, 1, at)
        check_region(corner, size, scale)
        blocks = whole_blocks(corner, size, scale)
        if blocks is None:
            return _View(level, 1, (width, height), corner, size, scale, None)
        left, top, whole = blocks
        shrink = self._tiles[level].shrink(math.gcd(whole, left, top))
        left, top, whole = left // shrink, top // shrink, whole // shrink
        extent = -(-width // shrink), -(-height // shrink)
        block = (left, top) if whole == 1 else None
        return _View(level, shrink, extent, (left, top), size, whole, block)

    def _read(self, view: _View, tiles: Sequence[Tile] | None) -> Pixels:
        if view.block is None:

            def read(left: int, top: int, width: int, height: int) -> Image.Image:
                pixels = np.empty((height, width, 3), np.uint8)
                covering = self._covering(view, left, top, left + width, top + height)
                self._fill(pixels, covering, left, top)
                return Image.fromarray(pixels)

            return resample(read, view.extent, view.corner, view.size, view.scale)
        (left, top), (width, height) = view.block, view.size
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = min(left + width, view.extent[0]), min(top + height, view.extent[1])
        if tiles is None:
            tiles = self._covering(view, x0, y0, x1, y1)
        inside = (x0, y0, x1 - x0, y1 - y0) == (left, top, width, height)
        if inside and len(tiles) == 1 and self._corner_in(tiles[0], left, top) == (0, 0):
            pixels = self.plan.get(tiles, self._decode)[0]
            if pixels.shape == (height, width, 3):  # just one tile: nothing to put together
                return pixels if pixels.flags.writeable else pixels.copy()
        out = np.empty((height, width, 3), np.uint8)
        if not inside:
            out[:] = 255
        if tiles:
            self._fill(out[y0 - top : y1 - top, x0 - left : x1 - left], tiles, x0, y0)
        return out

    def _fill(self, out: Pixels, tiles: Sequence[Tile], left: int, top: int) -> None:
        """Put the pixels from (left, top) on, which `tiles` hold, into `out`."""
        groups = [tiles[start : start + JOINED] for start in range(0, len(tiles), JOINED)]

        def fill(group: Sequence[Tile]) -> None:
            kept = []
            for tile in group:
                if tile.shrink > 1 or self.plan.shares(tile):
                    kept.append(tile)
                    continue
                pixels = self._tiles[tile.level].into(self._scratch(tile.level), tile.number)
                _paste(out, pixels, *self._corner_in(tile, left, top))
            if kept:
                for tile, pixels in zip(kept, self.plan.get(kept, self._decode), strict=True):
                    _paste(out, pixels, *self._corner_in(tile, left, top))

        if len(groups) == 1 or self.threads == 1:
            for group in groups:
                fill(group)
            return
        # Whatever fails, nothing writes into `out` any more when this returns.
        futures = [self._workers().submit(fill, group) for group in groups]
        errors = [error for future in futures if (error := future.exception()) is not None]
        if errors:
            raise errors[0]

    def _scratch(self, level: int) -> Pixels:
        """Each thread's own memory for a tile: fresh memory takes longer than a copy."""
        width, height = self._tiles[level].grid.tile
        pixels: Pixels | None = getattr(self._own, "scratch", None)
        if pixels is None or pixels.shape != (height, width, 3):
            pixels = self._own.scratch = np.empty((height, width, 3), np.uint8)
        return pixels

    def _corner_in(self, tile: Tile, left: int, top: int) -> tuple[int, int]:
        grid = self._tiles[tile.level].grid
        row, col = divmod(tile.number, grid.across)
        return (
            col * (grid.tile[0] // tile.shrink) - left,
            row * (grid.tile[1] // tile.shrink) - top,
        )

    def _decode(self, tiles: Sequence[Tile]) -> Sequence[Pixels]:
        """Of one level and shrink."""
        first = tiles[0]
        return self._tiles[first.level].decode([tile.number for tile in tiles], first.shrink)

    def _covering(self, view: _View, x0: int, y0: int, x1: int, y1: int) -> list[Tile]:
        """The tiles that hold these pixels of a view's level."""
        grid = self._tiles[view.level].grid
        x0, y0 = max(x0, 0), max(y0, 0)
        x1, y1 = min(x1, view.extent[0]), min(y1, view.extent[1])
        if x1 <= x0 or y1 <= y0:
            return []
        level, shrink, across = view.level, view.shrink, grid.across
        width, height = grid.tile[0] // shrink, grid.tile[1] // shrink
        cols = range(x0 // width, (x1 - 1) // width + 1)
        rows = range(y0 // height, (y1 - 1) // height + 1)
        return [Tile(level, shrink, row * across + col) for row in rows for col in cols]

    def _tiles_of(self, region: Region) -> list[Tile]:
        view = self._view(*region)
        return self._covering(view, *footprint(view.corner, view.size, view.scale))

    def _workers(self) -> ThreadPoolExecutor:
        with self._state:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.threads, "recontour-tiles")
            return self._pool

    def _bytes(self, offset: int, count: int) -> bytes:
        """As many bytes as there are; several threads share the file without moving in it."""
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), count, offset)
        with self._state:
            self._file.seek(offset)
            return self._file.read(count)

    def _second_look(self, level: int, index: int) -> Pixels:
        """A tile as OpenSlide shows it: what it makes of missing tiles differs with the format."""
        import openslide

        grid = self._tiles[level].grid
        width, height = grid.tile
        white = np.full((height, width, 3), 255, np.uint8)
        if not self._whole:
            return white
        row, col = divmod(index, grid.across)
        left, top = col * width, row * height
        w, h = min(width, grid.size[0] - left), min(height, grid.size[1] - top)
        ratio = self._ratios[level]
        try:
            with self._state:
                if self._other is None:
                    self._other = openslide.OpenSlide(self._path)
                other = self._other
            shown = other.read_region((round(left * ratio), round(top * ratio)), level, (w, h))
        except openslide.OpenSlideError as error:
            with self._state:
                self._other = None  # OpenSlide refuses all later reads, too
            raise DamagedTile(index, str(error)) from error
        white[:h, :w] = np.asarray(on_white(shown))
        return white

    def _damaged(self, level: int, error: DamagedTile) -> SlideError:
        grid = self._tiles[level].grid
        row, col = divmod(error.index, grid.across)
        factor = self._downsamples[level]
        x, y = col * grid.tile[0] * factor, row * grid.tile[1] * factor
        return SlideError(
            f"{self._path.name} is damaged or truncated: reading the tile at ({x:g}, {y:g}) of "
            f"level {level} failed: {error.why}"
        )


def _plain(x: float, y: float, size: tuple[int, int], mpp: float) -> Region:
    """As Python's own numbers, so that a planned region is known again."""
    return float(x), float(y), (int(size[0]), int(size[1])), float(mpp)


def _paste(out: Pixels, pixels: Pixels, left: int, top: int) -> None:
    """Lay `pixels` into `out` with their corner at (left, top); what hangs over is cut off."""
    height, width = out.shape[:2]
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + pixels.shape[1], width), min(top + pixels.shape[0], height)
    out[y0:y1, x0:x1] = pixels[y0 - top : y1 - top, x0 - left : x1 - left]
