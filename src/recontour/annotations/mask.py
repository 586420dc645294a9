"""Masks: images in which each non-zero value is a class, at any downsample of the slide."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.affinity import affine_transform

from recontour.annotations import raster
from recontour.annotations.qupath import made_id
from recontour.errors import AnnotationError
from recontour.files import atomic_path
from recontour.types import Annotation, Frame, Region

LONGEST_PX = 4096  # written masks: finer than any cell on any slide, and opens everywhere
MOST_PX = 400_000_000  # read masks: half a gigabyte of memory
MOST_VALUES = 64  # more is a picture, not a mask
ONLY_CLASS = "Tumor"
NAMES_KEY = "recontour classes"


class Mask:
    """Reads and writes masks as PNG or TIFF."""

    suffixes: ClassVar[tuple[str, ...]] = (".png", ".tif", ".tiff")

    def read(self, path: Path, frame: Frame) -> Annotation:
        """Outline each connected patch of each value along the edges of the pixels.

        The mask covers the area of `frame` whatever its size in pixels; without `frame.size` one
        of its pixels is one level-0 px. Pixels that touch at a corner only are not connected. The
        one non-zero value of a mask is class "Tumor", several are "class 1", "class 2", …, unless
        the file was written here and holds the names. In a colour picture black is nothing and
        each colour is a class.

        Raises
        ------
        AnnotationError : not an image, too large, or a picture rather than a mask
        """
        pixels, names, notes = _load(path)
        height, width = pixels.shape
        size = frame.size or (width, height)
        scale = (size[0] / width, size[1] / height)
        # Rounding to whole pixels explains one pixel of difference at most.
        if abs(size[0] / scale[1] - width) > 1 + 0.005 * width:
            notes.append(
                f"{path.name} is {width}x{height} and the slide {size[0]}x{size[1]}: "
                "not the same shape; the mask is stretched to fit"
            )
        values = [int(value) for value in np.unique(pixels) if value != 0]
        regions = []
        for value in values:
            label = names.get(str(value)) or (
                ONLY_CLASS if len(values) == 1 else _class_name(value, names)
            )
            for number, polygon in enumerate(raster.outline(pixels == value)):
                placed = affine_transform(polygon, (scale[0], 0, 0, scale[1], *frame.origin))
                identity = made_id([path.name, value, number, list(polygon.bounds)])
                regions.append(Region(id=identity, geometry=placed, label=label))
        return Annotation(
            slide_id=path.stem.removesuffix(".ome"),
            regions=tuple(regions),
            source=path.name,
            notes=tuple(notes),
        )

    def write(self, annotation: Annotation, path: Path, frame: Frame) -> None:
        """Write a mask over the area of `frame`, at most 4096 px on its longest side.

        A pixel belongs to a class when its centre does; where classes overlap, the smaller region
        wins. Values are 1, 2, … in the order of the sorted class names, which are kept in the
        file. Without `frame.size` the mask ends where the regions do.

        Raises
        ------
        OutputError : the file cannot be written
        """
        width, height = frame.size or _extent(annotation, frame)
        shrink = max(1.0, max(width, height) / LONGEST_PX)
        columns, rows = max(1, round(width / shrink)), max(1, round(height / shrink))
        labels = sorted({region.label for region in annotation.regions}, key=_sorted_last)
        kind = np.uint8 if len(labels) < 256 else np.uint16
        pixels = np.zeros((rows, columns), kind)
        sx, sy = columns / width, rows / height
        x0, y0 = frame.origin
        for region in sorted(annotation.regions, key=lambda r: -r.geometry.area):
            placed = affine_transform(region.geometry, (sx, 0, 0, sy, -x0 * sx, -y0 * sy))
            raster.paint(pixels, placed, 1 + labels.index(region.label))
        named = {str(k): label for k, label in enumerate(labels, 1) if label is not None}
        _save(pixels, path, named)


def mask_size(path: Path) -> tuple[int, int]:
    """(width, height) of a mask in its own pixels; its values are not read.

    Raises
    ------
    AnnotationError : not an image
    """
    import tifffile
    from PIL import Image

    with path.open("rb") as file:
        head = file.read(2)
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        if head in (b"II", b"MM"):
            with tifffile.TiffFile(path) as tiff:
                level = tiff.series[0].levels[0]
                sides = dict(zip(level.axes, level.shape, strict=True))
                return int(sides["X"]), int(sides["Y"])
        with Image.open(path) as image:
            return int(image.width), int(image.height)
    except Exception as error:  # damaged files raise whatever the decoder meets
        raise AnnotationError(f"{path.name} cannot be read as an image: {error}") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _sorted_last(label: str | None) -> tuple[bool, str]:
    return (label is None, label or "")


def _class_name(value: int, names: Mapping[str, str]) -> str:
    return names.get(f"colour {value}") or f"class {value}"


def _extent(annotation: Annotation, frame: Frame) -> tuple[int, int]:
    if not annotation.regions:
        return 1, 1
    bounds = shapely.total_bounds(np.array([r.geometry for r in annotation.regions], dtype=object))
    x, y = bounds[2] - frame.origin[0], bounds[3] - frame.origin[1]
    return max(1, math.ceil(x)), max(1, math.ceil(y))


def _load(path: Path) -> tuple[NDArray[Any], dict[str, str], list[str]]:
    """Whole numbers (h, w), the class names the file holds, and notes."""
    with path.open("rb") as file:
        head = file.read(8)
    if not head:
        raise AnnotationError(f"{path.name} is empty (0 bytes)")
    notes: list[str] = []
    if head[:2] in (b"II", b"MM"):
        pixels, text = _load_tiff(path, notes)
    else:
        pixels, text = _load_image(path)
    names = _names(text)
    return _whole_numbers(pixels, path, names), names, notes


def _load_tiff(path: Path, notes: list[str]) -> tuple[NDArray[Any], str]:
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            text = file.pages.first.description
            levels = list(file.series[0].levels)
            small = [level for level in levels if _count(level.shape, level.axes) <= MOST_PX]
            if not small:
                raise _too_large(path, levels[-1].shape)
            if small[0] is not levels[0]:
                notes.append(f"{path.name} was read at a lower level of its pyramid")
            level = small[0]
            pixels = level.asarray()
            axes = level.axes
    except AnnotationError:
        raise
    except Exception as error:  # damaged files raise whatever the decoder meets
        raise AnnotationError(f"{path.name} cannot be read as TIFF: {error}") from error
    # Samples last, one plane only: (Y, X) or (Y, X, S).
    for axis in [axis for axis in axes if axis not in "YXS"]:
        index = axes.index(axis)
        if pixels.shape[index] != 1:
            raise AnnotationError(
                f"{path.name} has {pixels.shape[index]} planes ({axis}); a mask has one"
            )
        pixels, axes = np.take(pixels, 0, axis=index), axes.replace(axis, "", 1)
    if axes == "SYX":
        pixels = np.moveaxis(pixels, 0, -1)
    return pixels, text


def _count(shape: tuple[int, ...], axes: str) -> int:
    return math.prod(n for n, axis in zip(shape, axes, strict=True) if axis in "YX")


def _load_image(path: Path) -> tuple[NDArray[Any], str]:
    from PIL import Image

    # Pillow's own limit is lower than ours, and a warning before it is an error.
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path) as image:
            if image.width * image.height > MOST_PX:
                raise _too_large(path, (image.height, image.width))
            image.load()
            text = str(image.info.get(NAMES_KEY, ""))
            if image.mode in ("LA", "PA"):
                return np.asarray(image)[..., 0], text
            return np.asarray(image), text
    except AnnotationError:
        raise
    except (OSError, ValueError, SyntaxError) as error:
        raise AnnotationError(f"{path.name} cannot be read as an image: {error}") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _too_large(path: Path, shape: tuple[int, ...]) -> AnnotationError:
    return AnnotationError(
        f"{path.name} is too large ({'x'.join(map(str, shape))}); "
        f"save the mask with at most {MOST_PX // 10**6} million pixels, any downsample will do"
    )


def _whole_numbers(pixels: NDArray[Any], path: Path, names: dict[str, str]) -> NDArray[Any]:
    if pixels.ndim == 3:
        pixels = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., 0]
    if pixels.ndim == 3:
        if (pixels == pixels[..., :1]).all():
            pixels = pixels[..., 0]
        elif pixels.dtype != np.uint8:
            raise AnnotationError(f"{path.name} is a colour picture of {pixels.dtype}, not a mask")
        else:
            packed = pixels.astype(np.uint32)
            pixels = (packed[..., 0] << 16) | (packed[..., 1] << 8) | packed[..., 2]
            _check_values(pixels, path)
            for value in np.unique(pixels):
                names[f"colour {value}"] = f"class #{value:06x}"
    if pixels.dtype == bool:
        return pixels.astype(np.uint8)
    if pixels.dtype.kind == "f":
        if not np.isfinite(pixels).all() or (pixels != np.floor(pixels)).any():
            raise AnnotationError(
                f"{path.name} holds fractions (a probability map?); a mask holds whole numbers"
            )
        pixels = pixels.astype(np.int64)
    _check_values(pixels, path)
    return pixels


def _check_values(pixels: NDArray[Any], path: Path) -> None:
    values = len(np.unique(pixels))
    if values > MOST_VALUES:
        raise AnnotationError(
            f"{path.name} has {values} different values: a picture, not a mask "
            f"(0 is nothing, each other value a class, at most {MOST_VALUES})"
        )


def _names(text: str) -> dict[str, str]:
    try:
        data = json.loads(text) if text.startswith("{") else {}
    except ValueError:
        return {}
    names = data.get(NAMES_KEY, data) if isinstance(data, dict) else {}
    return {str(k): v for k, v in names.items() if isinstance(v, str)} if names else {}


def _save(pixels: NDArray[Any], path: Path, names: dict[str, str]) -> None:
    with atomic_path(path) as temporary:
        if path.suffix.lower() in (".tif", ".tiff"):
            import tifffile

            tifffile.imwrite(
                temporary,
                pixels,
                compression="deflate",
                tile=(256, 256),
                description=json.dumps({NAMES_KEY: names}),
                metadata=None,
                software="recontour",
            )
            return
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt(NAMES_KEY, json.dumps(names))
        Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=info)
