"""Writing a manifest for a folder of slides and a folder of outlines."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recontour.cohort.manifest import COMMENT
from recontour.cohort.names import same_name
from recontour.cohort.pairing import CoarseFolder, stem_of
from recontour.errors import MissingFileError, UsageError

SUFFIXES = (
    *(".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide"),
    *(".dcm", ".png", ".jpg", ".jpeg"),
)
HEADER = ("id", "slide", "coarse")


@dataclass(frozen=True)
class Draft:
    """A manifest to be looked at: its text, how many rows it has, and slides without outline."""

    text: str
    rows: int
    without: tuple[Path, ...]
    notes: tuple[str, ...]


def draft_manifest(slides: Path, coarse_dir: Path, base: Path) -> Draft:
    """A row for every slide below a folder whose outline is in another (or in the same one).

    Slides without outline, or with several, become comments, so that none is forgotten.

    Parameters
    ----------
    base : the folder the manifest will lie in; paths are relative to it

    Raises
    ------
    MissingFileError : no such folder
    UsageError : no slide in it
    """
    if not slides.is_dir():
        raise MissingFileError(f"no such folder of slides: {slides}")
    outlines = CoarseFolder(coarse_dir)
    found, notes = _slides_below(slides.absolute(), outlines)
    if not found:
        raise UsageError(f"{slides} holds no slide ({', '.join(SUFFIXES)})")
    ids = _ids(found, slides.absolute())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    quoting = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(HEADER)
    without = []
    for path, id in zip(found, ids, strict=True):
        try:
            coarse = Path(outlines.find(str(path), id))
        except UsageError:
            without.append(path)
            text.write("# ")  # the outline can be filled in, and the mark taken off
            writer.writerow([id, _relative(path, base), ""])
            continue
        values = [id, _relative(path, base), _relative(coarse, base)]
        (quoting if id.startswith(COMMENT) else writer).writerow(values)
    return Draft(text.getvalue(), len(found) - len(without), tuple(without), notes)


def _slides_below(folder: Path, outlines: CoarseFolder) -> tuple[list[Path], tuple[str, ...]]:
    """The slides, without files that are outlines, and one file of each folder of DICOM."""
    drawn = {path for paths in outlines.by_stem.values() for path in paths}
    found: list[Path] = []
    dicom: set[Path] = set()
    unspoken: list[Path] = []
    more = 0
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if any(part.startswith(".") for part in parts) or path.suffix.lower() not in SUFFIXES:
            continue
        if not path.is_file() or (path in drawn and _outlines_another(path)):
            continue
        if path.suffix.lower() == ".dcm":
            if path.parent in dicom:
                more += 1
                continue
            dicom.add(path.parent)
        (found if _is_text(path.relative_to(folder)) else unspoken).append(path)
    notes = []
    if more:
        notes.append(
            f"of each folder of DICOM files only the first is listed, {more} are not: a series is "
            "one slide; add those that are slides of their own"
        )
    if unspoken:
        more_of_them = f" and {len(unspoken) - 3} more" if len(unspoken) > 3 else ""
        notes.append(
            "left out, since a manifest is UTF-8 and their names are not; rename them: "
            + ", ".join(ascii(path.name) for path in unspoken[:3])
            + more_of_them
        )
    return found, tuple(notes)


def _is_text(path: Path) -> bool:
    """Whether a name can be written into a text file: on Linux names are any bytes."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _outlines_another(path: Path) -> bool:
    """Whether an image is a mask: called so, or as a slide of another kind beside it."""
    if path.stem.casefold().endswith(("coarse", "mask", "outline")):
        return True
    rest = [s for s in SUFFIXES if s != path.suffix.lower()]
    return path.suffix.lower() == ".png" and any(path.with_suffix(s).exists() for s in rest)


def _ids(slides: Sequence[Path], root: Path) -> list[str]:
    """The slides' names; where several are the same, with their folders (and kinds)."""
    plain = [stem_of(str(path)) for path in slides]
    count = Counter(map(same_name, plain))
    ids = []
    for path, id in zip(slides, plain, strict=True):
        if count[same_name(id)] > 1:
            id = "_".join(path.relative_to(root).parts)
        ids.append(id)
    return ids


def _relative(path: Path, base: Path) -> str:
    try:
        return Path(os.path.relpath(path, base.absolute())).as_posix()
    except ValueError:  # another drive
        return str(path)
