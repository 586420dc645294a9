"""Figures over slides: means, and all cells in one count."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from recontour.evaluation.result import Evaluation
from recontour.evaluation.scores import (
    CELL_METRICS,
    CHANGE_METRICS,
    GRID_METRICS,
    POLYGON_METRICS,
    Scores,
    plain,
)
from recontour.metrics.cells import Confusion, mean

AGGREGATE_SCHEMA = "recontour.evaluation.aggregate/1"


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
            "micro": plain(_micro(found)),
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
    return {**plain({"mean": mean(values), "sd": sd}), "n": len(defined)}
