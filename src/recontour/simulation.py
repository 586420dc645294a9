"""Coarse outlines made from fine ones, for experiments.

`published` is what the LC-MIL paper (arXiv 2109.10778) refines: keep the largest lesion, dilate,
take the convex hull. The other kinds are the ways in which quick hand-drawn outlines go wrong.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import affinity

from recontour.errors import AnnotationError, UnknownNameError, UsageError
from recontour.geometry import polygonal, snap, union
from recontour.grid import full_lattice, label_patches
from recontour.recipe import Recipe
from recontour.types import Annotation, Geometry, PatchGrid, Region, iter_polygons

KINDS = ("published", "missed", "generous", "tight", "shifted", "wobbly", "flipped")

PUBLISHED_CELLS = 5
"""The published dilation: an 11 x 11 square, five cells on each side."""
PUBLISHED_UM = 311.0
"""µm, those five cells of 256 px at the 0.243 µm/px of CAMELYON16."""
FIELD_SHARE = 16
"""On a slide whose short side is less than this many dilations, the dilation shrinks with it."""
LESION_SHARE = 6
"""Hand-drawn errors are at most the lesion's size (root of its area) divided by this."""

SHIFT_SLIPS = 1.5
VALID_SHARE = 0.55
"""More than the half that makes an outline valid, as cells and areas do not count alike."""
LEFT_SHARE = 0.25
"""Of what is no lesion, so much is at least left outside: slivers hold no cell's centre."""
VALID_STEPS = (0.7, 0.5, 0.35, 0.25, 0.15)
GROUP_EXCESS = 0.3
"""Kinds that add errors of their own start from outlines that are at most this wrong."""

_NAMESPACE = uuid.UUID("6f0c7c52-7a3f-5c1e-9d52-0b9a3f2f4c11")


@dataclass(frozen=True)
class Severity:
    """How wrong the outline becomes. Lengths in µm; None: from the slide and the lesion.

    Attributes
    ----------
    dilation_um : `published`: how far the lesion is dilated before the hull. None: 311 µm, or a
        sixteenth of the slide's short side where that is less
    slip_um : all others: the length by which a hand goes wrong. None: the default dilation, but no
        more than a sixth of the lesion's size. A group of lesions closer together than twice this
        is outlined as one
    lesions : `published`: how many of the largest lesions are kept
    cut : share of each lesion cut off by a straight line first (PAIP2020: 0.5)
    drop : `missed`: share of the lesions' area left out, about
    excess : `generous`: share of the outline that is no lesion
    keep : `tight`: share of the area that stays inside
    flip : `flipped`: share of the outlined area left out; as much is put in elsewhere
    valid : all but `published`: make the errors smaller, in steps, until the outline is valid in
        the paper's sense (PPV and NPV over one half, by area, with a margin); of a lesion that
        covers nearly all tissue little can be missed. Off tissue and off the slide do not count
    """

    dilation_um: float | None = None
    slip_um: float | None = None
    lesions: int = 1
    cut: float = 0.0
    drop: float = 0.4
    excess: float = 0.35
    keep: float = 0.5
    flip: float = 0.25
    valid: bool = True

    def __post_init__(self) -> None:
        for name in ("cut", "drop", "excess", "keep", "flip"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise UsageError(f"{name} {value:g} is no share; pass a number from 0 up to 1")
        for name in ("dilation_um", "slip_um"):
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value >= 0):
                raise UsageError(f"{name} {value:g} is no length; pass a number of µm, 0 or more")
        if self.lesions < 1:
            raise UsageError(f"lesions {self.lesions}: at least one must be kept")


@dataclass(frozen=True)
class _Task:
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


def simulate_coarse(
    fine: Annotation,
    *,
    kind: str,
    seed: int = 0,
    mpp: float,
    size: tuple[int, int] | None = None,
    tissue: Geometry | None = None,
    severity: Severity | None = None,
    classes: Sequence[str] = (),
    exclude: Sequence[str] = Recipe().exclude_classes,
) -> Annotation:
    """Make a coarse outline of every class of `fine`.

    - `published`: the largest lesion, dilated, its convex hull; on the grid, as the authors did:
      equal to the outlines that they released, vertex by vertex where the slide's size is known.
    - `missed`: some of the lesions are not there.
    - `generous`: a hull round the lesions, with bays and gaps filled, and more.
    - `tight`: only the cores.
    - `shifted`: outlined in groups, and displaced.
    - `wobbly`: outlined in groups by an unsteady hand.
    - `flipped`: outlined in groups; blocks inside are left out and as many put in elsewhere.

    The same arguments give the same outlines, ids included. Outlines of several classes may
    overlap, as drawn ones do.

    Parameters
    ----------
    fine : level-0 px
    kind : one of `KINDS`
    seed : of everything drawn at random
    mpp : µm/px
    size : (width, height) of the slide, px: outlines are cut off there
    tissue : level-0 px: where `flipped` puts blocks
    severity : how wrong; None: the defaults, which leave most outlines valid
    classes : those to outline; empty: all that are not excluded
    exclude : shell patterns, any case: regions cut out of the lesions

    Raises
    ------
    UnknownNameError : no such kind or class
    AnnotationError : nothing to outline
    """
    if kind not in KINDS:
        raise UnknownNameError.of("kind of coarse outline", kind, KINDS)
    if not (np.isfinite(mpp) and mpp > 0):
        raise UsageError(f"mpp {mpp:g} is no pixel size; pass a number of µm/px above 0")
    severity = severity or Severity()
    left_out = [r for r in fine.regions if _matches(r.label, exclude)]
    by_class: dict[str | None, list[Region]] = {}
    for region in fine.regions:
        if not _matches(region.label, exclude) and (not classes or _matches(region.label, classes)):
            by_class.setdefault(region.label, []).append(region)
    known = sorted({str(r.label) for r in fine.regions})
    for name in classes:
        if not any(_matches(label, [name]) for label in by_class):
            raise UnknownNameError.of("class", name, known)
    if not by_class:
        raise AnnotationError(f"{fine.source or fine.slide_id} has no region to outline")

    dilation = severity.dilation_um
    if dilation is None:
        dilation = PUBLISHED_UM
        if size is not None:
            dilation = min(dilation, min(size) * mpp / FIELD_SHARE)
    subtract = union([r.geometry for r in left_out])
    regions: list[Region] = []
    for label, group in sorted(by_class.items(), key=lambda item: str(item[0])):
        lesion = union([r.geometry for r in group])
        if not subtract.is_empty:
            lesion = polygonal(lesion.difference(subtract))
        if lesion.is_empty:
            continue
        slip = severity.slip_um
        if slip is None:
            slip = min(dilation, np.sqrt(lesion.area) * mpp / LESION_SHARE)
        # Seeded by the class, so that a class gets the same outline whatever else is drawn.
        source = [seed, KINDS.index(kind), *str(label).encode()]
        lesions = [r.geometry for r in group]
        if severity.cut:
            lesion = _cut(lesion, severity.cut, np.random.default_rng([*source, 1]))
            lesions = list(iter_polygons(lesion))
        task = _Task(
            lesions=tuple(lesions),
            fine=_lighter(lesion, slip / mpp),
            subtract=subtract,
            slide=None if size is None else shapely.box(0, 0, *size),
            tissue=None if tissue is None else _lighter(tissue, slip / mpp),
            dilation=dilation / mpp,
            slip=slip / mpp,
            severity=severity,
            excess=GROUP_EXCESS,
            random=np.random.default_rng(source),
        )
        outline = _outline(task, kind, source)
        outline = snap(outline)
        if outline.is_empty:
            continue
        classification = group[0].properties.get("classification")
        for part in iter_polygons(outline):
            name = f"{fine.slide_id}/{kind}/{seed}"
            regions.append(_region(part, label, classification, name, len(regions)))
    if not regions:
        raise AnnotationError(f"nothing is left of {fine.slide_id} by simulating {kind!r}")
    return Annotation(
        slide_id=fine.slide_id,
        regions=tuple(regions),
        source=f"simulated: {kind}, seed {seed}",
    )


def _outline(task: _Task, kind: str, source: Sequence[int]) -> Geometry:
    """Draw; where the outline must be valid and is not, draw with smaller errors."""
    severity = task.severity
    outline = _clipped(task, _KINDS[kind](task))
    if kind == "published" or not severity.valid:
        return outline
    for scale in VALID_STEPS:
        if _is_valid(task, outline):
            break
        milder = replace(
            task,
            slip=task.slip * scale,
            # More slowly: following every nest is what no hand does.
            excess=task.excess * scale**0.5,
            severity=replace(
                severity,
                drop=severity.drop * scale,
                excess=severity.excess * scale,
                keep=1 - (1 - severity.keep) * scale,
                flip=severity.flip * scale,
            ),
            random=np.random.default_rng(list(source)),
        )
        outline = _clipped(task, _KINDS[kind](milder))
    return outline


def _is_valid(task: _Task, outline: Geometry) -> bool:
    """PPV and NPV by area; NPV only where it is known what lies outside."""
    ground = task.slide if task.tissue is None else _clipped(task, task.tissue)
    fine = task.fine
    if ground is None:
        return bool(outline.intersection(fine).area > VALID_SHARE * outline.area)
    if task.tissue is not None:
        outline, fine = outline.intersection(ground), fine.intersection(ground)
    right = outline.intersection(fine).area
    outside = ground.area - outline.area
    right_outside = outside - (fine.area - right)
    return bool(
        right > VALID_SHARE * outline.area
        and right_outside > VALID_SHARE * outside
        and right_outside > LEFT_SHARE * (ground.area - fine.area)
    )


def _published(task: _Task) -> Geometry:
    """The authors' outline, to the letter.

    Found out by comparison with the outlines they released for CAMELYON16: lesions are drawn on
    the grid by their label rule, exclusions are cut out; of the 8-connected components the one
    with most cells is kept, dilated by a square, and the convex hull of its cells is drawn with
    its border. The outline runs through the border cells, and a cell stands for its upper left
    corner.
    """
    from scipy import ndimage

    cell = max(1, round(task.dilation / PUBLISHED_CELLS))
    grid = _grid_over(task, task.fine.bounds, cell, PUBLISHED_CELLS + 2)
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


def _missed(task: _Task) -> Geometry:
    outline = _buffered(_grouped(task), task.slip / 2)
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
        kept += iter_polygons(_cut(large, min(0.9, (wanted - dropped) / large.area), task.random))
    return union(kept)


def _generous(task: _Task) -> Geometry:
    """Closed by a disc and dilated; the larger the disc, the nearer to the convex hull."""
    fine = task.fine
    wanted = _area(task, fine) / (1 - task.severity.excess)

    def outline(radius: float) -> Geometry:
        # A large disc rolls over what is small against it: leaving that out is 20 times faster.
        light = _lighter(fine, radius)
        grown = _buffered(_lighter(_buffered(light, 1.25 * radius), radius), -radius)
        return _clipped(task, union([_without_holes(grown, radius), fine]))

    return _bisect(
        outline, lambda shape: _area(task, shape) <= wanted, 4 * task.dilation + task.slip
    )


def _tight(task: _Task) -> Geometry:
    """Eroded until the wanted share of the lesion is left inside."""
    fine, group = task.fine, _grouped(task)
    limit = float(np.sqrt(group.area))
    wanted = fine.area * task.severity.keep
    source = group
    if task.slide is not None:
        # The lesion goes on beyond the slide's edge: nothing to shrink from there.
        wide = task.slide.buffer(2 * limit, join_style="mitre")
        around = wide.difference(task.slide.buffer(-task.slip / 4))
        source = union([group, polygonal(around)])
    return _bisect(
        lambda radius: polygonal(_buffered(source, -radius).intersection(group)),
        lambda shape: shape.intersection(fine).area >= wanted,
        limit,
    )


def _shifted(task: _Task) -> Geometry:
    angle = task.random.uniform(0, 2 * np.pi)
    far = SHIFT_SLIPS * task.slip
    return polygonal(affinity.translate(_grouped(task), far * np.cos(angle), far * np.sin(angle)))


def _wobbly(task: _Task) -> Geometry:
    """Signed distance to the outline, plus smooth noise, cut at zero."""
    from scipy import ndimage

    group = _grouped(task)
    x0, y0, x1, y1 = group.bounds
    cell = max(1, round(max(max(x1 - x0, y1 - y0) / 1000, task.slip / 10)))
    grid = _grid_over(task, group.bounds, cell, int(np.ceil(3 * task.slip / cell)) + 2)
    inside = grid.scatter(label_patches(grid, [[group]])) == 1
    distance = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
    noise = ndimage.gaussian_filter(task.random.standard_normal(inside.shape), task.slip / cell)
    noise *= task.slip / cell / max(float(noise.std()), 1e-12)
    drawn = _contour(distance + noise, 0.0)
    centres = shapely.transform(drawn, lambda xy: (xy + 0.5) * cell + grid.origin)
    return _without_holes(polygonal(centres), task.slip)


def _flipped(task: _Task) -> Geometry:
    group = _grouped(task)
    side = max(1, round(2 * task.slip))
    ground = group.envelope.buffer(4 * side, join_style="mitre")
    if task.slide is not None:
        ground = task.slide
    if task.tissue is not None:
        ground = task.tissue
    grid = _grid_over(task, union([polygonal(ground), group]).bounds, side, 0)
    inside = label_patches(grid, [[group]]) == 1
    outside = (label_patches(grid, [[polygonal(ground)]]) == 1) & ~inside
    flips = max(1, round(task.severity.flip * int(inside.sum())))
    out = task.random.permutation(np.flatnonzero(inside))[:flips]
    # Where little lies outside, half of it stays right.
    more = task.random.permutation(np.flatnonzero(outside))[: min(flips, int(outside.sum()) // 2)]
    return polygonal(group.difference(_blocks(grid, out)).union(_blocks(grid, more)))


_KINDS: Mapping[str, Callable[[_Task], Geometry]] = {
    "published": _published,
    "missed": _missed,
    "generous": _generous,
    "tight": _tight,
    "shifted": _shifted,
    "wobbly": _wobbly,
    "flipped": _flipped,
}


def _grouped(task: _Task) -> Geometry:
    """One outline round lesions that lie close together, as a hand draws it: no small holes.

    Gaps of up to two slips are bridged; of fine nests fewer, so that no more than
    `task.excess` of the outline is no lesion.
    """
    fine = task.fine
    wanted = _area(task, fine) / (1 - task.excess)

    def outline(radius: float) -> Geometry:
        closed = _buffered(_buffered(fine, radius), -radius)
        return _without_holes(union([closed, fine]), radius)

    return _bisect(outline, lambda shape: _area(task, shape) <= wanted, task.slip)


def _area(task: _Task, geometry: Geometry) -> float:
    """On tissue, where it is known: going round the glass between villi is no error."""
    if task.tissue is not None:
        return float(geometry.intersection(task.tissue).area)
    return float(geometry.area)


def _lighter(geometry: Geometry, slip: float) -> Geometry:
    """Without detail that no coarse outline shows, to be quick."""
    return polygonal(shapely.make_valid(geometry.simplify(slip / 20)))


def _buffered(geometry: Geometry, radius: float) -> Geometry:
    return polygonal(geometry.buffer(radius, quad_segs=6))


def _without_holes(geometry: Geometry, slip: float) -> Geometry:
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


def _cut(geometry: Geometry, share: float, random: np.random.Generator) -> Geometry:
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
    return _bisect(beyond, lambda shape: shape.area >= wanted, reach)


def _bisect(
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


def _clipped(task: _Task, geometry: Geometry) -> Geometry:
    if task.slide is None:
        return geometry
    return polygonal(geometry.intersection(task.slide))


def _grid_over(
    task: _Task, bounds: tuple[float, float, float, float], cell: int, margin: int
) -> PatchGrid:
    """Every cell over the bounds and `margin` cells around, in step with (0, 0), on the slide."""
    low = np.floor(np.array(bounds[:2]) / cell).astype(int) - margin
    high = np.ceil(np.array(bounds[2:]) / cell).astype(int) + margin
    if task.slide is not None:
        low = np.maximum(low, 0)
        high = np.minimum(high, np.ceil(np.array(task.slide.bounds[2:]) / cell).astype(int))
        high = np.maximum(high, low + 1)
    return full_lattice((int(low[0]), int(low[1])), (int(high[0]), int(high[1])), cell, 1.0)


def _blocks(grid: PatchGrid, indices: NDArray[np.intp]) -> Geometry:
    x, y = grid.centres[indices].T
    half = grid.stride / 2
    return union(shapely.box(x - half, y - half, x + half, y + half).tolist())


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
    ring = _contour(mask.astype(float), 1 - 1e-6)
    return polygonal(shapely.make_valid(shapely.transform(ring, np.round)))


def _contour(values: NDArray[np.float64], level: float) -> Geometry:
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


def _matches(label: str | None, patterns: Sequence[str]) -> bool:
    name = (label or "").casefold()
    return any(fnmatchcase(name, pattern.casefold()) for pattern in patterns)


def _region(
    geometry: Geometry, label: str | None, classification: Any, name: str, number: int
) -> Region:
    properties: dict[str, Any] = {"objectType": "annotation"}
    if classification is not None:
        properties["classification"] = classification
    return Region(
        id=str(uuid.uuid5(_NAMESPACE, f"{name}/{label}/{number}/{geometry.wkt}")),
        geometry=geometry,
        label=label,
        properties=properties,
    )
