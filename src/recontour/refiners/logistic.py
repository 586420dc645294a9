"""Logistic regression on the coarse labels: the baseline every method has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recontour.errors import RefinerError
from recontour.refiners.base import (
    CHUNK,
    Cells,
    ZScore,
    check_patch_sets,
    check_predict,
    check_views,
    not_fitted,
    number,
    require,
    table,
    whole,
)
from recontour.refiners.keeping import Learned, check_shape, scale_arrays, scale_of
from recontour.types import PatchSet

WIDE = 4096  # features; beyond, their products among one another are too many to solve for


class Logistic:
    """Class-balanced multinomial logistic regression on z-scored features.

    Minimises Σ_i s_i · CE(softmax(W x_i + c), y_i) + ‖W‖² / (2 inverse_l2) (twice that for K = 2,
    where scikit-learn has one column of weights instead of two) with
    s_i = trust_i · n / (K · n_class), so that every class weighs the same and the objective is
    scikit-learn's `LogisticRegression(C=inverse_l2, class_weight="balanced")`. The problem is
    convex: the seed changes nothing.

    Solved by L-BFGS after a change of basis by the Cholesky factor of the bound on the Hessian of
    Böhning & Lindsay (1988), ½ XᵀSX + I / inverse_l2, which takes a dozen passes over the cells
    where plain L-BFGS takes hundreds. Of more than 4,096 features (VGG16) only the diagonal of the
    bound is used.

    Parameters
    ----------
    inverse_l2 : larger trusts the labels more (scikit-learn's C). With its default of 1 a slide of
        2,000 cells gets its coarse labels back: there are weights enough to learn them by heart
    views : "cell", "context" (the window twice as wide) or "both"
    max_iter : most passes of the solver
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        inverse_l2: float = 1e-3,
        views: str = "cell",
        max_iter: int = 100,
    ) -> None:
        require(number(inverse_l2, 0, above=True), "inverse_l2", inverse_l2, "a number above 0")
        require(whole(max_iter, 1), "max_iter", max_iter, "a whole number of at least 1")
        check_views(views)
        self.seed = seed
        self.inverse_l2 = inverse_l2
        self.views = views
        self.max_iter = max_iter
        self._fit: tuple[tuple[str, ...], ZScore, NDArray[np.float32]] | None = None

    def fit(self, patch_sets: Sequence[PatchSet]) -> Logistic:
        """Learn from the labelled cells of one slide or many."""
        cells = table(patch_sets, self.views)
        check_patch_sets(cells)
        scale = ZScore.of(cells)
        weights = self._solve(*_labelled(cells, scale), len(cells.classes))
        self._fit = (cells.classes, scale, weights.astype(np.float32))
        return self

    def predict_proba(self, patches: PatchSet) -> NDArray[np.float32]:
        """float32 (n, K), rows sum to 1."""
        if self._fit is None:
            raise not_fitted("logistic")
        classes, scale, weights = self._fit
        cells = table([patches], self.views)
        check_predict(cells, classes, len(scale.mean))
        probs = np.empty((len(cells), len(classes)), np.float32)
        for rows, x in cells.chunks():
            probs[rows] = _softmax(scale(x) @ weights[:-1] + weights[-1])
        return probs

    def learned(self) -> Learned:
        """What the last fit found, to be kept."""
        if self._fit is None:
            raise not_fitted("logistic")
        classes, scale, weights = self._fit
        return Learned({**scale_arrays(scale), "weights": weights}, {"classes": list(classes)})

    def recall(self, learned: Learned) -> None:
        """Go on from what was kept."""
        scale = scale_of(learned.arrays)
        classes, weights = tuple(learned.facts["classes"]), learned.arrays["weights"]
        check_shape(weights, (len(scale.mean) + 1, len(classes)))
        self._fit = (classes, scale, weights)

    def _solve(
        self,
        x: NDArray[np.float32],
        labels: NDArray[np.int8],
        sample: NDArray[np.float32],
        k: int,
    ) -> NDArray[np.float64]:
        """(d + 1, K) weights, the last row the bias."""
        from scipy.optimize import minimize

        n, dim = x.shape
        targets = np.eye(k, dtype=np.float32)[labels]
        # Two columns of weights share what scikit-learn puts into one: half the squared norm.
        penalty = np.full(dim + 1, (2 if k == 2 else 1) / self.inverse_l2)
        penalty[-1] = 0.0  # the bias is free
        basis = _Diagonal(x, sample, penalty) if dim > WIDE else _Cholesky(x, sample, penalty)

        def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            weights = basis.weights(flat.reshape(dim + 1, k))
            scores = x @ weights[:-1].astype(np.float32) + weights[-1].astype(np.float32)
            top = scores.max(axis=1, keepdims=True)
            scores -= top
            exp = np.exp(scores)
            total = exp.sum(axis=1)
            of_true = scores[np.arange(n), labels]
            value = float(sample @ (np.log(total) - of_true).astype(np.float64))
            error = (exp / total[:, None] - targets) * sample[:, None]
            gradient = np.concatenate([x.T @ error, error.sum(axis=0, keepdims=True)])
            gradient = gradient + penalty[:, None] * weights
            value += 0.5 * float(np.sum(penalty[:, None] * weights**2))
            return value, basis.slope(gradient).ravel()

        start = np.zeros((dim + 1) * k)
        # float32 sums make smaller steps meaningless, and the labels are unchanged long before.
        options = {"maxiter": self.max_iter, "ftol": 1e-7, "gtol": 1e-4}
        found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
        weights = basis.weights(found.x.reshape(dim + 1, k))
        if not np.isfinite(weights).all():
            raise RefinerError("logistic regression did not converge; are the features usable?")
        return weights


class _Cholesky:
    """The basis in which the bound on the Hessian is the identity."""

    def __init__(
        self, x: NDArray[np.float32], sample: NDArray[np.float32], penalty: NDArray[np.float64]
    ) -> None:
        from scipy.linalg import cholesky

        n, dim = x.shape
        hessian = np.zeros((dim + 1, dim + 1))
        for i in range(0, n, CHUNK):
            root = x[i : i + CHUNK] * np.sqrt(sample[i : i + CHUNK, None])
            hessian[:dim, :dim] += root.T @ root
        hessian[-1, :dim] = hessian[:dim, -1] = sample @ x
        hessian[-1, -1] = sample.sum(dtype=np.float64)
        hessian *= 0.5
        # Only a change of basis: the small ridge lets the factor exist for any features.
        hessian[np.diag_indices(dim + 1)] += penalty + 1e-6 * np.trace(hessian) / (dim + 1)
        self._factor = cholesky(hessian)  # upper: hessian = factorᵀ factor

    def weights(self, flat: NDArray[np.float64]) -> NDArray[np.float64]:
        """(d + 1, K) in this basis -> the weights."""
        from scipy.linalg import solve_triangular

        found: NDArray[np.float64] = solve_triangular(self._factor, flat)
        return found

    def slope(self, gradient: NDArray[np.float64]) -> NDArray[np.float64]:
        """Gradient by the weights -> by the numbers in this basis."""
        from scipy.linalg import solve_triangular

        found: NDArray[np.float64] = solve_triangular(self._factor, gradient, trans="T")
        return found


class _Diagonal:
    """The basis in which the diagonal of the bound on the Hessian is 1."""

    def __init__(
        self, x: NDArray[np.float32], sample: NDArray[np.float32], penalty: NDArray[np.float64]
    ) -> None:
        bound = penalty.copy()
        bound[:-1] += 0.5 * np.einsum("i,ij,ij->j", sample, x, x)
        bound[-1] += 0.5 * sample.sum(dtype=np.float64)
        self._scale = (1 / np.sqrt(bound))[:, None]

    def weights(self, flat: NDArray[np.float64]) -> NDArray[np.float64]:
        """(d + 1, K) in this basis -> the weights."""
        return flat * self._scale

    def slope(self, gradient: NDArray[np.float64]) -> NDArray[np.float64]:
        """Gradient by the weights -> by the numbers in this basis."""
        return gradient * self._scale


def _labelled(
    cells: Cells, scale: ZScore
) -> tuple[NDArray[np.float32], NDArray[np.int8], NDArray[np.float32]]:
    """Standardised rows, labels and weights of the cells that have a label."""
    known = np.flatnonzero((cells.labels >= 0) & (cells.trust > 0))
    labels = cells.labels[known]
    x = np.empty((len(known), cells.dim), np.float32)
    for i in range(0, len(known), CHUNK):
        x[i : i + CHUNK] = scale(cells.rows(known[i : i + CHUNK]))
    trust = cells.trust[known]
    mass = np.bincount(labels, weights=trust, minlength=len(cells.classes))
    sample = trust * trust.sum() / (len(mass) * mass[labels])
    return x, labels, sample.astype(np.float32)


def _softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    out: NDArray[np.float32] = scores / scores.sum(axis=1, keepdims=True)
    return out
