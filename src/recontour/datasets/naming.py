"""What the name of a file in a folder of cases says: of which case it is, and what it holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from recontour.datasets.files import ONLY

SLIDE_SUFFIXES = (
    *(".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide"),
    *(".dcm", ".png", ".jpg", ".jpeg"),
)
FINE = "fine"

_PACKED = (".gz", ".zip")
_OUTLINE_SUFFIXES = (".geojson", ".json", ".xml", ".png", ".tif", ".tiff")
_ROLE = re.compile(r"(.+)\.(fine|coarse(?:_[^.]+)?)", re.IGNORECASE)
_FOLDER = re.compile(r"slides?|fine|coarse(?:_[^.]+)?", re.IGNORECASE)


class Named(NamedTuple):
    """What a file is: of case `id`, `what` is "slide", "fine", "coarse" or "coarse_<what>"."""

    id: str
    what: str


def read_name(path: Path, folder: Path) -> Named | None:
    """What a file is, by its name and, below `slides`, `fine` and `coarse…`, by its folder.

    `A.svs` is a slide; `A.fine.geojson`, `A.coarse.xml` and `A.coarse_quick.geojson.gz` are
    outlines of it, and so are `fine/A.geojson`, `coarse/A.geojson`, `coarse_quick/A.geojson` and
    `coarse/quick/A.geojson`. None: neither a slide nor an outline, or in a folder of another name,
    as results are.
    """
    parts = path.relative_to(folder).parts[:-1]
    if parts and not _FOLDER.fullmatch(parts[0]):
        return None
    place = _place(parts)
    stem, suffix = _split_suffix(path.name)
    role = _ROLE.fullmatch(stem)
    if role is not None and suffix in _OUTLINE_SUFFIXES:
        return Named(role[1], role[2].lower())
    if place in ("", "slide"):
        return Named(stem, "slide") if suffix in SLIDE_SUFFIXES else None
    return Named(stem, place) if suffix in _OUTLINE_SUFFIXES else None


def _place(parts: tuple[str, ...]) -> str:
    """What the folders say: "", "slide", "fine", "coarse" or "coarse_<what>"."""
    place = ""
    for part in parts:
        if _FOLDER.fullmatch(part):
            place = "slide" if part.lower().startswith("slide") else part.lower()
        elif place == ONLY:
            place = f"{ONLY}_{part.lower()}"
    return place


def _split_suffix(name: str) -> tuple[str, str]:
    """The name without suffixes, and the suffix that tells the format, in lower case."""
    lower = name.lower()
    packed = next((p for p in _PACKED if lower.endswith(p)), "")
    name = name[: len(name) - len(packed)]
    stem, dot, suffix = name.rpartition(".")
    if not dot:
        return name, ""
    if stem.lower().endswith(".ome") and suffix.lower() in ("tif", "tiff"):
        stem = stem[:-4]
    return stem, f".{suffix.lower()}"
