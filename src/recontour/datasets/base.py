"""What a data set is: cases of a slide, the true outline, and the coarse ones that come with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Outlines:
    """Where to read an outline: a file, and which entry of it."""

    path: Path
    entry: str | None = None
    """Of a file that holds several (`.sav`): `SLIDE`, `VARIANT` or `SLIDE/VARIANT`."""


@dataclass(frozen=True)
class Case:
    """One slide of a data set, and the files that go with it; nothing is read yet."""

    id: str
    slide: Path
    fine: Outlines
    """The truth."""
    coarse: Mapping[str, Outlines] = field(default_factory=dict)
    """Outlines that come with the data, by name (`coarse`, `coarse_pathologist_1`); may be none."""
    classes: tuple[str, ...] = ()
    """Classes of `fine` that are the truth; empty: all that are not excluded."""
    patient: str = ""
    split: str = ""
    mpp: float | None = None
    """µm/px of level 0, where the slide's file does not say."""


@dataclass(frozen=True)
class Listing:
    """What a folder holds of a data set."""

    cases: tuple[Case, ...]
    """Cases whose slide and true outline are both there, in order of id."""
    missing: tuple[str, ...] = ()
    """One sentence for each missing file."""
    left_out: tuple[str, ...] = ()
    """One sentence for each case left out by a rule of the data set."""
    without_slide: tuple[Case, ...] = ()
    """Cases whose outlines are there and whose slide is not: enough to look at the outlines."""


@runtime_checkable
class DataSet(Protocol):
    """Knows how one data set is laid out on disk."""

    name: str

    def list_cases(self, root: Path, *, coarse: Path | None = None) -> Listing:
        """List the cases below a folder, without reading slides or outlines.

        Parameters
        ----------
        root : the folder as it was downloaded
        coarse : a file of coarse outlines released apart from the data set (`.sav`)

        Raises
        ------
        MissingFileError : `root` is not a folder
        UsageError : it holds nothing of this data set; says what was looked for
        """
        ...
