"""The lattice of cells: how large they are, which take part, and what an outline says of each.

A point on the border of a geometry counts as inside it (shapely's `intersects_xy`), so that the
cells between two regions that share a border belong to one of them and not to neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from recontour.errors import AnnotationError, GridError, UnknownNameError
from recontour.published_labels import RingSet, label_published
from recontour.types import Geometry, PatchGrid, Region, iter_polygons

CELL_UM = 32.0
"""µm: two to four nuclei across; fine enough for nests, coarse enough to tell them from stroma."""
COARSE_CELL_PX = 50
"""px: the cell where `CELL_UM` would be fewer than 32 px of a coarse slide."""
MAX_UPSAMPLING = 2.5
"""Beyond this an encoder sees blur; up to it, slides at 4 µm/px still work."""
MIN_CELLS, MAX_CELLS = 1000, 200_000
# 1,000, not 500: two BCSS regions have 512 and 560 cells of 32 µm; with cells of 16 µm LC-MIL
# reaches a mean F1 of .710 there instead of .674 (three kinds of outline, judged on 16-µm cells).
"""Fewer tissue cells are too few to learn from; more cost more than they tell."""
MIN_CELL_UM, MIN_CELL_PX = 8.0, 16
"""A cell is never halved below one nucleus or below what the slide resolves."""

MAX_LATTICE = 50_000_000
"""Cells of the full lattice; beyond it a cell is surely a slip of the user's (8 µm cells on the
largest slides are 40 million)."""

NARROW_VIEW = 0.9
"""Cells smaller than this share of what an encoder is meant to see are shown with surroundings."""

MAX_VIEW_PX = 8192
"""Of the window around a cell, as read; beyond it the resolution is surely a slip of the user's."""

LABEL_RULES = ("centre", "published")


@dataclass(frozen=True)
class GridChoice:
    """The cells chosen for a slide, and why.

    Attributes
    ----------
    cell_px : side of the cell that gets a label, level-0 px
    size_px : side of what the encoder sees, centred on the cell, level-0 px; at least `cell_px`
    mpp_embed : µm/px at which the slide is read for the encoder
    n_cells : cells whose centre lies on tissue
    reasons : one sentence for each decision, for the user
    """

    cell_px: int
    size_px: int
    mpp_embed: float
    n_cells: int
    reasons: tuple[str, ...]


def choose_cells(
    slide_mpp: float,
    slide_size: tuple[int, int],
    tissue: Geometry,
    *,
    encoder_mpp: float,
    cell_um: float | None = None,
    mpp_embed: float | None = None,
    patch_um: float | None = None,
    cell_px: int | None = None,
    patch_px: int | None = None,
    encoder_um: float | None = None,
    origin: tuple[float, float] = (0.0, 0.0),
) -> GridChoice:
    """Choose the side of a cell and the resolution it is read at.

    32 µm, read at the encoder's own µm/px. On a slide so coarse that 32 µm are fewer than 32 of
    its pixels, cells of 50 px, upsampled at most 2.5 times. Fewer than 1,000 tissue cells: the cell
    is halved until there are enough, down to 8 µm or 16 px; more than 200,000: it is doubled.

    Parameters
    ----------
    slide_mpp : µm per level-0 px
    slide_size : (width, height), level-0 px
    tissue : level-0 px
    encoder_mpp : µm/px the encoder is meant for
    cell_um, mpp_embed : fixed by the user; win over every rule
    patch_um : side of what the encoder sees, where that is more than the cell
    cell_px, patch_px : the same in level-0 px, instead of in µm
    encoder_um : side of what the encoder is meant to see, where it says so: smaller cells are
        shown with their surroundings, unless the side is fixed
    origin : corner of the lattice, level-0 px

    Raises
    ------
    GridError : a fixed value makes no sense on this slide, or a side is fixed twice
    """
    check_sides(cell_um=cell_um, cell_px=cell_px, patch_um=patch_um, patch_px=patch_px)
    if mpp_embed is not None:
        _check_length("--mpp-embed", mpp_embed)
    cell_side = cell_um / slide_mpp if cell_um is not None else cell_px
    patch_side = patch_um / slide_mpp if patch_um is not None else patch_px
    reasons: list[str] = []

    def count(side: int) -> int:
        rows, cols = _lattice_shape(slide_size, side, origin)
        if rows * cols > MAX_LATTICE:
            raise GridError(
                f"cells of {_um(side, slide_mpp)} would make a lattice of {rows:,} x {cols:,}; "
                "pass a larger --cell-um"
            )
        return len(_cells_on(tissue, slide_size, side, origin)[0])

    if cell_side is not None:
        cell = round(cell_side)
        if cell < 1 or cell > 2 * max(slide_size):
            raise GridError(
                f"a cell of {cell_side * slide_mpp:g} µm is {cell_side:.3g} px of this slide "
                f"({slide_size[0]} x {slide_size[1]} px at {slide_mpp:g} µm/px); "
                f"pass --cell-um between {slide_mpp:g} and {max(slide_size) * slide_mpp:g}"
            )
        n = count(cell)
        reasons.append(f"cells of {_um(cell, slide_mpp)}: as asked for")
        if n < MIN_CELLS:
            reasons.append(f"only {n} tissue cells: few to learn from")
        elif n > MAX_CELLS:
            reasons.append(f"{n:,} tissue cells: this takes long and much memory")
    else:
        cell = round(CELL_UM / slide_mpp)
        if CELL_UM / slide_mpp < 31.5:
            cell = COARSE_CELL_PX
            reasons.append(
                f"cells of {_um(cell, slide_mpp)}: the slide is coarse ({slide_mpp:g} µm/px), "
                f"{CELL_UM:g} µm would be {CELL_UM / slide_mpp:.3g} px"
            )
        else:
            reasons.append(f"cells of {_um(cell, slide_mpp)}: the default")
        cell, n = _adapt(cell, slide_mpp, count, reasons)
    if mpp_embed is None:
        mpp_embed, reason = _resolution(slide_mpp, encoder_mpp)
    else:
        reason = f"read at {mpp_embed:g} µm/px: as asked for"
        if mpp_embed * MAX_UPSAMPLING < slide_mpp:
            reason += f" (the slide is magnified {slide_mpp / mpp_embed:.3g} times)"
    reasons.append(reason)
    size = cell
    if patch_side is not None:
        size = round(patch_side)
        if size < cell:
            asked = f"--patch-um {patch_um:g}" if patch_um is not None else f"--patch-px {patch_px}"
            raise GridError(
                f"{asked} is less than the cell of {_um(cell, slide_mpp)}: pass more, or a smaller "
                "--cell-um"
            )
        reasons.append(f"the encoder sees {_um(size, slide_mpp)} around each cell's centre")
    elif encoder_um is not None and cell * slide_mpp < NARROW_VIEW * encoder_um:
        size = round(encoder_um / slide_mpp)
        reasons.append(
            f"the encoder sees {_um(size, slide_mpp)} around each cell's centre, as it is meant to"
        )
    view = 2 * size * slide_mpp / mpp_embed
    if view > MAX_VIEW_PX:
        raise GridError(
            f"{_um(2 * size, slide_mpp)} around each cell would be {view:,.0f} px wide at "
            f"{mpp_embed:g} µm/px; pass a larger --mpp-embed or a smaller --cell-um"
        )
    return GridChoice(cell, size, float(mpp_embed), n, tuple(reasons))


def check_sides(
    *,
    cell_um: float | None = None,
    cell_px: int | None = None,
    patch_um: float | None = None,
    patch_px: int | None = None,
) -> None:
    """A side is a length, and given in µm or in level-0 px.

    Raises
    ------
    GridError : it is given in both, or is no length
    """
    sides: tuple[tuple[str, float | None, int | None], ...] = (
        ("cell", cell_um, cell_px),
        ("patch", patch_um, patch_px),
    )
    for name, um, px in sides:
        if um is not None and px is not None:
            raise GridError(f"--{name}-um {um:g} and --{name}-px {px}: pass one of them")
        for unit, value in (("um", um), ("px", px)):
            if value is not None:
                _check_length(f"--{name}-{unit}", value)


def _check_length(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise GridError(f"{name} {value:g} is not a length; pass a number above 0")


def make_grid(
    slide_size: tuple[int, int],
    slide_mpp: float,
    tissue: Geometry,
    choice: GridChoice,
    *,
    patch_px: int,
    origin: tuple[float, float] = (0.0, 0.0),
) -> PatchGrid:
    """Lay the lattice over the slide; the cells whose centre is on tissue take part.

    The lattice covers the whole slide, so its last row and column may reach past the edge; a cell
    whose centre is off the slide takes no part.

    Raises
    ------
    GridError : no cell has its centre on tissue
    """
    shape = _lattice_shape(slide_size, choice.cell_px, origin)
    rows, cols = _cells_on(tissue, slide_size, choice.cell_px, origin)
    if not len(rows):
        raise GridError(
            f"no cell of {_um(choice.cell_px, slide_mpp)} has its centre on tissue; "
            "pass a smaller --cell-um, or another --tissue"
        )
    return PatchGrid(
        origin=(float(origin[0]), float(origin[1])),
        shape=shape,
        rows=rows,
        cols=cols,
        stride=choice.cell_px,
        size=choice.size_px,
        patch_px=patch_px,
        mpp=slide_mpp,
        mpp_embed=choice.mpp_embed,
    )


def full_lattice(
    first: tuple[int, int], last: tuple[int, int], cell_px: int, mpp: float
) -> PatchGrid:
    """Every cell from `first` to before `last`, as (col, row) counted from level-0 (0, 0)."""
    shape = (last[1] - first[1], last[0] - first[0])
    rows, cols = np.indices(shape, dtype=np.int32).reshape(2, -1)
    return PatchGrid(
        origin=(float(first[0] * cell_px), float(first[1] * cell_px)),
        shape=shape,
        rows=rows,
        cols=cols,
        stride=cell_px,
        size=cell_px,
        patch_px=cell_px,
        mpp=mpp,
        mpp_embed=mpp,
    )


def label_patches(
    grid: PatchGrid,
    regions_by_class: Sequence[Sequence[Region | Geometry]],
    rule: str = "centre",
    *,
    exclusions: Sequence[Region | Geometry] = (),
) -> NDArray[np.int8]:
    """Turn outlines into a label for each cell.

    `centre`: a cell belongs to the region its centre is in (holes subtract, borders are inside);
    where regions overlap the smaller one wins. `published`: the LC-MIL authors' way, with Pillow
    on an image of one pixel a cell, which clears the outline and so loses about half a cell all
    round; a hole counts as an exclusion, and of overlapping classes the smaller in all wins.

    Parameters
    ----------
    grid : n cells
    regions_by_class : for each class k >= 1, its regions in level-0 px
    rule : "centre" or "published"
    exclusions : areas that are background whatever else says

    Returns
    -------
    int8 (n,), 0 background, k the class at `regions_by_class[k - 1]`

    Raises
    ------
    UnknownNameError : no such rule
    """
    if rule not in LABEL_RULES:
        raise UnknownNameError.of("label rule", rule, LABEL_RULES)
    by_class = [[_geometry(r) for r in regions] for regions in regions_by_class]
    if len(by_class) > np.iinfo(np.int8).max:
        raise GridError(f"{len(by_class)} classes are too many; at most 127 can be told apart")
    left_out = [_geometry(r) for r in exclusions]
    if rule == "published":
        return label_published(grid, _ring_sets(by_class, left_out))
    labels = np.zeros(len(grid), np.int8)
    painted = [(g, k) for k, geometries in enumerate(by_class, start=1) for g in geometries]
    # Painter's order: the smallest comes last and stays. Equal areas: the later class.
    painted.sort(key=lambda item: -item[0].area)
    for geometry, k in [*painted, *((g, 0) for g in left_out)]:
        labels[centres_inside(grid, geometry)] = k
    return labels


def centres_inside(grid: PatchGrid, geometry: Geometry) -> NDArray[np.intp]:
    """Indices of the cells whose centre is in `geometry` or on its border."""
    x, y = grid.centres.T
    found = np.zeros(len(grid), bool)
    for polygon in iter_polygons(geometry):
        x0, y0, x1, y1 = polygon.bounds
        near = np.flatnonzero((x >= x0) & (x <= x1) & (y >= y0) & (y <= y1))
        shapely.prepare(polygon)
        found[near[shapely.intersects_xy(polygon, x[near], y[near])]] = True
    return np.flatnonzero(found)


def coverage(grid: PatchGrid, geometry: Geometry) -> NDArray[np.float32]:
    """Fraction of each cell inside `geometry`, exactly.

    Green's theorem cell by cell: every edge is cut at the lattice lines; each piece adds the area
    between itself and the right side of its cell, and its height to all cells further right.

    Parameters
    ----------
    grid : n cells
    geometry : valid polygon in level-0 px; may be empty

    Returns
    -------
    float32 (n,) in [0, 1]

    Raises
    ------
    AnnotationError : `geometry` is not polygonal
    """
    if geometry.geom_type not in ("Polygon", "MultiPolygon"):
        raise AnnotationError(f"a {geometry.geom_type} covers no area; draw a polygon")
    rows, cols = grid.shape
    if geometry.is_empty:
        return np.zeros(len(grid), np.float32)
    start, end = _edges(geometry)
    origin = np.asarray(grid.origin)
    a, b = _cut_at_integers((start - origin) / grid.stride, (end - origin) / grid.stride)
    middle = (a + b) / 2
    height = b[:, 1] - a[:, 1]
    row = np.floor(middle[:, 1]).astype(np.int64)
    u = np.maximum(middle[:, 0], 0.0)  # left of the lattice: everything lies to the right
    col = np.floor(u).astype(np.int64)
    keep = (row >= 0) & (row < rows) & (col < cols)
    row, col, u, height = row[keep], col[keep], u[keep], height[keep]
    right = (col + 1 - u) * height
    index = row * (cols + 1) + col
    size = rows * (cols + 1)
    area = np.bincount(index, right, size) + np.bincount(index + 1, height - right, size)
    area = np.cumsum(area.reshape(rows, cols + 1), axis=1)[grid.rows, grid.cols]
    area[np.abs(area) < 1e-9] = 0.0  # rounding of the sums along a row
    fraction: NDArray[np.float32] = np.clip(area, 0.0, 1.0).astype(np.float32)
    return fraction


def _adapt(
    cell: int, mpp: float, count: Callable[[int], int], reasons: list[str]
) -> tuple[int, int]:
    """Halve or double the cell until the number of tissue cells is workable."""
    n = count(cell)
    smallest = max(MIN_CELL_PX, math.ceil(MIN_CELL_UM / mpp - 1e-9))
    if n < MIN_CELLS and cell > smallest:
        first = n
        while n < MIN_CELLS and cell > smallest:
            cell = max(round(cell / 2), smallest)
            n = count(cell)
        reasons.append(
            f"halved to {_um(cell, mpp)}: {first} tissue cells would be too few, now {n}"
        )
    if n < MIN_CELLS:
        reasons.append(f"only {n} tissue cells; smaller ones would show no more")
    elif n > MAX_CELLS:
        first = n
        while n > MAX_CELLS:
            cell *= 2
            n = count(cell)
        reasons.append(
            f"doubled to {_um(cell, mpp)}: {first:,} tissue cells would be too many, now {n:,}"
        )
    return cell, n


def _resolution(slide_mpp: float, encoder_mpp: float) -> tuple[float, str]:
    """µm/px to read at, and why."""
    if slide_mpp <= encoder_mpp * MAX_UPSAMPLING:
        return encoder_mpp, f"read at {encoder_mpp:g} µm/px: what the encoder is meant for"
    mpp = slide_mpp / MAX_UPSAMPLING
    return mpp, (
        f"read at {mpp:g} µm/px: the slide has {slide_mpp:g} µm/px and is magnified "
        f"{MAX_UPSAMPLING:g} times at most"
    )


def _um(px: int, mpp: float) -> str:
    return f"{px * mpp:.4g} µm ({px} px)"


def _lattice_shape(
    slide_size: tuple[int, int], cell_px: int, origin: tuple[float, float]
) -> tuple[int, int]:
    width, height = slide_size
    return (
        max(0, math.ceil((height - origin[1]) / cell_px)),
        max(0, math.ceil((width - origin[0]) / cell_px)),
    )


def _cells_on(
    tissue: Geometry, slide_size: tuple[int, int], cell_px: int, origin: tuple[float, float]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Rows and columns of the cells whose centre is on tissue and on the slide, in grid order."""
    rows, cols = _lattice_shape(slide_size, cell_px, origin)
    x = origin[0] + (np.arange(cols) + 0.5) * cell_px
    y = origin[1] + (np.arange(rows) + 0.5) * cell_px
    taken = np.zeros((rows, cols), bool)
    for polygon in iter_polygons(tissue):
        x0, y0, x1, y1 = polygon.bounds
        c0, c1 = np.searchsorted(x, x0), np.searchsorted(x, x1, "right")
        r0, r1 = np.searchsorted(y, y0), np.searchsorted(y, y1, "right")
        if c0 < c1 and r0 < r1:
            shapely.prepare(polygon)
            px, py = np.meshgrid(x[c0:c1], y[r0:r1])
            taken[r0:r1, c0:c1] |= shapely.intersects_xy(polygon, px, py)
    taken[:, (x < 0) | (x > slide_size[0])] = False
    taken[(y < 0) | (y > slide_size[1]), :] = False
    r, c = np.nonzero(taken)
    return r.astype(np.int32), c.astype(np.int32)


def _geometry(region: Region | Geometry) -> Geometry:
    geometry = region.geometry if isinstance(region, Region) else region
    if geometry.geom_type not in ("Polygon", "MultiPolygon"):
        raise AnnotationError(f"a {geometry.geom_type} encloses no cells; draw a polygon")
    return geometry


def _ring_sets(
    by_class: Sequence[Sequence[Geometry]], exclusions: Sequence[Geometry]
) -> list[RingSet]:
    """The rings of each class: holes count as exclusions."""
    left_out = [_points(p.exterior) for g in exclusions for p in iter_polygons(g)]
    sets = []
    for geometries in by_class:
        polygons = [p for geometry in geometries for p in iter_polygons(geometry)]
        holes = [_points(ring) for p in polygons for ring in p.interiors]
        area = math.fsum(geometry.area for geometry in geometries)
        sets.append(RingSet([_points(p.exterior) for p in polygons], [*holes, *left_out], area))
    return sets


def _points(ring: shapely.LinearRing) -> NDArray[np.float64]:
    points: NDArray[np.float64] = shapely.get_coordinates(ring)[:-1]  # without the closing point
    return points


def _edges(geometry: Geometry) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Start and end (m, 2) of every edge, area to the right of those that go up in y."""
    polygons = np.asarray(list(iter_polygons(geometry)), dtype=object)
    rings = shapely.get_rings(shapely.orient_polygons(polygons, exterior_cw=True))
    coords, ring = shapely.get_coordinates(rings, return_index=True)
    same = ring[1:] == ring[:-1]
    return coords[:-1][same], coords[1:][same]


def _cut_at_integers(
    a: NDArray[np.float64], b: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cut segments (m, 2) wherever x or y is an integer; the pieces, start and end."""
    ids = [np.arange(len(a))] * 2
    steps = [np.zeros(len(a)), np.ones(len(a))]
    for axis in (0, 1):
        low = np.minimum(a[:, axis], b[:, axis])
        first = np.floor(low).astype(np.int64) + 1
        crossings = np.ceil(np.maximum(a[:, axis], b[:, axis])).astype(np.int64) - first
        crossings = np.maximum(crossings, 0)
        which = np.repeat(np.arange(len(a)), crossings)
        nth = np.arange(len(which)) - np.repeat(np.cumsum(crossings) - crossings, crossings)
        line = first[which] + nth
        ids.append(which)
        steps.append((line - a[which, axis]) / (b[which, axis] - a[which, axis]))
    which, step = np.concatenate(ids), np.clip(np.concatenate(steps), 0.0, 1.0)
    order = np.lexsort((step, which))
    which, step = which[order], step[order]
    points = a[which] + step[:, None] * (b[which] - a[which])
    points[step == 1.0] = b[which[step == 1.0]]
    same = which[1:] == which[:-1]
    return points[:-1][same], points[1:][same]
