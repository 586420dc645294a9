"""What a JPEG tile says before its pixels, and the header of several such tiles joined into one."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from recontour.slides.jpeg_structure import TileGrid

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
_DHT, _DQT, _DRI, _SOS, _SOF = 0xC4, 0xDB, 0xDD, 0xDA, (0xC0, 0xC1)
_OTHER_SOF = {*range(0xC2, 0xD0)} - {0xC4, 0xC8, 0xCC}


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


def parse_header(data: bytes, grid: TileGrid) -> Header:
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
        raw, b"".join((SOI, adobe, *tables, frame[:5])), frame[7:] + restart + scan, shrink
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
