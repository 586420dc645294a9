"""Decide where tissue, tumour, glands, lymphocytes and fat lie on a generated slide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recontour.generated.artefacts import draw_pens, lay_folds
from recontour.generated.layout import MAP_UM, PAD, Gland, Layout, Mask
from recontour.generated.noise import Field, smooth_field

# Shares of the tissue. Together as much as the tumour: what looks like it must not be rare.
GLAND_SHARE, LYMPH_SHARE, FAT_SHARE = 0.18, 0.15, 0.07

SMALLEST_NEST_UM2, SMALLEST_GAP_UM2 = 1800.0, 900.0

Noise = Callable[[float], Field]
"""Called with a length in µm, gives a map of hills and valleys of that length."""


def plan_layout(
    size: tuple[int, int], mpp: float, seed: int, tumor_share: float, artefacts: bool
) -> Layout:
    """Lay out a slide of `size` (width, height) level-0 px.

    Tumour comes first; glands, fat and lymphocytes take what is left, in this order; stroma fills
    the rest.
    """
    rng = np.random.default_rng([seed, 1])
    pitch = max(MAP_UM / mpp, 1.0)
    step_um = pitch * mpp
    shape = (int(np.ceil(size[1] / pitch)) + 2 * PAD, int(np.ceil(size[0] / pitch)) + 2 * PAD)
    extent_um = float(min(size)) * mpp

    def noise(scale_um: float) -> Field:
        return smooth_field(rng, shape, scale_um / step_um)

    tissue = _tissue(shape, noise, extent_um)
    inside = tissue > 0
    tumor = np.minimum(_tumor(noise, inside, extent_um, step_um, tumor_share), tissue)
    away = _distance_um(tumor > 0, step_um)

    # Each makes way for those before it along a slope, not a step, so that borders stay smooth.
    fat = 1.3 * noise(0.3 * extent_um) + 0.3 * noise(80.0) - 2.0 * np.exp(-away / 60.0)
    room = _least(tissue / 0.05, (away - 25.0) / 40.0)
    fat = _share(fat, inside, room, FAT_SHARE)

    room = _least((tissue - 0.01) * extent_um / 4, away - 20.0, (-0.1 - fat) * 40.0)
    gland, lumen, glands = _glands(rng, step_um, inside, room)

    lymph = 0.9 * noise(150.0) + 0.5 * noise(60.0) + 0.6 * noise(0.3 * extent_um)
    room = _least(tissue / 0.05, (away - 5.0) / 20.0, (-6.0 - gland) / 20.0, (-0.1 - fat) * 2.0)
    lymph = _share(lymph, inside, room, LYMPH_SHARE)
    return Layout(
        size=size,
        mpp=mpp,
        pitch=pitch,
        tissue=tissue,
        tumor=tumor,
        lymph=lymph,
        fat=fat,
        gland=gland,
        lumen=lumen,
        warp_x=90.0 * noise(400.0) + 6.0 * noise(50.0),
        warp_y=90.0 * noise(400.0) + 6.0 * noise(50.0),
        strength=np.exp((0.13 * noise(0.3 * extent_um) + 0.16 * noise(150.0)).clip(-0.45, 0.45)),
        tint=0.7 * noise(0.3 * extent_um) + 0.9 * noise(130.0),
        cellular=0.8 * noise(0.3 * extent_um) + 0.9 * noise(140.0) + 0.5 * np.exp(-away / 60.0),
        grade=0.8 * noise(0.35 * extent_um) + 0.8 * noise(160.0),
        fold=lay_folds(rng, shape, step_um) if artefacts else np.zeros(shape, np.float32),
        fibre_angle=float(rng.uniform(0, np.pi)),
        glands=glands,
        pens=draw_pens(rng, size) if artefacts else (),
    )


def _distance_um(mask: Mask, step_um: float) -> Field:
    """µm from each sample to the nearest one in `mask`; huge when there is none."""
    from scipy.ndimage import distance_transform_edt

    if not mask.any():
        return np.full(mask.shape, 1e6, np.float32)
    return np.asarray(distance_transform_edt(~mask) * step_um, np.float32)


def _least(*fields: NDArray[Any]) -> Field:
    return np.asarray(np.minimum.reduce(fields), np.float32)


def _share(field: Field, inside: Mask, room: Field, share: float) -> Field:
    """Shift `field` so that it is positive on `share` of `inside`, and only where `room` is."""
    free = room > 0
    if not free.any():
        return np.full(field.shape, -3, np.float32)
    wanted = min(share * inside.sum() / free.sum(), 0.9)
    shifted = field - np.quantile(field[free], 1 - wanted)
    return np.asarray(np.minimum(shifted, room).clip(-3, 3), np.float32)


def _tissue(shape: tuple[int, int], noise: Noise, extent_um: float) -> Field:
    y = np.abs(np.linspace(-1, 1, shape[0], dtype=np.float32))[:, None]
    x = np.abs(np.linspace(-1, 1, shape[1], dtype=np.float32))[None, :]
    radius = (x**2.6 + y**2.6) ** (1 / 2.6)
    ragged = 0.10 * noise(0.45 * extent_um) + 0.035 * noise(0.12 * extent_um) + 0.006 * noise(60.0)
    tissue = 0.80 - radius + ragged
    # Glass all around, and no straight edge where the tissue would run off it.
    edge = 2 * (0.88 - np.maximum(x, y)) + (0.5 * ragged).clip(-0.1, 0.1)
    return np.asarray(np.minimum(tissue, edge), np.float32)


def _tumor(noise: Noise, inside: Mask, extent_um: float, step_um: float, share: float) -> Field:
    """Solid in the core of a zone, nests and single islands towards its edge."""
    from skimage.morphology import remove_small_holes, remove_small_objects

    zone = np.tanh(1.4 * noise(0.38 * extent_um))
    tumor = 1.3 * zone + 0.75 * noise(105.0) + 0.45 * noise(55.0) + 0.12 * noise(20.0)
    tumor = tumor - np.quantile(tumor[inside], 1.0 - share)
    mask = (tumor > 0) & inside
    kept = remove_small_objects(mask, max_size=int(SMALLEST_NEST_UM2 / step_um**2))
    kept = remove_small_holes(kept, max_size=int(SMALLEST_GAP_UM2 / step_um**2))
    tumor = np.where(mask & ~kept, -0.05, tumor)
    return np.where(kept & ~mask, 0.05, tumor).astype(np.float32)


def _glands(
    rng: np.random.Generator, step_um: float, inside: Mask, room: Field
) -> tuple[Field, Field, tuple[Gland, ...]]:
    """Lobules of glands where there is room: the maps `gland` and `lumen`, and the glands."""
    free = room > 0
    gland = np.full(free.shape, -100.0, np.float32)
    lumen = gland.copy()
    glands: list[Gland] = []
    rows, cols = np.nonzero(free)
    wanted_um2 = GLAND_SHARE * inside.sum() * step_um**2
    lobules = round(wanted_um2 / 9000) + 1  # bounds the search; most lobules hold more
    covered = 0.0
    for _ in range(lobules if len(rows) else 0):
        if covered > wanted_um2:
            break
        at = rng.integers(len(rows))
        middle = np.array([cols[at] + 0.5 - PAD, rows[at] + 0.5 - PAD]) * step_um
        spread, big, open_wide = rng.uniform(60, 170), rng.uniform(0.7, 1.35), rng.random()
        for _ in range(int(rng.integers(15, 60))):
            x, y = middle + rng.normal(0, spread, 2)
            radius = float(np.clip(rng.lognormal(3.4, 0.35) * big, 18, 85))
            row, col = int(y / step_um + PAD), int(x / step_um + PAD)
            if not (0 <= row < free.shape[0] and 0 <= col < free.shape[1] and free[row, col]):
                continue
            if gland[row, col] > -1.06 * radius:
                continue
            wall = 13.0 if rng.random() < open_wide else 0.8 * radius
            terms = rng.normal(0, 1, (4, 2)) * np.array([[0.13], [0.09], [0.05], [0.03]])
            one = Gland(x, y, radius, float(np.clip(wall, 12, 45)), terms)
            _stamp_gland(gland, lumen, one, step_um)
            glands.append(one)
            covered += np.pi * radius**2
    return np.minimum(gland, room), lumen, tuple(glands)


def _stamp_gland(gland: Field, lumen: Field, one: Gland, step_um: float) -> None:
    reach = int(np.ceil((1.6 * one.radius + 90) / step_um))
    row, col = int(one.y / step_um + PAD), int(one.x / step_um + PAD)
    top, left = max(row - reach, 0), max(col - reach, 0)
    part = (slice(top, row + reach + 1), slice(left, col + reach + 1))
    height, width = gland[part].shape
    dy = (np.arange(top, top + height) + 0.5 - PAD)[:, None] * step_um - one.y
    dx = (np.arange(left, left + width) + 0.5 - PAD)[None, :] * step_um - one.x
    depth = one.radii(np.arctan2(dy, dx)) - np.hypot(dx, dy)
    np.maximum(gland[part], depth, out=gland[part], casting="same_kind")
    np.maximum(lumen[part], depth - one.wall, out=lumen[part], casting="same_kind")
