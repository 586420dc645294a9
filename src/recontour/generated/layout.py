"""What is known of a generated slide before a pixel is painted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recontour.generated.noise import Field

MAP_UM = 4.0  # µm a sample: borders are smooth at this length, and 10 mm of slide is 6 M samples
PAD = 2  # samples the maps reach beyond the slide on each side, so that every contour closes

TUMOR, LYMPHOCYTE, FIBROBLAST, EPITHELIUM = range(4)  # kinds of nuclei

Mask = NDArray[np.bool_]
Points = NDArray[np.float64]
Stroke = tuple[Points, float, tuple[float, float, float]]
"""Points (n, 2) level-0 px, width px, optical density for red, green and blue."""


class Gland(NamedTuple):
    """A benign gland. Lengths in µm, positions from the corner of the slide."""

    x: float
    y: float
    radius: float
    wall: float
    """Thickness of the epithelium."""
    terms: Points
    """(4, 2) cosine and sine of the 2nd to 5th harmonic of the outline."""

    def radii(self, angle: NDArray[Any]) -> NDArray[Any]:
        """From the centre to the border in the direction `angle`, µm."""
        wobble = np.ones_like(angle)
        for order, (a, b) in enumerate(self.terms, start=2):
            wobble = wobble + a * np.cos(order * angle) + b * np.sin(order * angle)
        return np.asarray(self.radius * np.clip(wobble, 0.5, 1.6))


@dataclass(frozen=True)
class Nuclei:
    """The nuclei, unordered.

    Attributes
    ----------
    x, y : level-0 px
    angle : of the long axis, radians
    kind : TUMOR, LYMPHOCYTE, FIBROBLAST or EPITHELIUM
    variant : float in [0, 1), which of the shapes of its kind, small ones first
    """

    x: Field
    y: Field
    angle: Field
    kind: NDArray[np.uint8]
    variant: Field


@dataclass(frozen=True)
class Layout:
    """Maps, nuclei and marks of one slide.

    Each map is float32 (rows, cols), `pitch` level-0 px between samples; sample i lies at level-0
    px (i - PAD + 0.5) * pitch.

    Attributes
    ----------
    size : (width, height), level-0 px
    tissue, tumor, lymph, fat : positive inside
    gland, lumen : µm inside the border of a benign gland and of its lumen, negative outside
    warp_x, warp_y : µm by which fibres are bent
    strength : factor on both stains (section thickness)
    tint : shift from eosin to haematoxylin
    cellular : how crowded and blue the stroma is
    grade : how big and how crowded tumour nuclei are, and how blue the cytoplasm is
    fold : extra thickness, 0 nearly everywhere
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
    lumen: Field
    warp_x: Field
    warp_y: Field
    strength: Field
    tint: Field
    cellular: Field
    grade: Field
    fold: Field
    fibre_angle: float
    glands: tuple[Gland, ...]
    pens: tuple[Stroke, ...]

    def sample(self, name: str, x: NDArray[Any], y: NDArray[Any]) -> Field:
        """Values of a map at points in level-0 px."""
        from scipy.ndimage import map_coordinates

        at = [y / self.pitch + PAD - 0.5, x / self.pitch + PAD - 0.5]
        return np.asarray(map_coordinates(getattr(self, name), at, order=1, mode="nearest"))
