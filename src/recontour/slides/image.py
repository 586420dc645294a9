"""Plain images: PNG, JPEG and TIFF, decoded once and held in memory."""

from __future__ import annotations

import struct
import threading
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from recontour.errors import SlideError
from recontour.slides.fingerprint import fingerprint
from recontour.slides.mpp import resolve_mpp
from recontour.slides.resample import on_white, resample

MAX_MEGAPIXELS = 400
"""1.2 GB of RGB in memory: what is larger belongs in a pyramid."""

FORMATS = ("PNG", "JPEG", "TIFF")

_DAMAGE = (OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, struct.error)
"""What Pillow raises on damaged files, depending on where the damage is."""

_opening = threading.Lock()


class ImageReader:
    """A `Slide` with one level, made from a plain image."""

    reader = "image"

    @classmethod
    def can_open(cls, path: Path) -> bool:
        """Whether Pillow recognises the file as PNG, JPEG or TIFF (it may still be damaged)."""
        try:
            with _open(path):
                return True
        except _DAMAGE:
            return False

    def __init__(self, path: Path, mpp: float | None = None) -> None:
        try:
            with _open(path) as image:
                self.mpp, self.mpp_source = resolve_mpp(path.name, _properties(image), mpp)
                megapixels = image.width * image.height / 1e6
                if megapixels > MAX_MEGAPIXELS:
                    raise SlideError(
                        f"{path.name} has {megapixels:.0f} Mpx; plain images are read up to "
                        f"{MAX_MEGAPIXELS} Mpx. Convert it to a tiled, pyramidal TIFF (for "
                        "instance with `vips tiffsave --tile --pyramid`, or in QuPath)"
                    )
                self._pixels: NDArray[np.uint8] | None = np.asarray(_as_rgb(image, path.name))
        except UnidentifiedImageError as error:
            raise SlideError(f"{path.name} is not a PNG, JPEG or TIFF image") from error
        except _DAMAGE as error:
            raise SlideError(f"{path.name} is damaged or truncated: {error}") from error
        height, width = self._pixels.shape[:2]
        self._name = path.name
        self.id = path.name.removesuffix(path.suffix).removesuffix(".ome")
        self.size = (width, height)
        self.bounds = (0, 0, width, height)
        self.level_mpps = (self.mpp,)
        self.fingerprint = fingerprint(path)

    def read_region(
        self, x: float, y: float, size: tuple[int, int], mpp: float
    ) -> NDArray[np.uint8]:
        """RGB uint8 (h, w, 3) of `size` = (w, h) px at `mpp`, whose corner is (x, y) level-0 px.

        Outside the image is white.

        Raises
        ------
        SlideError : the slide was closed
        """
        pixels = self._pixels
        if pixels is None:
            raise SlideError(f"{self._name} was closed")

        def read(left: int, top: int, width: int, height: int) -> Image.Image:
            return Image.fromarray(pixels[top : top + height, left : left + width])

        return resample(read, self.size, (x, y), size, mpp / self.mpp)

    def close(self) -> None:
        """Release the pixels."""
        self._pixels = None


def _open(path: Path) -> Image.Image:
    """Open without Pillow's limit on size, which guards against hostile files, not large ones.

    Its warnings about odd metadata are left out: what matters comes back as an error.
    """
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path, formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _as_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.float32) / 257
        return Image.fromarray(np.rint(values).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise SlideError(
            f"{name} has {image.mode!r} pixels (32 bits a channel); convert it to 8-bit RGB"
        )
    if image.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in image.info:
        return on_white(image.convert("RGBA"))
    return image.convert("RGB")


def _properties(image: Image.Image) -> dict[str, str]:
    """The image's resolution under OpenSlide's names."""
    if isinstance(image, TiffImageFile):
        tags = image.tag_v2
        units = {2: "inch", 3: "centimeter"}
        return {
            "tiff.XResolution": str(_float(tags.get(282))),
            "tiff.YResolution": str(_float(tags.get(283))),
            "tiff.ResolutionUnit": units.get(tags.get(296, 2), "none"),
            "tiff.ImageDescription": str(tags.get(270, "")),
        }
    dpi = image.info.get("dpi")
    if not dpi:
        return {}
    return {
        "tiff.XResolution": str(_float(dpi[0])),
        "tiff.YResolution": str(_float(dpi[1])),
        "tiff.ResolutionUnit": "inch",
    }


def _float(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return float("nan")
