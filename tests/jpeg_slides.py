"""Slides made of JPEG tiles, as scanners and converters write them."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from imagecodecs import jpeg8_encode
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
SUBSAMPLING = {"444": (1, 1), "422": (2, 1), "420": (2, 2), "411": (4, 1)}


def tissue(width: int, height: int, seed: int = 0) -> Pixels:
    """Smooth coloured structure with noise, pink and violet as H&E."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3))
    for step, weight in ((32, 60), (8, 40), (3, 15)):
        small = rng.integers(0, 255, (height // step + 2, width // step + 2, 3), dtype=np.uint8)
        large = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        picture += weight * (np.asarray(large) / 255.0 - 0.5)
    return np.clip(picture + (205, 140, 185), 0, 255).astype(np.uint8)


def box_mean(pixels: Pixels, factor: int) -> NDArray[np.float64]:
    height, width = (side // factor * factor for side in pixels.shape[:2])
    blocks = pixels[:height, :width].reshape(height // factor, factor, width // factor, factor, 3)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float64))


def write_slide(
    path: Path,
    pixels: Pixels,
    *,
    factors: tuple[int, ...] = (1, 2, 4),
    tile: int = 256,
    subsampling: str = "420",
    rgb: bool = False,
    tables: bool = False,
    missing: Collection[tuple[int, int]] = (),
    sublevels: bool = False,
    description: str | None = None,
    software: str | None = None,
    padded: bool = False,
    mpp: float = 0.25,
    **options: Any,
) -> Path:
    """A pyramid of JPEG tiles; `missing` are (level, tile) that are left out, of 0 bytes.

    `padded` levels are stored as whole tiles, as Philips does; `sublevels` puts the smaller levels
    into SubIFDs, as OME-TIFF does; `tables` moves the JPEG tables into the tag that all share.
    """
    with tifffile.TiffWriter(path, **options) as file:
        for level, factor in enumerate(factors):
            image = np.rint(box_mean(pixels, factor)).astype(np.uint8)
            if padded:
                image = _pad(image, tile)
            tiles = list(_tiles(image, tile, subsampling, rgb))
            shared = None
            if tables:
                shared = split(tiles[0])[0]
                tiles = [split(data)[1] for data in tiles]
            inside = sublevels and level > 0
            file.write(
                iter(tiles),
                shape=image.shape,
                dtype=np.uint8,
                tile=(tile, tile),
                compression="jpeg",
                jpegtables=shared,
                photometric="rgb" if rgb else "ycbcr",
                subsampling=None if rgb else SUBSAMPLING.get(subsampling),
                subfiletype=int(level > 0),
                subifds=len(factors) - 1 if sublevels and not level else None,
                description=None if inside or description is None else description.encode(),
                resolution=(1e4 / (mpp * factor),) * 2,
                resolutionunit="CENTIMETER",
                software=software,
                metadata=None,
            )
    for level, number in missing:
        with tifffile.TiffFile(path, mode="r+b") as file:
            tags = file.pages[level].tags
            for code in (324, 325):  # offsets and byte counts
                values = list(tags[code].value)
                values[number] = 0
                tags[code].overwrite(values)
    return path


def _tiles(image: Pixels, tile: int, subsampling: str, rgb: bool) -> Iterator[bytes]:
    height, width = image.shape[:2]
    whole = _pad(image, tile)
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            part = np.ascontiguousarray(whole[top : top + tile, left : left + tile])
            how = {"outcolorspace": "RGB"} if rgb else {"subsampling": subsampling}
            yield bytes(jpeg8_encode(part, level=85, **how))


def _pad(image: Pixels, tile: int) -> Pixels:
    height, width = image.shape[:2]
    return np.pad(image, ((0, -height % tile), (0, -width % tile), (0, 0)), mode="edge")


def split(data: bytes) -> tuple[bytes, bytes]:
    """The tables of a JPEG, as a stream of their own, and the JPEG without them."""
    tables, rest, at = b"", b"", 2
    while True:
        marker = data[at + 1]
        end = at + 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
        if marker == 0xDA:
            return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + rest + data[at:]
        if marker in (0xC4, 0xDB):
            tables += data[at:end]
        elif marker not in (0xE0, 0xEE):  # JFIF and Adobe markers are left out, as Aperio does
            rest += data[at:end]
        at = end
