"""What every kind of outline is drawn from, and one outline round lesions close together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recontour.geometry import polygonal, union
from recontour.grid import full_lattice
from recontour.simulation.severity import Severity
from recontour.simulation.shapes import bisect, buffered, without_holes
from recontour.types import Geometry, PatchGrid


@dataclass(frozen=True)
class Task:
    """What every kind works from. Lengths in px.

    `fine` is all lesions less `subtract`, without detail that no coarse outline shows.
    """

    lesions: tuple[Geometry, ...]
    fine: Geometry
    subtract: Geometry
    slide: Geometry | None
    tissue: Geometry | None
    dilation: float
    slip: float
    severity: Severity
    excess: float
    random: np.random.Generator


def grouped(task: Task) -> Geometry:
    """One outline round lesions that lie close together, as a hand draws it: no small holes.

    Gaps of up to two slips are bridged; of fine nests fewer, so that no more than
    `task.excess` of the outline is no lesion.
    """
    fine = task.fine
    wanted = area(task, fine) / (1 - task.excess)

    def outline(radius: float) -> Geometry:
        closed = buffered(buffered(fine, radius), -radius)
        return without_holes(union([closed, fine]), radius)

    return bisect(outline, lambda shape: area(task, shape) <= wanted, task.slip)


def area(task: Task, geometry: Geometry) -> float:
    """On tissue, where it is known: going round the glass between villi is no error."""
    if task.tissue is not None:
        return float(geometry.intersection(task.tissue).area)
    return float(geometry.area)


def clipped(task: Task, geometry: Geometry) -> Geometry:
    """Cut off at the edge of the slide."""
    if task.slide is None:
        return geometry
    return polygonal(geometry.intersection(task.slide))


def grid_over(
    task: Task, bounds: tuple[float, float, float, float], cell: int, margin: int
) -> PatchGrid:
    """Every cell over the bounds and `margin` cells around, in step with (0, 0), on the slide."""
    low = np.floor(np.array(bounds[:2]) / cell).astype(int) - margin
    high = np.ceil(np.array(bounds[2:]) / cell).astype(int) + margin
    if task.slide is not None:
        low = np.maximum(low, 0)
        high = np.minimum(high, np.ceil(np.array(task.slide.bounds[2:]) / cell).astype(int))
        high = np.maximum(high, low + 1)
    return full_lattice((int(low[0]), int(low[1])), (int(high[0]), int(high[1])), cell, 1.0)
