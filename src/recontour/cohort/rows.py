"""The nouns of a manifest: its rows, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from recontour.errors import UsageError
from recontour.recipe import Recipe


@dataclass(frozen=True)
class Row:
    """One slide of a cohort and the outline to refine on it.

    Paths are absolute, or URLs (`s3://…`).

    Attributes
    ----------
    id : names the row's folder; unique in any case
    slide : the slide's file
    coarse : the file of its coarse outline
    mpp : µm per level-0 px, where the slide's file does not say (or lies); else None
    classes : classes to refine; empty: as the command says
    reviewed : file of regions a person is certain of, or None
    also : files of further annotators' outlines
    settings : fields of `Recipe` that differ for this slide (JSON types)
    extra : the other columns, as they are (patient, group, …)
    line : of the manifest
    """

    id: str
    slide: str
    coarse: str
    mpp: float | None = None
    classes: tuple[str, ...] = ()
    reviewed: str | None = None
    also: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)
    line: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {
            **asdict(self),
            "classes": list(self.classes),
            "also": list(self.also),
            "settings": dict(self.settings),
            "extra": dict(self.extra),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Row:
        """The row that `to_dict` gave."""
        return cls(**{**data, "classes": tuple(data["classes"]), "also": tuple(data["also"])})

    def recipe_of(self, recipe: Recipe) -> Recipe:
        """The settings of this row: what it says itself, for the rest those of the cohort."""
        own: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in self.settings.items()
        }
        for px, um in (("cell_px", "cell_um"), ("patch_px", "patch_um")):
            if (px in own) != (um in own):  # its own side goes before the cohort's, in either unit
                own |= {um if px in own else px: None}
        if self.classes:
            own["classes"] = self.classes
        if self.mpp is not None:
            own["mpp"] = self.mpp
        return replace(recipe, **own)


@dataclass(frozen=True)
class Problem:
    """What is wrong with a row: its line, its id (as far as known), and a sentence.

    Line 0: with the settings of all.
    """

    line: int
    id: str
    what: str

    def __str__(self) -> str:
        if not self.line:
            return f"all slides: {self.what}"
        named = f" ({self.id})" if self.id else ""
        return f"line {self.line}{named}: {self.what}"


@dataclass(frozen=True)
class Manifest:
    """The rows of a cohort.

    Attributes
    ----------
    rows : in the manifest's order, those that could be understood
    notes : one sentence for each thing that was assumed or left unused, for the user
    columns : as the first line spells them
    problems : of the lines that could not be understood; `check_manifest` repeats them
    faulty : what is known of those lines, for the other checks
    path : the file
    digest : hex SHA-256 of its content
    """

    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    faulty: tuple[Row, ...] = ()
    path: Path = Path("manifest.csv")
    digest: str = ""


def refusal(name: str, problems: list[Problem]) -> UsageError:
    """The error that lists every problem of the manifest `name`, in order of lines."""
    lines = "".join(f"\n  {p}" for p in sorted(problems, key=lambda p: (p.line, p.what)))
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return UsageError(f"{name} has {count}; nothing was started:{lines}")
