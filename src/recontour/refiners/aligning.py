"""Slides made comparable before they are learned together: stain and scanner taken out.

The features of two slides differ more by how the slides were stained and scanned than by what is on
them, and a method that learns from several learns that first. Each slide is therefore standardised
by its own mean and spread, with every outlined class counted alike: a slide that is mostly tumour
must not be taken for a slide with a dark stain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recontour.errors import RefinerError
from recontour.refiners.base import CHUNK
from recontour.refiners.keeping import Learned, learned_of
from recontour.types import PatchSet, Refiner

VIEWS = ("features", "context")


@dataclass(frozen=True)
class Level:
    """Where the features of one view of a slide lie: mean and spread, each float32 (d,)."""

    mean: NDArray[np.float32]
    spread: NDArray[np.float32]

    @classmethod
    def of(cls, x: NDArray[np.floating], labels: NDArray[np.integer]) -> Level:
        """Of the labelled cells of a slide, every class that it has counted alike.

        Parameters
        ----------
        x : (n, d)
        labels : (n,), -1 unlabelled

        Raises
        ------
        RefinerError : no cell has a label
        """
        present = np.unique(labels[labels >= 0])
        if not len(present):
            raise RefinerError("no labelled cell, so nothing tells the level of the features")
        means, squares = [], []
        for label in present:
            rows = np.flatnonzero(labels == label)
            total, square = np.zeros(x.shape[1]), np.zeros(x.shape[1])
            for i in range(0, len(rows), CHUNK):
                part = x[rows[i : i + CHUNK]].astype(np.float64)
                total += part.sum(axis=0)
                square += np.einsum("ij,ij->j", part, part)
            means.append(total / len(rows))
            squares.append(square / len(rows))
        mean = np.mean(means, axis=0)
        variance = np.maximum(np.mean(squares, axis=0) - mean**2, 0)
        # What float64 sums leave of no spread at all is no spread.
        flat = variance <= 1e-10 * (mean**2 + 1e-30)
        spread = np.where(flat, np.inf, np.sqrt(np.where(flat, 1, variance)))
        return cls(mean.astype(np.float32), spread.astype(np.float32))

    def __call__(self, x: NDArray[np.floating]) -> NDArray[np.float32]:
        """(n, d) -> float32 (n, d), new."""
        out: NDArray[np.float32] = x.astype(np.float32)
        out -= self.mean
        out /= self.spread
        return out


def levels_of(patches: PatchSet) -> dict[str, Level]:
    """The level of each view that a slide has."""
    found = {}
    for name in VIEWS:
        x = getattr(patches, name)
        if x is not None:
            found[name] = Level.of(x, patches.labels)
    return found


def align(patches: PatchSet, levels: dict[str, Level]) -> PatchSet:
    """The slide with its features standardised; a view without a level is left out."""
    context = None
    if patches.context is not None and "context" in levels:
        context = levels["context"](patches.context)
    return replace(patches, features=levels["features"](patches.features), context=context)


class Aligned:
    """A refiner that was fitted on aligned slides, for one slide whose levels are known.

    The levels are those of the whole slide, so that any part of it is answered alike.
    """

    def __init__(self, refiner: Refiner, levels: dict[str, Level]) -> None:
        self.refiner = refiner
        self.levels = levels

    def fit(self, patch_sets: Sequence[PatchSet]) -> Aligned:
        """Refused: it was fitted elsewhere."""
        raise RefinerError("an aligned refiner answers for one slide; fit the one it is made of")

    def predict_proba(self, patches: PatchSet) -> NDArray[np.float32]:
        """float32 (n, K), rows sum to 1."""
        return self.refiner.predict_proba(align(patches, self.levels))

    def learned(self) -> Learned:
        """What the refiner learned, and the levels; to name it, it is not recalled."""
        inner = learned_of(self.refiner)
        arrays = dict(inner.arrays)
        for name, level in self.levels.items():
            arrays |= {f"{name}_mean": level.mean, f"{name}_spread": level.spread}
        return Learned(arrays, inner.facts)
