"""Where things lie on a generated slide: maps of a few µm a sample, and a table of nuclei."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recontour.generated.noise import Field, smooth_field

MAP_UM = 4.0  # µm a sample: borders are smooth at this length, and 10 mm of slide is 6 M samples
PAD = 2  # samples the maps reach beyond the slide on each side, so that every contour closes

TUMOR, LYMPHOCYTE, FIBROBLAST, EPITHELIUM = range(4)  # kinds of nuclei
EPITHELIUM_UM = 15.0  # thickness of the epithelium of a benign gland


Mask = NDArray[np.bool_]
Points = NDArray[np.float64]
Shape = tuple[int, int]
Noise = Callable[[float], Field]
"""Called with a length in µm, gives a map of hills and valleys of that length."""
Stroke = tuple[Points, float, tuple[float, float, float]]
"""Points (n, 2) level-0 px, width px, optical density for red, green and blue."""


class Gland(NamedTuple):
    """A benign gland; lengths in µm from the maps' first sample."""

    x: float
    y: float
    radius: float
    terms: Points
    """(4, 2) cosine and sine of the 2nd to 5th harmonic of the outline."""


@dataclass(frozen=True)
class Nuclei:
    """The nuclei, unordered. x, y level-0 px; angle in radians; kind as above."""

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    angle: NDArray[np.float32]
    kind: NDArray[np.uint32]
    variant: NDArray[np.uint32]


@dataclass(frozen=True)
class Layout:
    """All of a slide that is decided before a pixel is painted.

    Each map is float32 (rows, cols) with MAP_UM between samples; sample i lies at level-0 px
    (i - PAD + 0.5) * pitch.

    Attributes
    ----------
    tissue, tumor, lymph, fat : positive inside
    gland : µm inside the border of a benign gland, negative outside
    warp_x, warp_y : µm by which fibres are bent
    strength : factor on both stains (section thickness)
    tint : shift from eosin to haematoxylin
    cellular : how crowded and blue the stroma is
    fold : extra thickness, 0 nearly everywhere
    pitch : level-0 px between samples
    fibre_angle : radians, main direction of the fibres
    pens : strokes of ink
    """

    size: tuple[int, int]
    mpp: float
    pitch: float
    tissue: Field
    tumor: Field
    lymph: Field
    fat: Field
    gland: Field
    warp_x: Field
    warp_y: Field
    strength: Field
    tint: Field
    cellular: Field
    fold: Field
    fibre_angle: float
    nuclei: Nuclei
    pens: tuple[Stroke, ...]

    def sample(self, field: Field, x: NDArray[Any], y: NDArray[Any]) -> Field:
        """Values of a map at points in level-0 px."""
        from scipy.ndimage import map_coordinates

        rows = y / self.pitch + PAD - 0.5
        cols = x / self.pitch + PAD - 0.5
        return np.asarray(map_coordinates(field, [rows, cols], order=1, mode="nearest"))


def plan(
    size: tuple[int, int], mpp: float, seed: int, tumor_share: float, artefacts: bool
) -> Layout:
    """Decide where everything lies on a slide of `size` (width, height) level-0 px."""
    rng = np.random.default_rng([seed, 1])
    pitch = max(MAP_UM / mpp, 1.0)
    step_um = pitch * mpp
    shape = (int(np.ceil(size[1] / pitch)) + 2 * PAD, int(np.ceil(size[0] / pitch)) + 2 * PAD)
    extent_um = float(min(size)) * mpp

    def field(scale_um: float) -> Field:
        return smooth_field(rng, shape, scale_um / step_um)

    tissue = _tissue(shape, field, extent_um)
    inside = tissue > 0

    tumor = _tumor(field, inside, extent_um, step_um, tumor_share)
    tumor = np.minimum(tumor, tissue)
    away = _distance_um(tumor > 0, step_um)

    fat = 1.3 * field(0.25 * extent_um) + 0.35 * field(60.0) - 0.9 * _bump(away, 120.0)
    fat = np.where(inside, fat - np.quantile(fat[inside], 0.91), -1).astype(np.float32)

    gland, glands = _glands(rng, shape, step_um, inside & (away > 25.0) & (fat < 0))

    lymph = 0.9 * field(150.0) + 0.5 * field(60.0) + 0.6 * field(0.3 * extent_um)
    lymph = np.where(inside & (away > 6.0) & (gland < -6.0) & (fat < -0.1), lymph, -3)
    free = lymph > -3
    level = np.quantile(lymph[free], 0.86) if free.any() else 0.0
    lymph = np.minimum(lymph - level, 1.5).astype(np.float32)

    layout = Layout(
        size=size,
        mpp=mpp,
        pitch=pitch,
        tissue=tissue,
        tumor=tumor,
        lymph=lymph,
        fat=fat,
        gland=gland,
        warp_x=90.0 * field(400.0) + 6.0 * field(50.0),
        warp_y=90.0 * field(400.0) + 6.0 * field(50.0),
        strength=np.exp(0.10 * field(0.35 * extent_um) + 0.07 * field(150.0)),
        tint=0.6 * field(0.3 * extent_um) + 0.6 * field(130.0),
        cellular=0.7 * field(0.3 * extent_um) + 0.9 * field(140.0),
        fold=_folds(rng, shape, step_um, artefacts),
        fibre_angle=float(rng.uniform(0, np.pi)),
        nuclei=Nuclei(*np.zeros((3, 0), np.float32), *np.zeros((2, 0), np.uint32)),
        pens=_pens(rng, size) if artefacts else (),
    )
    return replace(layout, nuclei=_nuclei(rng, layout, glands))


def _distance_um(mask: Mask, step_um: float) -> Field:
    """µm from each sample to the nearest one in `mask`; huge when there is none."""
    from scipy.ndimage import distance_transform_edt

    if not mask.any():
        return np.full(mask.shape, 1e6, np.float32)
    return np.asarray(distance_transform_edt(~mask) * step_um, np.float32)


def _bump(distance: Field, scale: float) -> Field:
    return np.asarray(np.exp(-((distance / scale) ** 2)), np.float32)


def _tissue(shape: Shape, field: Noise, extent_um: float) -> Field:
    rows, cols = shape
    y = np.abs(np.linspace(-1, 1, rows, dtype=np.float32))[:, None] / 0.88
    x = np.abs(np.linspace(-1, 1, cols, dtype=np.float32))[None, :] / 0.88
    radius = (x**3 + y**3) ** (1 / 3)
    shape_noise = 0.13 * field(0.4 * extent_um) + 0.05 * field(0.12 * extent_um)
    tissue = 0.92 - radius + shape_noise + 0.012 * field(40.0)
    # Glass all around.
    tissue = np.minimum(tissue, 1.09 - np.maximum(x, y))
    return np.asarray(tissue, np.float32)


def _tumor(field: Noise, inside: Mask, extent_um: float, step_um: float, share: float) -> Field:
    from skimage.morphology import remove_small_holes, remove_small_objects

    zone = np.tanh(1.4 * field(0.38 * extent_um))
    nests = 0.75 * field(110.0) + 0.45 * field(55.0) + 0.12 * field(20.0)
    tumor = 1.35 * zone + nests
    tumor = tumor - np.quantile(tumor[inside], 1.0 - share)
    mask = (tumor > 0) & inside
    kept = remove_small_objects(mask, max_size=int(1800 / step_um**2))
    kept = remove_small_holes(kept, max_size=int(900 / step_um**2))
    tumor = np.where(mask & ~kept, -0.05, tumor)
    return np.where(kept & ~mask, 0.05, tumor).astype(np.float32)


def _glands(
    rng: np.random.Generator, shape: Shape, step_um: float, free: Mask
) -> tuple[Field, list[Gland]]:
    """Lobules of benign glands. Returns the map and, for each gland, centre and radii (µm)."""
    gland = np.full(shape, -50.0, np.float32)
    glands: list[Gland] = []
    rows, cols = np.nonzero(free)
    if not len(rows):
        return gland, glands
    area_mm2 = free.sum() * step_um**2 / 1e6
    for _ in range(max(1, round(area_mm2 * 2.2))):
        at = rng.integers(len(rows))
        centre = np.array([cols[at], rows[at]]) * step_um
        spread = rng.uniform(70, 190)
        big = rng.uniform(0.7, 1.3)
        for _ in range(int(rng.integers(5, 20))):
            x, y = centre + rng.normal(0, spread, 2)
            radius = float(np.clip(rng.lognormal(3.6, 0.35) * big, 22, 90))
            if not _fits(glands, x, y, radius):
                continue
            c, r = int(x / step_um), int(y / step_um)
            if not (0 <= r < shape[0] and 0 <= c < shape[1] and free[r, c]):
                continue
            shape_terms = rng.normal(0, 1, (4, 2)) * np.array([[0.14], [0.09], [0.05], [0.03]])
            glands.append(Gland(x, y, radius, shape_terms))
            _stamp_gland(gland, glands[-1], step_um)
    gland = np.where(free, gland, np.minimum(gland, -8.0))
    return gland.astype(np.float32), glands


def _fits(glands: list[Gland], x: float, y: float, radius: float) -> bool:
    return all(
        (x - gx) ** 2 + (y - gy) ** 2 > (1.15 * (radius + gr)) ** 2 for gx, gy, gr, _ in glands
    )


def _gland_radius(radius: float, terms: Points, angle: NDArray[Any]) -> NDArray[Any]:
    """Radius of a gland in the direction `angle`, µm."""
    wobble = 1.0
    for order, (a, b) in enumerate(terms, start=2):
        wobble = wobble + a * np.cos(order * angle) + b * np.sin(order * angle)
    return np.asarray(radius * np.clip(wobble, 0.5, 1.6))


def _stamp_gland(gland: Field, one: Gland, step_um: float) -> None:
    x, y, radius, terms = one
    reach = int(np.ceil((1.6 * radius + 30) / step_um))
    c, r = int(x / step_um), int(y / step_um)
    top, left = max(r - reach, 0), max(c - reach, 0)
    view = gland[top : r + reach + 1, left : c + reach + 1]
    ys, xs = np.mgrid[top : top + view.shape[0], left : left + view.shape[1]] * step_um
    dx, dy = xs - x, ys - y
    depth = _gland_radius(radius, terms, np.arctan2(dy, dx)) - np.hypot(dx, dy)
    np.maximum(view, depth, out=view)


def _folds(rng: np.random.Generator, shape: Shape, step_um: float, artefacts: bool) -> Field:
    """One or two long, narrow, wavy bands where the section lies double."""
    fold = np.zeros(shape, np.float32)
    if not artefacts:
        return fold
    ys, xs = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    for _ in range(int(rng.integers(1, 3))):
        angle = rng.uniform(0, np.pi)
        x0, y0 = rng.uniform(0.25, 0.75, 2) * (shape[1], shape[0])
        along = (xs - x0) * np.cos(angle) + (ys - y0) * np.sin(angle)
        across = -(xs - x0) * np.sin(angle) + (ys - y0) * np.cos(angle)
        length = rng.uniform(0.08, 0.2) * min(shape)
        across = across + 0.05 * length * np.sin(along / length * rng.uniform(2, 4))
        width = rng.uniform(8, 18) / step_um
        taper = np.clip(1 - (along / length) ** 2, 0, 1)
        fold += np.exp(-((across / (width * np.sqrt(taper) + 1e-3)) ** 4)) * (taper > 0)
    return np.minimum(fold, 1.0).astype(np.float32)


def _pens(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Stroke, ...]:
    """A stroke or two of marker, beside and partly over the tissue."""
    inks = ((1.6, 0.9, 0.25), (1.5, 0.5, 1.3), (1.7, 1.7, 1.6))  # blue, green, black
    strokes = []
    for _ in range(int(rng.integers(1, 3))):
        t = np.linspace(0, 1, 40)
        start = rng.uniform(0.02, 0.12, 2)
        end = np.array([rng.uniform(0.1, 0.3), rng.uniform(0.02, 0.12)])
        bow = rng.uniform(-0.04, 0.04)
        points = start + np.outer(t, end - start)
        points[:, 1] += bow * np.sin(np.pi * t)
        if rng.random() < 0.5:
            points = 1.0 - points
        if rng.random() < 0.5:
            points = points[:, ::-1]
        ink = inks[int(rng.integers(len(inks)))]
        width = rng.uniform(0.012, 0.022) * min(size)
        strokes.append((points * np.array(size, float), float(width), ink))
    return tuple(strokes)


def _lattice(
    rng: np.random.Generator, layout: Layout, pitch_um: float, jitter: float
) -> tuple[Field, Field]:
    """Jittered hexagonal lattice over the slide; x, y level-0 px."""
    pitch = pitch_um / layout.mpp
    rise = pitch * 0.866
    cols, rows = int(layout.size[0] / pitch) + 2, int(layout.size[1] / rise) + 2
    x = (np.arange(cols)[None, :] + 0.5 * (np.arange(rows) % 2)[:, None]) * pitch
    y = np.broadcast_to(np.arange(rows)[:, None] * rise, x.shape)
    x, y = x.ravel(), y.ravel()
    x = x + rng.normal(0, jitter * pitch, x.shape)
    y = y + rng.normal(0, jitter * pitch, y.shape)
    return x.astype(np.float32), y.astype(np.float32)


def _nuclei(rng: np.random.Generator, layout: Layout, glands: list[Gland]) -> Nuclei:
    found = []

    def add(x: NDArray[Any], y: NDArray[Any], angle: NDArray[Any], kind: int) -> None:
        found.append((x, y, angle, np.full(len(x), kind)))

    def at(field: Field, x: NDArray[Any], y: NDArray[Any]) -> Field:
        return layout.sample(field, x, y)

    def spin(n: int) -> NDArray[np.float64]:
        return rng.uniform(0, np.pi, n)

    # Tumour: big cells, packed.
    x, y = _lattice(rng, layout, 14.0, 0.13)
    keep = (at(layout.tumor, x, y) > 0.03) & (rng.random(len(x)) < 0.93)
    add(x[keep], y[keep], spin(keep.sum()), TUMOR)

    # Lymphocytes: aggregates, a sprinkle in the stroma, a few within the tumour.
    x, y = _lattice(rng, layout, 8.2, 0.16)
    tumor, lymph = at(layout.tumor, x, y), at(layout.lymph, x, y)
    stroma = (at(layout.tissue, x, y) > 0) & (tumor < -0.03) & (at(layout.gland, x, y) < -4)
    stroma &= at(layout.fat, x, y) < 0
    dense = np.clip(lymph / 0.25, 0, 1) * 0.8
    sparse = 0.012 + 0.06 * np.clip(at(layout.cellular, x, y), 0, 2)
    chance = np.where(stroma, np.maximum(dense, sparse), 0)
    chance = np.where(tumor > 0.05, 0.012, chance)
    keep = rng.random(len(x)) < chance
    add(x[keep], y[keep], spin(keep.sum()), LYMPHOCYTE)

    # Fibroblasts along the fibres.
    x, y = _lattice(rng, layout, 15.0, 0.25)
    stroma = (at(layout.tissue, x, y) > 0) & (at(layout.tumor, x, y) < -0.04)
    stroma &= (at(layout.gland, x, y) < -5) & (at(layout.fat, x, y) < 0)
    stroma &= at(layout.lymph, x, y) < 0.1
    crowd = 0.28 + 0.25 * np.clip(at(layout.cellular, x, y), -0.7, 2)
    keep = stroma & (rng.random(len(x)) < crowd)
    x, y = x[keep], y[keep]
    add(x, y, _fibre_direction(layout, x, y) + rng.normal(0, 0.2, len(x)), FIBROBLAST)

    # Epithelium of the glands: a ring, its nuclei standing on the border.
    for gx, gy, radius, terms in glands:
        rows = 1 if radius < 40 else 2
        for row in range(rows):
            n = int(2 * np.pi * (radius - 6) / (7.2 + 1.2 * row))
            phi = np.arange(n) / n * 2 * np.pi + rng.normal(0, 0.06, n)
            ring = _gland_radius(radius, terms, phi) - 5.5 - 6.5 * row + rng.normal(0, 0.9, n)
            px = (gx + ring * np.cos(phi)) / layout.mpp - (PAD - 0.5) * layout.pitch
            py = (gy + ring * np.sin(phi)) / layout.mpp - (PAD - 0.5) * layout.pitch
            px, py = px.astype(np.float32), py.astype(np.float32)
            keep = (at(layout.gland, px, py) > 0) & (rng.random(n) < (0.95 if row == 0 else 0.6))
            add(px[keep], py[keep], phi[keep] + rng.normal(0, 0.2, keep.sum()), EPITHELIUM)

    x, y, angle, kind = (np.concatenate(part) for part in zip(*found, strict=True))
    return Nuclei(
        x.astype(np.float32),
        y.astype(np.float32),
        angle.astype(np.float32),
        kind.astype(np.uint32),
        rng.integers(0, 2**32, len(x), dtype=np.uint32),
    )


def _fibre_direction(layout: Layout, x: Field, y: Field) -> NDArray[Any]:
    """Direction of the fibres at points in level-0 px, radians."""
    step = 8.0 / layout.mpp
    cos, sin = np.cos(layout.fibre_angle), np.sin(layout.fibre_angle)

    def across(px: NDArray[Any], py: NDArray[Any]) -> NDArray[Any]:
        bend = layout.sample(layout.warp_y, px, py)
        return np.asarray((-px * sin + py * cos) * layout.mpp + bend)

    gx = across(x + step, y) - across(x - step, y)
    gy = across(x, y + step) - across(x, y - step)
    return np.asarray(np.arctan2(gx, -gy))
