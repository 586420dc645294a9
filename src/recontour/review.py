"""What a person has looked at and is certain of: reviewed regions, as labels of cells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.affinity import translate
from shapely.errors import ShapelyError

from recontour.annotations import qupath
from recontour.annotations.select import UNCLASSIFIED
from recontour.geometry import polygonal
from recontour.grid import centres_inside
from recontour.types import (
    BACKGROUND,
    UNLABELLED,
    Annotation,
    Frame,
    Geometry,
    PatchGrid,
    PatchSet,
)

LINES = ("Point", "MultiPoint", "LineString", "MultiLineString")
MOST_PLACES = 3  # named in a warning
ALIKE = 0.8  # of two names (difflib): "Tumour" and "Tumor", not "Stroma" and "Tumor"


@dataclass(frozen=True)
class Reviewed:
    """The cells a person is certain of.

    Attributes
    ----------
    labels : int8 (n,), -1 where nothing was reviewed
    warnings : sentences for the user
    facts : for `run.json` (JSON types): `cells` of each class, `contradicted` cells, `regions`,
        `other_classes` that were taken for background
    """

    labels: NDArray[np.int8]
    warnings: tuple[str, ...]
    facts: Mapping[str, Any]


def reviewed_cells(patches: PatchSet) -> NDArray[np.bool_]:
    """(n,) cells whose label a person has confirmed: trust 1."""
    if patches.trust is None:
        return np.zeros(len(patches), bool)
    return np.asarray((np.asarray(patches.trust) >= 1) & (np.asarray(patches.labels) >= 0))


def hold_probs(patches: PatchSet, probs: NDArray[np.floating]) -> NDArray[np.float32]:
    """`probs` (n, K) with certainty where a person has reviewed; a copy where there is any.

    Applied before smoothing, so that a reviewed cell speaks for its neighbours, and after it, so
    that they do not speak against it.
    """
    certain = reviewed_cells(patches)
    held = np.asarray(probs, np.float32)
    if certain.any():
        held = held.copy()
        held[certain] = np.eye(held.shape[1])[patches.labels[certain]]
    return held


def hold_labels(patches: PatchSet, decided: NDArray[np.int8]) -> NDArray[np.int8]:
    """`decided` (rows, cols) with the reviewed labels: no reviewed cell is too small to stay."""
    certain = reviewed_cells(patches)
    held = decided.copy()
    held[patches.grid.rows[certain], patches.grid.cols[certain]] = patches.labels[certain]
    return held


def review_cells(
    grid: PatchGrid,
    annotation: Annotation,
    classes: Sequence[str],
    exclude: Sequence[str] = (),
    frame: Frame | None = None,
) -> Reviewed:
    """Which cells lie in reviewed regions, and of which class those are.

    A cell is reviewed when its centre lies in a region; a region that holds no centre stands for
    the cell that it covers most. Lines and points are taken half a cell wide. A class that is not
    refined means background; regions without a class mean the refined class where the outlines have
    none either, and are passed over elsewhere. Cells reviewed as two different classes are not
    reviewed, and said aloud.

    Parameters
    ----------
    annotation : the reviewed regions, level-0 px
    classes : K names, background first
    exclude : patterns of classes that say nothing ("Ignore*")
    frame : of the file, to place its lines and points; None: they are left out
    """
    names = {name.casefold(): k for k, name in enumerate(classes)}
    found = np.full(len(grid), UNLABELLED, np.int8)
    clash = np.zeros(len(grid), bool)
    nameless = missed = used = 0
    other: dict[str, None] = {}
    for label, geometry in _strokes(annotation, frame, grid.stride / 2):
        key = (label or UNCLASSIFIED).casefold()
        if key not in names and any(fnmatchcase(key, p.strip().casefold()) for p in exclude):
            continue
        if label is None and key not in names:
            nameless += 1
            continue
        cells = _cells_of(grid, geometry)
        if not len(cells):
            missed += 1
            continue
        used += 1
        k = names.get(key, names[BACKGROUND])
        if key not in names and label is not None:
            other[label] = None
        clash[cells[(found[cells] >= 0) & (found[cells] != k)]] = True
        found[cells] = k
    found[clash] = UNLABELLED
    counts = np.bincount(found[found >= 0], minlength=len(classes))
    facts = {
        "regions": used,
        "cells": {name: int(n) for name, n in zip(classes, counts, strict=True)},
        "contradicted": int(clash.sum()),
        "other_classes": list(other),
    }
    where = annotation.source or annotation.slide_id
    said = (*_said(grid, where, clash, nameless, missed, used), *_misspelt(where, other, classes))
    return Reviewed(found, said, facts)


def _strokes(
    annotation: Annotation, frame: Frame | None, radius: float
) -> Iterator[tuple[str | None, Geometry]]:
    for region in annotation.regions:
        yield region.label, region.geometry
    if frame is None:
        return
    for _, feature in qupath.walk(annotation.originals):
        raw = feature.get("geometry")
        if not isinstance(raw, Mapping) or raw.get("type") not in LINES:
            continue
        try:
            line = shapely.geometry.shape(raw)
        except (ShapelyError, TypeError, ValueError, KeyError, IndexError):
            continue  # the reader has said that it is damaged
        if not line.is_empty and np.isfinite(shapely.get_coordinates(line)).all():
            drawn = translate(line, *frame.origin).buffer(radius)
            yield qupath.label_of(qupath.properties_of(feature)), polygonal(drawn)


def _cells_of(grid: PatchGrid, geometry: Geometry) -> NDArray[np.intp]:
    """The cells whose centre it holds; else the one it covers most; none where it covers none."""
    cells = centres_inside(grid, geometry)
    if len(cells) or geometry.is_empty:
        return cells
    x0, y0, x1, y1 = geometry.bounds
    x, y = grid.centres.T
    half = grid.stride / 2
    near = np.flatnonzero((x >= x0 - half) & (x <= x1 + half) & (y >= y0 - half) & (y <= y1 + half))
    boxes = shapely.box(x[near] - half, y[near] - half, x[near] + half, y[near] + half)
    shared = shapely.area(shapely.intersection(boxes, geometry))
    if not len(near) or shared.max() <= 0:
        return near[:0]
    return near[[int(np.argmax(shared))]]


def _said(
    grid: PatchGrid, where: str, clash: NDArray[np.bool_], nameless: int, missed: int, used: int
) -> Iterator[str]:
    if clash.any():
        places = [f"({x:.0f}, {y:.0f})" for x, y in grid.centres[clash][:MOST_PLACES]]
        more = ", …" if clash.sum() > MOST_PLACES else ""
        yield (
            f"{where}: reviewed regions contradict each other in {int(clash.sum())} cell(s), at "
            f"x, y {', '.join(places)}{more} px: these keep the coarse label; let no two classes "
            "overlap"
        )
    if nameless:
        yield f"{where}: {nameless} reviewed region(s) have no class and were passed over"
    if missed:
        yield (
            f"{where}: {missed} reviewed region(s) touch no cell of the tissue that is refined: "
            "are they on this slide, and on tissue?"
        )
    if not used:
        yield f"{where}: nothing in it says of any cell what it is"


def _misspelt(where: str, other: Iterable[str], classes: Sequence[str]) -> Iterator[str]:
    """Classes taken for background whose names are nearly that of a refined one."""
    refined = {name.casefold(): name for name in classes if name != BACKGROUND}
    for label in other:
        for near in get_close_matches(label.casefold(), refined, n=1, cutoff=ALIKE):
            # "Gleason 3" is another class than "Gleason 4", no slip of the hand.
            if _digits(near) == _digits(label):
                yield (
                    f"{where}: class {label!r} is not refined, so its regions mean background; "
                    f"if {refined[near]!r} was meant, rename it"
                )


def _digits(name: str) -> str:
    return "".join(filter(str.isdigit, name))
