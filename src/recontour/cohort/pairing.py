"""Finding the outline of a slide in a folder, by its name."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from recontour.errors import MissingFileError, UsageError
from recontour.storage import is_url

_PACKED = (".gz", ".zip")
_OUTLINES = (".geojson", ".json", ".xml", ".png", ".tif", ".tiff", ".sav")
_ROLES = ("", ".coarse", "_coarse", "-coarse")
"""A slide `A.svs` has its outline in `A.geojson`, `A.svs.geojson` or `A.coarse.geojson`."""


def stem_of(slide: str) -> str:
    """The name of a slide without folder and suffix (`.ome.tif` is one)."""
    stem = Path(file_name(slide)).stem
    return stem[:-4] if stem.casefold().endswith(".ome") else stem


def file_name(slide: str) -> str:
    """The name of a slide without folder, of a path or a URL."""
    return PurePosixPath(urlsplit(slide).path).name if is_url(slide) else Path(slide).name


class CoarseFolder:
    """A folder of outlines, listed once.

    Raises
    ------
    MissingFileError : no such folder
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        if not folder.is_dir():
            raise MissingFileError(f"no such folder of outlines: {folder}")
        self.by_stem: dict[str, list[Path]] = {}
        for path in sorted(self.folder.iterdir()):
            stem = _outline_stem(path.name)
            if stem and path.is_file():
                self.by_stem.setdefault(stem.casefold(), []).append(path)

    def find(self, slide: str, id: str) -> str:
        """The outline of a slide, by the slide's name or its id, in any case.

        Raises
        ------
        UsageError : none, or several
        """
        names = (stem_of(slide), file_name(slide), id)
        for name in dict.fromkeys(name.casefold() for name in names if name):
            found = [
                path
                for role in _ROLES
                for path in self.by_stem.get(name + role, ())
                if str(path) != slide
            ]
            if len(found) == 1:
                return str(found[0])
            if found:
                raise UsageError(
                    f"several outlines in {self.folder} could be meant: "
                    f"{', '.join(path.name for path in found)}; name one in a column 'coarse'"
                )
        raise UsageError(
            f"no outline named {stem_of(slide)} in {self.folder} "
            f"({', '.join(_OUTLINES)}); name it in a column 'coarse'"
        )


def _outline_stem(name: str) -> str:
    """The name of an outline's file without its suffixes; "" of other and of hidden files."""
    if name.startswith("."):
        return ""
    lower = name.casefold()
    packed = next((p for p in _PACKED if lower.endswith(p)), "")
    lower = lower.removesuffix(packed)
    suffix = next((s for s in _OUTLINES if lower.endswith(s)), "")
    return name[: len(lower) - len(suffix)] if suffix else ""
