"""Smooth random fields and small repeating textures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]


def smooth_field(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> Field:
    """Random field of mean 0 and s.d. 1.

    Parameters
    ----------
    shape : (rows, cols)
    scale : samples from a hill to the next valley, about
    """
    from PIL import Image

    coarse = tuple(max(4, int(np.ceil(side / max(scale, 1.0))) + 4) for side in shape)
    seeds = rng.standard_normal(coarse, dtype=np.float32)
    # The window slides at random, so that hills do not sit on a lattice common to all fields.
    y, x = rng.random(2)
    box = (x, y, x + shape[1] / max(scale, 1.0), y + shape[0] / max(scale, 1.0))
    image = Image.fromarray(seeds).resize(shape[::-1], Image.Resampling.BICUBIC, box=box)
    field = np.asarray(image, np.float32)
    return unit(field)


def unit(texture: NDArray[np.floating]) -> Field:
    """Shift and scale to mean 0 and s.d. 1."""
    centred = texture - texture.mean()
    return np.asarray(centred / max(float(centred.std()), 1e-6), np.float32)


def repeating(
    rng: np.random.Generator, side: int, sigma: float, sigma_x: float | None = None
) -> Field:
    """Texture (side, side) that repeats, mean 0, s.d. 1.

    Grains are `sigma` px wide, `sigma_x` px along x where given.
    """
    rows = np.fft.fftfreq(side).astype(np.float32)[:, None]
    cols = np.fft.rfftfreq(side).astype(np.float32)[None, :]
    spread = (rows * sigma) ** 2 + (cols * (sigma if sigma_x is None else sigma_x)) ** 2
    white = np.fft.rfft2(rng.standard_normal((side, side), dtype=np.float32))
    return unit(np.fft.irfft2(white * np.exp(-2 * np.pi**2 * spread), s=(side, side)))


def fibres(rng: np.random.Generator, side: int, width: float) -> Field:
    """Repeating (side, side) texture of wavy strands along x, `width` px thick, mean 0, s.d. 1."""
    from scipy.ndimage import map_coordinates

    strands = sum(
        weight * repeating(rng, side, width * factor, width * factor * 14)
        for factor, weight in ((0.6, 0.7), (1.5, 1.0), (4.0, 0.6))
    )
    rows, cols = np.mgrid[0:side, 0:side].astype(np.float32)
    bend, wave = repeating(rng, side, width * 14), repeating(rng, side, width * 5)
    rows += width * (6.0 * bend + 1.5 * wave)
    return unit(map_coordinates(strands, [rows, cols], order=1, mode="grid-wrap"))
