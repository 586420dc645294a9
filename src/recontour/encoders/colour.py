"""Colour statistics: the baseline a learned encoder must beat, and quick enough for tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recontour.errors import EncoderError

# Ruifrok & Johnston (2001): optical densities of haematoxylin, eosin and DAB in R, G, B.
STAINS = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]])
PERCENTILES = (10, 50, 90)


class ColourStatistics:
    """18 numbers a patch: how its colours are distributed, nothing about shape.

    Mean and standard deviation of R, G, B (in [0, 1]); mean and standard deviation of the amounts
    of haematoxylin, eosin and the rest; the 10th, 50th and 90th percentile of haematoxylin and
    eosin.

    Parameters
    ----------
    device, threads : ignored; there is nothing to speed up
    """

    identifier = "colour-1"
    mpp = 1.0  # µm/px: nuclei are still told from cytoplasm, at a quarter of the pixels of 0.5
    patch_px = 32
    dim = 18

    def __init__(self, device: str = "auto", threads: int | None = None) -> None:
        scaled = STAINS / np.linalg.norm(STAINS, axis=1, keepdims=True)
        self._unmix = np.linalg.inv(scaled).astype(np.float32)
        # Optical density of each grey value, base 10; 0 counts as 1, where the log is finite.
        self._density = -np.log10(np.maximum(np.arange(256), 1) / 255.0).astype(np.float32)

    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Statistics of each patch: uint8 (B, H, W, 3) -> float32 (B, 18)."""
        if patches.ndim != 4 or patches.shape[-1] != 3 or patches.dtype != np.uint8:
            raise EncoderError(
                f"colour wants uint8 (B, H, W, 3), not {patches.dtype} {patches.shape}"
            )
        flat = patches.reshape(len(patches), -1, 3)
        rgb = flat.astype(np.float32) / 255.0
        stains = self._density[flat] @ self._unmix
        percentiles = np.percentile(stains[..., :2], PERCENTILES, axis=1)  # (3, B, 2)
        parts = [
            rgb.mean(axis=1),
            rgb.std(axis=1),
            stains.mean(axis=1),
            stains.std(axis=1),
            percentiles.transpose(1, 0, 2).reshape(len(patches), -1),
        ]
        return np.concatenate(parts, axis=1).astype(np.float32)
