"""What to look at first: the changes of a run, most expected errors first, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recontour.expected import chance_wrong
from recontour.reasons import Evidence, Reasons, kind_of
from recontour.spots import cells_of, first_places, middle_of, spot_of
from recontour.types import Geometry, PatchGrid, Region

NUMBERED = 8
"""Places that get a number on the picture and a row in the report: more nobody looks at."""
FEW = 5
"""Places of which it is said what reviewing them would bring."""
DESCRIPTION = "ANNOTATION_DESCRIPTION"
"""The metadata that QuPath shows as the description of a selected annotation."""


@dataclass(frozen=True)
class Place:
    """Somewhere to look: a change, or of a large one the part that fits on a screen.

    Attributes
    ----------
    number : 1 is first
    region : of the changes
    whole : it is all of the region
    cells : (m,) the cells in it, of no place before it
    spot : (x, y), level-0 px, its middle or, of a whole region, where most errors are expected
    area_um2 : of the place
    wrong_share : 0..1, of its cells expected to be wrong
    reason : why, in words
    """

    number: int
    region: Region
    whole: bool
    cells: NDArray[np.intp]
    spot: tuple[float, float]
    area_um2: float
    wrong_share: float
    reason: str


@dataclass(frozen=True)
class Ranking:
    """What to look at first.

    Attributes
    ----------
    places : the first few, no cell in two of them
    changes : all of them in the order to look at, with measurements `rank` (the number of the first
        place in it; counted on after the places), `expected wrong` (0..1) and `expected wrong µm²`,
        and metadata `reason`, also as QuPath's description. Those with a place have its number as
        name
    listed : bool (n,) cells in any change
    """

    places: tuple[Place, ...]
    changes: tuple[Region, ...]
    listed: NDArray[np.bool_]


def rank_changes(
    changes: Sequence[Region],
    grid: PatchGrid,
    evidence: Evidence,
    drawn: Sequence[Geometry],
    *,
    within_px: float | None = None,
) -> Ranking:
    """Rank changes by the number of wrong cells that looking at them is expected to settle.

    Each next place is the one that adds most to those before it: an uncertain area and the added
    one that it lies in do not count twice. Of a change larger than a screen the place is the window
    with most expected errors, and the rest of it may come later.

    Parameters
    ----------
    changes : of `recontour.changes.find_changes`
    drawn : coarse area of each class k >= 1, level-0 px
    within_px : the limit that the border could not pass; None: there was none
    """
    listed = np.zeros(len(grid), bool)
    if not changes:
        return Ranking((), (), listed)
    wrong = chance_wrong(evidence.probs, evidence.refined)
    cells, held = cells_of([region.geometry for region in changes], grid)
    words = Reasons(changes, grid, evidence, drawn, within_px)
    places: list[Place] = []
    for i, chosen, whole in first_places(cells, held, grid, wrong, NUMBERED):
        mine = cells[i] if whole else chosen
        share = float(wrong[mine].mean())
        area = float(changes[i].geometry.area) * grid.mpp**2
        if not whole:
            area = min(len(chosen) * grid.cell_um**2, area)
        places.append(
            Place(
                len(places) + 1,
                changes[i],
                whole,
                chosen,
                spot_of(grid, chosen, wrong) if whole else middle_of(grid, chosen),
                area,
                share,
                words.say(i, mine, share),
            )
        )
        listed[chosen] = True
    number = {place.region.id: place.number for place in reversed(places)}
    left = [
        float(wrong[c[~listed[c]]].sum()) if h else 0.0 for c, h in zip(cells, held, strict=True)
    ]
    order = sorted(
        range(len(changes)),
        key=lambda i: (
            number.get(changes[i].id, len(places) + 1),
            -left[i],
            -changes[i].geometry.area,
            i,
        ),
    )
    marked, rank = [], len(places)
    for i in order:
        numbers = [place.number for place in places if place.region.id == changes[i].id]
        rank += not numbers
        share = float(wrong[cells[i]].mean())
        said = words.say(i, cells[i], share)
        area = float(changes[i].geometry.area) * grid.mpp**2
        marked.append(
            _marked(changes[i], numbers, numbers[0] if numbers else rank, share, area, said)
        )
        listed[cells[i][: held[i]]] = True
    return Ranking(tuple(places), tuple(marked), listed)


def state_places(
    ranking: Ranking,
    evidence: Evidence,
    grid: PatchGrid,
    corner: tuple[float, float] = (0.0, 0.0),
) -> dict[str, Any]:
    """The first places and what looking at them would bring; JSON types, for `run.json`.

    Parameters
    ----------
    corner : level-0 px of the corner that QuPath counts from

    Returns
    -------
    `places`, and `review`: the share of all expected errors that the first few `places` `settle`,
    and their `cells_share` of all cells; and the share that lies `in_changes`, in any change
    """
    wrong = chance_wrong(evidence.probs, evidence.refined)
    total = max(float(wrong.sum()), 1e-12)
    few = ranking.places[:FEW]
    return {
        "places": [
            _stated(place, float(wrong[place.cells].sum()) / total, grid, corner)
            for place in ranking.places
        ],
        "review": {
            "places": len(few),
            "settle": sum(float(wrong[p.cells].sum()) for p in few) / total,
            "cells_share": sum(len(p.cells) for p in few) / max(len(grid), 1),
            "in_changes": float(wrong[ranking.listed].sum()) / total,
        },
    }


def _stated(
    place: Place, share: float, grid: PatchGrid, corner: tuple[float, float]
) -> dict[str, Any]:
    x, y = place.spot
    return {
        "number": place.number,
        "id": place.region.id,
        "what": place.region.label,
        "change": kind_of(place.region),
        "whole": place.whole,
        "area_um2": place.area_um2,
        "expected_wrong": place.wrong_share,
        "share_of_errors": share,
        "x_px": x,
        "y_px": y,
        "qupath_x_um": (x - corner[0]) * grid.mpp,
        "qupath_y_um": (y - corner[1]) * grid.mpp,
        "reason": place.reason,
    }


def _marked(
    region: Region, numbers: Sequence[int], rank: int, share: float, area_um2: float, reason: str
) -> Region:
    properties = dict(region.properties)
    properties["measurements"] = {
        **properties.get("measurements", {}),
        "rank": rank,
        "expected wrong": share,
        "expected wrong µm²": share * area_um2,
    }
    properties["metadata"] = {
        **properties.get("metadata", {}),
        "reason": reason,
        DESCRIPTION: reason,
    }
    if numbers:
        properties["name"] = f"{', '.join(f'#{n}' for n in numbers)} {region.label}"
    return replace(region, properties=properties)
