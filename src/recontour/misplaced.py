"""Where an outline that fits badly would fit: moved by the slide's bounds, or scaled.

Only asked about outlines that are already doubted, and only a few places that a wrong frame
explains: the best of all shifts is more often wrong than right (`docs/research/validity.md`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from shapely import affinity

from recontour.appearance import Look, belonging, look_at
from recontour.grid import label_patches
from recontour.types import Geometry, PatchSet

SCALES = (0.25, 0.5, 2.0, 4.0)
"""What coordinates are off by that were drawn on another level, or saved for another pixel size."""
CLEARLY = math.log(2.0)
"""A proposal must part the look this many times more, against its own copies, than the outline."""
BELONGS = 1.0
"""And this many e-folds more than its copies: outlines that lie right do."""
LEAST_BLOCKS = 10
ON_TISSUE = 0.5
"""Of the area that the outline has on tissue where it lies, scaled along: so much must stay."""


class Proposal(NamedTuple):
    """A place where the outline fits better.

    Attributes
    ----------
    kind : "origin" or "scale"
    dx, dy : level-0 px to move it by, after scaling about level-0 (0, 0)
    scale : factor
    gain : logarithm of how many times better it fits
    """

    kind: str
    dx: float
    dy: float
    scale: float
    gain: float

    def __str__(self) -> str:
        if self.kind == "origin":
            return (
                f"moved by ({self.dx:+.0f}, {self.dy:+.0f}) px, the offset of the slide's bounds, "
                "it fits much better: its coordinates are counted from another origin; pass "
                f"--origin {'level0' if self.dx + self.dy < 0 else 'bounds'}"
            )
        return (
            f"{self.scale:g} times as large, all coordinates multiplied, it fits much better: it "
            "was drawn on an image of another resolution; export it in full-resolution pixels, or "
            "scale it"
        )


def propose_place(
    patches: PatchSet,
    drawn: Sequence[Geometry],
    *,
    offset: tuple[float, float] = (0.0, 0.0),
    origin: tuple[float, float] = (0.0, 0.0),
    scales: Sequence[float] = SCALES,
) -> Proposal | None:
    """The place where a badly fitting outline clearly fits, None where there is none.

    Parameters
    ----------
    patches : the cells; their labels are those of `drawn` where it lies
    drawn : the area of each class k >= 1, level-0 px
    offset : corner of the slide's bounds, level-0 px
    origin : where the file's coordinates were taken to start, level-0 px: `offset` or (0, 0)
    scales : factors to try; those of the slide's levels are worth adding
    """
    look = look_at(patches)
    if look is None or not _two_sided(look, look.labels):
        return None
    own = belonging(look, look.labels)
    best: Proposal | None = None
    for kind, dx, dy, scale in _named(offset, origin, scales):
        moved = [_placed(g, dx, dy, scale, origin) for g in drawn]
        labels = look.majority(
            label_patches(patches.grid, [[g] for g in moved]), len(patches.classes)
        )
        wanted = ON_TISSUE * scale**2 * (look.labels > 0).sum() if kind == "origin" else 0
        if not _two_sided(look, labels) or (labels > 0).sum() < wanted:
            continue
        fit = belonging(look, labels)
        if fit >= BELONGS and fit - own >= CLEARLY and (best is None or fit - own > best.gain):
            best = Proposal(kind, dx, dy, scale, fit - own)
    return best


def _named(
    offset: tuple[float, float], origin: tuple[float, float], scales: Sequence[float]
) -> Iterator[tuple[str, float, float, float]]:
    if offset != (0.0, 0.0):
        sign = -1.0 if origin != (0.0, 0.0) else 1.0
        yield "origin", sign * offset[0], sign * offset[1], 1.0
    for scale in sorted({round(float(s), 4) for s in scales} - {1.0}):
        yield "scale", 0.0, 0.0, scale


def _placed(
    geometry: Geometry, dx: float, dy: float, scale: float, origin: tuple[float, float]
) -> Geometry:
    """File coordinates count from `origin`, so that is what scaling leaves in place."""
    if geometry.is_empty:
        return geometry
    scaled = affinity.scale(geometry, scale, scale, origin=origin)
    moved: Geometry = affinity.translate(scaled, dx, dy)
    return moved


def _two_sided(look: Look, labels: NDArray[np.int8]) -> bool:
    inside = int((labels > 0).sum())
    return min(inside, len(labels) - inside) >= LEAST_BLOCKS
