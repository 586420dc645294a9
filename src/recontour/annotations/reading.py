"""Which format a file is in, and what to tell the user when it is none or holds nothing."""

from __future__ import annotations

from pathlib import Path

from recontour import registry
from recontour.errors import AnnotationError, MissingFileError, UsageError
from recontour.types import Annotation, AnnotationFormat, Frame

LEVEL0 = Frame()
"""File coordinates are level-0 px."""

_ELSEWHERE = {
    ".ndpa": "Hamamatsu NDPA",
    ".qpdata": "QuPath's own data file",
    ".mat": "a MATLAB file",
}


def read_annotation(
    path: Path | str,
    frame: Frame = LEVEL0,
    format: str | None = None,
    *,
    allow_empty: bool = False,
) -> Annotation:
    """Read the outlines of a file into level-0 px.

    Parameters
    ----------
    path : GeoJSON as QuPath writes it (.geojson, .json, also .gz and .zip), a mask (.png, .tif),
        ASAP or ImageScope XML (.xml), or outlines of the LC-MIL authors (.sav)
    frame : where the file's coordinates lie on the slide, and which of several outlines are wanted;
        level-0 px when left out
    format : name of a registered format; None: by the suffix, then by the content
    allow_empty : an annotation without regions is an answer, not an error

    Returns
    -------
    Annotation : repaired where that was needed; `notes` says what was done

    Raises
    ------
    MissingFileError : no such file
    AnnotationError : the file cannot be read, or has no outline (unless `allow_empty`)
    UnknownNameError : no such format
    UsageError : the file holds several outlines, and `frame` does not say which
    """
    path = Path(path)
    if not path.exists():
        raise MissingFileError(f"no such annotation file: {path}")
    if path.is_dir():
        raise MissingFileError(f"{path} is a folder; name the annotation file in it")
    reader: AnnotationFormat = registry.lookup("format", format or format_of(path))()
    try:
        annotation = reader.read(path, frame)
    except OSError as error:
        raise AnnotationError(f"cannot read {path.name}: {error.strerror or error}") from error
    if not annotation.regions and not allow_empty:
        raise AnnotationError(_why_empty(path.name, annotation))
    return annotation


def write_annotation(
    annotation: Annotation,
    path: Path | str,
    frame: Frame = LEVEL0,
    format: str | None = None,
) -> None:
    """Write the regions of `annotation` (not its originals) to `path`, all or nothing.

    Raises
    ------
    UsageError : the suffix belongs to no known format and `format` is not given
    OutputError : the file cannot be written
    """
    path = Path(path)
    names = [format] if format else _by_suffix(path)
    if not names:
        raise UsageError(
            f"cannot tell the format of {path.name} from its name; "
            "end it in .geojson, .png or .tif, or pass format="
        )
    writer: AnnotationFormat = registry.lookup("format", names[0])()
    writer.write(annotation, path, frame)


def _by_suffix(path: Path) -> list[str]:
    """The formats with the longest suffix that the name ends in."""
    longest = 0
    best: list[str] = []
    for name in registry.names("format"):
        for suffix in getattr(registry.lookup("format", name), "suffixes", ()):
            if path.name.lower().endswith(suffix) and len(suffix) >= longest:
                best = [*(best if len(suffix) == longest else ()), name]
                longest = len(suffix)
    return best


def format_of(path: Path) -> str:
    """The format a file is in, by its name, then by its content.

    Raises
    ------
    AnnotationError : in none
    """
    names = _by_suffix(path)
    if len(names) == 1:
        return names[0]
    if names:
        return _recognised(path, names)
    try:
        with path.open("rb") as file:
            head = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError as error:
        raise AnnotationError(f"cannot read {path.name}: {error.strerror or error}") from error
    if head[:1] in (b"{", b"[") or head[:2] in (b"\x1f\x8b", b"PK"):
        return "geojson"
    if head[:4] in (b"\x89PNG", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "mask"
    if head[:1] == b"<":
        return _recognised(path, ["asap", "imagescope"])
    if head[:1] == b"\x80" and path.suffix.lower() in ("", ".pkl", ".pickle"):
        return "sav"
    if not head:
        raise AnnotationError(f"{path.name} is empty")
    what = _ELSEWHERE.get(path.suffix.lower())
    looks = f"looks like {what}, which is not read yet" if what else "is in no known format"
    raise AnnotationError(
        f"{path.name} {looks}; known: {', '.join(registry.names('format'))}. "
        "In QuPath: File > Export objects as GeoJSON"
    )


def _recognised(path: Path, names: list[str]) -> str:
    """Which of several formats with one suffix a file is in, by its content."""
    for name in names:
        recognises = getattr(registry.lookup("format", name), "recognises", None)
        try:
            if recognises is None or recognises(path):
                return name
        except OSError as error:
            raise AnnotationError(f"cannot read {path.name}: {error.strerror or error}") from error
    raise AnnotationError(
        f"{path.name} is in none of the formats {', '.join(names)}, which end in {path.suffix}; "
        "in QuPath: File > Export objects as GeoJSON"
    )


def _why_empty(name: str, annotation: Annotation) -> str:
    way_out = "draw an outline with an area (polygon, brush, rectangle) and export again"
    said = "; ".join(annotation.notes[:3])
    if not annotation.originals:
        return f"{name} holds no outline: {said or 'it is empty'}; {way_out}"
    return (
        f"{name} holds {len(annotation.originals)} object(s), but no outline with an area"
        f"{f' ({said})' if said else ''}; {way_out}"
    )
