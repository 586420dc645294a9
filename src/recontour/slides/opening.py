"""Choosing the reader for a file, and placing annotation files on the slide it gives."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recontour import registry
from recontour.errors import MissingFileError, SlideError, UnknownNameError
from recontour.types import Frame, PlanningSlide, Slide

ORIGINS = ("auto", "bounds", "level0")
_PREFERRED = ("jpeg_tiff", "openslide", "image")


def open_slide(path: Path | str, mpp: float | None = None, reader: str | None = None) -> Slide:
    """Open a whole-slide image or a plain image.

    Parameters
    ----------
    path : the file; of a DICOM series, any one of its instances
    mpp : µm per level-0 px; None: as the file says
    reader : name of the reader; None: the first that knows the format (JPEG-tiled TIFF, then
        OpenSlide, then plain images, then readers that other packages register)

    Raises
    ------
    MissingFileError : no such file
    SlideError : not a slide, damaged, or too large for the only reader that knows it
    MissingMppError : no usable pixel size in the file, and none given
    UnknownNameError : no reader of that name
    """
    path = Path(path)
    if not path.exists():
        raise MissingFileError(f"no such slide: {path}")
    if path.is_dir():
        raise SlideError(f"{path.name} is a folder; pass one slide file (of a DICOM series, any)")
    if reader is None:
        reader = _reader_for(path)
    slide: Slide = registry.lookup("reader", reader)(path, mpp)
    return slide


def limit_threads(slide: Slide, threads: int | None) -> None:
    """Let a reader that has threads of its own start no more than these; None: as many as it likes.

    They are used for large regions only.
    """
    if threads is not None and isinstance(slide, PlanningSlide):
        slide.threads = min(slide.threads, threads)


def _reader_for(path: Path) -> str:
    others = [name for name in registry.names("reader") if name not in _PREFERRED]
    for name in (*_PREFERRED, *others):
        if registry.lookup("reader", name).can_open(path):
            return name
    if path.stat().st_size == 0:
        raise SlideError(f"{path.name} is empty (0 bytes)")
    raise SlideError(
        f"{path.name} is not a slide or image that can be read: neither a format OpenSlide "
        "supports nor PNG, JPEG or TIFF; or it is damaged at its start"
    )


def frame_of(slide: Slide, origin: str = "auto", entry: str | None = None) -> Frame:
    """Place an annotation file's coordinates on `slide`.

    Parameters
    ----------
    slide : the slide the file was drawn on
    origin : `bounds`: coordinates count from the corner of `slide.bounds`, as QuPath writes them;
        `level0`: from the corner of the stored image; `auto`: bounds where the slide states them
        (elsewhere both are the same)
    entry : which outlines, of a file that holds several

    Raises
    ------
    UnknownNameError : another `origin`
    """
    if origin not in ORIGINS:
        raise UnknownNameError.of("origin", origin, ORIGINS)
    if origin == "level0":
        return Frame((0.0, 0.0), slide.size, slide.mpp, slide.id, entry)
    x, y, width, height = slide.bounds
    return Frame((float(x), float(y)), (width, height), slide.mpp, slide.id, entry)


def thumbnail(slide: Slide, mpp: float) -> NDArray[np.uint8]:
    """The whole slide as RGB uint8 (h, w, 3) at `mpp` µm/px; its last row and column may hang over.

    Level-0 px = thumbnail px times `mpp / slide.mpp`.
    """
    width, height = (max(1, math.ceil(side * slide.mpp / mpp - 1e-6)) for side in slide.size)
    return slide.read_region(0, 0, (width, height), mpp)
