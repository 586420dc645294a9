"""The `.sav` files of the LC-MIL authors: outlines of many slides, several of each, in a pickle.

slide -> (variant ->) {annotations_outer, annotations_inner}, each a list of rings of (x, y) in
level-0 px. Read by `recontour.annotations.restricted`, which runs nothing the file asks for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from recontour.annotations.restricted import load_plain_pickle
from recontour.annotations.rings import Drawn, Point, assemble, cannot_write, number, usable_points
from recontour.errors import AnnotationError, UsageError
from recontour.types import Annotation, Frame, Ring

OUTER, INNER = "annotations_outer", "annotations_inner"
LESION = "Tumor"
"""The class of every outline; the file names none."""
LISTED = 12
"""So many entries a message shows."""


class Entry(NamedTuple):
    """One set of outlines in the file: of a slide, drawn or made in one of several ways."""

    slide: str
    variant: str | None

    def __str__(self) -> str:
        return self.slide if self.variant is None else f"{self.slide}/{self.variant}"


class Sav:
    """Reads one entry of a `.sav` file: outer rings, less inner rings, class "Tumor"."""

    suffixes: ClassVar[tuple[str, ...]] = (".sav",)

    def read(self, path: Path, frame: Frame) -> Annotation:
        """Read the entry that `frame` asks for.

        That is `frame.entry` ("SLIDE", "VARIANT" or "SLIDE/VARIANT"), of the slide
        `frame.slide_id` where the entry names none; of a file with one slide, that slide.

        Raises
        ------
        AnnotationError : damaged, not of this form, or a pickle that asks for more than data
        UsageError : no such entry, or several to choose from; lists what there is
        """
        data = _load(path)
        entries = tuple(_entries(data))
        notes: list[str] = []
        entry = _choose(entries, frame, path.name, notes)
        found = data[entry.slide]
        if entry.variant is not None:
            found = found[entry.variant]
        drawn = [
            _drawn(points, f"{kind} ring {place}", kind == "outer", notes)
            for kind, key in (("outer", OUTER), ("inner", INNER))
            for place, points in enumerate(_rings(found.get(key), f"{entry}: {key}", path), 1)
        ]
        return Annotation(
            slide_id=entry.slide,
            regions=assemble(drawn, f"{path.name}: {entry}", notes),
            source=path.name,
            notes=tuple(notes),
            rings=tuple(item.ring for item in drawn),
        )

    def write(self, annotation: Annotation, path: Path, frame: Frame) -> None:
        """Refuse: this format is only read.

        Raises
        ------
        UsageError : always; names GeoJSON
        """
        raise cannot_write(path, "the pickle of the LC-MIL authors")


def sav_entries(path: Path) -> tuple[Entry, ...]:
    """Every entry of a file, as (slide, variant or None), in the order of the file.

    Raises
    ------
    AnnotationError : as for reading
    """
    return tuple(_entries(_load(path)))


def _load(path: Path) -> Mapping[str, Any]:
    data = load_plain_pickle(path)
    if not isinstance(data, dict) or not any(True for _ in _entries(data)):
        what = "an empty dictionary" if data == {} else f"a {type(data).__name__}"
        raise AnnotationError(
            f"{path.name} is a pickle, but not one of outlines: it holds {what}, not a dictionary "
            f"of slides, each with {OUTER} and {INNER}"
        )
    return data


def _entries(data: Mapping[Any, Any]) -> Iterator[Entry]:
    for slide, inside in data.items():
        if not isinstance(slide, str) or not isinstance(inside, dict):
            continue
        if OUTER in inside or INNER in inside:
            yield Entry(slide, None)
            continue
        for variant, outlines in inside.items():
            known = isinstance(outlines, dict) and (OUTER in outlines or INNER in outlines)
            if isinstance(variant, str) and known:
                yield Entry(slide, variant)


def _choose(entries: Sequence[Entry], frame: Frame, name: str, notes: list[str]) -> Entry:
    left = list(entries)
    wanted = frame.entry.strip() if frame.entry else ""
    named_slide = False
    if wanted:
        whole = [e for e in entries if str(e) == wanted]
        of_slide = [e for e in entries if e.slide == wanted]
        left = whole or of_slide or [e for e in entries if e.variant == wanted]
        named_slide = bool(whole or of_slide)
        if not left:
            raise UsageError(f"{name} has no entry {wanted!r}; {_listed(entries)}")
    if frame.slide_id and not named_slide:
        mine = [e for e in left if _plain(e.slide) == _plain(frame.slide_id)]
        slides = {e.slide for e in left}
        if mine:
            left = mine
        elif len(slides) > 1:
            raise UsageError(
                f"{name} has no outlines of slide {frame.slide_id!r}; choose with --entry; "
                f"{_listed(left)}"
            )
        else:
            notes.append(f"the outlines are of slide {left[0].slide}, the only one in the file")
    if len(left) > 1:
        raise UsageError(f"{name} has several outlines; choose with --entry; {_listed(left)}")
    return left[0]


def _plain(slide: str) -> str:
    """A slide's name without case and file suffix."""
    name = slide.strip().casefold()
    for suffix in (".tif", ".tiff", ".svs", ".ndpi", ".mrxs"):
        name = name.removesuffix(suffix)
    return name


def _listed(entries: Sequence[Entry]) -> str:
    shown = ", ".join(str(entry)[:80] for entry in entries[:LISTED])
    more = f" and {len(entries) - LISTED} more" if len(entries) > LISTED else ""
    return f"it has: {shown}{more}"


def _rings(raw: Any, where: str, path: Path) -> list[Sequence[Any]]:
    """The rings of a list of rings, or the one ring of a list of points."""
    if raw is None:
        return []
    if isinstance(raw, dict):
        raw = list(raw.values())
    if not isinstance(raw, list | tuple) or not all(isinstance(r, list | tuple) for r in raw):
        raise AnnotationError(
            f"{path.name}: {where} is a {type(raw).__name__} of something else than rings; a list "
            "of lists of (x, y) is needed"
        )
    if raw and all(_is_point(item) for item in raw):
        return [raw]
    return list(raw)


def _is_point(item: Sequence[Any]) -> bool:
    return len(item) == 2 and all(isinstance(v, int | float) for v in item)


def _drawn(points: Sequence[Any], who: str, inside: bool, notes: list[str]) -> Drawn:
    usable = usable_points(map(_point, points), who, notes)
    group = OUTER if inside else INNER
    return Drawn(Ring(tuple(usable), group, inside, LESION), who)


def _point(item: Any) -> Point:
    if isinstance(item, list | tuple) and len(item) >= 2:
        return number(item[0]), number(item[1])
    return float("nan"), float("nan")
