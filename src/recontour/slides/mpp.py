"""Which pixel size to believe.

Files state it in several places, some state nonsense (a screen's 96 dpi becomes 264.58 µm/px),
some only an objective. What the user passes always wins.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from recontour.errors import MissingMppError, UsageError

MIN_MPP = 0.05
MAX_MPP = 20.0
"""µm/px. No light microscope resolves the former; at the latter a cell is smaller than a pixel."""

ANISOTROPY = 0.01
"""Relative difference of the x and y pixel sizes that is worth a word."""

_UM_PER_UNIT = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}


class PixelSize(NamedTuple):
    """µm per level-0 px, and where that came from, in words."""

    mpp: float
    source: str


def resolve_mpp(name: str, properties: Mapping[str, str], given: float | None) -> PixelSize:
    """The pixel size of a slide.

    Parameters
    ----------
    name : file name, for messages
    properties : metadata under OpenSlide's names; of these, `openslide.mpp-x/y`, `aperio.MPP`,
        `tiff.XResolution/YResolution/ResolutionUnit`, OME-XML in `tiff.ImageDescription` and
        `openslide.objective-power` (or `aperio.AppMag`) are used, in this order
    given : what the user passed, or None

    Raises
    ------
    UsageError : `given` is not within 0.05 to 20 µm/px
    MissingMppError : nothing usable in the file
    """
    stated = _stated(properties)
    usable = [(x, y, where) for x, y, where in stated if _plausible(x) and _plausible(y)]
    if given is not None:
        if not _plausible(given):
            raise UsageError(f"mpp {given:g} is outside {MIN_MPP:g}–{MAX_MPP:g} µm/px")
        return PixelSize(float(given), "given" + _disagreement(given, usable))
    if usable:
        x, y, where = usable[0]
        if abs(x - y) <= ANISOTROPY * max(x, y):
            return PixelSize((x + y) / 2, where)
        mean = math.sqrt(x * y)
        return PixelSize(
            mean, f"{where}; warning: pixels are not square ({x:g} x {y:g}), {mean:g} µm/px used"
        )
    if stated:
        x, y, where = stated[0]
        size = f"{x:g}" if x == y else f"{x:g} x {y:g}"
        raise MissingMppError(
            f"{name} claims {size} µm/px ({where}), outside {MIN_MPP:g}–{MAX_MPP:g}; pass the true "
            "pixel size, e.g. --mpp 0.25"
        )
    for key in ("openslide.objective-power", "aperio.AppMag"):
        power = _number(properties.get(key))
        if power is not None and power > 0 and _plausible(10 / power):
            return PixelSize(10 / power, f"guessed as 10 / {power:g} from the objective ({key})")
    raise MissingMppError(f"{name} has no pixel size; pass it, e.g. --mpp 0.25 (µm/px)")


def _stated(properties: Mapping[str, str]) -> list[tuple[float, float, str]]:
    found: list[tuple[float, float, str]] = []

    def add(x: float | None, y: float | None, where: str) -> None:
        x, y = (y if x is None else x), (x if y is None else y)
        if x is not None and y is not None:
            found.append((x, y, where))

    add(
        _number(properties.get("openslide.mpp-x")),
        _number(properties.get("openslide.mpp-y")),
        "metadata openslide.mpp",
    )
    aperio = _number(properties.get("aperio.MPP"))
    add(aperio, aperio, "metadata aperio.MPP")
    unit = {"inch": 25400.0, "centimeter": 10000.0}.get(
        properties.get("tiff.ResolutionUnit", "").lower()
    )
    if unit is not None:
        x_res, y_res = (_number(properties.get(f"tiff.{axis}Resolution")) for axis in ("X", "Y"))
        add(
            unit / x_res if x_res else None,
            unit / y_res if y_res else None,
            "metadata tiff.XResolution",
        )
    description = properties.get("tiff.ImageDescription", "")
    if "PhysicalSizeX" in description:
        add(
            _physical_size(description, "X"),
            _physical_size(description, "Y"),
            "metadata OME PhysicalSizeX",
        )
    return found


def _physical_size(description: str, axis: str) -> float | None:
    size = re.search(rf'PhysicalSize{axis}="([^"]+)"', description)
    unit = re.search(rf'PhysicalSize{axis}Unit="([^"]+)"', description)
    scale = _UM_PER_UNIT.get(unit.group(1)) if unit else 1.0  # OME: µm when no unit is stated
    value = _number(size.group(1)) if size else None
    return None if value is None or scale is None else value * scale


def _number(text: str | None) -> float | None:
    try:
        # Some scanners write a decimal comma.
        value = float((text or "").strip().replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _plausible(mpp: float) -> bool:
    return MIN_MPP <= mpp <= MAX_MPP


def _disagreement(given: float, usable: list[tuple[float, float, str]]) -> str:
    if not usable:
        return ""
    x, y, where = usable[0]
    stated = math.sqrt(x * y)
    if abs(stated - given) <= ANISOTROPY * given:
        return ""
    return f"; {where} says {stated:g}"
