"""The figures that the picture and the page both show."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import shapely

from recontour.annotations import qupath
from recontour.types import Geometry, Refinement, Region, iter_polygons

Colour = tuple[int, int, int]

# An absolute path, or one from the home folder; not the slash of "µm/px" or of "https://".
_PATH = re.compile(
    r"(?<![\w./:~])(?:~|[A-Za-z]:)?[\\/](?:[^\s\\/'\"<>|:]+[\\/])+(?P<name>[^\s\\/'\"<>|:]+)"
)

UNCLASSIFIED = "Unclassified"


@dataclass(frozen=True)
class ClassSummary:
    """One refined class, before and after.

    Attributes
    ----------
    k : its column in the probabilities
    colour : RGB, as in QuPath
    coarse, refined : area, level-0 px (overlapping regions counted once)
    coarse_um2, refined_um2, added_um2, removed_um2 : areas
    n_coarse, n_refined : polygons
    """

    name: str
    k: int
    colour: Colour
    coarse: Geometry
    refined: Geometry
    coarse_um2: float
    refined_um2: float
    added_um2: float
    removed_um2: float
    n_coarse: int
    n_refined: int

    @property
    def change(self) -> float | None:
        """Relative change of the area; None when nothing was drawn."""
        return self.refined_um2 / self.coarse_um2 - 1 if self.coarse_um2 else None


def summarise(refinement: Refinement) -> tuple[ClassSummary, ...]:
    """Before and after of each class k >= 1.

    Areas are those of `facts["areas_um2"]` where given, else measured on the polygons.
    """
    mpp2 = refinement.patches.grid.mpp**2
    stated = refinement.facts.get("areas_um2") or {}
    found = []
    for k, name in enumerate(refinement.patches.classes[1:], start=1):
        coarse_regions = of_class(refinement.coarse.regions, name)
        refined_regions = of_class(refinement.annotation.regions, name)
        coarse, refined = merged(coarse_regions), merged(refined_regions)
        areas = stated.get(name) or {}
        found.append(
            ClassSummary(
                name=name,
                k=k,
                colour=class_colour(name, [*coarse_regions, *refined_regions]),
                coarse=coarse,
                refined=refined,
                coarse_um2=areas.get("coarse", coarse.area * mpp2),
                refined_um2=areas.get("refined", refined.area * mpp2),
                added_um2=areas.get("added", refined.difference(coarse).area * mpp2),
                removed_um2=areas.get("removed", coarse.difference(refined).area * mpp2),
                n_coarse=sum(1 for r in coarse_regions for _ in iter_polygons(r.geometry)),
                n_refined=sum(1 for r in refined_regions for _ in iter_polygons(r.geometry)),
            )
        )
    return tuple(found)


def threshold_of(refinement: Refinement) -> float:
    """The threshold that was used, which a set of post-processing rules may fix."""
    stated = refinement.facts.get("postprocessing") or {}
    return float(stated.get("threshold", refinement.recipe.threshold))


def of_class(regions: Sequence[Region], name: str) -> list[Region]:
    """The regions of a class, whatever the case; unclassified ones go by `UNCLASSIFIED`."""
    return [r for r in regions if (r.label or UNCLASSIFIED).casefold() == name.casefold()]


def merged(regions: Sequence[Region]) -> Geometry:
    """The area that regions cover together, level-0 px."""
    return shapely.union_all([r.geometry for r in regions])


def class_colour(name: str, regions: Sequence[Region] = ()) -> Colour:
    """RGB of a class: as its regions say, else as it is written to files."""
    for region in regions:
        stated = qupath.colour_of(region.properties)
        if stated:
            return (stated[0], stated[1], stated[2])
    r, g, b = qupath.class_colour(name)
    return (r, g, b)


def format_area(um2: float) -> str:
    """An area with a unit that keeps it readable: `12.3 mm²`, `4,560 µm²`."""
    if abs(um2) >= 1e4:
        mm2 = um2 / 1e6
        digits = 0 if abs(mm2) >= 100 else 1 if abs(mm2) >= 10 else 2 if abs(mm2) >= 0.1 else 3
        return f"{mm2:,.{digits}f} mm²"
    return f"{um2:,.0f} µm²"


def format_change(change: float | None) -> str:
    """A relative change in words: `+12 %`, `−20 %`, `unchanged`."""
    if change is None:
        return "new"
    if abs(change) < 0.0005:
        return "unchanged"
    digits = 1 if abs(change) < 0.1 else 0
    return f"{'+' if change > 0 else '−'}{abs(change) * 100:,.{digits}f} %"


def count(n: int, noun: str) -> str:
    """`1 outline`, `14 outlines`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def text_colour(colour: Colour) -> str:
    """`#000` or `#fff`, whichever reads better on `colour`."""
    r, g, b = colour
    return "#000" if 0.299 * r + 0.587 * g + 0.114 * b > 150 else "#fff"


def hex_colour(colour: Colour) -> str:
    """`(200, 0, 0)` -> `#c80000`."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def plain(value: Any) -> Any:
    """`value` without the folders of paths in it: what is shared must not tell where files lay."""
    if isinstance(value, str):
        return _PATH.sub(lambda match: match["name"], value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
