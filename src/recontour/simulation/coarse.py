"""A coarse outline of every class of a fine annotation, valid where it must be."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import shapely

from recontour.errors import AnnotationError, UnknownNameError, UsageError
from recontour.geometry import polygonal, snap, union
from recontour.recipe import Recipe
from recontour.simulation.kinds import DRAW, KINDS, SLIPPING
from recontour.simulation.severity import (
    FIELD_SHARE,
    GROUP_EXCESS,
    LEFT_SHARE,
    LESION_SHARE,
    LIMIT_SHARES,
    LIMIT_STEPS,
    PUBLISHED_UM,
    VALID_SHARE,
    VALID_STEPS,
    Severity,
)
from recontour.simulation.shapes import cut, lighter
from recontour.simulation.task import Task, clipped
from recontour.types import Annotation, Geometry, Region, iter_polygons

_NAMESPACE = uuid.UUID("6f0c7c52-7a3f-5c1e-9d52-0b9a3f2f4c11")


def simulate_coarse(
    fine: Annotation,
    *,
    kind: str,
    seed: int = 0,
    mpp: float,
    size: tuple[int, int] | None = None,
    tissue: Geometry | None = None,
    severity: Severity | None = None,
    classes: Sequence[str] = (),
    exclude: Sequence[str] = Recipe().exclude_classes,
) -> Annotation:
    """Make a coarse outline of every class of `fine`.

    - `published`: the largest lesion, dilated, its convex hull; on the grid, as the authors did:
      equal to the outlines that they released, vertex by vertex where the slide's size is known.
    - `missed`: some of the lesions are not there.
    - `generous`: a hull round the lesions, with bays and gaps filled, and more.
    - `tight`: only the cores.
    - `shifted`: outlined in groups, and displaced.
    - `wobbly`: outlined in groups by an unsteady hand.
    - `flipped`: outlined in groups; blocks inside are left out and as many put in elsewhere.

    The same arguments give the same outlines, ids included. Outlines of several classes may
    overlap, as drawn ones do.

    Parameters
    ----------
    fine : level-0 px
    kind : one of `KINDS`
    seed : of everything drawn at random
    mpp : µm/px
    size : (width, height) of the slide, px: outlines are cut off there
    tissue : level-0 px: where `flipped` puts blocks
    severity : how wrong; None: the defaults, which leave most outlines valid
    classes : those to outline; empty: all that are not excluded
    exclude : shell patterns, any case: regions cut out of the lesions

    Raises
    ------
    UnknownNameError : no such kind or class
    AnnotationError : nothing to outline
    """
    if kind not in KINDS:
        raise UnknownNameError.of("kind of coarse outline", kind, KINDS)
    if not (np.isfinite(mpp) and mpp > 0):
        raise UsageError(f"mpp {mpp:g} is no pixel size; pass a number of µm/px above 0")
    severity = severity or Severity()
    left_out = [r for r in fine.regions if matches(r.label, exclude)]
    by_class: dict[str | None, list[Region]] = {}
    for region in fine.regions:
        if not matches(region.label, exclude) and (not classes or matches(region.label, classes)):
            by_class.setdefault(region.label, []).append(region)
    known = sorted({str(r.label) for r in fine.regions})
    for name in classes:
        if not any(matches(label, [name]) for label in by_class):
            raise UnknownNameError.of("class", name, known)
    if not by_class:
        raise AnnotationError(f"{fine.source or fine.slide_id} has no region to outline")

    dilation = severity.dilation_um
    if dilation is None:
        dilation = PUBLISHED_UM
        if size is not None:
            dilation = min(dilation, min(size) * mpp / FIELD_SHARE)
    subtract = union([r.geometry for r in left_out])
    regions: list[Region] = []
    for label, group in sorted(by_class.items(), key=lambda item: str(item[0])):
        lesion = union([r.geometry for r in group])
        if not subtract.is_empty:
            lesion = polygonal(lesion.difference(subtract))
        if lesion.is_empty:
            continue
        slip = severity.slip_um
        if slip is None:
            slip = min(dilation, np.sqrt(lesion.area) * mpp / LESION_SHARE)
            slip *= severity.slips if kind in SLIPPING else 1.0
        # Seeded by the class, so that a class gets the same outline whatever else is drawn.
        source = [seed, KINDS.index(kind), *str(label).encode()]
        lesions = [r.geometry for r in group]
        if severity.cut:
            lesion = cut(lesion, severity.cut, np.random.default_rng([*source, 1]))
            lesions = list(iter_polygons(lesion))
        task = Task(
            lesions=tuple(lesions),
            fine=lighter(lesion, slip / mpp),
            subtract=subtract,
            slide=None if size is None else shapely.box(0, 0, *size),
            tissue=None if tissue is None else lighter(tissue, slip / mpp),
            dilation=dilation / mpp,
            slip=slip / mpp,
            severity=severity,
            excess=GROUP_EXCESS,
            random=np.random.default_rng(source),
        )
        outline = _outline(task, kind, source)
        outline = snap(outline)
        if outline.is_empty:
            continue
        classification = group[0].properties.get("classification")
        for part in iter_polygons(outline):
            name = f"{fine.slide_id}/{kind}/{seed}"
            regions.append(region_of(part, label, classification, name, len(regions)))
    if not regions:
        raise AnnotationError(f"nothing is left of {fine.slide_id} by simulating {kind!r}")
    return Annotation(
        slide_id=fine.slide_id,
        regions=tuple(regions),
        source=f"simulated: {kind}, seed {seed}",
    )


def _outline(task: Task, kind: str, source: Sequence[int]) -> Geometry:
    """Draw; where the outline must be valid and is not, draw with smaller errors."""
    severity = task.severity
    outline = clipped(task, DRAW[kind](task))
    if kind == "published" or not severity.valid or _is_valid(task, outline):
        return outline

    def milder(scale: float) -> Geometry:
        scaled = replace(
            task,
            slip=task.slip * scale,
            # More slowly: following every nest is what no hand does.
            excess=task.excess * scale**0.5,
            severity=replace(
                severity,
                drop=severity.drop * scale,
                excess=severity.excess * scale,
                keep=1 - (1 - severity.keep) * scale,
                flip=severity.flip * scale,
            ),
            random=np.random.default_rng(list(source)),
        )
        return clipped(task, DRAW[kind](scaled))

    if severity.to_limit:
        low, high = 0.0, 1.0
        for _ in range(LIMIT_STEPS):
            scale = (low + high) / 2
            drawn = milder(scale)
            if _is_valid(task, drawn):
                low, outline = scale, drawn
            else:
                high = scale
        if low:
            return outline
    for scale in VALID_STEPS:
        outline = milder(scale)
        if _is_valid(task, outline):
            break
    return outline


def _is_valid(task: Task, outline: Geometry) -> bool:
    """PPV and NPV by area; NPV only where it is known what lies outside."""
    share, left = LIMIT_SHARES if task.severity.to_limit else (VALID_SHARE, LEFT_SHARE)
    ground = task.slide if task.tissue is None else clipped(task, task.tissue)
    fine = task.fine
    if ground is None:
        return bool(outline.intersection(fine).area > share * outline.area)
    if task.tissue is not None:
        outline, fine = outline.intersection(ground), fine.intersection(ground)
    right = outline.intersection(fine).area
    outside = ground.area - outline.area
    right_outside = outside - (fine.area - right)
    return bool(
        right > share * outline.area
        and right_outside > share * outside
        and right_outside > left * (ground.area - fine.area)
    )


def matches(label: str | None, patterns: Sequence[str]) -> bool:
    """Whether a label is one of the names; shell patterns, any case."""
    name = (label or "").casefold()
    return any(fnmatchcase(name, pattern.casefold()) for pattern in patterns)


def region_of(
    geometry: Geometry, label: str | None, classification: Any, name: str, number: int
) -> Region:
    """A region whose id says what made it: the same outline has the same id."""
    properties: dict[str, Any] = {"objectType": "annotation"}
    if classification is not None:
        properties["classification"] = classification
    return Region(
        id=str(uuid.uuid5(_NAMESPACE, f"{name}/{label}/{number}/{geometry.wkt}")),
        geometry=geometry,
        label=label,
        properties=properties,
    )
