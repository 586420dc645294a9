"""What a refinement changed: areas added and removed, and areas it is not sure about."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import numpy as np
import shapely
from numpy.typing import NDArray

from recontour.geometry import polygonal, snap, union
from recontour.objects import NAMESPACE, mean_probability
from recontour.types import Geometry, PatchGrid, PatchSet, Region, iter_polygons

COLOURS = {"added": (30, 160, 60), "removed": (30, 90, 220), "uncertain": (240, 180, 0)}

UNCERTAIN = 0.15
"""A cell is uncertain when its probability lies this close to a half: it is wrong with a chance of
more than 35 %."""


def find_changes(
    areas: Sequence[Geometry],
    drawn: Sequence[Geometry],
    patches: PatchSet,
    probs: NDArray[np.float32],
    tissue: Geometry,
    *,
    key: str,
    uncertain: NDArray[np.bool_],
    min_uncertain_cells: float = 1.0,
) -> tuple[Region, ...]:
    """Compare the refined area of each class with the coarse one.

    Parameters
    ----------
    areas, drawn : refined and coarse area of each class k >= 1, level-0 px
    probs : (n, K), calibrated
    uncertain : (n,) the cells that should be looked at
    tissue : only changes on tissue are listed (a coarse outline always holds some glass)

    Returns
    -------
    Regions labelled `CLASS: added`, `CLASS: removed` or `uncertain`, largest first within each;
    slivers thinner than half a cell, or smaller than one, are left out, and uncertain areas of
    fewer than `min_uncertain_cells` (there would be thousands). The measurement
    `probability` is the mean probability of the class in the area.
    """
    found: list[Region] = []
    for k, (area, coarse) in enumerate(zip(areas, drawn, strict=True), start=1):
        name = patches.classes[k]
        for kind, difference in (
            ("added", area.difference(coarse)),
            ("removed", coarse.difference(area).intersection(tissue)),
        ):
            parts = _without_slivers(polygonal(difference), patches.grid.stride)
            found += _regions(parts, kind, f"{name}: {kind}", patches, probs[:, k], key)
    wavering = _cells(patches.grid, uncertain)
    smallest = (min_uncertain_cells - 0.5) * patches.grid.stride**2
    parts = [part for part in iter_polygons(wavering) if part.area > smallest]
    found += _regions(parts, "uncertain", "uncertain", patches, probs.max(axis=1), key)
    return tuple(found)


def uncertain_cells(probs: NDArray[np.floating], threshold: float = 0.5) -> NDArray[np.bool_]:
    """(n,) cells whose foreground probability is near the threshold, or whose classes tie."""
    near: NDArray[np.bool_] = np.abs((1.0 - probs[:, 0]) - threshold) < UNCERTAIN
    if probs.shape[1] > 2:
        top = np.sort(probs[:, 1:], axis=1)
        near |= (1.0 - probs[:, 0] > threshold) & (top[:, -1] - top[:, -2] < UNCERTAIN)
    return near


def _cells(grid: PatchGrid, chosen: NDArray[np.bool_]) -> Geometry:
    x = grid.origin[0] + grid.cols[chosen].astype(float) * grid.stride
    y = grid.origin[1] + grid.rows[chosen].astype(float) * grid.stride
    return union(shapely.box(x, y, x + grid.stride, y + grid.stride))


def _without_slivers(geometry: Geometry, cell_px: float) -> list[Geometry]:
    """The parts of at least one cell's area that are somewhere half a cell thick."""
    parts = [p for p in iter_polygons(geometry) if p.area >= cell_px * cell_px]
    return [p for p in parts if not p.buffer(-cell_px / 4, quad_segs=2).is_empty]


def _regions(
    parts: Sequence[Geometry],
    kind: str,
    label: str,
    patches: PatchSet,
    prob: NDArray[np.float32],
    key: str,
) -> list[Region]:
    pieces = [q for p in parts for q in iter_polygons(snap(p)) if q.area >= 1]
    pieces.sort(key=lambda p: (-p.area, p.bounds))
    means = mean_probability(pieces, patches, prob)
    regions = []
    for i, (piece, mean) in enumerate(zip(pieces, means, strict=True)):
        properties = {
            "objectType": "annotation",
            "classification": {"name": label, "color": list(COLOURS[kind])},
            "measurements": {
                "probability": float(mean),
                "area µm²": float(piece.area) * patches.grid.mpp**2,
            },
            "metadata": {"change": kind, "source": "recontour"},
        }
        identity = str(uuid.uuid5(NAMESPACE, f"{key}/{label}/{i}"))
        regions.append(Region(identity, piece, label, None, properties))
    return regions
