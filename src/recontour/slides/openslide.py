"""Every format OpenSlide reads: SVS, tiled TIFF, NDPI, MRXS, SCN, DICOM and more."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from recontour.errors import SlideError, UsageError
from recontour.slides.fingerprint import fingerprint
from recontour.slides.mpp import resolve_mpp
from recontour.slides.resample import best_level, nominal_downsample, on_white, resample


class OpenSlideReader:
    """A `Slide` read through OpenSlide. Label and macro images are never touched."""

    reader = "openslide"

    @classmethod
    def can_open(cls, path: Path) -> bool:
        """Whether OpenSlide recognises the file (it may still be damaged)."""
        return openslide.OpenSlide.detect_format(path) is not None

    def __init__(self, path: Path, mpp: float | None = None) -> None:
        self._name = path.name
        self._closed = False
        try:
            self._slide = openslide.OpenSlide(path)
            properties: Mapping[str, str] = dict(self._slide.properties)
            sizes = self._slide.level_dimensions
            self._ratios: tuple[float, ...] = self._slide.level_downsamples
        except openslide.OpenSlideError as error:
            raise SlideError(f"{path.name} cannot be opened by OpenSlide: {error}") from error
        try:
            self.mpp, self.mpp_source = resolve_mpp(path.name, properties, mpp)
        except UsageError:
            self._slide.close()
            raise
        self._sizes: tuple[tuple[int, int], ...] = sizes
        self._downsamples = tuple(
            nominal_downsample(sizes[0], size, ratio)
            for size, ratio in zip(sizes, self._ratios, strict=True)
        )
        self.id = path.name.removesuffix(path.suffix).removesuffix(".ome")
        self.size = sizes[0]
        self.level_mpps = tuple(self.mpp * factor for factor in self._downsamples)
        self.bounds = stated_bounds(properties, sizes[0])
        # The quick hash covers the other files of a format such as MRXS.
        self.fingerprint = fingerprint(path, properties.get("openslide.quickhash-1", ""))

    def read_region(
        self, x: float, y: float, size: tuple[int, int], mpp: float
    ) -> NDArray[np.uint8]:
        """RGB uint8 (h, w, 3) of `size` = (w, h) px at `mpp`, whose corner is (x, y) level-0 px.

        Outside the slide is white. On stored levels whose downsample is not a whole number,
        OpenSlide's own addressing leaves an offset of up to half a level-0 px.

        Raises
        ------
        SlideError : the file is damaged there, or the slide was closed
        """
        if self._closed:
            raise SlideError(f"{self._name} was closed")
        level = best_level(self.level_mpps, mpp)
        factor = self._downsamples[level]
        ratio = self._ratios[level]

        def read(left: int, top: int, width: int, height: int) -> Image.Image:
            # OpenSlide takes (x, y) in level-0 px even when reading level 2.
            at = (round(left * ratio), round(top * ratio))
            return on_white(self._slide.read_region(at, level, (width, height)))

        try:
            return resample(
                read, self._sizes[level], (x / factor, y / factor), size, mpp / self.mpp / factor
            )
        except openslide.OpenSlideError as error:
            raise SlideError(
                f"{self._name} is damaged or truncated: reading {size[0]} x {size[1]} px at "
                f"({x:g}, {y:g}) failed: {error}"
            ) from error

    def close(self) -> None:
        """Release the file."""
        self._closed = True
        self._slide.close()


def stated_bounds(
    properties: Mapping[str, str], size: tuple[int, int]
) -> tuple[int, int, int, int]:
    """The stated non-empty area, clipped to the slide; the whole slide when none is stated."""
    whole = (0, 0, *size)
    try:
        x, y, width, height = (
            float(properties[f"openslide.bounds-{key}"]) for key in ("x", "y", "width", "height")
        )
    except (KeyError, ValueError):
        return whole
    if not all(map(math.isfinite, (x, y, width, height))):
        return whole
    left, top = max(0, round(x)), max(0, round(y))
    right, bottom = min(size[0], round(x + width)), min(size[1], round(y + height))
    if right <= left or bottom <= top:
        return whole
    return left, top, right - left, bottom - top
