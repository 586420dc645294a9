"""The probability of each class as an image that lies on the slide."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recontour.files import atomic_path
from recontour.reports.summary import summarise
from recontour.types import Refinement, Slide

TILE = 256
SMALLEST_LEVEL = 128  # px: a viewer shows this much at once anyway


def write_probability(slide: Slide, refinement: Refinement, path: Path) -> None:
    """Write the probabilities as a pyramidal OME-TIFF.

    One float32 channel for each class k >= 1, named after it, in [0, 1]; NaN where no cell takes
    part (no tissue, or excluded), so that "surely not" and "not looked at" stay apart. A pixel is a
    cell: the corner of pixel (0, 0) is the corner of the lattice, its side in µm is the physical
    pixel size, and the position of the plane is the lattice's corner in µm from the slide's.
    Lower levels are means over the cells that take part.

    Raises
    ------
    OutputError : the file cannot be written
    """
    import tifffile

    grid = refinement.patches.grid
    classes = summarise(refinement)
    levels = pyramid(np.stack([grid.scatter(refinement.probs[:, c.k]) for c in classes]))
    n = len(classes)
    metadata = {
        "axes": "CYX",
        # From the content: the same run gives the same bytes.
        "UUID": _uuid(levels[0]),
        "Name": f"{slide.id}: probability",
        "PhysicalSizeX": grid.cell_um,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": grid.cell_um,
        "PhysicalSizeYUnit": "µm",
        "Channel": {
            "Name": [c.name for c in classes],
            "Color": [_signed_rgba(c.colour) for c in classes],
        },
        "Plane": {
            "PositionX": [grid.origin[0] * grid.mpp] * n,
            "PositionXUnit": ["µm"] * n,
            "PositionY": [grid.origin[1] * grid.mpp] * n,
            "PositionYUnit": ["µm"] * n,
        },
    }
    with atomic_path(path) as temporary, tifffile.TiffWriter(temporary, ome=True) as tif:
        for number, level in enumerate(levels):
            tif.write(
                level,
                photometric="minisblack",
                tile=(TILE, TILE),
                compression="zlib",
                resolution=(1e4 / (grid.cell_um * 2**number),) * 2,
                resolutionunit="CENTIMETER",
                subifds=len(levels) - 1 if number == 0 else None,
                subfiletype=1 if number else 0,
                metadata=metadata if number == 0 else None,
                software="recontour",
            )


def pyramid(base: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """`base` (C, rows, cols) and its halvings, NaN-aware, until one fits a screen."""
    levels = [base]
    while max(levels[-1].shape[1:]) > SMALLEST_LEVEL:
        levels.append(halve(levels[-1]))
    return levels


def halve(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of 2 x 2 pixels, NaN ignored; (C, h, w) -> (C, ceil(h / 2), ceil(w / 2))."""
    channels, rows, cols = image.shape
    even = ((0, 0), (0, rows % 2), (0, cols % 2))
    blocks = np.pad(image, even, constant_values=np.nan)
    blocks = blocks.reshape(channels, -(-rows // 2), 2, -(-cols // 2), 2)
    known = np.isfinite(blocks)
    total = np.where(known, blocks, 0).sum(axis=(2, 4), dtype=np.float64)
    n = known.sum(axis=(2, 4))
    out = np.full(total.shape, np.nan, np.float32)
    np.divide(total, n, out=out, where=n > 0, casting="same_kind")
    return out


def _uuid(image: NDArray[np.float32]) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, hashlib.sha256(image.tobytes()).hexdigest()))


def _signed_rgba(colour: tuple[int, int, int]) -> int:
    """RGBA as the signed 32-bit integer that OME-XML wants."""
    value = int.from_bytes(bytes([*colour, 255]), "big")
    return value - 2**32 if value >= 2**31 else value
