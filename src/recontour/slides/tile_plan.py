"""Keeping decoded tiles for as long as planned reads still need them."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Region: TypeAlias = tuple[float, float, tuple[int, int], float]
"""(x, y, (width, height), mpp), as `read_region` takes them."""

PLAN_BYTES = 256 << 20
"""Memory for decoded tiles: a row of tiles of a slide 100,000 px wide takes 80 to 160 MB."""


class Tile(NamedTuple):
    """Which tile, and how much shrunk."""

    level: int
    shrink: int
    number: int


class TilePlan:
    """How often each tile will still be needed, and those that were decoded.

    Parameters
    ----------
    tiles_of : the tiles that reading a region needs
    limit : bytes of decoded tiles that are kept; beyond it, tiles are decoded again
    """

    def __init__(
        self, tiles_of: Callable[[Region], Sequence[Tile]], limit: int = PLAN_BYTES
    ) -> None:
        self.limit = limit
        self.kept_bytes = 0
        self._tiles_of = tiles_of
        self._regions: Counter[Region] = Counter()
        self._uses: dict[Tile, int] = {}
        self._kept: dict[Tile, Future[Pixels | None]] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def expecting(self, regions: Sequence[Region]) -> Iterator[None]:
        """Within the context, these regions are planned."""
        coming = Counter(map(_key, regions))
        uses: Counter[Tile] = Counter()
        for region, times in coming.items():
            for tile in self._tiles_of(region):
                uses[tile] += times
        with self._lock:
            self._regions += coming
            for tile, times in uses.items():
                self._uses[tile] = self._uses.get(tile, 0) + times
        try:
            yield
        finally:
            # What was planned and never read, be it because of an error.
            for region in coming:
                while coming[region] > 0 and self.done(region):
                    coming[region] -= 1

    def done(self, region: Region) -> bool:
        """A region was read: tiles that no other needs are let go. False: it was not planned."""
        region = _key(region)
        if not self._regions:
            return False
        with self._lock:
            if not self._regions[region]:
                return False
            self._regions[region] -= 1
            if not self._regions[region]:
                del self._regions[region]
        tiles = self._tiles_of(region)
        with self._lock:
            for tile in tiles:
                self._uses[tile] -= 1
                if not self._uses[tile]:
                    del self._uses[tile]
                    self._drop(tile)
        return True

    def get(
        self, tiles: Sequence[Tile], decode: Callable[[Sequence[Tile]], Sequence[Pixels]]
    ) -> list[Pixels]:
        """The pixels of each tile: those at hand, the others by `decode`.

        A tile that another thread is decoding is waited for.
        """
        if not self._uses:
            return list(decode(tiles))
        own: dict[Tile, Future[Pixels | None] | None] = {}
        others: dict[Tile, Future[Pixels | None]] = {}
        with self._lock:
            for tile in tiles:
                if tile in self._kept:
                    others[tile] = self._kept[tile]
                    continue
                own[tile] = None
                if self._uses.get(tile, 0) > 1:
                    own[tile] = self._kept[tile] = Future()
        found: dict[Tile, Pixels] = {}
        try:
            if own:
                found = dict(zip(own, decode(list(own)), strict=True))
        except BaseException:
            with self._lock:
                for tile, future in own.items():
                    if future is not None:
                        self._drop(tile)
                        future.set_result(None)  # whoever waits decodes it alone
            raise
        for tile, future in own.items():
            if future is not None:
                found[tile] = self._keep(tile, future, found[tile])
        # Own tiles came first: who waits here keeps nobody else waiting.
        for tile, future in others.items():
            pixels = future.result()
            found[tile] = decode([tile])[0] if pixels is None else pixels
        return [found[tile] for tile in tiles]

    def _keep(self, tile: Tile, future: Future[Pixels | None], pixels: Pixels) -> Pixels:
        """Hand a tile to whoever waits for it, and keep it where memory allows."""
        if pixels.base is not None:
            pixels = pixels.copy()  # a view would hold all tiles that were decoded with it
        pixels.flags.writeable = False
        with self._lock:
            fits = self.kept_bytes + pixels.nbytes <= self.limit
            if self._kept.get(tile) is future:
                if fits:
                    self.kept_bytes += pixels.nbytes
                else:
                    del self._kept[tile]
            future.set_result(pixels)
        return pixels

    def _drop(self, tile: Tile) -> None:
        future = self._kept.pop(tile, None)
        if future is not None and future.done() and (pixels := future.result()) is not None:
            self.kept_bytes -= pixels.nbytes


def _key(region: Region) -> Region:
    x, y, (width, height), mpp = region
    return float(x), float(y), (int(width), int(height)), float(mpp)
