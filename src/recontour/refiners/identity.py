"""The refiner that believes the outline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recontour.refiners.base import ZScore, check_patch_sets, check_predict, not_fitted, table
from recontour.types import PatchSet


class Identity:
    """Answers with the coarse labels: what a run finds when nothing is refined.

    The floor under every comparison, and the way to see what grid, smoothing and tracing do to an
    outline on their own. Learns nothing, but refuses the same inputs as the others.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self._fit: tuple[tuple[str, ...], int] | None = None

    def fit(self, patch_sets: Sequence[PatchSet]) -> Identity:
        """Check the input."""
        cells = table(patch_sets)
        check_patch_sets(cells)
        ZScore.of(cells)
        self._fit = (cells.classes, cells.dim)
        return self

    def predict_proba(self, patches: PatchSet) -> NDArray[np.float32]:
        """float32 (n, K): 1 for the coarse label; 1/K each where a cell has none."""
        if self._fit is None:
            raise not_fitted("identity")
        cells = table([patches])
        check_predict(cells, *self._fit)
        k, labels = len(cells.classes), cells.labels
        probs = np.full((len(labels), k), 1 / k, np.float32)
        known = labels >= 0
        probs[known] = np.eye(k, dtype=np.float32)[labels[known]]
        return probs
