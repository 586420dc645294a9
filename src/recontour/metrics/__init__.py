"""How close a prediction is to the truth: on labelled cells, and as polygons."""

from recontour.metrics.calibration import (
    Reliability,
    brier,
    calibration_error,
    reliability,
    top_label_error,
)
from recontour.metrics.cells import (
    Confusion,
    accuracy,
    cleaned,
    confusion,
    dice,
    f1,
    iou,
    label_metrics,
    macro,
    mis_modified,
    npv,
    ppv,
    tnr,
    tpr,
    valid,
)
from recontour.metrics.polygons import (
    BoundaryDistance,
    boundary_distance_um,
    polygon_dice,
    polygon_iou,
)

__all__ = [
    "BoundaryDistance",
    "Confusion",
    "Reliability",
    "accuracy",
    "boundary_distance_um",
    "brier",
    "calibration_error",
    "cleaned",
    "confusion",
    "dice",
    "f1",
    "iou",
    "label_metrics",
    "macro",
    "mis_modified",
    "npv",
    "polygon_dice",
    "polygon_iou",
    "ppv",
    "reliability",
    "tnr",
    "top_label_error",
    "tpr",
    "valid",
]
