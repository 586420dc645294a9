"""The figures of one run: the decided label of every cell against the truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recontour.metrics.cells import Confusion, cleaned, confusion, macro, mis_modified, valid
from recontour.types import PatchGrid

CELL_METRICS = ("accuracy", "tpr", "tnr", "ppv", "npv", "f1", "iou", "dice")
GRID_METRICS = ("iou_grid", "dice_grid")
OTHER_METRICS = ("f1_foreground", "cleaned", "mis_modified")
METRICS = (*CELL_METRICS, *GRID_METRICS, *OTHER_METRICS)

Map = NDArray[np.int8]


def score(
    truth: Map, found: Map, given: Map, grid: PatchGrid, classes: Sequence[str]
) -> dict[str, Any]:
    """Every figure of the two papers, of one label map.

    `accuracy` to `dice` count the cells of `grid` (tissue, nothing excluded), `iou_grid` and
    `dice_grid` the whole lattice, as the papers do for IoU and Dice. Of several classes each
    figure is the mean over the classes, `accuracy` the share of cells with exactly the right one;
    `f1_foreground` takes all classes for one.

    Parameters
    ----------
    truth, found, given : int8 (rows, cols): the truth, what was decided, the coarse labels
    grid : the cells that take part
    classes : K names, background first

    Returns
    -------
    JSON types: `metrics`, `per_class` and `counts`, `counts_grid` (tp, fp, fn, tn) by class, and
    `valid` (PPV and NPV above 0.5 for every class: of a coarse map, whether the outline is valid)
    """
    t, p, g = (labels[grid.rows, grid.cols] for labels in (truth, found, given))
    per_class: dict[str, dict[str, float]] = {}
    counts: dict[str, Confusion] = {}
    counts_grid: dict[str, Confusion] = {}
    for k, name in enumerate(classes[1:], start=1):
        counts[name] = confusion(t == k, p == k)
        counts_grid[name] = confusion(truth == k, found == k)
        whole = counts_grid[name].ratios()
        per_class[name] = {
            **counts[name].ratios(),
            "iou_grid": whole["iou"],
            "dice_grid": whole["dice"],
        }
    metrics = macro(list(per_class.values()))
    metrics["accuracy"] = float(np.mean(t == p))
    metrics["f1_foreground"] = confusion(t > 0, p > 0).ratios()["f1"]
    metrics["cleaned"] = cleaned(t, g, p)
    metrics["mis_modified"] = mis_modified(t, g, p)
    return {
        "metrics": metrics,
        "per_class": per_class,
        "counts": {name: dict(c._asdict()) for name, c in counts.items()},
        "counts_grid": {name: dict(c._asdict()) for name, c in counts_grid.items()},
        "valid": all(valid(values) for values in per_class.values()),
    }
