"""Outlines that nobody should trust, by a fixed recipe: what a check of validity must notice.

Each is drawn by an unsteady hand (`wobbly` of `simulate_coarse`) and then wrong as a whole, as
outlines are that were saved with the wrong class, under the wrong name or in the wrong frame.
`BAD_OUTLINES` names them all: the committed recipe that figures on invalid outlines refer to. What
a kind does may still be half right on a slide: `is_valid` tells, cell by cell.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import affinity

from recontour.errors import AnnotationError, UnknownNameError, UsageError
from recontour.geometry import polygonal, snap, union
from recontour.grid import centres_inside, full_lattice
from recontour.metrics.cells import label_metrics, valid
from recontour.recipe import Recipe
from recontour.simulation.coarse import matches, region_of, simulate_coarse
from recontour.simulation.shapes import buffered, contour
from recontour.types import Annotation, Geometry, Region, iter_polygons

BAD_KINDS = ("flipped", "other", "shifted", "blob", "main_missed")
SHIFT_SHARE = 3
"""`shifted`: by the lesion's size (root of its area) divided by this."""
RAYS = 16
"""`shifted`: directions that are tried for one that stays on the slide."""
BLOB_CELLS = 128
"""`blob`: cells along the slide's long side."""
BLOB_SMOOTH = 6.0
"""`blob`: σ of its noise, in those cells; bays and bumps are about three times as wide."""
BLOB_ROUGH = 0.3
"""`blob`: s.d. of its noise, in radii of a disc of its area."""
LEAST_KEPT = 0.1
"""`main_missed`: with less of the outline left, a decoy is drawn on other tissue."""
DECOY_SHARE = 0.5
"""`main_missed`: area of the decoy, in areas of the lesion that is missed."""


@dataclass(frozen=True)
class BadOutline:
    """One line of the recipe.

    Attributes
    ----------
    name : unique
    kind : one of `BAD_KINDS`
    fitted : `other`: the other slide's outline is scaled to this slide's size
    """

    name: str
    kind: str
    fitted: bool = True


BAD_OUTLINES = (
    BadOutline("flipped", "flipped"),
    BadOutline("other_fitted", "other"),
    BadOutline("other_as_it_is", "other", fitted=False),
    BadOutline("shifted_third", "shifted"),
    BadOutline("blob", "blob"),
    BadOutline("main_missed", "main_missed"),
)
BAD_SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Other:
    """The true outline of another case.

    Attributes
    ----------
    size : (width, height) of its slide, px
    fitted : scaled to the size of the slide it is laid on; False: as it is, corner on corner
    """

    fine: Annotation
    size: tuple[int, int]
    fitted: bool = True


def simulate_bad(
    truth: Annotation,
    kind: str,
    seed: int = 0,
    *,
    size: tuple[int, int],
    mpp: float,
    tissue: Geometry | None = None,
    other: Other | None = None,
    exclude: Sequence[str] = Recipe().exclude_classes,
) -> Annotation:
    """Make an outline that is wrong as a whole.

    - `flipped`: inside and outside swapped: all tissue but the lesions.
    - `other`: the outline of another case.
    - `shifted`: by a third of the lesion's size, where most of it stays on the slide.
    - `blob`: as large as the lesion, smooth, anywhere on the tissue.
    - `main_missed`: without the largest lesion. Where little else is left, a decoy on tissue that
      is no lesion, half as large as what is missed.

    The same arguments give the same outline. Of several classes, `flipped` and `other` regions of
    no class of this truth are of the class with the most area; `blob` is one blob for each class.

    Parameters
    ----------
    truth : level-0 px
    kind : one of `BAD_KINDS`
    size : (width, height) of the slide, px
    mpp : µm/px
    tissue : level-0 px; None: the whole slide
    other : for the kind `other`
    exclude : shell patterns, any case: regions that are no lesion

    Raises
    ------
    UnknownNameError : no such kind
    UsageError : `other` without another case
    AnnotationError : nothing to outline, or nothing is left on the slide
    """
    if kind not in BAD_KINDS:
        raise UnknownNameError.of("kind of bad outline", kind, BAD_KINDS)
    slide = shapely.box(0, 0, *size)
    ground = slide if tissue is None else polygonal(tissue.intersection(slide))
    random = np.random.default_rng([seed, zlib.crc32(kind.encode())])

    def by_hand(fine: Annotation) -> Annotation:
        return simulate_coarse(
            fine, kind="wobbly", seed=seed, mpp=mpp, size=size, tissue=tissue, exclude=exclude
        )

    drawn = by_hand(truth)
    parts = [(r.label, r.geometry) for r in drawn.regions]
    main = _main_class(parts)
    lesions = union([shape for _, shape in parts])
    if kind == "flipped":
        parts = [(main, polygonal(ground.difference(lesions)))]
    elif kind == "other":
        if other is None:
            raise UsageError("the outline of another case needs one: pass other=Other(fine, size)")
        known = {label for label, _ in parts}
        parts = [
            (r.label if r.label in known else main, r.geometry)
            for r in by_hand(_laid(other, slide, size, exclude)).regions
        ]
    elif kind == "shifted":
        dx, dy = _shift(lesions, slide, random)
        parts = [(label, affinity.translate(shape, dx, dy)) for label, shape in parts]
    elif kind == "blob":
        areas = {
            label: union([r.geometry for r in truth.regions if r.label == label])
            .intersection(ground)
            .area
            for label in dict.fromkeys(label for label, _ in parts)
        }
        parts = [(label, _blob(ground, area, size, random)) for label, area in areas.items()]
    else:
        parts = _without_main(parts, polygonal(ground.difference(lesions)), size, random)

    source = {r.label: r.properties.get("classification") for r in drawn.regions}
    regions: list[Region] = []
    for label, shape in parts:
        for part in iter_polygons(snap(polygonal(shape.intersection(slide)))):
            name = f"{truth.slide_id}/bad {kind}/{seed}"
            regions.append(region_of(part, label, source[label], name, len(regions)))
    if not regions:
        raise AnnotationError(f"nothing is left of {truth.slide_id} by simulating bad {kind!r}")
    return Annotation(truth.slide_id, tuple(regions), f"simulated: bad {kind}, seed {seed}")


def other_case(ids: Sequence[str], case: str, seed: int) -> str:
    """The case whose outline the recipe lays on `case`: the next by name, with the next seed the
    one after it, never `case` itself.

    Raises
    ------
    UsageError : there is no other case
    """
    ordered = sorted(set(ids) | {case})
    if len(ordered) < 2:
        raise UsageError("the outline of another case needs two cases or more")
    step = 1 + seed % (len(ordered) - 1)
    return ordered[(ordered.index(case) + step) % len(ordered)]


def is_valid(truth: NDArray[Any], coarse: NDArray[Any], n_classes: int = 2) -> bool:
    """Whether an outline is valid (LC-MIL paper): PPV and NPV above one half, for every class.

    Parameters
    ----------
    truth, coarse : (n,) labels of the tissue cells, 0 background
    n_classes : K, background counted
    """
    return all(valid(ratios) for ratios in label_metrics(truth, coarse, n_classes))


def _main_class(parts: Sequence[tuple[str | None, Geometry]]) -> str | None:
    areas: dict[str | None, float] = {}
    for label, shape in parts:
        areas[label] = areas.get(label, 0.0) + shape.area
    return max(areas, key=lambda label: areas[label])


def _laid(
    other: Other, slide: Geometry, size: tuple[int, int], exclude: Sequence[str]
) -> Annotation:
    """The other case's lesions, on this slide."""
    scale = (size[0] / other.size[0], size[1] / other.size[1]) if other.fitted else (1.0, 1.0)
    regions = []
    for region in other.fine.regions:
        if matches(region.label, exclude):
            continue
        shape = affinity.scale(region.geometry, *scale, origin=(0, 0))
        shape = polygonal(shape.intersection(slide))
        if not shape.is_empty:
            regions.append(replace(region, geometry=shape))
    if not regions:
        raise AnnotationError(
            f"nothing of the outline of {other.fine.slide_id} lies on a slide of {size[0]} x "
            f"{size[1]} px"
        )
    return replace(other.fine, regions=tuple(regions))


def _shift(lesions: Geometry, slide: Geometry, random: np.random.Generator) -> tuple[float, float]:
    """Of some random directions the first in which nine tenths stay on the slide, else the best."""
    far = float(np.sqrt(lesions.area)) / SHIFT_SHARE
    best, most = (0.0, 0.0), -1.0
    for angle in random.uniform(0, 2 * np.pi, RAYS):
        by = float(far * np.cos(angle)), float(far * np.sin(angle))
        left = affinity.translate(lesions, *by).intersection(slide).area
        if left > most:
            best, most = by, left
        if left >= 0.9 * lesions.area:
            break
    return best


def _blob(
    ground: Geometry, area: float, size: tuple[int, int], random: np.random.Generator
) -> Geometry:
    """Round, with smooth bays and bumps, about a random point of the ground.

    Of the ground it covers as much as `area`, to a cell; where the ground ends it ends with it.
    """
    from scipy import ndimage

    side = max(1, round(max(size) / BLOB_CELLS))
    last = (-(-size[0] // side), -(-size[1] // side))
    grid = full_lattice((0, 0), last, side, 1.0)
    inside = centres_inside(grid, ground)
    if not len(inside):
        return polygonal(shapely.MultiPolygon())
    n = int(np.clip(round(area / side**2), 1, len(inside)))
    centre = grid.centres[inside[random.integers(len(inside))]]
    radius = np.sqrt(n / np.pi) * side
    noise = ndimage.gaussian_filter(random.standard_normal(grid.shape), BLOB_SMOOTH)
    noise *= BLOB_ROUGH / max(float(noise.std()), 1e-12)
    away = np.hypot(*(grid.centres - centre).T).reshape(grid.shape) / radius
    field = noise - away
    level = float(np.sort(field.ravel()[inside])[-n])
    shape = shapely.transform(contour(field, level), lambda xy: (xy + 0.5) * side)
    return polygonal(buffered(polygonal(shape), side / 2).intersection(ground))


def _without_main(
    parts: Sequence[tuple[str | None, Geometry]],
    elsewhere: Geometry,
    size: tuple[int, int],
    random: np.random.Generator,
) -> list[tuple[str | None, Geometry]]:
    areas = [shape.area for _, shape in parts]
    lost = int(np.argmax(areas))
    kept = [part for i, part in enumerate(parts) if i != lost]
    if sum(areas) - areas[lost] < LEAST_KEPT * sum(areas):
        wanted = min(DECOY_SHARE * areas[lost], DECOY_SHARE * elsewhere.area)
        kept.append((parts[lost][0], _blob(elsewhere, wanted, size, random)))
    return kept
