"""Balanced linear discriminant for soft labels, and the few components of features it works on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recontour.refiners.base import CHUNK, Cells, ZScore

# Enough to tell tissues apart, too few to learn an outline by heart.
COMPONENTS = 64
SHRINKAGE = 0.3
TINY = float(np.finfo(np.float32).tiny)  # instead of no spread at all
ROUNDING = 1e-10  # of the mean square: spread below it is what sums in float64 leave of nothing


@dataclass(frozen=True)
class Projection:
    """z-score, then PCA to a few components, then one scale for all of them: not whitened.

    Attributes
    ----------
    scale : the z-score of the features
    basis : float32 (d, p), orthogonal columns of equal length, that of most variance first; the
        mean square of all components of the cells it was made from is 1
    """

    scale: ZScore
    basis: NDArray[np.float32]

    @classmethod
    def of(cls, cells: Cells, most: int = COMPONENTS) -> Projection:
        """Of all `cells`, labelled or not: p = min(most, d, n - 1), at least 1.

        Raises
        ------
        RefinerError : a feature is NaN or infinite
        """
        scale = ZScore.of(cells)
        moment = np.zeros((cells.dim, cells.dim))
        for _, x in cells.chunks():
            standard = scale(x)
            moment += standard.T @ standard
        variance, basis = np.linalg.eigh(moment / max(len(cells), 1))
        p = max(1, min(most, cells.dim, len(cells) - 1))
        variance, basis = variance[::-1][:p], basis[:, ::-1][:, :p]
        mean_square = max(float(variance.mean()), TINY)
        return cls(scale, (basis / math.sqrt(mean_square)).astype(np.float32))

    def __call__(self, cells: Cells) -> NDArray[np.float32]:
        """float32 (n, p)."""
        out = np.empty((len(cells), self.basis.shape[1]), np.float32)
        for rows, x in cells.chunks():
            np.matmul(self.scale(x), self.basis, out=out[rows])
        return out


@dataclass(frozen=True)
class Discriminant:
    """Linear discriminant analysis in which every class counts alike and labels may be soft.

    With beliefs q (n, K), w_k = q_k / Σ q_k weighs the cells of class k: means m_k = Σ w_k x,
    pooled covariance S = (1/K) Σ_k (Σ w_k x xᵀ − m_k m_kᵀ), shrunk to (1 − s) S + s tr(S)/p I. The
    score of a class is δ_k(x) = x · S⁻¹m_k − ½ m_k · S⁻¹m_k, the log-likelihood of x under it but
    for what all classes share; δ_1 − δ_0 is the z of two classes. A class without belief has
    score −∞.

    Attributes
    ----------
    weights : float64 (p, K)
    bias : float64 (K,)
    """

    weights: NDArray[np.float64]
    bias: NDArray[np.float64]

    @classmethod
    def of(
        cls, x: NDArray[np.float32], q: NDArray[np.floating], shrinkage: float = SHRINKAGE
    ) -> Discriminant:
        """Fit in one pass, with sums in float64.

        Parameters
        ----------
        x : float32 (n, p), components of some scale around 1
        q : (n, K) beliefs of at least 0, at least one above 0; rows need not sum to 1
        shrinkage : s, 0 to 1
        """
        p, classes = x.shape[1], q.shape[1]
        total = q.sum(axis=0, dtype=np.float64)
        present = total > 0
        w = q / np.where(present, total, 1)
        means = np.zeros((p, classes))
        square = np.zeros((p, p))
        for i in range(0, len(x), CHUNK):
            part, of_class = x[i : i + CHUNK].astype(np.float64), w[i : i + CHUNK]
            means += part.T @ of_class
            square += (part * of_class.sum(axis=1, keepdims=True)).T @ part
        covariance = (square - means @ means.T) / present.sum()
        spread = max(float(np.trace(covariance)) / p, TINY)
        least = ROUNDING * float(np.trace(square)) / p / float(present.sum())
        if spread < least:  # every class is one point: far apart, but by a finite number
            covariance, spread = least * np.eye(p), least
        covariance = (1 - shrinkage) * covariance + shrinkage * spread * np.eye(p)
        # The pseudo-inverse, because without shrinkage few cells leave directions without spread.
        weights = np.linalg.pinv(covariance, hermitian=True) @ means
        bias = np.where(present, -0.5 * np.einsum("pk,pk->k", means, weights), -np.inf)
        return cls(weights, bias)

    def scores(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """float64 (n, K), −inf for a class without belief."""
        return x.astype(np.float64) @ self.weights + self.bias


def cross_fitted(
    xs: Sequence[NDArray[np.float32]], labels: NDArray[np.integer], fold: NDArray[np.intp], k: int
) -> NDArray[np.float64]:
    """Scores of each cell by discriminants that did not learn from its fold.

    Parameters
    ----------
    xs : for each view, float32 (n, p) components; scores are averaged over the views
    labels : (n,), 0 to K-1; -1 of cells that teach nothing but are scored
    fold : (n,), from 0
    k : K

    Returns
    -------
    float64 (n, K), -inf for a class of which no cell lies outside the fold
    """
    scores = np.empty((len(labels), k))
    known = labels >= 0
    for i in range(int(fold.max()) + 1):
        train, here = known & (fold != i), fold == i
        if not train.any():
            scores[here] = -np.inf
            continue
        q = np.eye(k)[labels[train]]
        scores[here] = np.mean([Discriminant.of(x[train], q).scores(x[here]) for x in xs], axis=0)
    return scores


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, K) scores as probabilities; at least one score of a row is finite."""
    # Class by class: numpy is many times slower along a short last axis.
    exp = np.array(scores.T, order="C")
    exp -= exp.max(axis=0)
    np.exp(exp, out=exp)
    exp /= exp.sum(axis=0)
    return exp.T
