"""What the user allows the outline to do: only grow, only shrink, never move further than so much.

The limits hold on the polygons themselves, exactly, not on the cells they came from.
"""

from __future__ import annotations

from collections.abc import Sequence

from recontour.errors import UsageError
from recontour.geometry import polygonal, union
from recontour.types import Geometry

ONLY = ("add", "remove")


def constrain(
    refined: Sequence[Geometry],
    coarse: Sequence[Geometry],
    *,
    only: str | None = None,
    within_px: float | None = None,
    excluded: Geometry | None = None,
) -> list[Geometry]:
    """Keep each class's refined outline within what is allowed.

    Parameters
    ----------
    refined, coarse : one geometry a class, level-0 px; the refined ones do not overlap
    only : `add`: all of the coarse outline stays; `remove`: nothing outside it is taken; None: both
    within_px : the new border lies no further than this from the coarse outline; None: no limit
    excluded : taken by no class

    Returns
    -------
    One geometry a class. Where classes compete, what the user drew goes before what was found.

    Raises
    ------
    UsageError : `only` is something else, or `within_px` is not positive
    """
    if only is not None and only not in ONLY:
        raise UsageError(f"--only {only}: pass one of {', '.join(ONLY)}")
    if within_px is not None and not within_px > 0:
        raise UsageError(f"--within-um must be positive, not {within_px:g}")
    allowed = list(refined)
    if within_px is not None:
        # Buffers are approximated from inside: a hair less than asked, so never further.
        cores = [polygonal(g.buffer(-within_px, quad_segs=16)) for g in coarse]
        reach = [g.buffer(within_px, quad_segs=16) for g in coarse]
        allowed = [
            union([core, polygonal(g.intersection(r).difference(_others(cores, k)))])
            for k, (g, core, r) in enumerate(zip(allowed, cores, reach, strict=True))
        ]
    if only == "add":
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
    return allowed


def _others(geometries: Sequence[Geometry], k: int) -> Geometry:
    return union([g for j, g in enumerate(geometries) if j != k])
