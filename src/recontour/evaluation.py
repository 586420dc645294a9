"""Compare a prediction (and the coarse outline it came from) with the truth, slide by slide."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from recontour.errors import AnnotationError, UnknownNameError, UsageError
from recontour.geometry import union
from recontour.grid import full_lattice, label_patches
from recontour.metrics.cells import (
    Confusion,
    cleaned,
    confusion,
    macro,
    mean,
    mis_modified,
    valid,
)
from recontour.metrics.polygons import boundary_distance_um, polygon_dice, polygon_iou
from recontour.recipe import Recipe
from recontour.types import BACKGROUND, Annotation, Geometry, PatchGrid, Region

SCHEMA = "recontour.evaluation/1"
AGGREGATE_SCHEMA = "recontour.evaluation.aggregate/1"
CELL_UM = 32.0
MARGIN_CELLS = 10
UNCLASSIFIED = "Unclassified"
CELL_METRICS = ("accuracy", "tpr", "tnr", "ppv", "npv", "f1", "iou", "dice")
GRID_METRICS = ("iou_grid", "dice_grid")
POLYGON_METRICS = (
    "area_um2",
    "polygon_iou",
    "polygon_dice",
    "boundary_mean_um",
    "boundary_hausdorff95_um",
)
CHANGE_METRICS = ("cleaned", "mis_modified")


@dataclass(frozen=True)
class Scores:
    """How one annotation compares with the truth.

    Attributes
    ----------
    per_class : class name -> metric -> value; NaN where undefined
    overall : the values of the only class, or their means over the classes (macro), with
        `accuracy` then the share of cells with exactly the right class
    confusions : class name -> counts on the cells that take part
    confusions_grid : the same on the whole lattice
    valid : PPV > 0.5 and NPV > 0.5 for every class
    """

    per_class: Mapping[str, Mapping[str, float]]
    overall: Mapping[str, float]
    confusions: Mapping[str, Confusion]
    confusions_grid: Mapping[str, Confusion]
    valid: bool

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types; undefined values are null."""
        return {
            "valid": self.valid,
            "overall": _json(self.overall),
            "per_class": {name: _json(values) for name, values in self.per_class.items()},
            "counts": {name: dict(c._asdict()) for name, c in self.confusions.items()},
            "counts_grid": {name: dict(c._asdict()) for name, c in self.confusions_grid.items()},
        }


@dataclass(frozen=True)
class Evaluation:
    """One slide, compared with its truth. Figures are not rounded.

    Attributes
    ----------
    slide_id : of the truth
    classes : those compared, background first
    cells : which cells take part: `tissue`, `slide` (all of it), or `geometry` (no slide at hand:
        the bounding box of all outlines and a margin)
    n_cells, n_grid : cells that take part; cells of the whole lattice
    cell_px, mpp : side of a cell in level-0 px; µm per px or None
    label_rule : `centre` or `published`
    prediction, coarse : the scores; `coarse` is None when no coarse outline was given
    truth_area_um2 : class name -> area, NaN without mpp
    cleaned, mis_modified : shares of the coarse labels, over all classes; NaN without coarse
    notes : what the reader of the figures must know
    """

    slide_id: str
    classes: tuple[str, ...]
    cells: str
    n_cells: int
    n_grid: int
    cell_px: int
    mpp: float | None
    label_rule: str
    prediction: Scores
    coarse: Scores | None
    truth_area_um2: Mapping[str, float]
    cleaned: float
    mis_modified: float
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types, with the schema's name and version; undefined values are null."""
        return {
            "schema": SCHEMA,
            "slide": self.slide_id,
            "classes": list(self.classes),
            "cells": self.cells,
            "n_cells": self.n_cells,
            "n_grid": self.n_grid,
            "cell_px": self.cell_px,
            "mpp": self.mpp,
            "cell_um": None if self.mpp is None else self.cell_px * self.mpp,
            "label_rule": self.label_rule,
            "truth_area_um2": _json(self.truth_area_um2),
            "prediction": self.prediction.to_dict(),
            "coarse": None if self.coarse is None else self.coarse.to_dict(),
            **_json({"cleaned": self.cleaned, "mis_modified": self.mis_modified}),
            "notes": list(self.notes),
        }


def evaluate(
    truth: Annotation,
    prediction: Annotation,
    *,
    coarse: Annotation | None = None,
    tissue: Geometry | None = None,
    slide_size: tuple[int, int] | None = None,
    mpp: float | None = None,
    cell_px: int | None = None,
    label_rule: str = "centre",
    classes: Sequence[str] = (),
    exclude: Sequence[str] = Recipe().exclude_classes,
    subtract: Sequence[str] = (),
) -> Evaluation:
    """Every metric of the two papers, and polygon metrics, of one slide.

    Cells are laid from the slide's corner. With `tissue`, the metrics `accuracy` to `dice` count
    the cells whose centre is on tissue; `iou_grid` and `dice_grid` count the whole lattice, as the
    papers do for IoU and Dice. Without `slide_size` the lattice covers the bounding box of all
    outlines (and of the tissue) and 10 cells around it; without tissue too there is only geometry,
    and metrics that count true negatives (accuracy, TNR, NPV) hang on that margin.

    Parameters
    ----------
    truth, prediction, coarse : level-0 px
    tissue : level-0 px; None: every cell takes part
    slide_size : (width, height) px; None: geometry only
    mpp : µm/px; without it areas and distances are NaN
    cell_px : side of a cell; None: 32 µm
    label_rule : how outlines become cell labels, see `label_patches`
    classes : those to compare; empty: every class of the truth that is not excluded
    exclude : shell patterns, any case: cells in these regions of the truth take no part
    subtract : shell patterns, any case, looked at first: these regions are cut out of the truth
        and count as background (`Region*` in CAMELYON16)

    Raises
    ------
    UnknownNameError : a class that the truth does not have
    AnnotationError : the truth holds nothing to compare with
    UsageError : neither `cell_px` nor `mpp`
    """
    if cell_px is None:
        if mpp is None:
            raise UsageError("cells have no size; pass the cell side in px or --mpp (µm/px)")
        cell_px = max(1, round(CELL_UM / mpp))
    notes: list[str] = []
    cut, rest = _split(truth.regions, subtract)
    left_out, rest = _split(rest, exclude)
    names = _class_names(rest, classes, truth)
    parts = {"truth": _by_class(rest, names)}
    for role, annotation in (("prediction", prediction), ("coarse", coarse)):
        if annotation is not None:
            parts[role] = _matching(annotation, names, role, notes)

    shapes = [r.geometry for regions in parts.values() for group in regions for r in group]
    if tissue is not None:
        shapes.append(tissue)
    grid = _lattice(slide_size, shapes, cell_px, mpp)
    on = np.ones(len(grid), bool)
    if tissue is not None:
        on &= label_patches(grid, [[tissue]], rule="centre") == 1
    if left_out:
        on &= label_patches(grid, [left_out], rule="centre") != 1
        notes.append(f"cells in {len(left_out)} excluded regions of the truth take no part")
    if slide_size is not None:
        whole = shapely.box(0, 0, *slide_size)
        for role, groups in parts.items():
            shapes = [region.geometry for group in groups for region in group]
            if shapes and not any(shape.intersects(whole) for shape in shapes):
                notes.append(f"the {role} lies off the slide: is --origin right?")
    if slide_size is None and tissue is None:
        notes.append(
            f"no slide: cells cover the outlines' bounding box and {MARGIN_CELLS} cells around it, "
            "tissue or not; accuracy, TNR and NPV depend on that margin"
        )
    labels = {
        role: label_patches(
            grid, regions, rule=label_rule, exclusions=cut if role == "truth" else ()
        )
        for role, regions in parts.items()
    }
    if cut:
        notes.append(f"{len(cut)} regions were cut out of the truth")
    if not on.any():
        raise AnnotationError("no cell takes part: the tissue and the slide do not overlap")

    outlines = {
        role: {
            name: union([r.geometry for r in group])
            for name, group in zip(names, regions, strict=True)
        }
        for role, regions in parts.items()
    }
    if cut:
        hole = union([r.geometry for r in cut])
        outlines["truth"] = {n: _minus(g, hole) for n, g in outlines["truth"].items()}

    def scores(role: str) -> Scores:
        return _scores(
            names, labels["truth"], labels[role], on, outlines["truth"], outlines[role], mpp
        )

    area = float("nan") if mpp is None else mpp**2
    given = labels.get("coarse")
    t, p = labels["truth"][on], labels["prediction"][on]
    return Evaluation(
        slide_id=truth.slide_id,
        classes=(BACKGROUND, *names),
        cells="tissue" if tissue is not None else "geometry" if slide_size is None else "slide",
        n_cells=int(on.sum()),
        n_grid=len(grid),
        cell_px=cell_px,
        mpp=mpp,
        label_rule=label_rule,
        prediction=scores("prediction"),
        coarse=scores("coarse") if "coarse" in parts else None,
        truth_area_um2={n: g.area * area for n, g in outlines["truth"].items()},
        cleaned=float("nan") if given is None else cleaned(t, given[on], p),
        mis_modified=float("nan") if given is None else mis_modified(t, given[on], p),
        notes=tuple(notes),
    )


def aggregate(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Means over slides, and micro-averages (all cells of all slides in one count).

    Every mean comes with the sample s.d. and the number of slides where the metric is defined;
    slides with a valid and an invalid coarse outline are also given apart.

    Returns
    -------
    JSON types, unrounded, undefined values null: `{"slides": n, "all": {role: {"mean": {metric:
    {"mean", "sd", "n"}}, "micro": {metric: value}}}, "valid": …, "not_valid": …}`
    """
    known = [e for e in evaluations if e.coarse is not None]
    groups = {
        "all": list(evaluations),
        "valid": [e for e in known if e.coarse is not None and e.coarse.valid],
        "not_valid": [e for e in known if e.coarse is not None and not e.coarse.valid],
    }
    return {
        "schema": AGGREGATE_SCHEMA,
        "slides": len(evaluations),
        **{name: _aggregate(group) for name, group in groups.items()},
    }


def format_table(evaluation: Evaluation) -> str:
    """The figures as a plain text table: one row a metric, coarse beside prediction."""
    lines = [
        f"{evaluation.slide_id}: {', '.join(evaluation.classes[1:])}; "
        f"{evaluation.n_cells:,} cells of {evaluation.cell_px} px ({evaluation.cells}), "
        f"label rule {evaluation.label_rule}",
        "",
    ]
    several = len(evaluation.classes) > 2
    for name in ("", *(evaluation.classes[1:] if several else ())):
        coarse = evaluation.coarse
        columns = [] if coarse is None else [("coarse", coarse)]
        columns.append(("prediction", evaluation.prediction))
        title = name or ("mean over classes" if several else evaluation.classes[1])
        head = f"{title:<26}" + "".join(f"{label:>12}" for label, _ in columns)
        lines.append(head + (f"{'change':>12}" if len(columns) == 2 else ""))
        for metric in (*CELL_METRICS, *GRID_METRICS, *POLYGON_METRICS):
            values = [(s.per_class[name] if name else s.overall)[metric] for _, s in columns]
            if all(math.isnan(value) for value in values):
                continue
            row = f"  {metric:<24}" + "".join(_cell(metric, value) for value in values)
            if len(values) == 2:
                row += _cell(metric, values[1] - values[0], sign=True)
            lines.append(row)
        lines.append("")
    if evaluation.coarse is not None:
        lines.append(f"cleaned {_share(evaluation.cleaned)} of the wrong coarse labels, ")
        lines[-1] += f"mis-modified {_share(evaluation.mis_modified)} of the right ones"
        state = "valid" if evaluation.coarse.valid else "NOT valid"
        lines.append(f"the coarse outline is {state} (PPV > 0.5 and NPV > 0.5)")
    lines += [f"note: {note}" for note in evaluation.notes]
    return "\n".join(lines)


def _scores(
    names: Sequence[str],
    truth: NDArray[np.int8],
    labels: NDArray[np.int8],
    on: NDArray[np.bool_],
    true_shapes: Mapping[str, Geometry],
    shapes: Mapping[str, Geometry],
    mpp: float | None,
) -> Scores:
    per_class: dict[str, dict[str, float]] = {}
    counts: dict[str, Confusion] = {}
    counts_grid: dict[str, Confusion] = {}
    nan = float("nan")
    for k, name in enumerate(names, start=1):
        counts[name] = confusion(truth[on] == k, labels[on] == k)
        counts_grid[name] = confusion(truth == k, labels == k)
        whole = counts_grid[name].ratios()
        distance = (
            (nan, nan)
            if mpp is None
            else tuple(boundary_distance_um(true_shapes[name], shapes[name], mpp))
        )
        per_class[name] = {
            **counts[name].ratios(),
            "iou_grid": whole["iou"],
            "dice_grid": whole["dice"],
            "area_um2": nan if mpp is None else shapes[name].area * mpp**2,
            "polygon_iou": polygon_iou(true_shapes[name], shapes[name]),
            "polygon_dice": polygon_dice(true_shapes[name], shapes[name]),
            "boundary_mean_um": distance[0],
            "boundary_hausdorff95_um": distance[1],
        }
    overall = macro(list(per_class.values()))
    overall["accuracy"] = float(np.mean(truth[on] == labels[on]))
    return Scores(
        per_class=per_class,
        overall=overall,
        confusions=counts,
        confusions_grid=counts_grid,
        valid=all(valid(values) for values in per_class.values()),
    )


def _split(regions: Sequence[Region], patterns: Sequence[str]) -> tuple[list[Region], list[Region]]:
    """Those whose class matches a pattern, and the others."""
    hit: list[Region] = []
    miss: list[Region] = []
    for region in regions:
        name = (region.label or "").casefold()
        found = any(fnmatchcase(name, pattern.casefold()) for pattern in patterns)
        (hit if found else miss).append(region)
    return hit, miss


def _name(region: Region) -> str:
    return region.label or UNCLASSIFIED


def _class_names(
    regions: Sequence[Region], wanted: Sequence[str], truth: Annotation
) -> tuple[str, ...]:
    present = {_name(region).casefold(): _name(region) for region in reversed(regions)}
    if not present:
        raise AnnotationError(f"the truth ({truth.source or truth.slide_id}) has no region")
    for name in wanted:
        if name.casefold() not in present:
            raise UnknownNameError.of("class of the truth", name, list(present.values()))
    return tuple(wanted) if wanted else tuple(sorted(present.values()))


def _by_class(regions: Sequence[Region], names: Sequence[str]) -> list[list[Region]]:
    return [[r for r in regions if _name(r).casefold() == n.casefold()] for n in names]


def _matching(
    annotation: Annotation, names: Sequence[str], role: str, notes: list[str]
) -> list[list[Region]]:
    """The regions of each class; of a lone class also those that carry no class."""
    groups = _by_class(annotation.regions, names)
    if len(names) == 1 and not groups[0]:
        unclassified = [r for r in annotation.regions if r.label is None]
        if unclassified:
            notes.append(f"the unclassified regions of the {role} were taken as {names[0]}")
            return [unclassified]
    present = sorted({_name(r) for r in annotation.regions}) or ["nothing"]
    for name, group in zip(names, groups, strict=True):
        if not group:
            notes.append(f"the {role} has no {name} (it holds: {', '.join(present)})")
    return groups


def _lattice(
    slide_size: tuple[int, int] | None,
    shapes: Sequence[Geometry],
    cell_px: int,
    mpp: float | None,
) -> PatchGrid:
    """Every cell of the slide, or around the shapes; always in step with (0, 0)."""
    if slide_size is not None:
        first = (0, 0)
        last = (math.ceil(slide_size[0] / cell_px), math.ceil(slide_size[1] / cell_px))
    else:
        bounds = np.array([shape.bounds for shape in shapes if not shape.is_empty])
        low = np.floor(bounds[:, :2].min(axis=0) / cell_px).astype(int) - MARGIN_CELLS
        high = np.ceil(bounds[:, 2:].max(axis=0) / cell_px).astype(int) + MARGIN_CELLS
        # Nothing lies left of or above a slide's corner.
        low = np.minimum(np.maximum(low, 0), np.floor(bounds[:, :2].min(axis=0) / cell_px))
        first, last = (int(low[0]), int(low[1])), (int(high[0]), int(high[1]))
    return full_lattice(first, last, cell_px, mpp or 1.0)


def _minus(geometry: Geometry, hole: Geometry) -> Geometry:
    return union([geometry.difference(hole)])


def _aggregate(group: Sequence[Evaluation]) -> dict[str, Any]:
    roles: dict[str, Callable[[Evaluation], Scores | None]] = {
        "coarse": lambda e: e.coarse,
        "prediction": lambda e: e.prediction,
    }
    result: dict[str, Any] = {"slides": len(group)}
    for role, pick in roles.items():
        found = [scores for scores in map(pick, group) if scores is not None]
        if not found:
            result[role] = None
            continue
        names = (*CELL_METRICS, *GRID_METRICS, *POLYGON_METRICS)
        result[role] = {
            "mean": {name: _spread([s.overall[name] for s in found]) for name in names},
            "micro": _json(_micro(found)),
        }
    for name in CHANGE_METRICS:
        result[name] = _spread([getattr(e, name) for e in group])
    return result


def _micro(scores: Sequence[Scores]) -> dict[str, float]:
    total = grid = Confusion(0, 0, 0, 0)
    for s in scores:
        for c in s.confusions.values():
            total = total.plus(c)
        for c in s.confusions_grid.values():
            grid = grid.plus(c)
    whole = grid.ratios()
    return {**total.ratios(), "iou_grid": whole["iou"], "dice_grid": whole["dice"]}


def _spread(values: Sequence[float]) -> dict[str, float | int | None]:
    defined = [value for value in values if not math.isnan(value)]
    sd = float(np.std(defined, ddof=1)) if len(defined) > 1 else float("nan")
    return {**_json({"mean": mean(values), "sd": sd}), "n": len(defined)}


def _json(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def _cell(metric: str, value: float, *, sign: bool = False) -> str:
    if math.isnan(value):
        return f"{'–':>12}"
    plus = "+" if sign else ""
    digits = 0 if metric == "area_um2" else 1 if metric.endswith("_um") else 3
    return f"{value:>{plus}12,.{digits}f}"


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1%}"
