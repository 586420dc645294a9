"""Why a change of a run is as it is, in words: what speaks for it, and how likely it is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from recontour.expected import percent
from recontour.types import Geometry, PatchGrid, Region

EVEN = 0.45
"""From this share on, an area is as likely wrong as right."""
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


def kind_of(region: Region) -> str:
    """`added`, `removed` or `uncertain`."""
    metadata: Mapping[str, Any] = region.properties.get("metadata") or {}
    return str(metadata.get("change", "uncertain"))


class Reasons:
    """The reasons for all changes of a run: what has to be found out about each is found once."""

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
        self.kinds = [kind_of(region) for region in changes]
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
