"""Pictures of single nuclei, painted once and stamped many times."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recontour.generated.layout import EPITHELIUM, FIBROBLAST, LYMPHOCYTE, TUMOR
from recontour.generated.noise import Field, unit

VARIANTS = 24  # shapes of each kind
TURNS = 12  # directions of each shape


class Sprite(NamedTuple):
    """A nucleus: how much it covers, and its haematoxylin, float32 (side, side), side odd."""

    cover: Field
    ink: Field


class Kind(NamedTuple):
    """What the nuclei of one kind look like. Lengths in µm, s.d. in brackets behind the mean."""

    length: tuple[float, float]
    """Long axis, median and s.d. of the logarithm."""
    slender: tuple[float, float]
    """Long axis / short axis, from and to."""
    lumpy: float
    """How far the outline is from an ellipse."""
    ink: tuple[float, float]
    """Haematoxylin, from and to."""
    open: tuple[float, float]
    """How much paler the inside is than the rim, from and to."""
    clumps: float
    """Contrast of the chromatin."""
    nucleoli: float
    """Mean number."""


KINDS = {
    TUMOR: Kind((11.0, 0.18), (1.0, 1.6), 0.07, (0.85, 1.40), (0.1, 0.6), 0.22, 1.1),
    LYMPHOCYTE: Kind((6.6, 0.07), (1.0, 1.2), 0.03, (1.00, 1.50), (0.0, 0.1), 0.20, 0.0),
    FIBROBLAST: Kind((12.5, 0.25), (2.2, 5.0), 0.05, (0.80, 1.40), (0.0, 0.3), 0.15, 0.0),
    EPITHELIUM: Kind((8.2, 0.10), (1.15, 1.7), 0.03, (0.80, 1.30), (0.0, 0.5), 0.18, 0.15),
}


def paint_sprites(seed: int, mpp: float) -> dict[int, list[Sprite]]:
    """VARIANTS x TURNS sprites of each kind at `mpp` µm/px, by size; the turn varies fastest."""
    return {
        kind: [
            sprite
            for variant in range(VARIANTS)
            for sprite in _turns(
                np.random.default_rng([seed, 2, kind, variant]),
                look,
                (variant + 0.5) / VARIANTS,
                mpp,
            )
        ]
        for kind, look in KINDS.items()
    }


def _turns(rng: np.random.Generator, look: Kind, rank: float, mpp: float) -> list[Sprite]:
    from scipy.ndimage import gaussian_filter
    from scipy.stats import norm

    length = look.length[0] * float(np.exp(norm.ppf(rank) * look.length[1]))
    slender = rng.uniform(*look.slender)
    half = 0.5 * length * np.array([1.0, 1.0 / slender])  # µm
    ink = rng.uniform(*look.ink)
    pale = rng.uniform(*look.open)
    terms = rng.normal(0, look.lumpy, (3, 2)) / np.array([[1.0], [1.3], [2.0]])
    bend = rng.normal(0, 0.12) if look.slender[0] > 2 else 0.0
    spots = [
        (rng.uniform(0, 0.5), rng.uniform(0, 2 * np.pi), rng.uniform(0.75, 1.3))
        for _ in range(rng.poisson(look.nucleoli))
    ]
    clump = unit(gaussian_filter(rng.standard_normal((48, 48)), 1.6))

    reach = int(np.ceil((0.62 * length + 1.2) / mpp))
    axis = np.arange(-reach, reach + 1, dtype=np.float32) * mpp
    turned = []
    for turn in range(TURNS):
        angle = np.pi * (turn + rng.uniform(-0.5, 0.5)) / TURNS
        dx, dy = rng.uniform(-0.5, 0.5, 2) * mpp
        x = (axis[None, :] - dx) * np.cos(angle) + (axis[:, None] - dy) * np.sin(angle)
        y = -(axis[None, :] - dx) * np.sin(angle) + (axis[:, None] - dy) * np.cos(angle)
        y = y + bend * x**2 / length
        phi = np.arctan2(y / half[1], x / half[0])
        rim = np.ones_like(x)
        for order, (a, b) in enumerate(terms, start=2):
            rim += a * np.cos(order * phi) + b * np.sin(order * phi)
        radius = np.hypot(x / half[0], y / half[1])
        depth = (rim - radius) * float(np.sqrt(half[0] * half[1]))  # µm inside the outline, about
        cover = np.clip(depth / mpp + 0.5, 0, 1)
        membrane = np.clip(1.0 - depth / 0.9, 0, 1)
        rows = np.clip((y / 0.45 + 24).astype(int), 0, 47)
        cols = np.clip((x / 0.45 + 24).astype(int), 0, 47)
        tone = 1.0 - pale * (1 - membrane) + look.clumps * clump[rows, cols]
        for share, where, size in spots:
            sx, sy = share * half[0] * np.cos(where), share * half[1] * np.sin(where)
            spot = np.clip((size - np.hypot(x - sx, y - sy)) / mpp + 0.5, 0, 1)
            tone = tone * (1 - spot) + spot * 1.25
        turned.append(
            Sprite(cover.astype(np.float32), (ink * np.clip(tone, 0.15, 2)).astype(np.float32))
        )
    return turned


def stamp(
    ink: NDArray[np.float32],
    eosin: NDArray[np.float32],
    sprite: Sprite,
    row: int,
    col: int,
    eosin_inside: float = 0.25,
) -> None:
    """Lay `sprite`, its centre on (row, col), over a piece of slide. Off the piece is cut off."""
    reach = sprite.cover.shape[0] // 2
    top, left = max(row - reach, 0), max(col - reach, 0)
    bottom, right = min(row + reach + 1, ink.shape[0]), min(col + reach + 1, ink.shape[1])
    if top >= bottom or left >= right:
        return
    part = (
        slice(top - row + reach, bottom - row + reach),
        slice(left - col + reach, right - col + reach),
    )
    cover, tone = sprite.cover[part], sprite.ink[part]
    for plane, value in ((ink, tone), (eosin, eosin_inside)):
        view = plane[top:bottom, left:right]
        view += cover * (value - view)
