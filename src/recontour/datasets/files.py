"""The files of a data set on disk, and the outlines released apart from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from recontour.annotations.sav import sav_entries
from recontour.datasets.base import Outlines
from recontour.errors import MissingFileError, UsageError

ONLY = "coarse"
"""Name of the outline of a slide that has one."""

Drawn = Mapping[str, Mapping[str, Outlines]]
"""Slide (in lower case, without suffix) -> name of the outline -> where to read it."""


def files_below(root: Path) -> Iterator[Path]:
    """Every file below a folder, in order of path, without hidden ones.

    macOS leaves a `._NAME` beside each file on other file systems: those are hidden ones too.

    Raises
    ------
    MissingFileError : no such folder
    """
    if not root.is_dir():
        what = "is a file; name the folder it is in" if root.exists() else "does not exist"
        raise MissingFileError(f"the folder of the data set, {root}, {what}")
    for path in sorted(root.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if not hidden and path.is_file():
            yield path


def read_drawn(path: Path | None) -> Drawn:
    """What a `.sav` file holds, by slide; nothing for None.

    Raises
    ------
    MissingFileError : no such file
    UsageError : another kind of file
    AnnotationError : it cannot be read
    """
    if path is None:
        return {}
    if not path.is_file():
        raise MissingFileError(f"no such file of coarse outlines: {path}")
    if path.suffix.lower() != ".sav":
        raise UsageError(
            f"{path.name} is no .sav file of coarse outlines; outlines in files of their own go "
            "into the data set `folder`"
        )
    found: dict[str, dict[str, Outlines]] = {}
    for entry in sav_entries(path):
        outlines = Outlines(path, str(entry))
        found.setdefault(plain(entry.slide), {})[entry.variant or ONLY] = outlines
    return found


def drawn_of(drawn: Drawn, *names: str) -> dict[str, Outlines]:
    """The outlines of a slide, by any of the names it may go by."""
    for name in names:
        if plain(name) in drawn:
            return dict(drawn[plain(name)])
    return {}


def plain(name: str) -> str:
    """A slide's name in lower case, without the suffix of a slide."""
    name = name.strip().casefold()
    for suffix in (".tif", ".tiff", ".svs", ".ndpi", ".mrxs"):
        name = name.removesuffix(suffix)
    return name


def nothing_found(dataset: str, root: Path, wanted: str) -> UsageError:
    """What to say of a folder that holds nothing of a data set."""
    return UsageError(f"{root} holds nothing of {dataset}: no {wanted}")
