"""The ways in which quick hand-drawn outlines go wrong, one function each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import shapely
from shapely import affinity

from recontour.geometry import polygonal, union
from recontour.grid import label_patches
from recontour.simulation.published import published
from recontour.simulation.severity import SHIFT_SLIPS
from recontour.simulation.shapes import (
    bisect,
    blocks,
    buffered,
    contour,
    cut,
    lighter,
    without_holes,
)
from recontour.simulation.task import Task, area, clipped, grid_over, grouped
from recontour.types import Geometry, iter_polygons

KINDS = ("published", "missed", "generous", "tight", "shifted", "wobbly", "flipped")
SLIPPING = ("shifted", "wobbly")
"""Kinds whose error is the slip itself."""


def missed(task: Task) -> Geometry:
    """Some of the lesions left out; of a lone one a part, behind a straight line."""
    outline = buffered(grouped(task), task.slip / 2)
    parts = list(iter_polygons(outline))
    wanted = task.severity.drop * outline.area
    dropped, kept = 0.0, []
    for index in task.random.permutation(len(parts)):
        part = parts[index]
        if dropped + part.area <= wanted * 1.2:
            dropped += part.area
        else:
            kept.append(part)
    if dropped < wanted / 2:
        # One lesion, or one that outweighs the others: part of it is missed.
        kept.sort(key=lambda part: part.area)
        large = kept.pop()
        kept += iter_polygons(cut(large, min(0.9, (wanted - dropped) / large.area), task.random))
    return union(kept)


def generous(task: Task) -> Geometry:
    """Closed by a disc and dilated; the larger the disc, the nearer to the convex hull."""
    fine = task.fine
    wanted = area(task, fine) / (1 - task.severity.excess)

    def outline(radius: float) -> Geometry:
        # A large disc rolls over what is small against it: leaving that out is 20 times faster.
        light = lighter(fine, radius)
        grown = buffered(lighter(buffered(light, 1.25 * radius), radius), -radius)
        return clipped(task, union([without_holes(grown, radius), fine]))

    return bisect(outline, lambda shape: area(task, shape) <= wanted, 4 * task.dilation + task.slip)


def tight(task: Task) -> Geometry:
    """Eroded until the wanted share of the lesion is left inside."""
    fine, group = task.fine, grouped(task)
    limit = float(np.sqrt(group.area))
    wanted = fine.area * task.severity.keep
    source = group
    if task.slide is not None:
        # The lesion goes on beyond the slide's edge: nothing to shrink from there.
        wide = task.slide.buffer(2 * limit, join_style="mitre")
        around = wide.difference(task.slide.buffer(-task.slip / 4))
        source = union([group, polygonal(around)])
    return bisect(
        lambda radius: polygonal(buffered(source, -radius).intersection(group)),
        lambda shape: shape.intersection(fine).area >= wanted,
        limit,
    )


def shifted(task: Task) -> Geometry:
    """Displaced by one slip and a half, in any direction."""
    angle = task.random.uniform(0, 2 * np.pi)
    far = SHIFT_SLIPS * task.slip
    return polygonal(affinity.translate(grouped(task), far * np.cos(angle), far * np.sin(angle)))


def wobbly(task: Task) -> Geometry:
    """Signed distance to the outline, plus smooth noise, cut at zero."""
    from scipy import ndimage

    group = grouped(task)
    x0, y0, x1, y1 = group.bounds
    cell = max(1, round(max(max(x1 - x0, y1 - y0) / 1000, task.slip / 10)))
    grid = grid_over(task, group.bounds, cell, int(np.ceil(3 * task.slip / cell)) + 2)
    inside = grid.scatter(label_patches(grid, [[group]])) == 1
    distance = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
    noise = ndimage.gaussian_filter(task.random.standard_normal(inside.shape), task.slip / cell)
    noise *= task.slip / cell / max(float(noise.std()), 1e-12)
    drawn = contour(distance + noise, 0.0)
    centres = shapely.transform(drawn, lambda xy: (xy + 0.5) * cell + grid.origin)
    return without_holes(polygonal(centres), task.slip)


def flipped(task: Task) -> Geometry:
    """Blocks inside left out, and as many put in elsewhere."""
    group = grouped(task)
    side = max(1, round(2 * task.slip))
    ground = group.envelope.buffer(4 * side, join_style="mitre")
    if task.slide is not None:
        ground = task.slide
    if task.tissue is not None:
        ground = task.tissue
    grid = grid_over(task, union([polygonal(ground), group]).bounds, side, 0)
    inside = label_patches(grid, [[group]]) == 1
    outside = (label_patches(grid, [[polygonal(ground)]]) == 1) & ~inside
    flips = max(1, round(task.severity.flip * int(inside.sum())))
    out = task.random.permutation(np.flatnonzero(inside))[:flips]
    # Where little lies outside, half of it stays right.
    more = task.random.permutation(np.flatnonzero(outside))[: min(flips, int(outside.sum()) // 2)]
    return polygonal(group.difference(blocks(grid, out)).union(blocks(grid, more)))


DRAW: Mapping[str, Callable[[Task], Geometry]] = {
    "published": published,
    "missed": missed,
    "generous": generous,
    "tight": tight,
    "shifted": shifted,
    "wobbly": wobbly,
    "flipped": flipped,
}
