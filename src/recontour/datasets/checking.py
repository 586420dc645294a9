"""Look at every file of a data set before a long run: does the slide open, what is outlined."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recontour.annotations import read_annotation
from recontour.annotations.select import UNCLASSIFIED
from recontour.datasets.base import Case, Outlines
from recontour.errors import RecontourError
from recontour.geometry import union
from recontour.recipe import Progress, no_progress
from recontour.slides import frame_of, open_slide
from recontour.types import Frame, Region


@dataclass(frozen=True)
class OutlinesFound:
    """What an annotation file holds of a case.

    Attributes
    ----------
    name : "fine", or the name of the coarse outline
    file : the file's name
    regions : how many there are of each class
    areas_px : the area that each class covers, level-0 px
    notes : one sentence for each repair or oddity
    """

    name: str
    file: str
    regions: dict[str, int]
    areas_px: dict[str, float]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class CaseFound:
    """What the files of a case hold, and which of them cannot be read."""

    id: str
    size: tuple[int, int] | None
    mpp: float | None
    outlines: tuple[OutlinesFound, ...]
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types; areas also in µm² where the pixel size is known."""
        scale = None if self.mpp is None else self.mpp**2
        return {
            "id": self.id,
            "size": None if self.size is None else list(self.size),
            "mpp": self.mpp,
            "outlines": [
                {
                    "name": o.name,
                    "file": o.file,
                    "regions": o.regions,
                    "areas_px": o.areas_px,
                    "areas_um2": scale and {name: v * scale for name, v in o.areas_px.items()},
                    "notes": list(o.notes),
                }
                for o in self.outlines
            ],
            "problems": list(self.problems),
        }


def check_cases(cases: Sequence[Case], *, progress: Progress = no_progress) -> list[CaseFound]:
    """Open every slide that is there and read every outline.

    A file that cannot be read is a problem of its case and stops nothing. A case whose slide is
    missing is looked at without it: areas are then in px only, and a mask is taken to have the
    slide's full size.
    """
    found = []
    progress("check", 0, len(cases))
    for done, case in enumerate(cases, 1):
        found.append(_check(case))
        progress("check", done, len(cases))
    return found


def _check(case: Case) -> CaseFound:
    problems: list[str] = []
    size, mpp, frame = None, case.mpp, Frame(mpp=case.mpp, slide_id=case.id)
    if case.slide.is_file():
        with (
            _collecting(problems, case.slide),
            contextlib.closing(open_slide(case.slide, mpp=case.mpp)) as slide,
        ):
            size, mpp, frame = slide.size, slide.mpp, frame_of(slide)
    outlines = []
    for name, where in (("fine", case.fine), *case.coarse.items()):
        with _collecting(problems, where.path):
            outlines.append(_read(name, where, frame, case if name == "fine" else None))
            if name == "fine" and not outlines[-1].regions:
                problems.append(
                    f"{where.path.name} has no outline of class {', '.join(case.classes)}, which "
                    "is to be the truth"
                )
    return CaseFound(case.id, size, mpp, tuple(outlines), tuple(problems))


def _read(name: str, where: Outlines, frame: Frame, truth: Case | None) -> OutlinesFound:
    """`truth`: the case, where these are its true outlines; only its classes count."""
    annotation = read_annotation(
        where.path, Frame(frame.origin, frame.size, frame.mpp, frame.slide_id, where.entry)
    )
    wanted = {label.casefold() for label in truth.classes} if truth else set()
    by_class: dict[str, list[Region]] = {}
    for region in annotation.regions:
        if not wanted or (region.label or "").casefold() in wanted:
            by_class.setdefault(region.label or UNCLASSIFIED, []).append(region)
    return OutlinesFound(
        name=name,
        file=where.path.name,
        regions={label: len(regions) for label, regions in by_class.items()},
        areas_px={
            label: float(union(region.geometry for region in regions).area)
            for label, regions in by_class.items()
        },
        notes=annotation.notes,
    )


@contextlib.contextmanager
def _collecting(problems: list[str], path: Path) -> Iterator[None]:
    """What cannot be read becomes a sentence."""
    try:
        yield
    except RecontourError as error:
        problems.append(f"{path.name}: {error}")
