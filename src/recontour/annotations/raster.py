"""Pixels to polygons along the pixel edges, and polygons to pixels by their centres. Exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import Polygon

from recontour.types import Geometry


def outline(mask: NDArray[np.bool_]) -> list[Polygon]:
    """Outline the True pixels of `mask`: no area is lost or won.

    Parameters
    ----------
    mask : bool (h, w)

    Returns
    -------
    Valid polygons with holes, one for each patch of pixels that share edges, in pixel
    coordinates: pixel [row, col] is the square from (col, row) to (col + 1, row + 1). Ordered by
    their topmost, then leftmost pixel.
    """
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return []
    top, left = int(rows[0]), int(cols[0])
    inside = np.pad(mask[top : rows[-1] + 1, left : cols[-1] + 1], 1)
    # The borders are straight runs of pixel edges between corners, where four pixels meet and a
    # border turns or two borders cross.
    level = inside[1:, :] != inside[:-1, :]  # edge between rows r and r + 1
    upright = inside[:, 1:] != inside[:, :-1]
    corner = (level[:, 1:] != level[:, :-1]) | (upright[1:, :] != upright[:-1, :])
    corner |= level[:, 1:] & level[:, :-1] & upright[1:, :] & upright[:-1, :]
    lines = np.concatenate([_runs(level, corner), _runs(upright.T, corner.T)[:, :, ::-1]])
    faces = np.asarray(
        shapely.get_parts(shapely.polygonize(shapely.linestrings(lines.astype(float))))
    )
    # Each face is all inside or all outside: the pixel at the inner side of an edge tells.
    points, face = shapely.get_coordinates(shapely.get_exterior_ring(faces), return_index=True)
    first = np.searchsorted(face, np.arange(len(faces)))
    ccw = shapely.is_ccw(shapely.get_exterior_ring(faces))
    start, step = points[first], np.sign(points[first + 1] - points[first])
    turned = np.stack([-step[:, 1], step[:, 0]], axis=1) * np.where(ccw, 1, -1)[:, None]
    middle = start + 0.5 * step + 0.5 * turned
    columns, lines_ = np.floor(middle).astype(int).T
    kept = faces[inside[lines_ + 1, columns + 1]]
    order = np.lexsort(_first_corner(kept))
    return list(shapely.transform(kept[order], lambda xy: np.add(xy, (left, top))))


def paint(pixels: NDArray[Any], geometry: Geometry, value: int) -> None:
    """Set the pixels whose centre lies inside `geometry` (pixel coordinates) to `value`.

    Even-odd along each row of centres. A centre exactly on a border belongs to the polygon at its
    right (below, on a level border), so that neighbours share out their common border.
    """
    height, width = pixels.shape
    if geometry.is_empty:
        return
    points, ring = shapely.get_coordinates(
        shapely.get_rings(shapely.get_parts(geometry)), return_index=True
    )
    same = ring[1:] == ring[:-1]
    a, b = points[:-1][same], points[1:][same]
    upper = np.where((a[:, 1] <= b[:, 1])[:, None], a, b)
    lower = np.where((a[:, 1] <= b[:, 1])[:, None], b, a)
    # Rows whose centre y = row + 0.5 has upper.y <= y < lower.y ... so that a corner counts once.
    first = np.clip(np.ceil(upper[:, 1] - 0.5), 0, height).astype(int)
    last = np.clip(np.ceil(lower[:, 1] - 0.5), 0, height).astype(int)
    count = last - first
    if count.sum() == 0:
        return
    edge = np.repeat(np.arange(len(count)), count)
    row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    share = (row + 0.5 - upper[edge, 1]) / (lower[edge, 1] - upper[edge, 1])
    x = upper[edge, 0] + share * (lower[edge, 0] - upper[edge, 0])
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(int)
    top, bottom = int(row.min()), int(row.max()) + 1
    crossings = np.bincount(
        (row - top) * (width + 1) + column, minlength=(bottom - top) * (width + 1)
    ).reshape(bottom - top, width + 1)
    inside = (np.cumsum(crossings, axis=1) % 2 == 1)[:, :width]
    pixels[top:bottom][inside] = value


def _runs(edges: NDArray[np.bool_], corner: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Straight runs of level edges as lines (n, 2, 2) of (x, y), cut at corners.

    edges[r, c] lies on the line y = r from x = c - 1 to x = c (one pixel of padding);
    corner[r, c] is the point (c, r).
    """
    starts = edges.copy()
    starts[:, 1:] &= ~edges[:, :-1] | corner
    ends = edges.copy()
    ends[:, :-1] &= ~edges[:, 1:] | corner
    row, begin = np.nonzero(starts)
    _, end = np.nonzero(ends)
    return np.stack(
        [np.stack([begin - 1, row], axis=1), np.stack([end, row], axis=1)], axis=1
    ).astype(np.int64)


def _first_corner(polygons: NDArray[np.object_]) -> tuple[NDArray[Any], NDArray[Any]]:
    bounds = shapely.bounds(polygons)
    return bounds[:, 0], bounds[:, 1]
