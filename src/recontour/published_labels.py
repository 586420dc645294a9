"""The published rule that turns outlines into cell labels, to the letter of the LC-MIL code.

On an image of one pixel a cell, with Pillow: each ring's coordinates are divided by the side of a
cell, the rings of lesions are filled and their outline is cleared again (so that every lesion loses
about half a cell all round), then the rings of exclusions are cleared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recontour.types import PatchGrid

Points = NDArray[np.float64]


@dataclass(frozen=True)
class RingSet:
    """The rings of one class.

    Attributes
    ----------
    lesions, exclusions : (m, 2) points (x, y) each, level-0 px, the first not repeated at the end
    area : where classes overlap, the one with the smaller area wins
    """

    lesions: Sequence[Points]
    exclusions: Sequence[Points]
    area: float = 0.0


def label_published(grid: PatchGrid, classes: Sequence[RingSet]) -> NDArray[np.int8]:
    """int8 (n,): 0 background, k the class at `classes[k - 1]`.

    The published code knows one class. Several are drawn on an image each, the largest first.
    """
    labels = np.zeros(len(grid), np.int8)
    for i in sorted(range(len(classes)), key=lambda i: -classes[i].area):
        image = draw_published(grid, classes[i].lesions, classes[i].exclusions)
        labels[image[grid.rows, grid.cols]] = i + 1
    return labels


def draw_published(
    grid: PatchGrid, lesions: Sequence[Points], exclusions: Sequence[Points]
) -> NDArray[np.bool_]:
    """bool (rows, cols): what the published code fills. A ring of one point draws nothing."""
    from PIL import Image, ImageDraw

    rows, cols = grid.shape
    image = Image.new("1", (cols, rows), 0)
    draw = ImageDraw.Draw(image)
    for rings, fill in ((lesions, 1), (exclusions, 0)):
        for ring in rings:
            if len(ring) < 2:  # Pillow refuses it
                continue
            points = (ring - grid.origin) / grid.stride
            draw.polygon([(float(x), float(y)) for x, y in points], fill=fill, outline=0)
    return np.array(image, dtype=bool)
