"""Which parts of a label map are too small, or too weak, to be believed.

Two judges with the same three questions: `BySize` counts cells, `ByEvidence` weighs what speaks
for a part against what speaks against it (see `recontour.evidence`). Parts hang together over
sides, not corners.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from recontour.evidence import FOREGROUND, Evidence
from recontour.types import PatchGrid

Mask = NDArray[np.bool_]


class Judge(Protocol):
    """Says which cells of the lattice lie in parts that are not to be believed."""

    def objects(self, labels: NDArray[np.int8]) -> Mask:
        """Of the objects, whatever their class."""
        ...

    def class_parts(self, labels: NDArray[np.int8]) -> Mask:
        """Of the parts of one class."""
        ...

    def holes(self, labels: NDArray[np.int8]) -> Mask:
        """Of the background."""
        ...


@dataclass(frozen=True)
class BySize:
    """Parts of fewer than `min_cells` cells, on tissue or not."""

    min_cells: float

    def objects(self, labels: NDArray[np.int8]) -> Mask:
        """Of the objects, whatever their class."""
        return smaller_parts(labels > 0, self.min_cells)

    def class_parts(self, labels: NDArray[np.int8]) -> Mask:
        """Of the parts of one class."""
        found = np.zeros(labels.shape, bool)
        for k in range(1, int(labels.max()) + 1):
            found |= smaller_parts(labels == k, self.min_cells)
        return found

    def holes(self, labels: NDArray[np.int8]) -> Mask:
        """Of the background."""
        return smaller_parts(labels == 0, self.min_cells)


@dataclass(frozen=True)
class ByEvidence:
    """Parts that are likelier of what surrounds them.

    Cells off tissue say nothing about a class, but from `min_glass` of them on a hole stays open:
    a lumen is no error of the classifier.
    """

    grid: PatchGrid
    evidence: Evidence
    min_glass: float

    def objects(self, labels: NDArray[np.int8]) -> Mask:
        """Of the objects, whatever their class."""
        laid, count, parts = self._parts(labels > 0)
        weak = self.evidence.support(parts, count, FOREGROUND, 0) <= 0
        weak[0] = False
        return _pick(weak, laid)

    def class_parts(self, labels: NDArray[np.int8]) -> Mask:
        """Of the parts of one class that lie beside another; alone it cannot be mistaken."""
        found = np.zeros(labels.shape, bool)
        mine = np.append(labels[self.grid.rows, self.grid.cols], 0)
        beside = mine[self.evidence.around]
        top = int(labels.max())
        for k in range(1, top + 1):
            laid, count, parts = self._parts(labels == k)
            votes = np.zeros((count + 1, top + 1))
            for j in range(1, top + 1):
                if j != k:
                    votes[:, j] = np.bincount(parts, (beside == j).sum(axis=1), count + 1)
            rival = votes.argmax(axis=1)
            weak = self.evidence.support(parts, count, k, rival[parts]) <= 0
            weak &= votes.max(axis=1) > 0
            weak[0] = False
            found |= _pick(weak, laid)
        return found

    def holes(self, labels: NDArray[np.int8]) -> Mask:
        """Of the background."""
        laid, count, parts = self._parts(labels == 0)
        weak = self.evidence.support(parts, count, 0, FOREGROUND) <= 0
        glass = np.bincount(laid.ravel(), minlength=count + 1)
        glass = glass - np.bincount(parts, minlength=count + 1)
        weak &= glass < self.min_glass
        weak[0] = False
        return _pick(weak, laid)

    def _parts(self, mask: Mask) -> tuple[NDArray[np.int32], int, NDArray[np.intp]]:
        """Number of the part of each cell of the lattice, how many, and those of the n cells."""
        from scipy.ndimage import label

        laid, count = label(mask)
        return laid, count, laid[self.grid.rows, self.grid.cols].astype(np.intp)


def smaller_parts(mask: Mask, min_cells: float) -> Mask:
    """Cells of those parts of `mask` that have fewer than `min_cells`."""
    from scipy.ndimage import label

    if min_cells <= 1:
        return np.zeros(mask.shape, bool)
    parts, _ = label(mask)
    small = np.bincount(parts.ravel()) < min_cells
    small[0] = False
    return _pick(small, parts)


def smoothed_away(
    grid: PatchGrid,
    evidence: Evidence,
    before: NDArray[np.int8],
    after: NDArray[np.int8],
) -> Mask:
    """Cells whose class smoothing has changed although the evidence is for what they were.

    A lesion of one cell among clear background does not survive a Gaussian, whatever was seen in
    it. Connected cells that changed from one class to one other are judged together.

    Parameters
    ----------
    before, after : int8 (n,), the class of each cell without and with smoothing; of two classes
        of foreground, and between foreground and background

    Returns
    -------
    bool (n,)
    """
    from scipy.ndimage import label

    kept = np.zeros(len(grid), bool)
    changed = np.flatnonzero(before != after)
    # Between foreground and background it does not matter which class: the odds are of all.
    wanted = np.where(after == 0, FOREGROUND, before).astype(np.intp)
    other = np.where(before == 0, FOREGROUND, after).astype(np.intp)
    wanted[before == 0], other[after == 0] = 0, 0
    pairs = (wanted + 1) * 128 + other + 1
    for pair in np.unique(pairs[changed]):
        mine = changed[pairs[changed] == pair]
        mask = np.zeros(grid.shape, bool)
        mask[grid.rows[mine], grid.cols[mine]] = True
        laid, count = label(mask)
        parts = laid[grid.rows, grid.cols].astype(np.intp)
        strong = evidence.support(parts, count, wanted, other) > 0
        strong[0] = False
        kept |= strong[parts]
    return kept


def _pick(chosen: Mask, laid: NDArray[np.int32]) -> Mask:
    found: Mask = chosen[laid]
    return found
