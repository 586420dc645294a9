"""Side-prior EM: a discriminant and its labels correct each other, on the slide alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recontour.errors import RefinerError
from recontour.refiners.base import (
    check_patch_sets,
    check_predict,
    not_fitted,
    require,
    table,
    whole,
)
from recontour.refiners.discriminant import Discriminant, Projection, softmax
from recontour.types import PatchSet

START = 0.85  # belief in a coarse label before anything is seen
PSEUDO = 5.0  # cells of evenly spread belief that a side starts from
CLIP = 0.1  # no side is ever surer than this of what it holds
LEAST = 0.03  # of the belief: a class that falls below has been explained away
VIEWS = ("all", "cell", "context", "both")
LAST = 4  # rounds whose beliefs are averaged


@dataclass(frozen=True)
class _Round:
    models: tuple[Discriminant, ...]
    sides: NDArray[np.float64]


class Em:
    """Balanced linear discriminants under learned side priors.

    Parameters
    ----------
    rounds : of expectation and maximisation
    views : "cell", "context" (the window twice as wide), "both", or "all" that there are
    """

    def __init__(self, *, seed: int = 0, rounds: int = 12, views: str = "all") -> None:
        require(views in VIEWS, "views", views, "one of " + ", ".join(VIEWS))
        self.views = views
        require(whole(rounds, 1), "rounds", rounds, "a whole number of at least 1")
        self.seed = seed
        self.rounds = rounds
        self.notes: tuple[str, ...] = ()
        self.estimates: Mapping[str, Any] = {}
        self._fit: Any = None

    def fit(self, patch_sets: Sequence[PatchSet]) -> Em:
        """Learn from one slide or many; forgets what it learned before."""
        views = self._views(patch_sets)
        parts = [table(patch_sets, view) for view in views]
        check_patch_sets(parts[0])
        projections = [Projection.of(cells) for cells in parts]
        xs = [project(cells) for project, cells in zip(projections, parts, strict=True)]
        labels = parts[0].labels.astype(np.intp)
        trust = np.concatenate(
            [np.full(len(p), START) if p.trust is None else p.trust for p in patch_sets]
        ).astype(np.float64)
        k = len(parts[0].classes)
        if not len(labels):
            raise RefinerError("no cell to learn from")
        groups = [(i,) for i in range(len(xs))] if len(xs) < 2 else [(0, 1), (0,), (1,)]
        members = [
            (group, self._learn([xs[i] for i in group], labels, trust, k, shrinkage))
            for group in groups
            for shrinkage in (0.2, 0.3, 0.4)
        ]
        self._fit = (parts[0].classes, views, projections, members)
        sides = np.mean([r.sides for _, rounds in members for r in rounds], axis=0)
        self.estimates = {
            "trust": {name: float(sides[i, i]) for i, name in enumerate(parts[0].classes)}
        }
        return self

    def _views(self, patch_sets: Sequence[PatchSet]) -> tuple[str, ...]:
        if self.views in ("cell", "context"):
            return (self.views,)
        if self.views == "all" and any(p.context is None for p in patch_sets):
            return ("cell",)
        return ("cell", "context")

    def predict_proba(self, patches: PatchSet) -> NDArray[np.float32]:
        """float32 (n, K), rows sum to 1."""
        if self._fit is None:
            raise not_fitted("em")
        classes, views, projections, members = self._fit
        parts = [table([patches], view) for view in views]
        for cells, projection in zip(parts, projections, strict=True):
            check_predict(cells, classes, len(projection.scale.mean))
        if not len(patches):
            return np.empty((0, len(classes)), np.float32)
        xs = [project(cells) for project, cells in zip(projections, parts, strict=True)]
        labels = parts[0].labels.astype(np.intp)
        trust = np.full(len(patches), START) if patches.trust is None else patches.trust
        probs = np.mean(
            [
                _belief(
                    np.mean([m.scores(xs[i]) for m, i in zip(r.models, group, strict=True)], axis=0)
                    + _prior(labels, trust, r.sides),
                    labels,
                    trust,
                )
                for group, rounds in members
                for r in rounds
            ],
            axis=0,
        )
        return np.asarray(probs, np.float32)

    def _learn(
        self,
        xs: Sequence[NDArray[np.float32]],
        labels: NDArray[np.intp],
        trust: NDArray[np.floating],
        k: int,
        shrinkage: float,
    ) -> list[_Round]:
        """The last rounds of one run."""
        sides = np.full((k, k), (1 - START) / (k - 1))
        np.fill_diagonal(sides, START)
        q = softmax(_prior(labels, trust, sides))
        found: list[_Round] = []
        for _ in range(self.rounds):
            models = tuple(Discriminant.of(x, q, shrinkage) for x in xs)
            scores = np.mean([m.scores(x) for m, x in zip(models, xs, strict=True)], axis=0)
            q = _belief(scores + _prior(labels, trust, sides), labels, trust)
            sides = np.stack(
                [
                    (q[(labels == j) & (trust < 1)].sum(axis=0) + PSEUDO / k)
                    / (np.sum((labels == j) & (trust < 1)) + PSEUDO)
                    for j in range(k)
                ]
            )
            sides = np.clip(sides, CLIP / (k - 1), 1 - CLIP)
            sides /= sides.sum(axis=1, keepdims=True)
            if q.mean(axis=0).min() < LEAST:
                found = found or [_Round(models, sides)]
                break
            found.append(_Round(models, sides))
        return found[-LAST:]


def _prior(
    labels: NDArray[np.intp], trust: NDArray[np.floating], sides: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(n, K) logarithm of what the coarse label says."""
    k = sides.shape[1]
    out = np.zeros((len(labels), k))
    known = labels >= 0
    out[known] = np.log(sides[labels[known]])
    t = np.clip(trust, 1e-3, 1 - 1e-3)
    out[known, labels[known]] += (np.log(t / (1 - t)) - np.log(START / (1 - START)))[known]
    out[known & (trust <= 0)] = 0
    return out


def _belief(
    scores: NDArray[np.float64], labels: NDArray[np.intp], trust: NDArray[np.floating]
) -> NDArray[np.float64]:
    q = softmax(scores)
    sure = np.flatnonzero((labels >= 0) & (trust >= 1))
    q[sure] = 0.0
    q[sure, labels[sure]] = 1.0
    return q


__all__ = ["Em"]
