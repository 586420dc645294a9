"""Which of the file's classes are refined, and which regions take no part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import shapely

from recontour.errors import UnknownNameError, UsageError
from recontour.geometry import polygonal, union
from recontour.types import BACKGROUND, Annotation, Geometry, Region

UNCLASSIFIED = "Unclassified"
"""What the class of regions without one is called here; their `label` stays None."""


@dataclass(frozen=True)
class Selection:
    """What of an annotation is refined.

    Attributes
    ----------
    classes : K names as the file spells them, "background" first
    regions : for each class k >= 1 its regions, in file order; `regions[k - 1]` is class k
    excluded : what takes no part, level-0 px; may be empty
    notes : one sentence for each thing left out, for the user
    """

    classes: tuple[str, ...]
    regions: tuple[tuple[Region, ...], ...]
    excluded: Geometry
    notes: tuple[str, ...] = ()


def select_regions(
    annotation: Annotation, classes: Sequence[str], exclude: Sequence[str]
) -> Selection:
    """Sort the regions into the classes to refine, the excluded area and the rest.

    Names compare in any case and are kept as the file spells them. Regions without a class go by
    the name "Unclassified" and keep the label None. A class that is asked for by name is not
    excluded, whatever `exclude` says.

    Parameters
    ----------
    classes : names to refine together; empty: the only class present
    exclude : shell patterns ("Ignore*") of classes whose area takes no part

    Raises
    ------
    UnknownNameError : a class asked for is not in the file; lists those that are
    UsageError : no class is asked for and there are several, or all are excluded; or what is to be
        refined is called "background"
    """
    spelling: dict[str, str] = {}
    by_class: dict[str, list[Region]] = {}
    for region in annotation.regions:
        name = region.label or UNCLASSIFIED
        spelling.setdefault(name.casefold(), name)
        by_class.setdefault(name.casefold(), []).append(region)
    where = annotation.source or annotation.slide_id
    asked = {name.strip().casefold(): name.strip() for name in classes}
    wanted = list(asked)
    for key, name in asked.items():
        if key not in by_class:
            raise UnknownNameError(
                f"no class {name!r} in {where}; it has: {_listed(spelling, by_class)}"
            )
    excluded = [key for key in by_class if key not in wanted and _matches(key, exclude)]
    if not wanted:
        left = [key for key in by_class if key not in excluded]
        if not left:
            raise UsageError(_nothing_left(where, spelling, excluded, by_class))
        if len(left) > 1:
            raise UsageError(
                f"{where} has several classes: {_listed(spelling, by_class, left)}; "
                f"choose with --class {_quoted(spelling[left[0]])} (may be given several times)"
            )
        wanted = left
    if BACKGROUND in wanted:
        raise UsageError(
            f"{where}: {spelling[BACKGROUND]!r} is what no outline holds, and cannot be refined; "
            "outline what is to be found, or give the outlines another class"
        )
    notes = []
    if excluded:
        notes.append(f"takes no part: {_listed(spelling, by_class, excluded)}")
    rest = [key for key in by_class if key not in wanted and key not in excluded]
    if rest:
        notes.append(f"not refined: {_listed(spelling, by_class, rest)}")
    return Selection(
        classes=(BACKGROUND, *(spelling[key] for key in wanted)),
        regions=tuple(tuple(by_class[key]) for key in wanted),
        excluded=union(region.geometry for key in excluded for region in by_class[key]),
        notes=tuple(notes),
    )


def claimed_areas(regions: Sequence[Sequence[Region]]) -> tuple[Geometry, ...]:
    """The area of each class, level-0 px; no two overlap.

    Where outlines of several classes overlap the smaller one has the area, of equal ones that of
    the later class: as cells are labelled (`recontour.grid.label_patches`).

    Parameters
    ----------
    regions : for each class k >= 1 its regions
    """
    if len(regions) == 1:
        return (union(region.geometry for region in regions[0]),)
    flat = [(region.geometry, k) for k, group in enumerate(regions) for region in group]
    rank = {
        i: place
        for place, i in enumerate(
            sorted(range(len(flat)), key=lambda i: (flat[i][0].area, -flat[i][1]))
        )
    }
    tree = shapely.STRtree([geometry for geometry, _ in flat])
    claimed: list[list[Geometry]] = [[] for _ in regions]
    for i, (geometry, k) in enumerate(flat):
        near = tree.query(geometry, predicate="intersects").tolist()
        over = [flat[j][0] for j in near if flat[j][1] != k and rank[j] < rank[i]]
        claimed[k].append(polygonal(geometry.difference(union(over))) if over else geometry)
    return tuple(union(parts) for parts in claimed)


def _matches(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(key, pattern.strip().casefold()) for pattern in patterns)


def _listed(
    spelling: dict[str, str], by_class: dict[str, list[Region]], keys: Sequence[str] | None = None
) -> str:
    chosen = list(by_class) if keys is None else list(keys)
    return ", ".join(f"{spelling[key]} ({len(by_class[key])})" for key in chosen) or "none"


def _quoted(name: str) -> str:
    return f'"{name}"' if " " in name or "*" in name else name


def _nothing_left(
    where: str, spelling: dict[str, str], excluded: Sequence[str], by_class: dict[str, list[Region]]
) -> str:
    if not by_class:
        return f"{where} has no outline to refine"
    return (
        f"every class in {where} is excluded: {_listed(spelling, by_class, excluded)}; "
        f"to refine one, pass --class {_quoted(spelling[excluded[0]])}"
    )
