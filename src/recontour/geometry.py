"""Polygons that stay valid: repair, the 0.01-px grid, union, and simplifying without overlap.

QuPath (0.6 and later) reduces every geometry it imports to a grid of 0.01 px and refuses the file
when a ring is invalid, so all that is written goes through `snap`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from recontour.types import Geometry, iter_polygons

SNAP_DECIMALS = 2  # QuPath's grid: 0.01 px
SNAP_PX = 10.0**-SNAP_DECIMALS


def polygonal(geometry: BaseGeometry) -> Geometry:
    """Keep the polygons of `geometry`; points, lines and parts without area go.

    Returns
    -------
    Polygon when there is one part, MultiPolygon when there are several, an empty Polygon when
    there is none. Parts are not merged and not repaired.
    """
    if isinstance(geometry, Polygon) and not geometry.is_empty and geometry.area > 0:
        return geometry
    parts = []
    for part in shapely.get_parts(geometry, return_index=False).tolist():
        if isinstance(part, Polygon):
            parts.append(part)
        elif not isinstance(part, BaseGeometry) or hasattr(part, "geoms"):
            # a MultiPolygon or another collection inside a collection
            parts.extend(iter_polygons(polygonal(part)))
    parts = [part for part in parts if not part.is_empty and part.area > 0]
    if not parts:
        return Polygon()
    return parts[0] if len(parts) == 1 else MultiPolygon(parts)


def repair(geometry: BaseGeometry) -> tuple[Geometry, str | None]:
    """Make `geometry` valid and polygonal, keeping the area that its rings enclose.

    A ring that crosses itself keeps everything it goes round, also where it goes round twice: that
    is what the person who drew it meant. (The even-odd reading would punch holes there.) Holes are
    cut from the shells they belong to.

    Returns
    -------
    geometry : valid, level-0 px or any other frame; an empty Polygon when nothing has an area
    what : a sentence that says what was repaired, None when nothing was
    """
    if geometry.is_empty:
        return Polygon(), "it was empty"
    done: list[str] = []
    coordinates = shapely.get_coordinates(geometry, include_z=False)
    if not np.isfinite(coordinates).all():
        geometry = _without_bad_points(geometry)
        done.append("points that were not numbers were left out")
    if geometry.has_z:
        geometry = shapely.force_2d(geometry)
    kept = polygonal(geometry)
    if kept.is_empty and not _has_polygons(geometry):
        return Polygon(), "it was not a polygon"
    if kept.is_empty or not kept.is_valid:
        source = geometry if kept.is_empty else kept
        reason = shapely.is_valid_reason(source)
        # "structure" keeps doubly wound areas filled and does not turn overlaps into holes.
        kept = polygonal(shapely.make_valid(source, method="structure", keep_collapsed=False))
        if not kept.is_valid:
            # GEOS puts what a ring goes round one way beside what it goes round the other way.
            parts = [repair(part)[0] for part in iter_polygons(kept)]
            kept = polygonal(shapely.union_all(parts))
        if kept.is_empty:
            return Polygon(), "it had no area"
        done.append(_in_words(reason))
    if not done:
        return kept, None
    return kept, "; ".join(done)


def snap(geometry: Geometry) -> Geometry:
    """Put `geometry` on the 0.01-px grid so that it is valid there.

    Coordinates come back as the floats nearest to two decimals. A geometry that is valid with each
    point rounded by itself is returned like that (so that neighbours stay edge-matched and what is
    on the grid already is not touched); otherwise its lines are noded on the grid.

    Returns
    -------
    Valid Polygon or MultiPolygon (Polygon when there is one part); empty when nothing is left.
    """
    if geometry.is_empty:
        return Polygon()
    rounded = polygonal(_rounded(geometry))
    if _clean(rounded) and _parts(rounded) == _parts(geometry):
        return rounded
    source: BaseGeometry = geometry
    if not geometry.is_valid:
        source = repair(geometry)[0]
    for _ in range(4):
        try:
            # GEOS divides by lengths of 1e-169 px on the way; the result is checked below.
            with np.errstate(all="ignore"):
                reduced = shapely.set_precision(source, SNAP_PX, mode="valid_output")
        except shapely.GEOSException:
            reduced = shapely.make_valid(_rounded(polygonal(source)), method="structure")
        # Nothing more than a change of type: gives the precision model back, keeps the points.
        result = polygonal(_rounded(shapely.set_precision(reduced, 0, mode="pointwise")))
        if result.is_empty or _clean(result):
            return result
        source = repair(result)[0]
    # What keeps failing is thinner than the grid: leave those parts out.
    parts = [part for part in iter_polygons(polygonal(_rounded(polygonal(source)))) if _clean(part)]
    return polygonal(shapely.set_precision(shapely.union_all(parts), SNAP_PX))


def union(geometries: Iterable[Geometry]) -> Geometry:
    """Everything covered by at least one of `geometries` (valid); an empty Polygon for none."""
    given = [geometry for geometry in geometries if not geometry.is_empty]
    if not given:
        return Polygon()
    if len(given) == 1 and given[0].is_valid:
        return given[0]
    return polygonal(shapely.union_all([g if g.is_valid else repair(g)[0] for g in given]))


def simplify_shared(geometries: Sequence[Geometry], tolerance: float) -> list[Geometry]:
    """Leave points out of a set of polygons, moving no border by more than `tolerance`.

    Borders that two of them share are simplified once, so that neighbours neither overlap nor part.
    Where the points of shared borders do not match, the missing ones are added first.

    Parameters
    ----------
    geometries : valid; may touch, should not overlap (overlaps stay overlaps)
    tolerance : px, the largest distance between a border and its new course; 0: nothing is done

    Returns
    -------
    One valid geometry for each given one, in order; empty for empty.
    """
    if tolerance <= 0 or all(g.is_empty for g in geometries):
        return list(geometries)
    before = [_line_of(g) for g in geometries]
    arcs = _arcs(before)
    sides = _sides(arcs, geometries)
    matched = _rebuild(arcs, sides)
    coverage = bool(shapely.coverage_is_valid(np.array(matched, dtype=object)))
    # Simplifying can fail its checks only where lines lie closer than the tolerance: then less of
    # it is tried, and in the end nothing is changed.
    for share in (1.0, 0.5, 0.25, 0.1):
        lines = shapely.get_parts(
            shapely.simplify(
                shapely.multilinestrings(arcs), tolerance * share, preserve_topology=True
            )
        )
        if len(lines) != len(arcs):
            continue
        result = _rebuild(lines, sides)
        if coverage and not shapely.coverage_is_valid(np.array(result, dtype=object)):
            continue
        if all(
            _follows(old, line, new, tolerance)
            for old, line, new in zip(geometries, before, result, strict=True)
        ):
            return result
    return list(geometries)


def _has_polygons(geometry: BaseGeometry) -> bool:
    if isinstance(geometry, Polygon | MultiPolygon):
        return True
    return any(_has_polygons(part) for part in getattr(geometry, "geoms", ()))


def _parts(geometry: Geometry) -> tuple[int, int]:
    polygons = list(iter_polygons(geometry))
    return len(polygons), sum(len(polygon.interiors) for polygon in polygons)


def _clean(geometry: Geometry) -> bool:
    return not geometry.is_empty and bool(geometry.is_valid)


def _rounded(geometry: BaseGeometry) -> BaseGeometry:
    """Each point rounded by itself, then repeated points left out. May be invalid."""
    flat = shapely.force_2d(geometry)
    # + 0.0 turns -0.0 into 0.0.
    moved = shapely.transform(flat, lambda xy: np.round(xy, SNAP_DECIMALS) + 0.0)
    try:
        return shapely.remove_repeated_points(moved, 0.0)
    except shapely.GEOSException:  # a ring of one point
        return moved


def _without_bad_points(geometry: BaseGeometry) -> BaseGeometry:
    """Polygons with the points that are NaN or infinite left out of their rings."""
    polygons = []
    for polygon in _every_polygon(geometry):
        rings = [_finite_ring(ring) for ring in (polygon.exterior, *polygon.interiors)]
        if rings[0] is not None:
            polygons.append(Polygon(rings[0], [ring for ring in rings[1:] if ring is not None]))
    return MultiPolygon(polygons)


def _every_polygon(geometry: BaseGeometry) -> list[Polygon]:
    if isinstance(geometry, Polygon):
        return [] if geometry.is_empty else [geometry]
    return [p for part in getattr(geometry, "geoms", ()) for p in _every_polygon(part)]


def _finite_ring(ring: BaseGeometry) -> NDArray[np.float64] | None:
    points = shapely.get_coordinates(ring)
    points = points[np.isfinite(points).all(axis=1)]
    return points if len(np.unique(points, axis=0)) >= 3 else None


_REASONS = {
    "Self-intersection": "a ring crossed itself",
    "Ring Self-intersection": "a ring touched itself",
    "Hole lies outside shell": "a hole lay outside its outline",
    "Holes are nested": "a hole lay inside another",
    "Nested shells": "a part lay inside another",
    "Duplicate Rings": "a ring was there twice",
    "Interior is disconnected": "holes cut the inside apart",
    "Too few points in geometry component": "a ring had too few points",
    "Invalid Coordinate": "a coordinate was not a number",
}


def _in_words(reason: str) -> str:
    kind, _, place = reason.partition("[")
    words = _REASONS.get(kind.strip(), kind.strip().lower())
    if not place:
        return words
    at = ", ".join(f"{float(value):.0f}" for value in place.rstrip("]").split()[:2])
    return f"{words} at ({at})"


def _line_of(geometry: Geometry) -> BaseGeometry:
    return shapely.MultiLineString() if geometry.is_empty else shapely.boundary(geometry)


def _arcs(boundaries: Sequence[BaseGeometry]) -> NDArray[np.object_]:
    """Split all borders where they meet: each arc is there once, however many share it."""
    noded = shapely.union_all(boundaries)
    merged = shapely.line_merge(noded)
    arcs: NDArray[np.object_] = shapely.get_parts(merged)
    return arcs


def _sides(arcs: NDArray[np.object_], geometries: Sequence[Geometry]) -> NDArray[np.bool_]:
    """Whether each geometry lies left and right of each arc: (2, arcs, geometries)."""
    starts = shapely.get_coordinates(shapely.get_point(arcs, 0))
    step = shapely.get_coordinates(shapely.get_point(arcs, 1)) - starts
    normal = np.stack([-step[:, 1], step[:, 0]], axis=1)
    # A step aside too small to meet another line, even on the grid of 0.01 px.
    length = np.hypot(*step.T)[:, None]
    aside = normal / length * np.minimum(1e-4, length / 4)
    sides = np.zeros((2, len(arcs), len(geometries)), bool)
    for index, geometry in enumerate(geometries):
        shapely.prepare(geometry)
        for side, points in enumerate(
            (starts + step / 2 + aside, starts + step / 2 - aside),
        ):
            sides[side, :, index] = shapely.contains_xy(geometry, points)
    return sides


def _rebuild(lines: NDArray[np.object_], sides: NDArray[np.bool_]) -> list[Geometry]:
    """The geometries that lie left and right of `lines` as `sides` says."""
    faces = shapely.get_parts(shapely.polygonize(lines))
    points, line = shapely.get_coordinates(lines, return_index=True)
    same = line[1:] == line[:-1]
    ends = np.hstack([points[:-1], points[1:]])[same].tolist()
    # Which line, and which way along it, a step between two points is.
    steps = {tuple(end): (index, 0) for end, index in zip(ends, line[:-1][same], strict=True)}
    back = {(*end[2:], *end[:2]): (index, 1) for end, (index, _) in steps.items()}
    shells = shapely.get_exterior_ring(faces)
    first = np.hstack(
        [shapely.get_coordinates(shapely.get_point(shells, index)) for index in (0, 1)]
    )
    turn = np.where(shapely.is_ccw(shells), 0, 1)  # 0: the face is left of its shell
    parts: list[list[Polygon]] = [[] for _ in range(sides.shape[2])]
    for face, step, right in zip(faces, map(tuple, first.tolist()), turn, strict=True):
        index, reverse = steps.get(step) or back[step]
        for owner in np.flatnonzero(sides[right ^ reverse, index]):
            parts[owner].append(face)
    result: list[Geometry] = []
    for mine in parts:
        if not mine:
            result.append(Polygon())
            continue
        whole: Geometry = mine[0] if len(mine) == 1 else MultiPolygon(mine)
        result.append(whole if whole.is_valid else polygonal(shapely.union_all(mine)))
    return result


def _follows(old: Geometry, line: BaseGeometry, new: Geometry, tolerance: float) -> bool:
    """Whether `new` is valid, has the parts and holes of `old`, and keeps to its border.

    The points of `new` are points of `old`, so that looking at the points of `old` is enough.
    """
    if old.is_empty:
        return bool(new.is_empty)
    if not _clean(new) or _parts(new) != _parts(old):
        return False
    border = shapely.boundary(new)
    shapely.prepare(border)
    points = shapely.points(shapely.get_coordinates(line))
    return bool(np.all(shapely.dwithin(border, points, tolerance + 1e-6)))
