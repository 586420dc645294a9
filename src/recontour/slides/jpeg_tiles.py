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
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recontour.slides.jpeg_structure import TileGrid

Pixels = NDArray[np.uint8]

JOINED = 16
"""Tiles that are decoded in one go."""

JOINED_PX = 1 << 24
HOLE = bytes(64)
"""No entropy-coded data holds so many zeros but of blank tiles: worth a second look."""

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_DHT, _DQT, _DRI, _SOS, _SOF = 0xC4, 0xDB, 0xDD, 0xDA, (0xC0, 0xC1)
_OTHER_SOF = {*range(0xC2, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PILLOW_DAMAGE = (OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, struct.error)


class DamagedTile(Exception):  # noqa: N818 - becomes a SlideError once its place is known
    """A tile cannot be decoded: its index, and why."""

    def __init__(self, index: int, why: str) -> None:
        super().__init__(why)
        self.index, self.why = index, why


class Segment(NamedTuple):
    """A marker segment of a JPEG stream: bytes from its marker up to the next."""

    marker: int
    content: bytes


@dataclass(frozen=True)
class Header:
    """All of a tile before its entropy-coded data.

    Attributes
    ----------
    raw : as stored
    before, after : a header for joined tiles, around the two bytes of its height
    shrink : the most that the tile can be shrunk while decoding; 1: not at all
    """

    raw: bytes
    before: bytes
    after: bytes
    shrink: int


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
            if header.shrink < shrink:
                found[index] = _means(self._full(index), shrink)
                continue
            alike.setdefault(header, []).append((index, data))
        for header, tiles in alike.items():
            most = max(1, min(JOINED, JOINED_PX // (self.grid.tile[0] * self.grid.tile[1])))
            for start in range(0, len(tiles), most):
                found |= self._joined(header, tiles[start : start + most], shrink)
        return [found[index] for index in indices]

    def _full(self, index: int) -> Pixels:
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
            )
        except (Jpeg8Error, ValueError) as error:
            raise DamagedTile(index, str(error)) from error
        if pixels.shape != (grid.tile[1], grid.tile[0], 3) or pixels.dtype != np.uint8:
            raise DamagedTile(index, f"it holds {pixels.shape[1]} x {pixels.shape[0]} px")
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
        if not data.startswith(_SOI):
            raise DamagedTile(index, "it does not begin as a JPEG")
        if not data.endswith(_EOI):
            end = data.rfind(_EOI)
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
            header = _parse(data, self.grid)
            self._header = header
        return header

    def _joined(
        self, header: Header, tiles: list[tuple[int, bytes]], shrink: int
    ) -> dict[int, Pixels]:
        width, height = self.grid.tile
        parts = [header.before, struct.pack(">H", height * len(tiles)), header.after]
        for number, (_, data) in enumerate(tiles):
            last = number == len(tiles) - 1
            parts += data[len(header.raw) : -2], _EOI if last else bytes((0xFF, 0xD0 + number % 8))
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
                index: self._joined(header, [(index, data)], shrink)[index] for index, data in tiles
            }
        return {index: pixels[k * h : (k + 1) * h] for k, (index, _) in enumerate(tiles)}


def _means(pixels: Pixels, factor: int) -> Pixels:
    return np.asarray(Image.fromarray(pixels).reduce(factor))


def _parse(data: bytes, grid: TileGrid) -> Header:
    """The header of a tile, and what a header for several such tiles says."""
    segments, length = _segments(data)
    raw = data[:length]
    whole = Header(raw, b"", b"", 1)  # not to be shrunk while decoding
    markers = [segment.marker for segment in segments]
    frames = [segment for segment in segments if segment.marker in _SOF]
    if len(frames) != 1 or markers[-1] != _SOS or {_DRI, *_OTHER_SOF} & set(markers):
        return whole
    frame, scan = frames[0].content, segments[-1].content
    factors = _sampling(frame)
    # SOF: marker, length, precision, height, width; SOS: marker, length, number of components.
    size = struct.unpack(">HH", frame[5:9])[::-1]
    if len(factors) != 3 or scan[4] != 3 or frame[4] != 8 or size != grid.tile:
        return whole
    across, down = factors[0]
    shrink = 1
    if factors[1:] == [(1, 1), (1, 1)]:
        # Of 4:2:2, smaller sizes would take more of the colour away than of the brightness.
        shrink = {(1, 1): 8, (2, 2): 8, (2, 1): 2}.get((across, down), 1)
    if shrink == 1 or grid.tile[0] % (8 * across) or grid.tile[1] % (8 * down):
        return whole
    units = grid.tile[0] // (8 * across) * (grid.tile[1] // (8 * down))
    if units > 0xFFFF:
        return whole
    shared = _segments(grid.tables)[0] if grid.tables else []
    tables = [s.content for s in (*shared, *segments) if s.marker in (_DHT, _DQT)]
    # The marker from which decoders know the colours.
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes((grid.ycbcr,))
    restart = b"\xff\xdd\x00\x04" + struct.pack(">H", units)
    return Header(
        raw, b"".join((_SOI, adobe, *tables, frame[:5])), frame[7:] + restart + scan, shrink
    )


def _segments(data: bytes) -> tuple[list[Segment], int]:
    """The marker segments up to SOS, and where the data after it begins."""
    found: list[Segment] = []
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
            continue
        if marker == 0xD9:
            break
        end = at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
        found.append(Segment(marker, data[at:end]))
        at = end
        if marker == _SOS:
            break
    return found or [Segment(0, b"")], at


def _sampling(frame: bytes) -> list[tuple[int, int]]:
    """(horizontal, vertical) sampling factors of each component of an SOF segment."""
    factors = frame[11::3][: frame[9]]
    return [(value >> 4, value & 15) for value in factors]
