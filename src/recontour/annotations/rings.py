"""Files in which each object is one ring: rings to regions, with what is cut out of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import shapely

from recontour.annotations.qupath import made_id
from recontour.annotations.shapes import BAD_POINTS, FARTHEST_PX, polygons_from
from recontour.errors import UsageError
from recontour.geometry import polygonal, union
from recontour.types import Geometry, Region, Ring

Point = tuple[float, float]

ELLIPSE_POINTS = 360
"""Of the polygon that stands for an ellipse: its area is 0.005 % short."""


@dataclass(frozen=True)
class Drawn:
    """A ring and how to speak of it: `who` for notes, `name` as the user called it."""

    ring: Ring
    who: str
    name: str = ""


def usable_points(points: Iterable[Point], who: str, notes: list[str]) -> list[Point]:
    """The points that are numbers, without the one that closes the ring.

    These formats count from the corner of the stored image, whatever the bounds of the slide:
    `Frame.origin`, where QuPath's coordinates start, does not move them.
    """
    given = list(points)
    # False for NaN
    good = [(x, y) for x, y in given if abs(x) <= FARTHEST_PX and abs(y) <= FARTHEST_PX]
    if len(good) < len(given):
        notes.append(f"{who}: {BAD_POINTS}")
    if len(good) > 1 and good[0] == good[-1]:
        good.pop()
    return good


def number(text: object) -> float:
    """The number a file holds; NaN where it holds none."""
    try:
        return float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan


def rectangle(points: Sequence[Point]) -> list[Point]:
    """The four corners, where only two opposite ones are given."""
    if len(points) != 2:
        return list(points)
    (x0, y0), (x1, y1) = points
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def ellipse(points: Sequence[Point]) -> list[Point]:
    """The ellipse in the box whose opposite corners are given, as a polygon."""
    (x0, y0), (x1, y1) = points
    turns = [2 * math.pi * k / ELLIPSE_POINTS for k in range(ELLIPSE_POINTS)]
    cx, cy, rx, ry = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2
    return [(cx + rx * math.cos(t), cy + ry * math.sin(t)) for t in turns]


def assemble(drawn: Sequence[Drawn], source: str, notes: list[str]) -> tuple[Region, ...]:
    """One region for each ring with an area, less what is cut out of it.

    Rings are repaired as those of GeoJSON are; a ring without an area is no region. What was done
    is added to `notes`. The same file gives the same ids.
    """
    shapes = [_shape(item, notes) for item in drawn]
    cuts = [
        (item, shape)
        for item, shape in zip(drawn, shapes, strict=True)
        if not item.ring.inside and not shape.is_empty
    ]
    tree = shapely.STRtree([shape for _, shape in cuts])
    used: set[int] = set()
    regions = []
    for place, (item, shape) in enumerate(zip(drawn, shapes, strict=True)):
        if not item.ring.inside or shape.is_empty:
            continue
        near = [
            int(i)
            for i in tree.query(shape, predicate="intersects")
            if cuts[i][0].ring.label in (None, item.ring.label)
        ]
        used.update(near)
        geometry = polygonal(shape.difference(union(cuts[i][1] for i in near))) if near else shape
        if geometry.is_empty:
            notes.append(f"{item.who} lies wholly in what is cut out; nothing of it is left")
            continue
        regions.append(
            Region(
                id=made_id([source, place, item.ring.group, list(shape.bounds)]),
                geometry=geometry,
                label=item.ring.label,
                properties={"name": item.name} if item.name else {},
            )
        )
    notes += [
        f"{item.who} is to be cut out, but touches no outline"
        for i, (item, _) in enumerate(cuts)
        if i not in used
    ]
    return tuple(regions)


def cannot_write(path: Path, kind: str) -> UsageError:
    """What to say to whoever wants a format written that is only read."""
    return UsageError(
        f"cannot write {path.name}: {kind} is read, not written; write GeoJSON (.geojson), which "
        "QuPath opens, or a mask (.png, .tif)"
    )


def _shape(item: Drawn, notes: list[str]) -> Geometry:
    points = [list(point) for point in item.ring.coordinates]
    geometry, said = polygons_from({"type": "Polygon", "coordinates": [[*points, *points[:1]]]})
    if said:
        done = "repaired" if not geometry.is_empty else "it outlines nothing"
        notes.append(f"{item.who}: {'; '.join(said)}; {done}")
    return geometry
