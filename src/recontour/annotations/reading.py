"""Which format a file is in, and what to tell the user when it is none or holds nothing."""

from __future__ import annotations

from pathlib import Path

from recontour import registry
from recontour.errors import AnnotationError, MissingFileError, UsageError
from recontour.types import Annotation, AnnotationFormat, Frame

LEVEL0 = Frame()
"""File coordinates are level-0 px."""

_ELSEWHERE = {
    ".xml": "ASAP or ImageScope XML",
    ".ndpa": "Hamamatsu NDPA",
    ".sav": "a pickle",
    ".qpdata": "QuPath's own data file",
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
    path : GeoJSON as QuPath writes it (.geojson, .json, also .gz and .zip), or a mask (.png, .tif)
    frame : where the file's coordinates lie on the slide; level-0 px when left out
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
    """
    path = Path(path)
    if not path.exists():
        raise MissingFileError(f"no such annotation file: {path}")
    if path.is_dir():
        raise MissingFileError(f"{path} is a folder; name the annotation file in it")
    reader: AnnotationFormat = registry.lookup("format", format or _format_of(path))()
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
    name = format or _by_suffix(path)
    if name is None:
        raise UsageError(
            f"cannot tell the format of {path.name} from its name; "
            "end it in .geojson, .png or .tif, or pass format="
        )
    writer: AnnotationFormat = registry.lookup("format", name)()
    writer.write(annotation, path, frame)


def _by_suffix(path: Path) -> str | None:
    """The format whose longest suffix the name ends in."""
    best: tuple[int, str] | None = None
    for name in registry.names("format"):
        for suffix in getattr(registry.lookup("format", name), "suffixes", ()):
            if path.name.lower().endswith(suffix) and (best is None or len(suffix) > best[0]):
                best = (len(suffix), name)
    return best[1] if best else None


def _format_of(path: Path) -> str:
    name = _by_suffix(path)
    if name is not None:
        return name
    try:
        with path.open("rb") as file:
            head = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError as error:
        raise AnnotationError(f"cannot read {path.name}: {error.strerror or error}") from error
    if head[:1] in (b"{", b"[") or head[:2] in (b"\x1f\x8b", b"PK"):
        return "geojson"
    if head[:4] in (b"\x89PNG", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "mask"
    if not head:
        raise AnnotationError(f"{path.name} is empty")
    what = _ELSEWHERE.get(path.suffix.lower())
    looks = f"looks like {what}, which is not read yet" if what else "is in no known format"
    raise AnnotationError(
        f"{path.name} {looks}; known: {', '.join(registry.names('format'))}. "
        "In QuPath: File > Export objects as GeoJSON"
    )


def _why_empty(name: str, annotation: Annotation) -> str:
    way_out = "draw an outline with an area (polygon, brush, rectangle) and export again"
    if not annotation.originals:
        return f"{name} holds no outline: it is empty; {way_out}"
    said = "; ".join(annotation.notes[:3])
    return (
        f"{name} holds {len(annotation.originals)} object(s), but no outline with an area"
        f"{f' ({said})' if said else ''}; {way_out}"
    )
