"""Decoding the JPEG tiles of one level, as they are or shrunk while decoding.

Shrinking to 1/2, 1/4 or 1/8 leaves out what the inverse cosine transform would compute only to be
averaged away again: libjpeg's reduced transforms give the means of the full one's pixels (Loeffler,
Ligtenberg & Moschytz 1989, in `jidctred.c`). Several tiles are decoded in one go, joined into one
tall JPEG by restart markers, which reset the decoder just as a new tile does.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recontour.slides.jpeg_header import EOI, SOI, Header, parse_header
from recontour.slides.jpeg_structure import TileGrid

Pixels = NDArray[np.uint8]

JOINED = 16
"""Tiles that are decoded in one go."""

JOINED_PX = 1 << 24
HOLE = bytes(64)
"""No entropy-coded data holds so many zeros but of blank tiles: worth a second look."""

_PILLOW_DAMAGE = (OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, struct.error)


class DamagedTile(Exception):  # noqa: N818 - becomes a SlideError once its place is known
    """A tile cannot be decoded: its index, and why."""

    def __init__(self, index: int, why: str) -> None:
        super().__init__(why)
        self.index, self.why = index, why


class JpegTiles:
    """The tiles of one level.

    Parameters
    ----------
    grid : where they are
    read : gives (offset, count) bytes of the file, fewer where it ends
    second_look : gives the pixels of tile `index` by another reader; of missing tiles, and of those
        that look as if overwritten with zeros. Raises if it finds them damaged
    """

    def __init__(
        self,
        grid: TileGrid,
        read: Callable[[int, int], bytes],
        second_look: Callable[[int], Pixels],
    ) -> None:
        self.grid = grid
        self._read, self._second_look = read, second_look
        self._header: Header | None = None
        self._most: int | None = None

    def shrink(self, wanted: int) -> int:
        """The most a tile is shrunk while decoding, of the divisors of `wanted`: 1, 2, 4 or 8."""
        if wanted == 1:
            return 1
        if self._most is None:
            self._most = self._first_shrink()
        return math.gcd(wanted, self._most)

    def _first_shrink(self) -> int:
        """That of the first stored tile; any other that cannot be shrunk so far is averaged."""
        stored = np.flatnonzero(self.grid.counts)
        if not len(stored):
            return 1
        try:
            return self._header_of(self._data(int(stored[0]))).shrink
        except DamagedTile:
            return 1  # told when it is read

    def decode(self, indices: Sequence[int], shrink: int) -> list[Pixels]:
        """uint8 (tile height / shrink, tile width / shrink, 3) of each tile.

        Raises
        ------
        DamagedTile : cut short, overwritten, or of another size
        """
        if shrink == 1:
            return [self._full(index) for index in indices]
        found: dict[int, Pixels] = {}
        alike: dict[Header, list[tuple[int, bytes]]] = {}
        for index in indices:
            if self.grid.counts[index] == 0 or self._on_ragged_edge(index, shrink):
                found[index] = _means(self._trimmed(index), shrink)
                continue
            data = self._data(index)
            header = self._header_of(data)
            scan = _scan(data, header) if header.shrink >= shrink else None
            if scan is None:
                found[index] = _means(self._full(index), shrink)
                continue
            alike.setdefault(header, []).append((index, scan))
        for header, tiles in alike.items():
            most = max(1, min(JOINED, JOINED_PX // (self.grid.tile[0] * self.grid.tile[1])))
            for start in range(0, len(tiles), most):
                found |= self._joined(header, tiles[start : start + most], shrink)
        return [found[index] for index in indices]

    def into(self, out: Pixels, index: int) -> Pixels:
        """A tile at full size, decoded into `out` where it is stored at all."""
        return self._full(index, out)

    def _full(self, index: int, out: Pixels | None = None) -> Pixels:
        """A tile at full size."""
        from imagecodecs import Jpeg8Error, jpeg8_decode

        grid = self.grid
        if grid.counts[index] == 0:
            return self._second_look(index)
        data = self._data(index)
        try:
            pixels: Pixels = jpeg8_decode(
                data,
                tables=grid.tables,
                colorspace="YCBCR" if grid.ycbcr else "RGB",
                outcolorspace="RGB",
                out=out,
            )
        except (Jpeg8Error, ValueError) as error:
            if out is not None and isinstance(error, ValueError):
                return self._full(index)  # it does not fit into `out`: tells its true size
            raise DamagedTile(index, str(error)) from error
        if pixels.shape != (grid.tile[1], grid.tile[0], 3) or pixels.dtype != np.uint8:
            what = f"it holds {pixels.shape[1]} x {pixels.shape[0]} px"
            raise DamagedTile(index, f"{what}, not {grid.tile[0]} x {grid.tile[1]}")
        return pixels

    def _trimmed(self, index: int) -> Pixels:
        """A tile at full size, white beyond the level, where the JPEG holds no tissue."""
        grid = self.grid
        row, col = divmod(index, grid.across)
        pixels = self._full(index)
        pixels[max(0, grid.size[1] - row * grid.tile[1]) :] = 255
        pixels[:, max(0, grid.size[0] - col * grid.tile[0]) :] = 255
        return pixels

    def _on_ragged_edge(self, index: int, shrink: int) -> bool:
        """Whether the level ends within a block of a tile; what lies beyond must be white."""
        grid = self.grid
        row, col = divmod(index, grid.across)
        axes = ((col, grid.tile[0], grid.size[0]), (row, grid.tile[1], grid.size[1]))
        return any((at + 1) * side > extent and extent % shrink for at, side, extent in axes)

    def _data(self, index: int) -> bytes:
        """A stored tile, from SOI to EOI."""
        grid = self.grid
        count = int(grid.counts[index])
        if count > 8 * grid.tile[0] * grid.tile[1] + (1 << 20):
            raise DamagedTile(index, f"it is said to have {count:,} bytes")
        data = self._read(int(grid.offsets[index]), count)
        if len(data) < count:
            raise DamagedTile(index, f"the file ends {count - len(data):,} bytes too early")
        if not data.startswith(SOI):
            raise DamagedTile(index, "it does not begin as a JPEG")
        if not data.endswith(EOI):
            end = data.rfind(EOI)
            if end < 0:
                raise DamagedTile(index, "it does not end as a JPEG")
            data = data[: end + 2]
        header = self._header
        if data.find(HOLE, len(header.raw) if header and data.startswith(header.raw) else 0) >= 0:
            self._second_look(index)
        return data

    def _header_of(self, data: bytes) -> Header:
        """Parsed once: the tiles of a level mostly share one."""
        header = self._header
        if header is None or not data.startswith(header.raw):
            header = parse_header(data, self.grid)
            self._header = header
        return header

    def _joined(
        self, header: Header, tiles: list[tuple[int, bytes]], shrink: int
    ) -> dict[int, Pixels]:
        """Tiles of one header, each with its scan, decoded in one go."""
        width, height = self.grid.tile
        parts = [header.before, struct.pack(">H", height * len(tiles)), header.after]
        for number, (_, scan) in enumerate(tiles):
            last = number == len(tiles) - 1
            parts += scan, EOI if last else bytes((0xFF, 0xD0 + number % 8))
        w, h = width // shrink, height // shrink
        try:
            with Image.open(io.BytesIO(b"".join(parts)), formats=("JPEG",)) as image:
                image.draft("RGB", (w, h * len(tiles)))
                pixels = np.asarray(image)
            if pixels.shape != (h * len(tiles), w, 3):
                raise ValueError(f"it holds {pixels.shape[1]} x {pixels.shape[0]} px")
        except _PILLOW_DAMAGE as error:
            if len(tiles) == 1:
                raise DamagedTile(tiles[0][0], str(error)) from error
            return {
                index: self._joined(header, [(index, scan)], shrink)[index] for index, scan in tiles
            }
        return {index: pixels[k * h : (k + 1) * h] for k, (index, _) in enumerate(tiles)}


def _scan(data: bytes, header: Header) -> bytes | None:
    """The entropy-coded data of a tile; None where a marker in it would upset joined tiles."""
    scan = data[len(header.raw) : data.find(EOI, len(header.raw))]  # its first: some have two
    return scan if scan.count(b"\xff") == scan.count(b"\xff\0") else None


def _means(pixels: Pixels, factor: int) -> Pixels:
    return np.asarray(Image.fromarray(pixels).reduce(factor))
