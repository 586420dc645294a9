"""How one outline, or one label map, compares with the truth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recontour.metrics.cells import Confusion, confusion, macro, valid
from recontour.metrics.polygons import boundary_distance_um, polygon_dice, polygon_iou
from recontour.types import Geometry

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
        """As plain JSON types; undefined values are null. The overall figures are there twice:
        by themselves, and as `overall`.
        """
        return {
            **plain(self.overall),
            "valid": self.valid,
            "overall": plain(self.overall),
            "per_class": {name: plain(values) for name, values in self.per_class.items()},
            "counts": {name: dict(c._asdict()) for name, c in self.confusions.items()},
            "counts_grid": {name: dict(c._asdict()) for name, c in self.confusions_grid.items()},
        }


@dataclass(frozen=True)
class Shapes:
    """The outlines behind two label maps: class name -> area, level-0 px."""

    truth: Mapping[str, Geometry]
    found: Mapping[str, Geometry]
    mpp: float | None

    def metrics(self, name: str) -> dict[str, float]:
        """The polygon metrics of a class; NaN for those in µm without mpp."""
        truth, found, nan = self.truth[name], self.found[name], float("nan")
        distance = (
            (nan, nan) if self.mpp is None else tuple(boundary_distance_um(truth, found, self.mpp))
        )
        return {
            "area_um2": nan if self.mpp is None else found.area * self.mpp**2,
            "polygon_iou": polygon_iou(truth, found),
            "polygon_dice": polygon_dice(truth, found),
            "boundary_mean_um": distance[0],
            "boundary_hausdorff95_um": distance[1],
        }


def score(
    names: Sequence[str],
    truth: NDArray[np.int8],
    found: NDArray[np.int8],
    on: NDArray[np.bool_],
    shapes: Shapes | None = None,
) -> Scores:
    """Every metric of labels, against the true ones.

    Parameters
    ----------
    names : of classes 1, 2, …
    truth, found : (n,) labels of the whole lattice, 0 background
    on : (n,) the cells that take part
    shapes : the outlines the labels are of; None: a map, polygon metrics are NaN
    """
    per_class: dict[str, dict[str, float]] = {}
    counts: dict[str, Confusion] = {}
    counts_grid: dict[str, Confusion] = {}
    for k, name in enumerate(names, start=1):
        counts[name] = confusion(truth[on] == k, found[on] == k)
        counts_grid[name] = confusion(truth == k, found == k)
        whole = counts_grid[name].ratios()
        per_class[name] = {
            **counts[name].ratios(),
            "iou_grid": whole["iou"],
            "dice_grid": whole["dice"],
            **(
                dict.fromkeys(POLYGON_METRICS, float("nan"))
                if shapes is None
                else shapes.metrics(name)
            ),
        }
    overall = macro(list(per_class.values()))
    overall["accuracy"] = float(np.mean(truth[on] == found[on]))
    return Scores(
        per_class=per_class,
        overall=overall,
        confusions=counts,
        confusions_grid=counts_grid,
        valid=all(valid(values) for values in per_class.values()),
    )


def plain(values: Mapping[str, float]) -> dict[str, float | None]:
    """As JSON has it: undefined values are null."""
    return {name: None if math.isnan(value) else value for name, value in values.items()}
