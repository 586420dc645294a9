"""Whether a probability means what it says: calibration error, reliability curve, Brier score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 10


@dataclass(frozen=True)
class Reliability:
    """Cells sorted by probability and cut into bins of equal numbers.

    Attributes
    ----------
    predicted : (b,) mean probability of each bin
    observed : (b,) share of its cells in which it came true
    counts : (b,) cells
    """

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    counts: NDArray[np.int64]

    @property
    def error(self) -> float:
        """Expected calibration error: the mean gap, by cells, in [0, 1]; NaN without cells."""
        if not self.counts.sum():
            return float("nan")
        gaps = np.abs(self.predicted - self.observed)
        return float((self.counts * gaps).sum() / self.counts.sum())


def reliability(
    probability: NDArray[np.floating], happened: NDArray[np.generic], bins: int = BINS
) -> Reliability:
    """The reliability curve over bins of equal mass (Nguyen and O'Connor 2015).

    Parameters
    ----------
    probability : (n,) in [0, 1]
    happened : (n,) flags
    bins : at most; with fewer cells there are fewer. Cells of equal probability are dealt to bins
        in their order, so what is asked should not be sorted by the answer

    Raises
    ------
    ValueError : the shapes differ, or a probability is outside 0..1
    """
    p, y = np.asarray(probability, np.float64), np.asarray(happened).astype(bool)
    if p.shape != y.shape or p.ndim != 1:
        raise ValueError(f"probability {p.shape} and happened {y.shape} must both be (n,)")
    if not np.all((p >= 0) & (p <= 1)):
        raise ValueError("a probability lies between 0 and 1")
    if bins < 1:
        raise ValueError(f"bins={bins} must be at least 1")
    order = np.argsort(p, kind="stable")
    # Of equal probability the mean outcome: otherwise their order in the slide would count.
    _, tied = np.unique(p, return_inverse=True)
    share = np.bincount(tied, y) / np.maximum(np.bincount(tied), 1)
    expected = share[tied]
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return Reliability(
        predicted=np.array([p[part].mean() for part in parts]),
        observed=np.array([expected[part].mean() for part in parts]),
        counts=np.array([len(part) for part in parts], np.int64),
    )


def calibration_error(
    probability: NDArray[np.floating], happened: NDArray[np.generic], bins: int = BINS
) -> float:
    """Expected calibration error over bins of equal mass, in [0, 1]; NaN without cells."""
    return reliability(probability, happened, bins).error


def top_label_error(
    probs: NDArray[np.floating], truth: NDArray[np.integer], bins: int = BINS
) -> float:
    """Expected calibration error of the likeliest class, in [0, 1]; NaN without cells.

    Parameters
    ----------
    probs : (n, K)
    truth : (n,) 0..K-1
    """
    best = np.argmax(probs, axis=1)
    top = np.clip(np.take_along_axis(probs, best[:, None], axis=1)[:, 0], 0, 1)
    return calibration_error(top, best == np.asarray(truth), bins)


def brier(probs: NDArray[np.floating], truth: NDArray[np.integer]) -> float:
    """Mean squared distance between (n, K) probabilities and the truth, in [0, 2]; NaN if empty."""
    if not len(probs):
        return float("nan")
    right = np.eye(probs.shape[1])[np.asarray(truth)]
    return float(((np.asarray(probs, np.float64) - right) ** 2).sum(axis=1).mean())
