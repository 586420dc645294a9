"""What the user allows the outline to do: only grow, only shrink, never move further than so much.

The limits hold on the polygons themselves, exactly, not on the cells they came from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from recontour.errors import UsageError
from recontour.geometry import polygonal, union
from recontour.types import Geometry, iter_polygons

ONLY = ("add", "remove")
SLIVER_CELLS = 0.25
"""Of a cell's area: less than what a lone cell makes is a rest that a limit cut off."""


def check_limits(only: str | None, within_um: float | None) -> None:
    """Refuse limits that make no sense, before any work is done.

    Raises
    ------
    UsageError : `only` is none of `ONLY`, or `within_um` is not a positive length
    """
    if only is not None and only not in ONLY:
        raise UsageError(f"--only {only}: pass one of {', '.join(ONLY)}")
    if within_um is not None and not (within_um > 0 and math.isfinite(within_um)):
        raise UsageError(f"--within-um must be a number above 0, not {within_um:g}")


def constrain(
    refined: Sequence[Geometry],
    coarse: Sequence[Geometry],
    *,
    only: str | None = None,
    within_px: float | None = None,
    excluded: Geometry | None = None,
    min_area_px: float = 0.0,
) -> list[Geometry]:
    """Keep each class's refined outline within what is allowed.

    Parameters
    ----------
    refined, coarse : one geometry a class, level-0 px; those of either do not overlap
    only : `add`: all of the coarse outline stays; `remove`: nothing outside it is taken; None: both
    within_px : the new border lies no further than this from the coarse outline; None: no limit
    excluded : taken by no class
    min_area_px : of what the limits cut off, smaller parts are dropped, unless they have to stay

    Returns
    -------
    One geometry a class. Where classes compete, what the user drew goes before what was found.
    """
    if only is None and within_px is None and (excluded is None or excluded.is_empty):
        return list(refined)
    allowed = list(refined)
    stays: list[Geometry | None] = [None] * len(allowed)
    if within_px is not None:
        # Buffers are approximated from inside: a hair less than asked, so never further.
        cores = [polygonal(g.buffer(-within_px, quad_segs=16)) for g in coarse]
        stays = [*cores]
        reach = [g.buffer(within_px, quad_segs=16) for g in coarse]
        allowed = [
            union([core, polygonal(g.intersection(r).difference(_others(cores, k)))])
            for k, (g, core, r) in enumerate(zip(allowed, cores, reach, strict=True))
        ]
    if only == "add":
        stays = [*coarse]
        allowed = [
            union([drawn, polygonal(g.difference(_others(coarse, k)))])
            for k, (g, drawn) in enumerate(zip(allowed, coarse, strict=True))
        ]
    elif only == "remove":
        allowed = [
            polygonal(g.intersection(drawn)) for g, drawn in zip(allowed, coarse, strict=True)
        ]
    if excluded is not None and not excluded.is_empty:
        allowed = [polygonal(g.difference(excluded)) for g in allowed]
    return [_without_slivers(g, stay, min_area_px) for g, stay in zip(allowed, stays, strict=True)]


def _without_slivers(geometry: Geometry, stays: Geometry | None, min_area_px: float) -> Geometry:
    parts = list(iter_polygons(geometry))
    kept = [
        part
        for part in parts
        if part.area >= min_area_px
        or (stays is not None and polygonal(part.intersection(stays)).area > 0)
    ]
    return geometry if len(kept) == len(parts) else union(kept)


def _others(geometries: Sequence[Geometry], k: int) -> Geometry:
    return union([g for j, g in enumerate(geometries) if j != k])
