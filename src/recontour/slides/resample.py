"""Reading a rectangle of one stored level at another scale.

Two filters: where the wanted pixels are whole blocks of stored ones, their exact mean (what a
scanner's own pyramid holds, and the cheapest); otherwise Pillow's antialiased Hamming filter to
shrink and bicubic interpolation to enlarge or shift. Each output pixel depends on its own position
only, never on the window it was read in, so that neighbouring windows fit together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from recontour.errors import UsageError

ReadPixels = Callable[[int, int, int, int], Image.Image]
"""RGB image of the rectangle (x, y, width, height) of a level, which lies inside the level."""

PIECE_PX = 4096
"""Longest side of what is read at once, stored px: 48 MB, whatever the size of the slide."""

LEVEL_TOLERANCE = 0.01
"""A stored level at most this much coarser than what is wanted still serves: pyramids are never
exact, as each level's size is rounded."""

ALIGNED_PX = 0.02
"""Drift over a window, in stored px, that is still called aligned."""

WHITE = (255, 255, 255)


def nominal_downsample(size0: tuple[int, int], size: tuple[int, int], ratio: float) -> float:
    """How many level-0 px a px of a level spans.

    Level sizes are whole numbers, so that the `ratio` of sizes is off (2.0017 for a halved odd
    side); where a whole number explains both sides to within a px, it is the truth.
    """
    whole = round(ratio)
    if all(abs(full - whole * part) <= whole for full, part in zip(size0, size, strict=True)):
        return float(whole)
    return ratio


def best_level(level_mpps: Sequence[float], mpp: float) -> int:
    """The coarsest stored level that is at least as fine as `mpp`; level 0 if none is."""
    fine = [i for i, own in enumerate(level_mpps) if own <= mpp * (1 + LEVEL_TOLERANCE)]
    return max(fine, key=lambda i: level_mpps[i], default=0)


def resample(
    read: ReadPixels,
    level_size: tuple[int, int],
    corner: tuple[float, float],
    size: tuple[int, int],
    scale: float,
) -> NDArray[np.uint8]:
    """Fill `size` = (width, height) output px from a level, each `scale` stored px wide.

    Parameters
    ----------
    read : gives stored pixels
    level_size : (width, height) of the level; white outside
    corner : (x, y) of the output's corner, stored px

    Returns
    -------
    uint8 (height, width, 3)

    Raises
    ------
    UsageError : an empty, negative or infinite region
    """
    check_region(corner, size, scale)
    width, height = size
    out = np.full((height, width, 3), 255, np.uint8)
    scale = _rounded_scale(scale, max(size))
    piece = max(1, int(PIECE_PX / scale))
    for top in range(0, height, piece):
        for left in range(0, width, piece):
            w, h = min(piece, width - left), min(piece, height - top)
            u, v = corner[0] + left * scale, corner[1] + top * scale
            if u >= level_size[0] or v >= level_size[1] or u + w * scale <= 0 or v + h * scale <= 0:
                continue
            image = _piece(read, level_size, (u, v), (w, h), scale)
            out[top : top + h, left : left + w] = np.asarray(image)
    return out


def check_region(corner: tuple[float, float], size: tuple[int, int], scale: float) -> None:
    """Refuse an empty, negative or infinite region (`UsageError`)."""
    width, height = size
    if width < 1 or height < 1 or not 0 < scale < math.inf or not all(map(math.isfinite, corner)):
        raise UsageError(
            f"read_region cannot give {width} x {height} px at ({corner[0]:g}, {corner[1]:g}), "
            f"{scale:g} stored px each: sizes must be positive and all of it finite"
        )


def whole_blocks(
    corner: tuple[float, float], size: tuple[int, int], scale: float
) -> tuple[int, int, int] | None:
    """(x, y, factor), stored px: where the output px are whole blocks of `factor` stored ones.

    None where they are not, and have to be interpolated.
    """
    scale = _rounded_scale(scale, max(size))
    u, v = corner
    if scale == round(scale) and max(abs(u - round(u)), abs(v - round(v))) <= ALIGNED_PX:
        return round(u), round(v), round(scale)
    return None


def footprint(
    corner: tuple[float, float], size: tuple[int, int], scale: float
) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1), stored px: what a region is made from; may leave the level."""
    (u, v), (w, h) = corner, size
    blocks = whole_blocks(corner, size, scale)
    if blocks:
        x, y, factor = blocks
        return x, y, x + w * factor, y + h * factor
    reach = _kernel(scale)[1]
    return (
        math.floor(u) - reach,
        math.floor(v) - reach,
        math.ceil(u + w * scale) + reach,
        math.ceil(v + h * scale) + reach,
    )


def _kernel(scale: float) -> tuple[Image.Resampling, int]:
    """The filter, and how many stored px around an output px it looks at."""
    if scale > 1:
        # The filter reaches one output px to either side.
        return Image.Resampling.HAMMING, math.ceil(scale) + 1
    return Image.Resampling.BICUBIC, 3


def _rounded_scale(scale: float, longest: int) -> float:
    whole = round(scale)
    return float(whole) if whole and abs(scale - whole) * longest <= ALIGNED_PX else scale


def _piece(
    read: ReadPixels,
    level_size: tuple[int, int],
    corner: tuple[float, float],
    size: tuple[int, int],
    scale: float,
) -> Image.Image:
    (u, v), (w, h) = corner, size
    blocks = whole_blocks(corner, size, scale)
    if blocks:
        x, y, factor = blocks
        block = _padded(read, level_size, x, y, w * factor, h * factor)
        return block if factor == 1 else block.reduce(factor)
    x0, y0, x1, y1 = footprint(corner, size, scale)
    block = _padded(read, level_size, x0, y0, x1 - x0, y1 - y0)
    box = (u - x0, v - y0, u - x0 + w * scale, v - y0 + h * scale)
    return block.resize((w, h), _kernel(scale)[0], box=box)


def _padded(
    read: ReadPixels, level_size: tuple[int, int], x: int, y: int, width: int, height: int
) -> Image.Image:
    """The rectangle as stored, white where it leaves the level."""
    x0, y0 = max(x, 0), max(y, 0)
    x1, y1 = min(x + width, level_size[0]), min(y + height, level_size[1])
    if x1 - x0 == width and y1 - y0 == height:
        return read(x, y, width, height)
    canvas = Image.new("RGB", (width, height), WHITE)
    if x1 > x0 and y1 > y0:
        canvas.paste(read(x0, y0, x1 - x0, y1 - y0), (x0 - x, y0 - y))
    return canvas


def on_white(image: Image.Image) -> Image.Image:
    """RGB of an RGBA image laid on white."""
    alpha = image.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return image.convert("RGB")
    canvas = Image.new("RGB", image.size, WHITE)
    canvas.paste(image, mask=alpha)
    return canvas
