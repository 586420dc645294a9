"""Keeping decoded tiles for as long as planned reads still need them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
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
        self._coming: dict[Region, list[Sequence[Tile]]] = {}  # once for each time it is planned
        self._uses: dict[Tile, int] = {}
        self._kept: dict[Tile, Pixels | None] = {}  # None: a thread is decoding it
        self._changed = threading.Condition(threading.Lock())
        self._waiting = 0

    @contextlib.contextmanager
    def expecting(self, regions: Sequence[Region]) -> Iterator[None]:
        """Within the context, these regions are planned."""
        planned = [(region, self._tiles_of(region)) for region in regions]
        with self._changed:
            for region, tiles in planned:
                self._coming.setdefault(region, []).append(tiles)
                for tile in tiles:
                    self._uses[tile] = self._uses.get(tile, 0) + 1
        try:
            yield
        finally:
            # What was planned and never read, be it because of an error.
            with self._changed:
                for region, tiles in planned:
                    left = self._coming.get(region, [])
                    at = next((i for i, own in enumerate(left) if own is tiles), None)
                    if at is not None:
                        self._settle(region, at)

    def done(self, region: Region) -> None:
        """A region was read: tiles that no other needs are let go."""
        if region in self._coming:
            with self._changed:
                if region in self._coming:
                    self._settle(region, 0)

    def planned(self, region: Region) -> Sequence[Tile] | None:
        """The tiles of a planned region, None of any other."""
        with self._changed:
            left = self._coming.get(region)
            return left[0] if left else None

    def shares(self, tile: Tile) -> bool:
        """Whether it is at hand, or will be needed again after this."""
        return tile in self._kept or self._uses.get(tile, 0) > 1

    def get(
        self, tiles: Sequence[Tile], decode: Callable[[Sequence[Tile]], Sequence[Pixels]]
    ) -> list[Pixels]:
        """The pixels of each tile: those at hand, the others by `decode`.

        A tile that another thread is decoding is waited for.
        """
        if not self._uses:
            return list(decode(tiles))
        found: dict[Tile, Pixels] = {}
        own: list[Tile] = []
        others: list[Tile] = []
        claimed: list[Tile] = []
        with self._changed:
            for tile in tiles:
                if tile not in self._kept:
                    own.append(tile)
                    if self._uses.get(tile, 0) > 1:
                        self._kept[tile] = None
                        claimed.append(tile)
                elif (pixels := self._kept[tile]) is not None:
                    found[tile] = pixels
                else:
                    others.append(tile)
        try:
            if own:
                found.update(zip(own, decode(own), strict=True))
        finally:
            # On an error too: whoever waits for these decodes them alone.
            self._keep({tile: found.get(tile) for tile in claimed}, found)
        # Own tiles came first: who waits here keeps nobody else waiting.
        for tile in others:
            known = self._await(tile)
            found[tile] = decode([tile])[0] if known is None else known
        return [found[tile] for tile in tiles]

    def _keep(self, fresh: dict[Tile, Pixels | None], found: dict[Tile, Pixels]) -> None:
        """Keep claimed tiles where memory allows; None: they could not be decoded."""
        for tile, pixels in fresh.items():
            if pixels is not None:
                if pixels.base is not None:
                    pixels = pixels.copy()  # a view would hold all that was decoded with it
                pixels.flags.writeable = False
                fresh[tile] = found[tile] = pixels
        with self._changed:
            for tile, pixels in fresh.items():
                if self._kept.get(tile, tile) is not None:
                    continue  # nobody needs it any more, or a later plan has it already
                if pixels is None or self.kept_bytes + pixels.nbytes > self.limit:
                    del self._kept[tile]
                else:
                    self._kept[tile] = pixels
                    self.kept_bytes += pixels.nbytes
            if self._waiting:
                self._changed.notify_all()

    def _await(self, tile: Tile) -> Pixels | None:
        """A tile once the thread that decodes it is done; None if it was not kept."""
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: self._kept.get(tile, tile) is not None)
            self._waiting -= 1
            return self._kept.get(tile)

    def _settle(self, region: Region, at: int) -> None:
        """Take a planned region off the plan, and let go of what no other needs."""
        left = self._coming[region]
        tiles = left.pop(at)
        if not left:
            del self._coming[region]
        for tile in tiles:
            self._uses[tile] -= 1
            if not self._uses[tile]:
                del self._uses[tile]
                pixels = self._kept.pop(tile, None)
                if pixels is not None:
                    self.kept_bytes -= pixels.nbytes
