"""Balanced linear discriminant for soft labels, and the few components of features it works on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recontour.memo import content, recall
from recontour.refiners.base import CHUNK, Cells, ZScore, table
from recontour.types import PatchSet

# Enough to tell tissues apart, too few to learn an outline by heart.
COMPONENTS = 64
SHRINKAGE = 0.3
TINY = float(np.finfo(np.float32).tiny)  # instead of no spread at all
ROUNDING = 1e-10  # of the mean square: spread below it is what sums in float64 leave of nothing


MOST_KEPT = 2048  # columns of which all components are kept for later: 34 MB


@dataclass(frozen=True, eq=False)
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
        return cells.once(("projection", most), lambda: cls._of(cells, most))

    @classmethod
    def _of(cls, cells: Cells, most: int) -> Projection:
        scale = ZScore.of(cells)
        if cells.dim <= MOST_KEPT:
            variance, basis = cells.once("components", lambda: _components(cells, scale))
        else:
            variance, basis = _components(cells, scale)
        p = max(1, min(most, cells.dim, len(cells) - 1))
        variance, basis = variance[::-1][:p], basis[:, ::-1][:, :p]
        mean_square = max(float(variance.mean()), TINY)
        return cls(scale, (basis / math.sqrt(mean_square)).astype(np.float32))

    def __call__(self, cells: Cells) -> NDArray[np.float32]:
        """float32 (n, p)."""
        return cells.once(("projected", self), lambda: self._project(cells))

    def _project(self, cells: Cells) -> NDArray[np.float32]:
        out = np.empty((len(cells), self.basis.shape[1]), np.float32)
        for rows, x in cells.chunks():
            np.matmul(self.scale(x), self.basis, out=out[rows])
        return out


def project_view(
    patches: PatchSet,
    view: str,
    *,
    rows: NDArray[np.intp] | None = None,
    learn: NDArray[np.intp] | None = None,
    most_columns: int,
) -> NDArray[np.float32]:
    """Components of a view of one slide, computed once however many outlines it gets.

    Parameters
    ----------
    view : "features" or "context"
    rows : the cells that are projected; None: all
    learn : the cells that the components are found on; None: those
    most_columns : of wider features evenly spaced ones are taken

    Returns
    -------
    float32 (len(rows), p)

    Raises
    ------
    RefinerError : a feature is NaN or infinite
    """
    values = getattr(patches, view)
    step = -(-values.shape[1] // most_columns)

    def only(chosen: NDArray[np.intp] | None) -> Cells:
        if chosen is None and step == 1:
            return table([replace(patches, features=values, context=None, trust=None)])
        picked = values[:, ::step] if chosen is None else values[:, ::step][chosen]
        labels = patches.labels if chosen is None else patches.labels[chosen]
        return table(
            [replace(patches, features=picked, labels=labels, context=None, trust=None, memo=None)]
        )

    def project() -> NDArray[np.float32]:
        cells = only(rows)
        return Projection.of(cells if learn is None else only(learn))(cells)

    name = (
        "view",
        step,
        None if rows is None else content(rows),
        None if learn is None else content(learn),
    )
    return recall(patches.memo, name, (values,), project)


def _components(cells: Cells, scale: ZScore) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Variance (d,) along the principal axes and the axes (d, d), the least variance first."""
    moment = np.zeros((cells.dim, cells.dim))
    for _, x in cells.chunks():
        standard = scale(x)
        moment += standard.T @ standard
    variance, basis = np.linalg.eigh(moment / max(len(cells), 1))
    return variance, basis


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
        one = p == 1 and covariance[0, 0] != 0  # a score: the general way takes ten times as long
        inverse = 1 / covariance if one else np.linalg.pinv(covariance, hermitian=True)
        weights = inverse @ means
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
