"""GeoJSON geometry to shapely and back, for rings as bad as they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import MultiPolygon, Polygon

from recontour.geometry import repair, snap
from recontour.types import Geometry, iter_polygons

RawGeometry = Mapping[str, Any]

FARTHEST_PX = 1e9
"""A coordinate beyond is no pixel, and has no room left for hundredths."""

BAD_POINTS = "points that were not numbers were left out"
UNCLOSED = "a ring was not closed"
FEW_POINTS = "a ring had too few points"


class NotPolygonalError(ValueError):
    """The geometry is a point, a line, or nothing known."""


def polygons_from(raw: RawGeometry) -> tuple[Geometry, list[str]]:
    """Read the polygons of a GeoJSON geometry, repaired.

    Returns
    -------
    geometry : valid, in the coordinates of the file; empty when nothing has an area
    said : what was repaired

    Raises
    ------
    NotPolygonalError : `raw` has no polygon in it
    """
    polygons, said = _polygons(raw)
    whole: Polygon | MultiPolygon = polygons[0] if len(polygons) == 1 else MultiPolygon(polygons)
    if whole.is_empty:
        return Polygon(), [*said, "it had no area"]
    geometry, what = repair(whole)
    if what:
        said.append(what)
    return geometry, list(dict.fromkeys(said))


def to_raw(geometry: Geometry) -> dict[str, Any]:
    """As GeoJSON, whole numbers without a decimal point."""
    polygons = [
        [_plain(shapely.get_coordinates(ring)) for ring in (polygon.exterior, *polygon.interiors)]
        for polygon in iter_polygons(geometry)
    ]
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    if not polygons:
        return {"type": "Polygon", "coordinates": []}
    return {"type": "MultiPolygon", "coordinates": polygons}


def importable(raw: Any) -> bool:
    """Whether QuPath takes the geometry as it is: every ring closed and valid at 0.01 px."""
    if not isinstance(raw, Mapping):
        return False
    kind = raw.get("type")
    if kind == "GeometryCollection":
        members = raw.get("geometries")
        return isinstance(members, list) and all(importable(member) for member in members)
    coordinates = raw.get("coordinates")
    if not isinstance(coordinates, list):
        return False
    try:
        if kind == "Polygon":
            return _rings_fit([coordinates])
        if kind == "MultiPolygon":
            return _rings_fit(coordinates)
        points = _strict_points(_point_lists(kind, coordinates))
    except (TypeError, ValueError, OverflowError):
        return False
    smallest = 2 if kind in ("LineString", "MultiLineString") else 1
    return all(len(p) >= smallest and bool(np.isfinite(p).all()) for p in points)


def mend(raw: Any) -> tuple[dict[str, Any], str]:
    """Make a geometry that QuPath takes from one that is not `importable`; say what was done.

    What has no area stays where it is as a line or a point; what has no place at all becomes an
    empty polygon, so that the object and all it carries are kept.
    """
    if not isinstance(raw, Mapping):
        return to_raw(Polygon()), "it had no geometry"
    rest = {key: value for key, value in raw.items() if key not in ("coordinates", "geometries")}
    if raw.get("type") == "GeometryCollection" and isinstance(raw.get("geometries"), list):
        members, said = [], []
        for member in raw["geometries"]:
            fine = importable(member)
            better, what = (member, "") if fine else mend(member)
            members.append(better)
            if what:
                said.append(what)
        return {**rest, "geometries": members}, "; ".join(dict.fromkeys(said))
    try:
        geometry, said = polygons_from(raw)
    except NotPolygonalError:
        geometry, said = Polygon(), []
    snapped = snap(geometry)
    if not snapped.is_empty:
        what = "; ".join(said) or "it was not valid when rounded to 0.01 px"
        return {**rest, **to_raw(snapped)}, what
    left = _remains(raw)
    rest.pop("isEllipse", None)
    what = "; ".join(said) or BAD_POINTS
    return {**rest, **left}, f"{what}; kept as {_ARTICLES[left['type']]}"


_ARTICLES = {
    "Point": "a point",
    "MultiPoint": "points",
    "LineString": "a line",
    "Polygon": "an object without an outline",
}


def _polygons(raw: RawGeometry) -> tuple[list[Polygon], list[str]]:
    kind = raw.get("type")
    said: list[str] = []
    polygons: list[Polygon] = []
    if kind == "GeometryCollection" and isinstance(raw.get("geometries"), list):
        found = False
        for member in raw["geometries"]:
            if not isinstance(member, Mapping):
                continue
            try:
                inner, what = _polygons(member)
            except NotPolygonalError:
                continue
            found = True
            polygons += inner
            said += what
        if not found:
            raise NotPolygonalError(str(kind))
        return polygons, said
    if kind not in ("Polygon", "MultiPolygon"):
        raise NotPolygonalError(str(kind))
    coordinates = raw.get("coordinates")
    parts = [coordinates] if kind == "Polygon" else coordinates
    for part in parts if isinstance(parts, list) else []:
        rings = [_ring(ring, said) for ring in part] if isinstance(part, list) else []
        if rings and rings[0] is not None:
            polygons.append(Polygon(rings[0], [ring for ring in rings[1:] if ring is not None]))
        elif not rings:
            said.append(FEW_POINTS)
    return polygons, said


def _ring(raw: Any, said: list[str]) -> NDArray[np.float64] | None:
    """The usable points of a ring, closed; None when they enclose nothing."""
    points, dropped = _points(raw)
    if dropped:
        said.append(BAD_POINTS)
    if len(np.unique(points, axis=0)) < 3:
        said.append(FEW_POINTS)
        return None
    if not np.array_equal(points[0], points[-1]):
        if not dropped:
            said.append(UNCLOSED)
        points = np.vstack([points, points[:1]])
    return points


def _points(raw: Any) -> tuple[NDArray[np.float64], bool]:
    """(n, 2) points that are numbers, and whether others were left out."""
    items = raw if isinstance(raw, list) else []
    try:
        points = np.asarray(items, np.float64)[:, :2]
        if points.shape != (len(items), 2):
            raise ValueError
    except (TypeError, ValueError, IndexError, OverflowError):
        points = np.array([_point(item) for item in items], np.float64).reshape(-1, 2)
    good = (np.abs(points) <= FARTHEST_PX).all(axis=1)  # False for NaN
    return points[good], bool(not isinstance(raw, list) or not good.all())


def _point(item: Any) -> tuple[float, float]:
    try:
        return float(item[0]), float(item[1])
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        return float("nan"), float("nan")


def _rings_fit(parts: list[Any]) -> bool:
    polygons = []
    for part in parts:
        rings = _strict_points(part)
        for ring in rings:
            if len(ring) < 4 or not np.array_equal(ring[0], ring[-1]):
                return False
            if not (np.abs(ring) <= FARTHEST_PX).all():
                return False
        if rings:
            polygons.append(rings)
    if not polygons:
        return not parts or parts == [[]]  # nothing at all is a legal geometry
    even, up = _rounded(polygons, np.rint), _rounded(polygons, _half_up)
    return _sound(even) and (_same(even, up) or _sound(up))


def _rounded(
    polygons: list[list[NDArray[np.float64]]], rule: Callable[[Any], Any]
) -> list[list[NDArray[np.float64]]]:
    return [[rule(ring * 100) / 100 for ring in rings] for rings in polygons]


def _half_up(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """How Java rounds; Python and GEOS take the even neighbour of a half."""
    return np.asarray(np.floor(values + 0.5))


def _same(one: list[list[NDArray[np.float64]]], other: list[list[NDArray[np.float64]]]) -> bool:
    return all(
        np.array_equal(a, b)
        for rings, others in zip(one, other, strict=True)
        for a, b in zip(rings, others, strict=True)
    )


def _sound(polygons: list[list[NDArray[np.float64]]]) -> bool:
    shapes = [Polygon(rings[0], rings[1:]) for rings in polygons]
    whole = shapes[0] if len(shapes) == 1 else MultiPolygon(shapes)
    return bool(whole.is_valid) and all(shape.area > 0 for shape in shapes)


def _strict_points(lists: Any) -> list[NDArray[np.float64]]:
    """Arrays of points; TypeError or ValueError for whatever is not a plain list of numbers."""
    arrays = []
    for points in lists:
        if not all(
            isinstance(point, list)
            and len(point) >= 2
            and all(isinstance(v, int | float) and not isinstance(v, bool) for v in point)
            for point in points
        ):
            raise TypeError("not a list of points")
        arrays.append(np.array([point[:2] for point in points], np.float64).reshape(-1, 2))
    return arrays


def _point_lists(kind: Any, coordinates: list[Any]) -> list[Any]:
    if kind == "Point":
        return [[coordinates]]
    if kind in ("MultiPoint", "LineString"):
        return [coordinates]
    if kind == "MultiLineString":
        return coordinates
    raise ValueError(f"unknown geometry {kind!r}")


def _remains(raw: RawGeometry) -> dict[str, Any]:
    """What is left of a geometry without area: a line, points, or nothing."""
    if raw.get("type") == "Point":
        lists = [[raw.get("coordinates")]]
    else:
        lists = _lists_of_points(raw.get("coordinates"))
    found = [_points(points)[0] for points in lists]
    points = np.round(np.vstack(found), 2) + 0.0 if found else np.empty((0, 2))
    distinct = list(dict.fromkeys(map(tuple, points.tolist())))
    if not distinct:
        return to_raw(Polygon())
    if raw.get("type") == "MultiPoint" and len(distinct) > 1:
        return {"type": "MultiPoint", "coordinates": _plain(np.array(distinct))}
    line = _plain(np.array(distinct))
    if len(distinct) == 1:
        return {"type": "Point", "coordinates": line[0]}
    return {"type": "LineString", "coordinates": line}


def _lists_of_points(coordinates: Any) -> list[list[Any]]:
    """Every list of points in nested coordinates, however deep."""
    if not isinstance(coordinates, list) or not coordinates:
        return []
    if all(not (isinstance(c, list) and c and isinstance(c[0], list)) for c in coordinates):
        return [coordinates]
    return [points for inner in coordinates for points in _lists_of_points(inner)]


def _plain(points: NDArray[np.float64]) -> list[list[float]]:
    if (points == np.rint(points)).all():
        whole: list[list[float]] = points.astype(np.int64).tolist()
        return whole
    return [
        [int(value) if value.is_integer() else value for value in point]
        for point in points.tolist()
    ]
