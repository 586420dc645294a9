"""Metrics on outlines as polygons, free of any grid."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from recontour.types import Geometry

MAX_SAMPLES = 20_000
"""Points laid on each boundary: the 95th percentile is then good to a few px on any slide."""


class BoundaryDistance(NamedTuple):
    """Distances between two boundaries, µm; NaN where one of them is empty."""

    mean: float
    hausdorff95: float


def polygon_iou(truth: Geometry, prediction: Geometry) -> float:
    """Area of the intersection over that of the union; NaN where both are empty."""
    common = shapely.intersection(truth, prediction).area
    whole = truth.area + prediction.area - common
    return float(common / whole) if whole else float("nan")


def polygon_dice(truth: Geometry, prediction: Geometry) -> float:
    """Twice the common area over the sum of both; NaN where both are empty."""
    common = shapely.intersection(truth, prediction).area
    whole = truth.area + prediction.area
    return float(2 * common / whole) if whole else float("nan")


def boundary_distance_um(
    truth: Geometry, prediction: Geometry, mpp: float, *, step_px: float | None = None
) -> BoundaryDistance:
    """How far apart two outlines run, holes included.

    Points are laid evenly on each boundary and measured to the nearest place on the other one. The
    mean is that of the two directions' means; `hausdorff95` the larger of their 95th percentiles
    (the plain Hausdorff distance hangs on one stray island).

    Parameters
    ----------
    truth, prediction : level-0 px
    mpp : µm per px
    step_px : distance between the points; None: so that each boundary gets at most `MAX_SAMPLES`,
        and no closer than 1 px
    """
    if truth.is_empty or prediction.is_empty:
        return BoundaryDistance(float("nan"), float("nan"))
    there = _distances(truth, prediction, step_px)
    back = _distances(prediction, truth, step_px)
    return BoundaryDistance(
        mean=float((there.mean() + back.mean()) / 2 * mpp),
        hausdorff95=float(max(np.percentile(there, 95), np.percentile(back, 95)) * mpp),
    )


def median_distance_um(
    truth: Geometry, prediction: Geometry, mpp: float, *, step_px: float | None = None
) -> float:
    """Median of the distances that `boundary_distance_um` takes the mean of, µm.

    The mean hangs on objects that one of the two lacks; the median on how well borders agree where
    both have one. NaN where one of them is empty.
    """
    if truth.is_empty or prediction.is_empty:
        return float("nan")
    there = _distances(truth, prediction, step_px)
    back = _distances(prediction, truth, step_px)
    return float((np.median(there) + np.median(back)) / 2 * mpp)


def _distances(start: Geometry, goal: Geometry, step_px: float | None) -> NDArray[np.float64]:
    step = step_px if step_px else max(1.0, start.length / MAX_SAMPLES)
    points = _points_along(start, step)
    starts, ends = _edges(goal)
    tree = shapely.STRtree(shapely.linestrings(np.stack([starts, ends], axis=1)))
    # Many pieces of a boundary can be equally near to a point; one distance is wanted.
    _, distance = tree.query_nearest(
        shapely.points(points), all_matches=False, return_distance=True
    )
    return np.asarray(distance, np.float64)


def _points_along(geometry: Geometry, step: float) -> NDArray[np.float64]:
    """(m, 2) points at even distances along all rings, one after the other."""
    starts, ends = _edges(geometry)
    reached = np.cumsum(np.hypot(*(ends - starts).T))
    count = max(4, int(np.ceil(reached[-1] / step)))
    along = (np.arange(count) + 0.5) * (reached[-1] / count)
    edge = np.searchsorted(reached, along)
    length = np.diff(reached, prepend=0.0)[edge]
    back = np.divide(reached[edge] - along, length, out=np.zeros(count), where=length > 0)
    points: NDArray[np.float64] = ends[edge] - back[:, None] * (ends - starts)[edge]
    return points


def _edges(geometry: Geometry) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Start and end (m, 2) of every straight piece of the boundary."""
    rings = shapely.get_rings(shapely.get_parts(geometry))
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    same = ring[1:] == ring[:-1]
    return xy[:-1][same], xy[1:][same]
