"""Folds in the section and pen on the glass."""

from __future__ import annotations

import numpy as np

from recontour.generated.layout import Stroke
from recontour.generated.noise import Field

INKS = ((1.6, 0.9, 0.25), (1.5, 0.5, 1.3), (1.7, 1.7, 1.6))  # blue, green, black


def lay_folds(rng: np.random.Generator, shape: tuple[int, int], step_um: float) -> Field:
    """One or two long, narrow, wavy bands where the section lies double: 1 there, else 0."""
    fold = np.zeros(shape, np.float32)
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
        # A float32 holds no more than e^-87.
        steep = np.minimum((across / (width * np.sqrt(taper) + 1e-3)) ** 4, 80)
        fold += np.exp(-steep) * (taper > 0)
    return np.minimum(fold, 1.0).astype(np.float32)


def draw_pens(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Stroke, ...]:
    """A stroke or two of marker in the corners, beside and partly over the tissue."""
    strokes: list[Stroke] = []
    for _ in range(int(rng.integers(1, 3))):
        t = np.linspace(0, 1, 40)
        start = rng.uniform(0.02, 0.12, 2)
        end = np.array([rng.uniform(0.1, 0.3), rng.uniform(0.02, 0.12)])
        points = start + np.outer(t, end - start)
        points[:, 1] += rng.uniform(-0.04, 0.04) * np.sin(np.pi * t)
        if rng.random() < 0.5:
            points = 1.0 - points
        if rng.random() < 0.5:
            points = points[:, ::-1]
        ink = INKS[int(rng.integers(len(INKS)))]
        width = float(rng.uniform(0.012, 0.022) * min(size))
        strokes.append((points * np.array(size, float), width, ink))
    return tuple(strokes)
