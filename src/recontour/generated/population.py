"""Put nuclei into a layout."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recontour.generated.layout import (
    EPITHELIUM,
    FIBROBLAST,
    LYMPHOCYTE,
    TUMOR,
    Layout,
    Nuclei,
)

Floats = NDArray[np.float64]
Batch = tuple[Floats, Floats, Floats, Floats, int]
"""x, y, angle, variant, kind"""

# µm between neighbours of the lattices that nuclei are drawn from. Areas of nuclei covered by them
# come out about equal in tumour, glands and aggregates, so that these differ in shape, not colour.
TUMOR_UM, LYMPHOCYTE_UM, FIBROBLAST_UM, EPITHELIUM_UM = 13.0, 8.0, 12.0, 7.4


def place_nuclei(layout: Layout, seed: int) -> Nuclei:
    """Nuclei for every tissue of the layout; a few per 100 µm² where it is crowded."""
    rng = np.random.default_rng([seed, 6])
    batches = [
        _tumor(rng, layout),
        _lymphocytes(rng, layout),
        _fibroblasts(rng, layout),
        *_epithelium(rng, layout),
    ]
    x, y, angle, variant = (
        np.concatenate([batch[i] for batch in batches]).astype(np.float32) for i in range(4)
    )
    kind = np.concatenate([np.full(len(batch[0]), batch[4], np.uint8) for batch in batches])
    return Nuclei(x, y, angle, kind, variant.clip(0, np.float32(0.999)))


def _lattice(
    rng: np.random.Generator, layout: Layout, pitch_um: float, jitter: float
) -> tuple[Floats, Floats]:
    """Jittered hexagonal lattice over the slide; x, y level-0 px."""
    pitch = pitch_um / layout.mpp
    rise = pitch * 0.866
    cols, rows = int(layout.size[0] / pitch) + 2, int(layout.size[1] / rise) + 2
    x = (np.arange(cols)[None, :] + 0.5 * (np.arange(rows) % 2)[:, None]) * pitch
    y = np.broadcast_to(np.arange(rows)[:, None] * rise, x.shape)
    x = x.ravel() + rng.normal(0, jitter * pitch, x.size)
    return x, y.ravel() + rng.normal(0, jitter * pitch, y.size)


def _stroma(layout: Layout, x: Floats, y: Floats) -> NDArray[np.bool_]:
    stroma = (layout.sample("tissue", x, y) > 0.004) & (layout.sample("tumor", x, y) < -0.03)
    stroma &= (layout.sample("gland", x, y) < -4) & (layout.sample("fat", x, y) < -0.02)
    return np.asarray(stroma)


def _tumor(rng: np.random.Generator, layout: Layout) -> Batch:
    x, y = _lattice(rng, layout, TUMOR_UM, 0.15)
    grade = layout.sample("grade", x, y)
    chance = np.clip(0.78 + 0.14 * grade, 0.45, 0.95)
    keep = (layout.sample("tumor", x, y) > 0.02) & (rng.random(x.size) < chance)
    n = int(keep.sum())
    variant = 0.5 + 0.12 * grade[keep] + rng.normal(0, 0.22, n)
    return x[keep], y[keep], rng.uniform(0, np.pi, n), variant, TUMOR


def _lymphocytes(rng: np.random.Generator, layout: Layout) -> Batch:
    """Aggregates, a sprinkle in the stroma, a few within the tumour."""
    x, y = _lattice(rng, layout, LYMPHOCYTE_UM, 0.17)
    dense = 0.78 * np.clip(layout.sample("lymph", x, y) / 0.35 + 0.2, 0, 1)
    sparse = 0.012 + 0.03 * np.clip(layout.sample("cellular", x, y), 0, 2)
    chance = np.where(_stroma(layout, x, y), np.maximum(dense, sparse), 0)
    chance = np.where(layout.sample("tumor", x, y) > 0.05, 0.012, chance)
    keep = rng.random(x.size) < chance
    n = int(keep.sum())
    return x[keep], y[keep], rng.uniform(0, np.pi, n), rng.random(n), LYMPHOCYTE


def _fibroblasts(rng: np.random.Generator, layout: Layout) -> Batch:
    x, y = _lattice(rng, layout, FIBROBLAST_UM, 0.22)
    crowd = 0.20 + 0.30 * np.clip(layout.sample("cellular", x, y), -0.6, 2)
    keep = _stroma(layout, x, y) & (layout.sample("lymph", x, y) < 0.08)
    keep &= rng.random(x.size) < crowd
    x, y = x[keep], y[keep]
    angle = _fibre_direction(layout, x, y) + rng.normal(0, 0.2, x.size)
    return x, y, angle, rng.random(x.size), FIBROBLAST


def _epithelium(rng: np.random.Generator, layout: Layout) -> list[Batch]:
    """Rings of nuclei, the outermost standing on the border of its gland."""
    batches: list[Batch] = []
    for gland in layout.glands:
        rings = np.arange(5.5, max(gland.wall - 5.0, 6.0), 7.5)
        for inset in rings:
            n = max(int(2 * np.pi * (gland.radius - inset) / EPITHELIUM_UM), 1)
            phi = (np.arange(n) + rng.random()) / n * 2 * np.pi + rng.normal(0, 0.1, n) / n
            radius = gland.radii(phi) - inset + rng.normal(0, 1.0, n)
            x = (gland.x + radius * np.cos(phi)) / layout.mpp
            y = (gland.y + radius * np.sin(phi)) / layout.mpp
            keep = (layout.sample("gland", x, y) > 2) & (rng.random(n) < 0.93) & (radius > 3)
            angle = phi[keep] + rng.normal(0, 0.25, int(keep.sum()))
            batches.append((x[keep], y[keep], angle, rng.random(angle.size), EPITHELIUM))
    return batches


def _fibre_direction(layout: Layout, x: Floats, y: Floats) -> NDArray[Any]:
    """Direction of the fibres at points in level-0 px, radians."""
    step = 8.0 / layout.mpp
    cos, sin = np.cos(layout.fibre_angle), np.sin(layout.fibre_angle)

    def across(px: Floats, py: Floats) -> NDArray[Any]:
        bend = layout.sample("warp_y", px, py)
        return np.asarray((-px * sin + py * cos) * layout.mpp + bend)

    gx = across(x + step, y) - across(x - step, y)
    gy = across(x, y + step) - across(x, y - step)
    return np.asarray(np.arctan2(gx, -gy))
