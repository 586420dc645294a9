"""Metrics on labelled cells: those of the LC-MIL paper (arXiv 2109.10778), and their sums.

Every metric is a plain ratio of counts. Where the denominator is 0 the metric is *undefined* and
NaN comes back, never a flattering 1 or a damning 0: with an empty prediction nothing was claimed,
so `ppv` has no value, while `f1`, `iou` and `dice` are 0 as long as there was something to find.
Only where neither truth nor prediction has a positive cell are those three undefined too. Averages
leave NaN out and say over how many slides they were taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Confusion(NamedTuple):
    """Counts of cells for one class against the rest."""

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def n(self) -> int:
        """All cells counted."""
        return self.tp + self.fp + self.fn + self.tn

    def plus(self, other: Confusion) -> Confusion:
        """Cell by cell sum, for micro-averages."""
        return Confusion(*(a + b for a, b in zip(self, other, strict=True)))

    def ratios(self) -> dict[str, float]:
        """accuracy, tpr, tnr, ppv, npv, f1, iou, dice; NaN where undefined."""
        tp, fp, fn, tn = self
        return {
            "accuracy": _ratio(tp + tn, self.n),
            "tpr": _ratio(tp, tp + fn),
            "tnr": _ratio(tn, tn + fp),
            "ppv": _ratio(tp, tp + fp),
            "npv": _ratio(tn, tn + fn),
            "f1": _ratio(2 * tp, 2 * tp + fp + fn),
            "iou": _ratio(tp, tp + fp + fn),
            "dice": _ratio(2 * tp, 2 * tp + fp + fn),
        }


def confusion(truth: NDArray[Any], prediction: NDArray[Any]) -> Confusion:
    """Count the cells of two flags of equal shape; anything non-zero is positive.

    Raises
    ------
    ValueError : the shapes differ
    """
    truth, prediction = _flags(truth, prediction)
    tp = int(np.count_nonzero(truth & prediction))
    fp = int(np.count_nonzero(prediction)) - tp
    fn = int(np.count_nonzero(truth)) - tp
    return Confusion(tp, fp, fn, truth.size - tp - fp - fn)


def accuracy(truth: NDArray[Any], prediction: NDArray[Any]) -> float:
    """Share of the cells with the right flag."""
    return confusion(truth, prediction).ratios()["accuracy"]


def tpr(truth: NDArray[Any], prediction: NDArray[Any]) -> float:
    """True positive rate (sensitivity, recall); NaN without a positive in the truth."""
    return confusion(truth, prediction).ratios()["tpr"]


def tnr(truth: NDArray[Any], prediction: NDArray[Any]) -> float:
    """True negative rate (specificity); NaN without a negative in the truth."""
    return confusion(truth, prediction).ratios()["tnr"]


def ppv(truth: NDArray[Any], prediction: NDArray[Any]) -> float:
    """Positive predictive value (precision); NaN for an empty prediction."""
    return confusion(truth, prediction).ratios()["ppv"]


def npv(truth: NDArray[Any], prediction: NDArray[Any]) -> float:
    """Negative predictive value; NaN where the prediction has no negative."""
    return confusion(truth, prediction).ratios()["npv"]


def f1(truth: NDArray[Any], prediction: NDArray[Any]) -> float:
    """2 tp / (2 tp + fp + fn), on the cells given (tissue cells, by custom).

    0 for an empty prediction; NaN where the truth is empty too.
    """
    return confusion(truth, prediction).ratios()["f1"]


def iou(truth: NDArray[Any], prediction: NDArray[Any]) -> float:
    """Intersection over union; undefined as `f1` is."""
    return confusion(truth, prediction).ratios()["iou"]


def dice(truth: NDArray[Any], prediction: NDArray[Any]) -> float:
    """Dice coefficient: the formula of `f1`.

    The two papers give it for the whole grid, off tissue included: `dice_grid` in an evaluation.
    """
    return confusion(truth, prediction).ratios()["dice"]


def cleaned(truth: NDArray[Any], coarse: NDArray[Any], prediction: NDArray[Any]) -> float:
    """Share of the wrong coarse labels that the prediction put right; NaN if none was wrong.

    Takes flags or labels of any number of classes.
    """
    wrong = coarse != truth
    return _ratio(np.count_nonzero(wrong & (prediction == truth)), np.count_nonzero(wrong))


def mis_modified(truth: NDArray[Any], coarse: NDArray[Any], prediction: NDArray[Any]) -> float:
    """Share of the right coarse labels that the prediction made wrong; NaN if none was right.

    Takes flags or labels of any number of classes.
    """
    right = coarse == truth
    return _ratio(np.count_nonzero(right & (prediction != truth)), np.count_nonzero(right))


def valid(coarse: Mapping[str, float]) -> bool:
    """Is an outline with these metrics *valid* in the sense of the LC-MIL paper?

    PPV > 0.5 and NPV > 0.5: most of what it says is right on both sides. An undefined value is
    not valid.
    """
    return coarse["ppv"] > 0.5 and coarse["npv"] > 0.5


def label_metrics(
    truth: NDArray[Any], prediction: NDArray[Any], n_classes: int
) -> list[dict[str, float]]:
    """The ratios of each class k >= 1 against all others.

    Parameters
    ----------
    truth, prediction : integers 0 to n_classes - 1, equal shape
    n_classes : K, background included

    Returns
    -------
    K - 1 dictionaries, class 1 first
    """
    return [confusion(truth == k, prediction == k).ratios() for k in range(1, n_classes)]


def macro(per_class: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Unweighted mean of every metric over the classes where it is defined; else NaN."""
    names = per_class[0].keys() if per_class else ()
    return {name: mean([values[name] for values in per_class]) for name in names}


def mean(values: Sequence[float]) -> float:
    """Mean of the values that are not NaN; NaN if there is none."""
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")


def _flags(truth: NDArray[Any], prediction: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    if truth.shape != prediction.shape:
        raise ValueError(f"shapes differ: truth {truth.shape}, prediction {prediction.shape}")
    return truth != 0, prediction != 0


def _ratio(part: Any, whole: Any) -> float:
    return float(part) / float(whole) if whole else float("nan")
