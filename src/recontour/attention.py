"""What to look at first: the changes of a run, most expected errors first, and why."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from recontour.expected import chance_wrong, percent
from recontour.types import Geometry, PatchGrid, Region

NUMBERED = 8
"""Places that get a number on the picture and a row in the report: more nobody looks at."""
FEW = 5
"""Places of which it is said what reviewing them would bring."""
SCREEN_CELLS = 20
"""Side of what is looked at in one go: 640 µm of cells of 32 µm."""
SPOT_CELLS = 7
"""Side of the window in which the spot of a place is looked for."""
EVEN = 0.45
"""From this share on, an area is as likely wrong as right."""
DESCRIPTION = "ANNOTATION_DESCRIPTION"
"""The metadata that QuPath shows as the description of a selected annotation."""
NEARLY_ALL = 0.8
"""Of a given polygon: its rest lies on glass, or is the stairs of the cells."""


@dataclass(frozen=True)
class Evidence:
    """What is known of each cell after a run.

    Attributes
    ----------
    classes : K names, background first
    probs : (n, K), calibrated
    given, refined : (n,) labels before and after; -1: none
    alike : (n,) the class whose outlined tissue it looks like; None: not known
    method : (n,) what the method's own smoothed probabilities say
    second : (n,) what a model says that has not seen the cell; None: there is none
    reviewed : bool (n,), a person has said what it is
    finer : the border was moved on cells finer than these
    """

    classes: Sequence[str]
    probs: NDArray[np.floating]
    given: NDArray[np.integer]
    refined: NDArray[np.integer]
    alike: NDArray[np.integer] | None
    method: NDArray[np.integer]
    second: NDArray[np.integer] | None
    reviewed: NDArray[np.bool_]
    finer: bool = False


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
    cells, held = _cells_of(changes, grid)
    words = _Words(changes, grid, evidence, drawn, within_px)
    places: list[Place] = []
    for i, chosen, whole in _first_places(cells, held, grid, wrong):
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
                _spot(grid, chosen, wrong) if whole else _middle(grid, chosen),
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
        "change": _kind(place.region),
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


def _kind(region: Region) -> str:
    metadata: Mapping[str, Any] = region.properties.get("metadata") or {}
    return str(metadata.get("change", "uncertain"))


def _cells_of(
    changes: Sequence[Region], grid: PatchGrid
) -> tuple[list[NDArray[np.intp]], list[int]]:
    """The cells whose centre each change holds, else the nearest one; and how many it holds."""
    tree = shapely.STRtree(shapely.points(grid.centres))
    parts = np.array([region.geometry for region in changes], dtype=object)
    which, found = tree.query(parts, predicate="contains")
    order = np.lexsort((found, which))
    held = np.bincount(which, minlength=len(parts))
    cells = np.split(found[order], np.cumsum(held)[:-1])
    empty = np.flatnonzero(held == 0)
    for i, near in zip(empty, tree.nearest(parts[empty]), strict=True):
        cells[int(i)] = np.array([near], np.intp)
    return cells, [int(n) for n in held]


def _first_places(
    cells: Sequence[NDArray[np.intp]],
    held: Sequence[int],
    grid: PatchGrid,
    wrong: NDArray[np.float64],
) -> Iterator[tuple[int, NDArray[np.intp], bool]]:
    """(change, the new cells of the place, whether that is all of it), most new errors first.

    What a place adds only shrinks as others are taken, so the best by old figures is taken when its
    new one is as good (lazy greedy, Minoux 1978).
    """
    covered = np.zeros(len(grid), bool)

    def best(i: int) -> tuple[float, NDArray[np.intp]]:
        fresh = cells[i][~covered[cells[i]]]
        fresh = _window(grid, fresh, wrong)
        return -float(wrong[fresh].sum()), fresh

    queue = [(best(i)[0], i) for i in range(len(cells)) if held[i]]
    heapq.heapify(queue)
    found = 0
    while queue and found < NUMBERED:
        _, i = heapq.heappop(queue)
        now, fresh = best(i)
        if now >= 0:
            continue
        if queue and (now, i) > queue[0]:
            heapq.heappush(queue, (now, i))
            continue
        whole = _fits(grid, cells[i])
        covered[fresh] = True
        found += 1
        yield i, fresh, whole
        if not whole:
            heapq.heappush(queue, (best(i)[0], i))


def _fits(grid: PatchGrid, cells: NDArray[np.intp]) -> bool:
    rows, cols = grid.rows[cells], grid.cols[cells]
    return bool(np.ptp(rows) < SCREEN_CELLS and np.ptp(cols) < SCREEN_CELLS)


def _window(
    grid: PatchGrid, cells: NDArray[np.intp], wrong: NDArray[np.float64]
) -> NDArray[np.intp]:
    """Those of the cells that lie in the window of one screen with most expected errors."""
    if not len(cells) or _fits(grid, cells):
        return cells
    x, y = _densest(grid, cells, wrong, SCREEN_CELLS)
    rows, cols = grid.rows[cells], grid.cols[cells]
    # As `uniform_filter` places an even window: half of it before the middle.
    top, left = y - SCREEN_CELLS // 2, x - SCREEN_CELLS // 2
    near = (rows >= top) & (rows < top + SCREEN_CELLS)
    near &= (cols >= left) & (cols < left + SCREEN_CELLS)
    return cells[near]


def _densest(
    grid: PatchGrid, cells: NDArray[np.intp], wrong: NDArray[np.float64], side: int
) -> tuple[int, int]:
    """(col, row) of that of the cells in whose window of `side` cells most errors are expected."""
    from scipy.ndimage import uniform_filter

    rows, cols = grid.rows[cells], grid.cols[cells]
    top, left = int(rows.min()), int(cols.min())
    laid = np.zeros((int(rows.max()) - top + 1, int(cols.max()) - left + 1))
    laid[rows - top, cols - left] = wrong[cells]
    around = uniform_filter(laid, side, mode="constant")[rows - top, cols - left]
    best = int(np.argmax(np.round(around, 12)))
    return int(cols[best]), int(rows[best])


def _spot(
    grid: PatchGrid, cells: NDArray[np.intp], wrong: NDArray[np.float64]
) -> tuple[float, float]:
    """(x, y), level-0 px: the cell around which most errors are expected."""
    col, row = _densest(grid, cells, wrong, SPOT_CELLS)
    return (
        grid.origin[0] + (col + 0.5) * grid.stride,
        grid.origin[1] + (row + 0.5) * grid.stride,
    )


def _middle(grid: PatchGrid, cells: NDArray[np.intp]) -> tuple[float, float]:
    """(x, y), level-0 px: that of the cells nearest to the middle of all."""
    centres = grid.centres[cells]
    apart = np.linalg.norm(centres - centres.mean(axis=0), axis=1)
    x, y = centres[int(np.argmin(apart))]
    return float(x), float(y)


class _Words:
    """Reasons, in words."""

    def __init__(
        self,
        changes: Sequence[Region],
        grid: PatchGrid,
        evidence: Evidence,
        drawn: Sequence[Geometry],
        within_px: float | None,
    ) -> None:
        self.changes = changes
        self.evidence = evidence
        self.names = tuple(evidence.classes)
        self.kinds = [_kind(region) for region in changes]
        self.of = [_class_of(region, self.names) for region in changes]
        self.limited = _at_limit(changes, self.kinds, self.of, drawn, within_px, grid.stride / 10)
        self.mpp, self.within_px = grid.mpp, within_px
        self.apart = _apart(changes, self.kinds, self.of, drawn, grid.stride)
        self.whole = _whole(changes, self.kinds, self.of, drawn)

    def say(self, i: int, cells: NDArray[np.intp], share: float) -> str:
        """Why change `i`, which holds `cells`, is as it is, and how likely it is wrong."""
        e = self.evidence
        if e.reviewed[cells].all():
            return "a person has reviewed it"
        parts = [self._uncertain(cells) if self.kinds[i] == "uncertain" else self._moved(i, cells)]
        if self.apart[i] > 0:
            parts.append(f"{self.apart[i] * self.mpp:,.0f} µm away from the given outline")
        if self.whole[i]:
            parts.append("all of a given outline goes")
        if self.limited[i] and self.within_px is not None:
            parts.append(f"touches the limit --within-um {self.within_px * self.mpp:g}")
        if share > 0.5 + (0.5 - EVEN):
            about = f"likelier wrong than right ({percent(share)})"
        elif share >= EVEN:
            about = "as likely wrong as right"
        else:
            about = f"estimated {percent(share)} of it wrong"
        return "; ".join([*parts, about])

    def _moved(self, i: int, cells: NDArray[np.intp]) -> str:
        e = self.evidence
        now = _most(e.refined[cells], len(self.names))
        if not e.finer and np.mean(e.method[cells] != e.refined[cells]) > 0.5:
            small = "gap" if self.kinds[i] == "added" else "part"
            return f"too small a {small} to stay, or too little speaks for it"
        before = _most(e.given[cells], len(self.names))
        was = f"given as {self.names[before]}, " if before > 0 and now > 0 else ""
        if e.alike is None:
            return f"{was}the method takes it for {self.names[now]}".strip()
        like = _most(e.alike[cells], len(self.names))
        if like == now:
            return f"{was}looks like {self._what(like)}"
        taken = self.names[now]
        return f"{was}looks like {self._what(like)}, but the method takes it for {taken}"

    def _uncertain(self, cells: NDArray[np.intp]) -> str:
        e = self.evidence
        if e.second is not None:
            apart = cells[(e.method[cells] != e.second[cells]) & ~e.reviewed[cells]]
            if len(apart) > len(cells) / 2:
                k = len(self.names)
                one, other = _most(e.method[apart], k), _most(e.second[apart], k)
                if one != other:
                    state, said = self._state(apart), f"a second model says {self.names[other]}"
                    if one != _most(e.refined[apart], k):
                        said = f"the method says {self.names[one]}, {said}"
                    return f"{state}; {said}"
        state = self._state(cells)
        mean = e.probs[cells][:, 1:].mean(axis=0)
        best = 1 + int(np.argmax(mean))
        low, high = np.quantile(e.probs[cells, best], (0.1, 0.9))
        chance = percent(low)
        if percent(high) != chance:
            chance = f"between {percent(low)} and {percent(high)}"
        said = f"{state}; the chance of {self.names[best]} is {chance}"
        second = int(np.argsort(mean)[-2]) if len(mean) > 1 else 0
        if len(mean) > 1 and mean[second] > EVEN / 2:
            said += f", of {self.names[second + 1]} about {percent(mean[second])}"
        return said

    def _state(self, cells: NDArray[np.intp]) -> str:
        """What was given and what came of it, in most of the cells."""
        e, k = self.evidence, len(self.names)
        pairs = np.maximum(e.given[cells], 0).astype(np.intp) * k + np.maximum(e.refined[cells], 0)
        before, now = divmod(int(np.argmax(np.bincount(pairs, minlength=k * k))), k)
        if before == now:
            return f"given and kept as {self.names[now]}" if now else "left outside"
        if before and now:
            return f"{self.names[before]} became {self.names[now]}"
        return f"mostly added to {self.names[now]}" if now else "mostly removed"

    def _what(self, k: int) -> str:
        if k == 0:
            return "what lies outside"
        return "what the outline holds" if len(self.names) == 2 else f"outlined {self.names[k]}"


def _most(labels: NDArray[np.integer], classes: int) -> int:
    """The most common label; background where there is none."""
    known = labels[labels >= 0]
    return int(np.argmax(np.bincount(known, minlength=classes))) if len(known) else 0


def _class_of(region: Region, names: Sequence[str]) -> int:
    """k >= 1 of `CLASS: added`; 0 of `uncertain`."""
    name = (region.label or "").rpartition(": ")[0]
    return names.index(name) if name in names else 0


def _at_limit(
    changes: Sequence[Region],
    kinds: Sequence[str],
    of: Sequence[int],
    drawn: Sequence[Geometry],
    within_px: float | None,
    tolerance: float,
) -> NDArray[np.bool_]:
    """(m,) whether a change goes as far as it was allowed to."""
    found = np.zeros(len(changes), bool)
    if within_px is None:
        return found
    parts = np.array([region.geometry for region in changes], dtype=object)
    for k, area in enumerate(drawn, start=1):
        for kind, reach in (("added", within_px), ("removed", -within_px)):
            mine = _of_kind(kinds, of, kind, k)
            if len(mine):
                edge = area.buffer(reach, quad_segs=16).boundary.buffer(tolerance, quad_segs=2)
                shapely.prepare(edge)
                found[mine] = shapely.intersects(edge, parts[mine])
    return found


def _apart(
    changes: Sequence[Region],
    kinds: Sequence[str],
    of: Sequence[int],
    drawn: Sequence[Geometry],
    cell_px: float,
) -> NDArray[np.float64]:
    """(m,) distance of what was added from what was given, px; 0 of what touches it."""
    found = np.zeros(len(changes))
    for k, area in enumerate(drawn, start=1):
        if area.is_empty:
            continue
        shapely.prepare(area)
        for i in _of_kind(kinds, of, "added", k):
            geometry = changes[i].geometry
            if not shapely.intersects(area, geometry):
                found[i] = shapely.distance(area, geometry)
    return np.where(found > cell_px / 2, found, 0.0)


def _whole(
    changes: Sequence[Region], kinds: Sequence[str], of: Sequence[int], drawn: Sequence[Geometry]
) -> NDArray[np.bool_]:
    """(m,) whether nearly all of one given polygon was removed."""
    found = np.zeros(len(changes), bool)
    for k, area in enumerate(drawn, start=1):
        parts = shapely.get_parts(area)
        tree = shapely.STRtree(parts)
        for i in _of_kind(kinds, of, "removed", k):
            geometry = changes[i].geometry
            held = tree.query(geometry.representative_point(), predicate="within")
            found[i] = any(geometry.area >= NEARLY_ALL * parts[j].area for j in held)
    return found


def _of_kind(kinds: Sequence[str], of: Sequence[int], kind: str, k: int) -> NDArray[np.intp]:
    return np.array(
        [i for i, (what, c) in enumerate(zip(kinds, of, strict=True)) if (what, c) == (kind, k)],
        np.intp,
    )
