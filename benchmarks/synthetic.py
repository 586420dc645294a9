"""Slides of any number of cells, and features for them, that cost next to nothing to make.

What follows the embedding depends on how many cells there are, how wide their features are and how
ragged the tissues, not on what the pixels show. So the slide here is one small picture (a pixel is
8 µm) and the encoder a fixed random map of its colours to as many numbers as the default encoder
has, with the noise of pixels in every one. For timing and memory only, never for accuracy.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import fourier_gaussian, gaussian_filter
from shapely import MultiPolygon, Polygon, box

from recontour import registry
from recontour.types import Annotation, Region

MPP = 0.25
PIXEL = 32  # level-0 px of a pixel of the picture: 8 µm
CELL = 4  # pixels of the picture: the default cell of 32 µm
TISSUE, TUMOR = (200, 140, 180), (150, 90, 165)
NAME = "synthetic"


class SyntheticSlide:
    """A slide held in memory, about half of it tissue, about a third of that a ragged tumour.

    Parameters
    ----------
    cells : tissue cells of 32 µm wanted; there will be about so many
    """

    mpp_source = "synthetic"
    reader = NAME

    def __init__(self, cells: int, seed: int = 0) -> None:
        side = int(np.ceil(np.sqrt(2 * cells))) * CELL
        rng = np.random.default_rng(seed)

        def field(sigma: float) -> NDArray[np.float64]:
            spectrum = fft.rfft2(rng.normal(size=(side, side)))
            smooth = fft.irfft2(fourier_gaussian(spectrum, sigma, n=side), s=(side, side))
            return np.asarray(smooth / smooth.std())

        tissue = field(side / 8)
        tissue = tissue > np.quantile(tissue, 0.5)
        # Large parts whose number does not grow with the slide, and nests whose number does.
        tumor = 2 * field(side / 12) + field(5.0 * CELL)
        self.tumor: NDArray[np.bool_] = tissue & (tumor > np.quantile(tumor[tissue], 0.67))
        picture = np.full((side, side, 3), 243.0)
        picture[tissue] = TISSUE
        picture[self.tumor] = TUMOR
        picture += rng.normal(0, 14, picture.shape) * tissue[..., None]
        self.picture = picture.clip(0, 255).astype(np.uint8)
        self.id = f"{NAME}_{cells}_{seed}"
        self.size = (side * PIXEL, side * PIXEL)
        self.bounds = (0, 0, *self.size)
        self.mpp = MPP
        self.level_mpps = (MPP,)
        self.fingerprint = hashlib.sha256(self.picture.tobytes()).hexdigest()[:16]

    def read_region(
        self, x: float, y: float, size: tuple[int, int], mpp: float
    ) -> NDArray[np.uint8]:
        """RGB (h, w, 3); pixels of the picture are repeated or left out."""
        scale = mpp / MPP / PIXEL
        side = len(self.picture)
        cols, rows = (
            np.floor(at / PIXEL + (np.arange(n) + 0.5) * scale).astype(np.intp)
            for at, n in zip((x, y), size, strict=True)
        )
        found = self.picture[rows.clip(0, side - 1)[:, None], cols.clip(0, side - 1)[None]]
        found[(rows < 0) | (rows >= side)] = 255
        found[:, (cols < 0) | (cols >= side)] = 255
        return found

    def close(self) -> None:
        """There is nothing to close."""

    def outline(self, seed: int = 0) -> Annotation:
        """The tumour as a careless hand would draw it: large parts, smooth borders."""
        import contourpy

        rng = np.random.default_rng([seed, 1])
        shape = gaussian_filter(self.tumor.astype(np.float64), 3.0 * CELL)
        shape += 0.15 * gaussian_filter(rng.normal(size=shape.shape), 8.0 * CELL) * 8 * CELL
        lines = contourpy.contour_generator(z=np.pad(shape, 1)).lines(0.4)
        parts = [Polygon((line - 0.5) * PIXEL).buffer(0) for line in lines if len(line) > 40]
        whole: Polygon | MultiPolygon = box(0, 0, 0, 0)
        for part in sorted(parts, key=lambda p: -p.area):
            whole = whole.symmetric_difference(part)
        polygons = getattr(whole, "geoms", [whole])
        properties = {"objectType": "annotation", "classification": {"name": "Tumor"}}
        regions = tuple(
            Region(f"{seed}-{i}", p, "Tumor", None, properties)
            for i, p in enumerate(polygons)
            if p.area > 0
        )
        return Annotation(self.id, regions, source=f"outline {seed}")


class SyntheticEncoder:
    """424 numbers a cell: a fixed random map of the colours of its 16 pixels."""

    identifier = f"{NAME}-1"
    mpp = PIXEL * MPP
    patch_px = CELL
    dim = 424
    dense_stride = CELL
    align = CELL
    halo = 0

    def __init__(self, device: str = "auto", threads: int | None = None) -> None:
        rng = np.random.default_rng(0)
        self._first = rng.normal(0, 0.3, (3 * CELL**2, 64)).astype(np.float32)
        self._second = rng.normal(0, 0.125, (64, self.dim)).astype(np.float32)

    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (B, H, W, 3) -> float32 (B, 424)."""
        return self.dense(patches).mean(axis=(1, 2))

    def dense(self, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (B, H, W, 3) -> float32 (B, H / 4, W / 4, 424)."""
        n, height, width, _ = windows.shape
        blocks = windows.reshape(n, height // CELL, CELL, width // CELL, CELL, 3)
        x = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(n, height // CELL, width // CELL, -1)
        hidden = np.tanh((x.astype(np.float32) - 180) / 60 @ self._first)
        return np.maximum(hidden @ self._second, 0)


def register() -> str:
    """Make the encoder known under the name that is returned."""
    target = f"{SyntheticEncoder.__module__}:{SyntheticEncoder.__qualname__}"
    registry.BUILTIN["encoder"][NAME] = registry.Entry(target)
    return NAME
