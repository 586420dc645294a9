"""Where the JPEG tiles of a TIFF lie: levels, tile grids, offsets, tables."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

VENDORS = (None, "generic-tiff", "aperio", "philips")
"""What OpenSlide calls the formats whose levels are plain grids of tiles, which do not overlap."""

MAX_PAGES = 64
"""TIFF directories that are looked at: a pyramid has a dozen, a stack of planes thousands."""

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,  # tifffile's own errors are ValueErrors
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    MemoryError,
    RuntimeError,
    struct.error,
)
"""What tifffile raises on damaged files, depending on where the damage is."""


class NotJpegTiff(Exception):  # noqa: N818 - an answer, not a failure
    """The file is none that can be read tile by tile; the message says why, as a clause."""


@dataclass(frozen=True)
class TileGrid:
    """One level, as it is stored.

    Attributes
    ----------
    size : (width, height), px
    tile : (width, height) of a tile, px
    across, down : number of tiles
    offsets, counts : int64 (down * across,), where each tile lies in the file, row by row; a tile
        of 0 bytes is missing
    tables : JPEG tables that all tiles share (a JPEG stream without image), or None
    ycbcr : the tiles hold YCbCr; False: RGB
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    across: int
    down: int
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    tables: bytes | None
    ycbcr: bool


@dataclass(frozen=True)
class Structure:
    """What a reader must know of a file.

    Attributes
    ----------
    levels : finest first
    sizes : (width, height) of each level
    ratios : how many level-0 px a px of each level spans, from the sizes
    properties : metadata under OpenSlide's names
    whole : OpenSlide reads all of these levels too
    """

    levels: tuple[TileGrid, ...]
    sizes: tuple[tuple[int, int], ...]
    ratios: tuple[float, ...]
    properties: Mapping[str, str]
    whole: bool


def find_structure(path: Path) -> Structure:
    """The levels of a TIFF whose pixels are JPEG tiles.

    OpenSlide is asked for sizes and metadata wherever it opens the file; what it does not see
    (levels in SubIFDs, as OME-TIFF has them) or does not know is taken from the TIFF alone.

    Raises
    ------
    NotJpegTiff : anything else, or damaged
    """
    import openslide

    with path.open("rb") as file:
        if file.read(4) not in _MAGIC:
            raise NotJpegTiff("it is not a TIFF")
    vendor = openslide.OpenSlide.detect_format(path)
    if vendor not in VENDORS:
        raise NotJpegTiff(f"its format ({vendor}) is left to OpenSlide")
    import tifffile

    # What it logs of damage would go to the terminal: the answer here says it, or OpenSlide does.
    if not (log := logging.getLogger("tifffile")).handlers:
        log.addHandler(logging.NullHandler())
    try:
        with tifffile.TiffFile(path) as tiff:
            if vendor is None or _main_page(tiff).subifds:
                return _own_structure(tiff, path)
            return _matched_structure(tiff, path, vendor)
    except _DAMAGE as error:
        raise NotJpegTiff(f"its structure is damaged ({error})") from error


def _main_page(tiff: Any) -> Any:
    """The full image: the first of the largest, as OME-TIFF may begin with a label."""
    return max(_pages(tiff), key=lambda page: page.imagewidth * page.imagelength)


def _pages(tiff: Any) -> Iterator[Any]:
    for index, page in enumerate(tiff.pages):
        if index == MAX_PAGES:
            return
        yield page.aspage()


def _matched_structure(tiff: Any, path: Path, vendor: str) -> Structure:
    """OpenSlide's levels, each with the directory that holds its tiles."""
    import openslide

    try:
        with openslide.OpenSlide(path) as slide:
            properties = dict(slide.properties)
            sizes, ratios = slide.level_dimensions, slide.level_downsamples
    except openslide.OpenSlideError as error:
        raise NotJpegTiff(f"OpenSlide cannot open it ({error})") from error
    tiled = [page for page in _pages(tiff) if page.is_tiled]
    if vendor == "generic-tiff":  # others are pictures of their own, of whatever size
        tiled = [page for page in tiled if page.index == 0 or page.subfiletype & 1]
    levels = []
    for size in sizes:
        # Philips pads its levels to whole tiles; OpenSlide knows the true size.
        exact = vendor != "philips"
        page = next((p for p in tiled if _fits(p, size, exact)), None)
        if page is None:
            raise NotJpegTiff(f"its level of {size[0]} x {size[1]} px is not made of tiles")
        tiled.remove(page)
        levels.append(_grid(page, size))
    if vendor == "aperio" and any((level.counts == 0).any() for level in levels):
        # It takes what lies below a missing tile from the level above, on all further levels.
        raise NotJpegTiff("some of its tiles are missing, which OpenSlide fills from other levels")
    return Structure(tuple(levels), tuple(sizes), tuple(ratios), properties, True)


def _fits(page: Any, size: tuple[int, int], exact: bool) -> bool:
    if exact:
        return bool((page.imagewidth, page.imagelength) == size)
    across, down = _counts(page)
    return bool(across * page.tilewidth >= size[0] and down * page.tilelength >= size[1])


def _own_structure(tiff: Any, path: Path) -> Structure:
    """The main image and its levels: SubIFDs, or else directories that say they are reduced."""
    main = _main_page(tiff)
    full = main.imagewidth, main.imagelength
    pages = [main]
    if main.subifds:
        others = [page.aspage() for page in main.pages]
    else:
        others = [page for page in _pages(tiff) if page.subfiletype & 1]
    for page in others:
        width, height = page.imagewidth, page.imagelength
        smaller = width < pages[-1].imagewidth
        # The same picture: its height is off by no more than what rounding explains.
        alike = width > 0 and abs(height - full[1] * width / full[0]) <= full[1] / full[0] + 1
        if page.is_tiled and smaller and alike:
            pages.append(page)
    levels = [_grid(page, (page.imagewidth, page.imagelength)) for page in pages]
    sizes = tuple(level.size for level in levels)
    ratios = tuple((full[0] / width + full[1] / height) / 2 for width, height in sizes)
    return Structure(tuple(levels), sizes, ratios, _properties(tiff, main, path), False)


def _properties(tiff: Any, page: Any, path: Path) -> dict[str, str]:
    """OpenSlide's properties where it opens the file, else the resolution under its names."""
    import openslide

    try:
        with openslide.OpenSlide(path) as slide:
            if slide.dimensions == (page.imagewidth, page.imagelength):
                return dict(slide.properties)
    except openslide.OpenSlideError:
        pass  # the file is known not to depend on OpenSlide
    found = {"tiff.ImageDescription": str(tiff.pages[0].aspage().description)}
    unit = page.tags.get(296)
    found["tiff.ResolutionUnit"] = {2: "inch", 3: "centimeter"}.get(
        int(unit.value) if unit else 2, "none"
    )
    for name, code in (("X", 282), ("Y", 283)):
        tag = page.tags.get(code)
        if tag is not None and isinstance(tag.value, Sequence) and tag.value[1]:
            found[f"tiff.{name}Resolution"] = str(tag.value[0] / tag.value[1])
    return found


def _counts(page: Any) -> tuple[int, int]:
    """Tiles across and down."""
    return -(-page.imagewidth // page.tilewidth), -(-page.imagelength // page.tilelength)


def _grid(page: Any, size: tuple[int, int]) -> TileGrid:
    for wrong, why in _obstacles(page):
        if wrong:
            raise NotJpegTiff(why)
    across, down = _counts(page)
    offsets = np.asarray(page.dataoffsets, np.int64)
    counts = np.asarray(page.databytecounts, np.int64)
    if len(offsets) != across * down or len(counts) != across * down or (counts < 0).any():
        raise NotJpegTiff(f"it has {len(offsets)} of {across} x {down} tiles")
    tile = int(page.tilewidth), int(page.tilelength)
    tables = page.jpegtables
    return TileGrid(
        size,
        tile,
        across,
        down,
        offsets,
        counts,
        bytes(tables) if tables else None,
        int(page.photometric) == 6,
    )


def _obstacles(page: Any) -> Iterable[tuple[bool, str]]:
    """What keeps the tiles of a page from being read here, the first that holds being told."""
    yield not page.is_tiled, "it is stored in strips, not in tiles"
    yield int(page.compression) != 7, f"its tiles are {_name(page.compression)}, not JPEG"
    colours = int(page.photometric)
    yield colours not in (2, 6), f"its colours are {_name(page.photometric)}, neither RGB nor YCbCr"
    samples = page.samplesperpixel
    yield samples != 3 or page.bitspersample != 8, f"it has {samples} channels, not three of 8 bits"
    yield int(page.planarconfig) != 1, "its colours are stored apart"
    yield page.imagedepth * page.tiledepth != 1, "it is a volume"
    yield page.imagewidth * page.imagelength * page.tilewidth * page.tilelength == 0, "it is empty"
    yield page.tilewidth * page.tilelength > 1 << 26, "its tiles are larger than 64 Mpx"


def _name(value: Any) -> str:
    return str(getattr(value, "name", value))
