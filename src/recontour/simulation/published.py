"""The LC-MIL paper's simulated outline (arXiv 2109.10778), as its authors released it."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from recontour.geometry import polygonal, union
from recontour.grid import label_patches
from recontour.simulation.severity import PUBLISHED_CELLS
from recontour.simulation.shapes import contour
from recontour.simulation.task import Task, grid_over
from recontour.types import Geometry


def published(task: Task) -> Geometry:
    """The authors' outline, to the letter.

    Found out by comparison with the outlines they released for CAMELYON16: lesions are drawn on
    the grid by their label rule, exclusions are cut out; of the 8-connected components the one
    with most cells is kept, dilated by a square, and the convex hull of its cells is drawn with
    its border. The outline runs through the border cells, and a cell stands for its upper left
    corner.
    """
    from scipy import ndimage

    cell = max(1, round(task.dilation / PUBLISHED_CELLS))
    grid = grid_over(task, task.fine.bounds, cell, PUBLISHED_CELLS + 2)
    labels = label_patches(grid, [task.lesions], "published", exclusions=[task.subtract])
    if not labels.any():
        # All is thinner than two cells: their rule loses it, whoever draws an outline does not.
        labels = label_patches(grid, [[task.fine.buffer(cell)]])
    square = np.ones((3, 3), bool)
    components, _ = ndimage.label(grid.scatter(labels) == 1, square)
    largest = 1 + np.argsort(-np.bincount(components.ravel())[1:], kind="stable")
    outlines = []
    for component in largest[: task.severity.lesions]:
        grown = ndimage.binary_dilation(components == component, square, iterations=PUBLISHED_CELLS)
        rows, cols = np.nonzero(grown)
        hull = shapely.MultiPoint(np.stack([cols, rows], axis=1)).convex_hull
        corners = _through_border_cells(_drawn(hull, grown.shape))
        outlines.append(polygonal(shapely.transform(corners, lambda xy: xy * cell + grid.origin)))
    return union(outlines)


def _drawn(polygon: Any, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The cells of a hull and of its border line, on a lattice of one px a cell."""
    from PIL import Image, ImageDraw

    image = Image.new("1", (shape[1], shape[0]), 0)
    points = [(float(x), float(y)) for x, y in shapely.get_coordinates(polygon)]
    if len(points) > 1:
        ImageDraw.Draw(image).polygon(points, fill=1, outline=1)
    return np.array(image, dtype=bool)


def _through_border_cells(mask: NDArray[np.bool_]) -> Geometry:
    """The ring through the outermost cells of a mask; a cell is the point (col, row)."""
    # Just below 1 the contour runs along the cells that are set; rounding puts it on them.
    ring = contour(mask.astype(float), 1 - 1e-6)
    return polygonal(shapely.make_valid(shapely.transform(ring, np.round)))
