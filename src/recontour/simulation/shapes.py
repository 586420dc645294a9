"""What hands and straight lines do to a geometry, without knowing what it is of."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from recontour.geometry import polygonal, union
from recontour.types import Geometry, PatchGrid, iter_polygons


def lighter(geometry: Geometry, slip: float) -> Geometry:
    """Without detail that no coarse outline shows, to be quick."""
    return polygonal(shapely.make_valid(geometry.simplify(slip / 20)))


def buffered(geometry: Geometry, radius: float) -> Geometry:
    """Dilated by `radius`, or eroded where it is negative; corners round, to be quick."""
    return polygonal(geometry.buffer(radius, quad_segs=6))


def without_holes(geometry: Geometry, slip: float) -> Geometry:
    """A hand does not draw holes smaller than four slips across, nor specks of half a slip."""
    parts = [
        shapely.Polygon(
            part.exterior,
            [ring for ring in part.interiors if shapely.Polygon(ring).area > (4 * slip) ** 2],
        )
        for part in iter_polygons(geometry)
    ]
    large = [part for part in parts if part.area >= (slip / 2) ** 2]
    return union(large or parts)


def cut(geometry: Geometry, share: float, random: np.random.Generator) -> Geometry:
    """What is left when a straight line in a random direction cuts off a share of the area."""
    angle = random.uniform(0, 2 * np.pi)
    x0, y0, x1, y1 = geometry.bounds
    middle, reach = np.array([(x0 + x1) / 2, (y0 + y1) / 2]), np.hypot(x1 - x0, y1 - y0)
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])

    def beyond(offset: float) -> Geometry:
        start = middle + (offset - reach / 2) * along
        corners = [start - reach * across, start + reach * across]
        corners += [corners[1] + 2 * reach * along, corners[0] + 2 * reach * along]
        return polygonal(geometry.intersection(shapely.Polygon(corners)))

    wanted = geometry.area * (1 - share)
    return bisect(beyond, lambda shape: shape.area >= wanted, reach)


def bisect(
    outline: Callable[[float], Geometry], fits: Callable[[Geometry], bool], limit: float
) -> Geometry:
    """The outline at the largest value from 0 to `limit` that fits, to a thousandth."""
    best = outline(limit)
    if fits(best):
        return best
    low, high, best = 0.0, limit, outline(0.0)
    for _ in range(10):
        middle = (low + high) / 2
        shape = outline(middle)
        if fits(shape):
            low, best = middle, shape
        else:
            high = middle
    return best


def blocks(grid: PatchGrid, indices: NDArray[np.intp]) -> Geometry:
    """The squares of some cells."""
    x, y = grid.centres[indices].T
    half = grid.stride / 2
    return union(shapely.box(x - half, y - half, x + half, y + half).tolist())


def contour(values: NDArray[np.float64], level: float) -> Geometry:
    """Where `values` are above `level`; (x, y) = (col, row). Nothing is above it outside."""
    import contourpy

    padded = np.pad(values, 1, constant_values=min(level - 1, float(values.min())))
    generator = contourpy.contour_generator(z=padded, fill_type=contourpy.FillType.OuterOffset)
    filled: Any = generator.filled(level, float(padded.max()) + 1)
    parts = []
    for xy, offset in zip(*filled, strict=True):
        rings = [xy[a:b] - 1 for a, b in itertools.pairwise(offset)]
        parts.append(shapely.Polygon(rings[0], rings[1:]))
    return union([polygonal(shapely.make_valid(part)) for part in parts])
