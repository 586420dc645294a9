"""Where the tissue is on a slide.

Four rules, by name: three from the papers' data protocols and `robust`, the default, which also
copes with pale stains, pen marks, black scanner borders and images without any glass.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import cast

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon, box, union_all
from shapely.geometry.base import BaseGeometry

from recontour.errors import TissueError, UnknownNameError, UsageError
from recontour.geometry import polygonal
from recontour.types import Geometry, Slide

Mask = NDArray[np.bool_]

TISSUE_MPP = 8.0
"""µm/px: coarse enough that nuclei do not matter, fine enough for a biopsy's edge."""

MIN_SIDE_PX = 500
"""Small regions are looked at more finely than `TISSUE_MPP`, until the longest side has this."""

MAX_SIDE_PX = 8192
"""Of a picture of the whole slide, whatever pixel size the slide claims."""

MIN_TISSUE_UM2 = 15_000.0
"""Smaller pieces are dust: a square of 120 µm."""

MIN_HOLE_UM2 = 15_000.0
"""Smaller holes are lumina, vessels and fat cells, which belong to the tissue around them."""

_MAX_SPECK = 0.005
"""Of the picture's area: on small regions specks and holes are judged by this instead."""


def find_tissue(slide: Slide, rule: str = "robust", downsample: int | None = None) -> Geometry:
    """Outline the tissue of a slide.

    Parameters
    ----------
    slide : any slide; it is read at 8 µm/px, finer where it is small
    rule : `robust`; or `hsv_otsu` (hue and saturation, Otsu on each, both: CAMELYON16), `rgb`
        (R < 235, G < 210, B < 235: PAIP), `grey_otsu`. All drop specks and fill pinholes below
        15,000 µm² (on regions under 3 mm², below 0.5 % of their area)
    downsample : the papers' way instead (they take 256): the rule is applied to the slide shrunk
        so many times, pixel by pixel, and nothing is dropped or filled. The outline runs along
        the borders of those pixels

    Returns
    -------
    Valid, level-0 px, within the slide; the same for the same pixels

    Raises
    ------
    TissueError : none found
    UnknownNameError : no such rule
    UsageError : `downsample` does not suit the slide
    """
    _check_rule(rule)
    outline = (
        _outline_finely(slide, rule)
        if downsample is None
        else _outline_pixels(slide, rule, downsample)
    )
    if outline.is_empty:
        raise TissueError(
            f"no tissue found on {slide.id} by the rule {rule!r}; try another rule "
            f"({', '.join(sorted(TISSUE_RULES))}) or pass a tissue mask or outline"
        )
    return outline


def _outline_finely(slide: Slide, rule: str) -> Geometry:
    """At 8 µm/px, cleaned up, with straight edges."""
    left, top, width, height = slide.bounds
    longest = max(width, height) * slide.mpp
    mpp = max(slide.mpp, min(TISSUE_MPP, longest / MIN_SIDE_PX), longest / MAX_SIDE_PX)
    scale = mpp / slide.mpp
    size = (max(1, math.ceil(width / scale - 1e-6)), max(1, math.ceil(height / scale - 1e-6)))
    mask = tissue_mask(slide.read_region(left, top, size, mpp), rule)
    area_um2 = width * height * slide.mpp**2
    speck_um2 = min(MIN_TISSUE_UM2, _MAX_SPECK * area_um2)
    hole_um2 = min(MIN_HOLE_UM2, _MAX_SPECK * area_um2)
    mask = _without_specks(mask, speck_um2 / mpp**2, hole_um2 / mpp**2)
    return _outline(mask, scale, (left, top, left + width, top + height))


def _outline_pixels(slide: Slide, rule: str, downsample: int) -> Geometry:
    """Whole pixels of the slide shrunk `downsample` times, each the mean of what it covers.

    The papers take OpenSlide's thumbnail, which is resampled with a Lanczos filter from the nearest
    level and stretched to whole pixels; here every pixel is exactly `downsample` level-0 px wide
    and starts at a multiple of it, so that a cell of that size is one pixel.
    """
    width, height = slide.size
    least, most = math.ceil(max(slide.size) / MAX_SIDE_PX), min(slide.size)
    if not least <= downsample <= most:
        raise UsageError(
            f"--tissue-downsample {downsample} does not suit {slide.id} ({width} x {height} px); "
            f"pass {least} to {most}"
        )
    size = math.ceil(width / downsample), math.ceil(height / downsample)
    mask = tissue_mask(slide.read_region(0, 0, size, downsample * slide.mpp), rule)
    rows, cols = np.nonzero(mask)
    x, y = cols * float(downsample), rows * float(downsample)
    squares = shapely.box(x, y, x + downsample, y + downsample)
    # No tolerance: only points in the middle of straight edges go.
    whole = shapely.coverage_union_all(squares).simplify(0)
    return polygonal(whole.intersection(box(0, 0, width, height)))


def tissue_mask(rgb: NDArray[np.uint8], rule: str = "robust") -> Mask:
    """Apply a rule to a picture, pixel by pixel; nothing is cleaned up.

    Parameters
    ----------
    rgb : uint8 (h, w, 3), a few µm/px

    Returns
    -------
    bool (h, w), True on tissue

    Raises
    ------
    UnknownNameError : no such rule
    """
    _check_rule(rule)
    return TISSUE_RULES[rule](rgb)


def _check_rule(rule: str) -> None:
    if rule not in TISSUE_RULES:
        raise UnknownNameError.of("tissue rule", rule, TISSUE_RULES)


def _hsv_otsu(rgb: NDArray[np.uint8]) -> Mask:
    """Hue and saturation above their Otsu thresholds."""
    values = rgb.astype(np.float32) / np.float32(255)
    low, high = _extremes(values)
    spread = high - low
    saturation = np.divide(spread, high, out=np.zeros_like(high), where=high > 0)
    safe = np.where(spread > 0, spread, 1)
    red, green, blue = np.moveaxis(values, 2, 0)
    hue = np.where(
        high == red,
        (green - blue) / safe % 6,
        np.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    hue = np.where(spread > 0, hue / 6, 0)
    mask: Mask = (hue > otsu(hue)) & (saturation > otsu(saturation))
    return mask


def _rgb(rgb: NDArray[np.uint8]) -> Mask:
    """Darker than (235, 210, 235) in every channel."""
    return np.asarray((rgb < np.array([235, 210, 235])).all(axis=2))


def _grey_otsu(rgb: NDArray[np.uint8]) -> Mask:
    """Darker than Otsu's threshold of the luminance."""
    grey = rgb.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    mask: Mask = grey < otsu(grey)
    return mask


def otsu(values: NDArray[np.floating]) -> float:
    """Otsu's threshold of 256 bins: what lies above it is the upper class.

    Otsu, "A threshold selection method from gray-level histograms", 1979. A constant input gives
    that constant, so that nothing lies above it.
    """
    low, high = float(values.min()), float(values.max())
    if low == high:
        return low
    counts, edges = np.histogram(values, 256, (low, high))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    sums = np.cumsum(counts * centres)
    mean_below = sums[:-1] / np.maximum(below, 1)
    mean_above = (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    between = below.astype(np.float64) * above * (mean_below - mean_above) ** 2
    return float(edges[1:-1][np.argmax(between)])


GLASS_MIN = 190
"""Glass is at least this bright in every channel,"""
GLASS_SPREAD = 16
"""and at most this far from grey. Both are for finding its colour only."""
GLASS_SHARE = 0.002
"""Less glass than this share of the picture is too little to measure its colour on."""
DEFAULT_GLASS = 243.0
"""What scanners make of glass, where the picture shows none."""

STAIN_MIN, STAIN_MAX = 0.025, 0.06
"""Limits of the threshold on stain (optical density of green over that of the clearer of red and
blue): the lower is JPEG noise, the upper pale eosin."""

INK_SHARE = 0.6
"""If this share of all stained pixels looks like ink of one colour, it is the stain."""


def _robust(rgb: NDArray[np.uint8]) -> Mask:
    """Stained, and neither ink nor scanner border.

    Haematoxylin and eosin both absorb green most, whatever their strength, whereas dirt, shadows,
    folds of the coverslip and black borders absorb all colours alike and inks absorb others. So
    what is thresholded is not darkness but the optical density of green over that of the clearer
    of red and blue, each against the measured colour of the glass. The threshold is Otsu's, kept
    between the noise of the glass and what pale eosin still shows.
    """
    from scipy import ndimage

    # A pixel of blur takes away JPEG's chroma blocks, not the edge.
    smooth = ndimage.gaussian_filter(rgb.astype(np.float32), (1.0, 1.0, 0))
    glass = _glass(smooth)
    white = np.median(smooth[glass], axis=0) if glass.any() else np.full(3, DEFAULT_GLASS)
    density = np.log((white + 1) / (np.minimum(smooth, white) + 1)).astype(np.float32)
    red, green, blue = np.moveaxis(density, 2, 0)
    stain = green - np.minimum(red, blue)
    ink = _ink(density)
    noise = 0.0
    if glass.any():
        values = stain[glass]
        centre = float(np.median(values))
        noise = centre + 6 * 1.4826 * float(np.median(np.abs(values - centre)))
    seen = stain[~ink]
    threshold = otsu(np.clip(seen, 0, 0.5)) if seen.size else STAIN_MAX
    threshold = min(max(threshold, STAIN_MIN, noise), STAIN_MAX)
    mask: Mask = (stain > threshold) & ~ink
    return mask


def _extremes(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Least and greatest of three channels; far quicker than a reduction over so short an axis."""
    first, second, third = np.moveaxis(values, 2, 0)
    low = np.minimum(np.minimum(first, second), third)
    return low, np.maximum(np.maximum(first, second), third)


def _glass(smooth: NDArray[np.float32]) -> Mask:
    """The pixels that are plainly glass; none when there are too few to trust."""
    low, high = _extremes(smooth)
    candidates = (low > GLASS_MIN) & (high - low < GLASS_SPREAD)
    if candidates.mean() < GLASS_SHARE:
        return np.zeros_like(candidates)
    # Glass is the brightest of what is bright and grey: pale tissue is left out.
    level = np.percentile(low[candidates], 90)
    mask: Mask = candidates & (low > level - GLASS_SPREAD)
    return mask


def _ink(density: NDArray[np.float32]) -> Mask:
    """Pen marks and black borders, by the colours they absorb; (h, w, 3) -> bool (h, w)."""
    from scipy import ndimage

    red, green, blue = np.moveaxis(density, 2, 0)
    floor, peak = _extremes(density)
    visible = peak > 0.08
    inks = (
        # Blue and green ink take away red first, which no stain of tissue does.
        visible & (red > 1.1 * green + 0.03),
        # Green ink lets green through.
        visible & (green < 0.85 * np.minimum(red, blue) - 0.03),
        # Red ink is saturated and clear in red only; eosin lets blue through as well.
        (blue > 0.8 * green) & (blue < 1.2 * green) & (red < 0.25 * green) & (green > 0.5),
    )
    stained = visible & (green > red) & (green > blue)
    # Black ink and borders: dark, in all colours alike.
    marks = [(floor > 0.7) & (floor > 0.75 * peak)]
    marks += [mark for mark in inks if mark.sum() <= INK_SHARE * (mark | stained).sum()]
    found = np.asarray(np.logical_or.reduce(marks))
    if not found.any():
        return found
    # Single pixels are nuclei or pigment; a pen is several pixels wide.
    solid = ndimage.binary_opening(found, np.ones((3, 3), bool))
    found = ndimage.binary_propagation(solid, mask=found)
    # The rim of a stroke mixes with what lies beneath it.
    return np.asarray(ndimage.binary_dilation(found, np.ones((3, 3), bool), iterations=2), bool)


TISSUE_RULES: dict[str, Callable[[NDArray[np.uint8]], Mask]] = {
    "robust": _robust,
    "hsv_otsu": _hsv_otsu,
    "rgb": _rgb,
    "grey_otsu": _grey_otsu,
}


def _without_specks(mask: Mask, min_object_px: float, min_hole_px: float) -> Mask:
    """Holes below a size filled, then objects below a size dropped."""
    holes = _components_below(~mask, min_hole_px)
    mask = mask | holes
    return mask & ~_components_below(mask, min_object_px)


def _components_below(mask: Mask, min_px: float) -> Mask:
    from scipy import ndimage

    labels, n = ndimage.label(mask)
    small = np.bincount(labels.ravel(), minlength=n + 1) < min_px
    small[0] = False
    found: Mask = small[labels]
    return found


def _outline(mask: Mask, scale: float, bounds: tuple[float, float, float, float]) -> Geometry:
    """Polygons around the True pixels, each `scale` level-0 px wide, within `bounds`."""
    from contourpy import FillType, contour_generator

    # One px of border repeats the picture's edge: tissue that runs off the slide is cut there.
    values = np.pad(mask, 1, mode="edge").astype(np.float64)
    x = bounds[0] + (np.arange(values.shape[1]) - 0.5) * scale
    y = bounds[1] + (np.arange(values.shape[0]) - 0.5) * scale
    generator = contour_generator(x, y, values, fill_type=FillType.OuterOffset)
    points, offsets = cast(
        "tuple[list[NDArray[np.float64]], list[NDArray[np.uint32]]]", generator.filled(0.5, 2.0)
    )
    parts: list[BaseGeometry] = []
    for part, starts in zip(points, offsets, strict=True):
        shell, *holes = (part[start:end] for start, end in itertools.pairwise(starts))
        # Two pixels that touch at a corner make a ring that touches itself.
        parts.append(Polygon(shell, holes).buffer(0))
    # Half a pixel straightens the steps of the mask.
    whole = union_all(parts).simplify(scale / 2)
    return polygonal(whole.intersection(box(*bounds)))
