"""The cells a refiner may learn from, and what to do where a class has none left."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recontour.errors import RefinerError
from recontour.refiners.base import Cells
from recontour.types import UNLABELLED

POOLED = ""  # name of the group of all slides


@dataclass(frozen=True)
class Known:
    """The m cells that have a label and trust.

    Attributes
    ----------
    index : (m,) rows of the table
    slides : (m,) number of each cell's slide
    labels : int8 (m,)
    trust : float64 (m,), above 0
    names : of all slides
    """

    index: NDArray[np.intp]
    slides: NDArray[np.intp]
    labels: NDArray[np.int8]
    trust: NDArray[np.float64]
    names: tuple[str, ...]

    @classmethod
    def of(cls, cells: Cells, names: tuple[str, ...]) -> Known:
        """Those of a table."""
        index = np.flatnonzero((cells.labels >= 0) & (cells.trust > 0))
        slides = np.searchsorted(cells.starts, index, side="right") - 1
        return cls(index, slides, cells.labels[index], cells.trust[index], names)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def slide_name(self) -> str:
        """Name of the first cell's slide."""
        return self.names[int(self.slides[0])]

    def only(self, chosen: NDArray[np.bool_]) -> Known:
        """Some of them."""
        return Known(
            self.index[chosen],
            self.slides[chosen],
            self.labels[chosen],
            self.trust[chosen],
            self.names,
        )

    def groups(self, per_slide: bool) -> list[tuple[str, NDArray[np.bool_]]]:
        """Name and members of each set of cells that gets a model of its own.

        Raises
        ------
        RefinerError : two slides of one name could not be told apart
        """
        if not per_slide:
            return [(POOLED, np.ones(len(self), bool))]
        twice = sorted(name for name in set(self.names) if self.names.count(name) > 1)
        if twice:
            raise RefinerError(f"per_slide=true needs different slide names; twice: {twice[0]}")
        return [(self.names[int(s)], self.slides == s) for s in np.unique(self.slides)]


def with_every_class(
    labels: NDArray[np.int8],
    learnt: NDArray[np.int8],
    classes: tuple[str, ...],
    who: str,
    notes: list[str],
) -> NDArray[np.int8]:
    """The pseudo-labels, with the coarse background where every outside cell became a class.

    Raises
    ------
    RefinerError : the cells are all of one class, so that nothing can be told apart
    """
    present = np.unique(labels)
    if len(present) < 2:
        raise RefinerError(
            f"{who}all labelled cells are {classes[int(present[0])]!r}; use per_slide=false"
        )
    if 0 in present and not (learnt == 0).any():
        notes.append(
            f"{who}every cell outside looks like a major prototype; outside the coarse labels stay"
        )
        learnt = np.where(labels == 0, np.int8(0), learnt)
    left = np.unique(learnt[learnt != UNLABELLED])
    lost = np.setdiff1d(present, left)
    if len(lost):
        # Of a threshold on the cosine nothing may be left; of "nearest" something always is.
        names = ", ".join(repr(classes[int(k)]) for k in lost)
        notes.append(f"{who}no cell matches a major prototype of {names}; its coarse labels stay")
        learnt = np.where(np.isin(labels, lost), labels, learnt)
    return learnt
