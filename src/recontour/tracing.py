"""From a label map and its probabilities to polygons with smooth borders.

The border runs where the probability, interpolated between the centres of cells, crosses the
threshold (contourpy). Off tissue counts as probability 0. Foreground is traced first and then
divided among the classes, so that neighbours share their border exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import shapely
from numpy.typing import NDArray

from recontour.geometry import SNAP_PX, polygonal, simplify_shared, snap
from recontour.postprocess import Rules
from recontour.types import Geometry, PatchGrid

T = TypeVar("T", bound=np.generic)

MARGIN_CELLS = 0.1
"""No border passes a cell's centre closer than 0.1 cell along the lattice (0.07 across it).

So a simplification within a twentieth of a cell cannot move a centre to the other side, and the
polygons say of every cell what the label map says.
"""

FINE_CELLS = 1_000_000
"""Larger areas (in cells of the lattice) are interpolated less finely; their cells are small."""


def trace_regions(
    grid: PatchGrid,
    probs: NDArray[np.floating],
    labels: NDArray[np.int8],
    rules: Rules,
    *,
    slide_size: tuple[int, int] | None = None,
) -> list[Geometry]:
    """Outline the cells of each class.

    The label map decides which cells are in, the probabilities where between two cells the
    border runs: removed specks stay removed, filled holes stay filled, other holes are kept. At
    the edge of the lattice an area ends at the edge.

    Parameters
    ----------
    grid : n cells
    probs : (n, K), smoothed: what `labels` was decided from
    labels : int8 (rows, cols), 0 background
    rules : for the threshold and the tolerance of the simplification
    slide_size : (width, height), level-0 px; the lattice may reach past the slide, the areas do not

    Returns
    -------
    K - 1 geometries in level-0 px, one for each class k >= 1, empty where it has no cell. Valid
    on the 0.01-px grid; no two overlap by more than its rounding.
    """
    classes = probs.shape[1] - 1
    if labels.shape != grid.shape:
        raise ValueError(f"labels must be {grid.shape}, not {labels.shape}")
    fields = [_lay_out(grid, probs[:, k]) for k in range(1, classes + 1)]
    foreground = np.sum(fields, axis=0) - rules.threshold
    inside = labels > 0
    areas = [_trace(grid, foreground, inside, slide_size)]
    for k in range(1, classes):  # one class against all that come after it
        rest, area = inside & (labels >= k), areas.pop()
        if not (rest & (labels == k)).any():
            areas += [shapely.Polygon(), area]
        elif not (rest & (labels > k)).any():
            areas += [area, shapely.Polygon()]
        else:
            # Each cell's rival is the class across the nearest border, not its own second best:
            # the border then runs where those two are equal.
            rival = _extend(labels, labels > k)
            against = fields[k - 1] - np.choose(rival - k - 1, fields[k:])
            own = _trace(grid, _extend(against, rest), _extend(labels == k, rest), None)
            areas += [polygonal(area.intersection(own)), polygonal(area.difference(own))]
    if classes > 2:
        areas = _match_borders(areas)
    if rules.simplify_px > 0:
        areas = simplify_shared(areas, rules.simplify_px)
    return [snap(area) for area in areas]


def _lay_out(grid: PatchGrid, values: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.nan_to_num(grid.scatter(values), nan=0.0).astype(np.float64)


def _extend(values: NDArray[T], known: NDArray[np.bool_]) -> NDArray[T]:
    """Give every cell that is not `known` the value of the nearest one that is.

    Between two classes the border of others must not be felt: a third class would get slivers.
    """
    from scipy.ndimage import distance_transform_edt

    if known.all():
        return values
    nearest = distance_transform_edt(~known, return_distances=False, return_indices=True)
    extended: NDArray[T] = values[tuple(nearest)]
    return extended


def _trace(
    grid: PatchGrid,
    field: NDArray[np.float64],
    inside: NDArray[np.bool_],
    slide_size: tuple[int, int] | None,
) -> Geometry:
    """Area where `field`, interpolated, is positive; its sign at the centres is that of `inside`.

    The area is cut at the edge of the lattice, or of the slide.
    """
    import contourpy

    if not inside.any():
        return shapely.Polygon()
    height = float(np.abs(field).max()) or 1.0
    # Where the label map overrules the field, the cell is as sure as can be.
    size = np.where(inside == (field > 0), np.maximum(np.abs(field), 1e-6 * height), height)
    field = _keep_off_centres(np.where(inside, size, -size))
    first, field = _crop(field, inside)
    # The last cells are continued past the edge and closed there; the edge then cuts them.
    field, finer = _finer(np.pad(field, 1, mode="edge"))
    field = np.pad(field, 1, constant_values=-height)
    generator = contourpy.contour_generator(
        z=field, name="serial", fill_type=contourpy.FillType.ChunkCombinedOffsetOffset
    )
    points, rings, polygons = (chunk[0] for chunk in generator.filled(0.0, np.inf))
    assert points is not None
    assert rings is not None
    assert polygons is not None
    cells = (points - 1) / finer - 0.5 + first
    coords = np.asarray(grid.origin) + cells * grid.stride
    parts = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, coords, (rings.astype(np.int64), polygons.astype(np.int64))
    )
    return _cut(parts, _frame(grid, slide_size))


def _crop(
    field: NDArray[np.float64], inside: NDArray[np.bool_]
) -> tuple[tuple[int, int], NDArray[np.float64]]:
    """The part of `field` that matters for the area, and (col, row) of its corner."""
    rows, cols = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    # Two cells around: the border lies within one, and its slope there depends on the next.
    r, c = max(rows[0] - 2, 0), max(cols[0] - 2, 0)
    return (int(c), int(r)), field[r : rows[-1] + 3, c : cols[-1] + 3]


def _finer(field: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """Interpolate between the centres by monotone cubics: smooth, and without a new extremum.

    So the border curves as a drawn one does, and between four cells of one side no island of the
    other can appear. Returns the finer field and how many steps it has from centre to centre.
    """
    from scipy.interpolate import PchipInterpolator

    finer = 4 if field.size <= FINE_CELLS else 2 if field.size <= 4 * FINE_CELLS else 1
    for axis in (0, 1):
        at = np.arange(field.shape[axis])
        steps = np.linspace(0, at[-1], at[-1] * finer + 1)
        if finer > 1:
            field = PchipInterpolator(at, field, axis=axis)(steps)
    return field, finer


def _keep_off_centres(field: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move values away from 0 where the border would pass a centre closer than `MARGIN_CELLS`.

    Between +a and -b it passes the first centre at a / (a + b) cells, so a must not be less than
    b times `MARGIN_CELLS / (1 - MARGIN_CELLS)`. Elsewhere nothing changes.
    """
    ratio = MARGIN_CELLS / (1 - MARGIN_CELLS)
    index = np.arange(field.size).reshape(field.shape)
    one = np.concatenate([index[:-1].ravel(), index[:, :-1].ravel()])
    other = np.concatenate([index[1:].ravel(), index[:, 1:].ravel()])
    flat = field.ravel()
    crossed = (flat[one] > 0) != (flat[other] > 0)
    one, other = one[crossed], other[crossed]
    one, other = np.concatenate([one, other]), np.concatenate([other, one])
    size = np.abs(flat)
    while True:  # few rounds: what one value asks of the next falls to a ninth each time
        least = ratio * size[other]
        if (size[one] >= least).all():
            return np.copysign(size, flat).reshape(field.shape)
        np.maximum.at(size, one, least)


def _frame(grid: PatchGrid, slide_size: tuple[int, int] | None) -> tuple[float, ...]:
    rows, cols = grid.shape
    x, y = grid.origin
    x1, y1 = x + cols * grid.stride, y + rows * grid.stride
    if slide_size is None:
        return x, y, x1, y1
    return max(x, 0.0), max(y, 0.0), min(x1, slide_size[0]), min(y1, slide_size[1])


def _cut(parts: NDArray[np.object_], frame: tuple[float, ...]) -> Geometry:
    """The disjoint polygons `parts` within a rectangle."""
    x0, y0, x1, y1 = shapely.bounds(parts).T
    outside = (x0 < frame[0]) | (y0 < frame[1]) | (x1 > frame[2]) | (y1 > frame[3])
    parts[outside] = shapely.intersection(parts[outside], shapely.box(*frame))
    return polygonal(shapely.multipolygons(shapely.get_parts(parts[~shapely.is_empty(parts)])))


def _match_borders(areas: Sequence[Geometry]) -> list[Geometry]:
    """Give borders that run together the same points, on the 0.01-px grid.

    Where the border between two classes meets that of a third, only the two have a point there;
    to be simplified together all three need it.
    """
    borders = [shapely.boundary(area) for area in areas if not area.is_empty]
    lines = shapely.union_all(borders, grid_size=SNAP_PX)
    faces = shapely.get_parts(shapely.polygonize(shapely.get_parts(lines)))
    x, y = shapely.get_coordinates(shapely.point_on_surface(faces)).T
    matched = []
    for area in areas:
        shapely.prepare(area)
        mine = faces[shapely.contains_xy(area, x, y)]
        matched.append(polygonal(shapely.coverage_union_all(mine)))
    return matched
