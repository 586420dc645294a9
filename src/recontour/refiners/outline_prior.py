"""What an outline says about its cells before they are looked at, and how far it can be wrong."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recontour.refiners.discriminant import softmax
from recontour.types import COARSE_TRUST, UNLABELLED, PatchGrid

RIGHT = (0.5, 0.9)
"""What an outline holds is right in half of the cells at least (else refine another), never all."""

MISSED = (0.3, 0.6)
"""Of what lies outside so much is taken to be missed, at least and at most..."""

PER_OUTLINED = (0.5, 1.0)
"""...but no more than so many cells for each outlined one: on a slide with one small lesion nearly
all of the outside is background, however much of it looks alike."""

SWAPPED = 0.07
"""Of what an outline of one class holds at most so much is of another outlined class: who draws
both has told them apart, and two grades look alike far more than either does like background, so
that the share that is learned would be too large. Much less, and no evidence could (`em.DOUBT`)."""

BESIDE = (0.15, 0.35)
"""Right beside an outline a cell belongs to it with this chance at least and at most; in between it
is the number of outlined cells for each other one."""

PSEUDO = 5.0  # cells of COARSE_TRUST that each side of the outline starts from

FINE = 0.75
"""Edges of cells along an outline, per cell it holds, beyond which it is finer than the cells..."""

FINE_GAIN = 20.0
"""...and the log-odds its labels gain, for as many edges again: it stays about as it was drawn."""

Belief = NDArray[np.float64]
Sides = NDArray[np.float64]


@dataclass(frozen=True)
class Extent:
    """How large an outline is, and how fine; of the whole slide.

    Attributes
    ----------
    odds : cells outlined, for each cell that is not
    thickness_um : area outlined, over the length of its border on tissue; µm
    detail : cell edges along that border, for each cell outlined
    """

    odds: float
    thickness_um: float
    detail: float

    @property
    def fine(self) -> bool:
        """Whether the outline is finer than the cells."""
        return self.detail > FINE

    @classmethod
    def of(cls, laid: NDArray[np.int8], drawn: NDArray[np.int8], cell_um: float) -> Extent:
        """From labels on the lattice (-1: none), and again without what no outline drew."""
        inside, outside = int((laid > 0).sum()), int((laid == 0).sum())
        edges = _edges(_without_single_cells(drawn))
        return cls(
            odds=inside / max(outside, 1),
            thickness_um=inside / max(edges, 1) * cell_um,
            detail=edges / max(inside, 1),
        )


@dataclass(frozen=True)
class OutlinePrior:
    """The prior of each cell of one slide, given its coarse label and where it lies.

    A cell with label j is of class k with the probability `sides[j, k]`, which is learned within
    limits (`RIGHT`, `MISSED`, `PER_OUTLINED`, `SWAPPED`), for two reasons. A discriminant learns
    some of the outline's errors by heart and then finds too few; and what is far larger than the
    outline and looks like it is more often a lookalike than an oversight. Close to an outline
    (within its own mean thickness) `BESIDE` holds instead where that is more.

    An outline with more corners than cells can hold (`FINE`; single cells are not counted, they are
    noise) was drawn with more care than features of whole cells can check: its labels gain
    log-odds. A label whose trust is not `COARSE_TRUST` gains or loses the difference in log-odds.

    Attributes
    ----------
    labels : intp (n,), -1 unlabelled or of no trust
    sure : bool (n,), labels a person has checked (trust 1)
    near : float64 (n, K), 0 to 1, closeness of background cells to the outline of each class
    shift : float64 (n,), log-odds that the own label gains by detail and trust
    blank : bool (n,), cells whose label says nothing (unlabelled, or trust 0)
    extent : of the outline
    beside : share of the background right beside the outline that may be no background
    limits : (least, most) share of the background side that is no background
    common : float64 (K,) how common the classes are where the slide has no label at all
    """

    labels: NDArray[np.intp]
    sure: NDArray[np.bool_]
    near: Belief
    shift: Belief
    blank: NDArray[np.bool_]
    extent: Extent
    beside: float
    limits: tuple[float, float]
    common: NDArray[np.float64]

    @cached_property
    def known(self) -> NDArray[np.intp]:
        """Cells whose label says something."""
        return np.flatnonzero(~self.blank)

    @cached_property
    def outside(self) -> NDArray[np.intp]:
        """Cells that are labelled background."""
        return np.flatnonzero((self.labels == 0) & ~self.blank)

    @cached_property
    def learning(self) -> NDArray[np.intp]:
        """Cells whose label may be wrong: they tell how often it is."""
        return np.flatnonzero(~self.blank & ~self.sure)

    @cached_property
    def certain(self) -> NDArray[np.intp]:
        """Cells whose label is."""
        return np.flatnonzero(self.sure)

    @cached_property
    def side(self) -> NDArray[np.intp]:
        """(n,) the label, or K of cells that have none."""
        return np.where(self.blank, self.near.shape[1], self.labels)

    @classmethod
    def of(
        cls,
        labels: NDArray[np.integer],
        trust: NDArray[np.floating] | None,
        grid: PatchGrid,
        classes: int,
        *,
        extent: Extent | None = None,
        common: NDArray[np.float64] | None = None,
    ) -> OutlinePrior:
        """From the labels of one slide.

        Parameters
        ----------
        labels : (n,), -1 unlabelled
        trust : (n,) in [0, 1] or None, as in `PatchSet`
        classes : K
        extent : of the outline, where the cells are some of those it was drawn on, or finer
        common : (K,) shares of the classes elsewhere, for slides without a label; None: even
        """
        own = np.asarray(labels).astype(np.intp)
        t = np.full(len(own), COARSE_TRUST) if trust is None else np.asarray(trust, np.float64)
        blank = (own < 0) | (t <= 0)
        own[blank] = UNLABELLED  # nor does it say where the outline is, or how large
        sure = ~blank & (t >= 1)
        laid = np.full(grid.shape, UNLABELLED, np.int8)  # may be many times the cells
        laid[grid.rows, grid.cols] = own
        drawn = laid.copy()  # strokes of a review are no detail of the outline
        drawn[grid.rows[sure], grid.cols[sure]] = -1
        extent = extent or Extent.of(laid, drawn, grid.cell_um)
        odds = extent.odds
        least = min(MISSED[0], PER_OUTLINED[0] * odds)
        usual = np.clip(t, 0.01, 0.99)
        shift = np.where(blank | sure, 0.0, _logit(usual) - _logit(COARSE_TRUST))
        shift += np.where(blank | sure, 0.0, FINE_GAIN * max(extent.detail / FINE - 1, 0.0))
        return cls(
            labels=own,
            sure=sure,
            near=_closeness(laid, grid, classes, extent.thickness_um / grid.cell_um),
            shift=shift,
            blank=blank,
            extent=extent,
            beside=float(np.clip(odds, *BESIDE)),
            limits=(least, max(min(MISSED[1], PER_OUTLINED[1] * odds), least)),
            common=np.full(classes, 1 / classes) if common is None else common,
        )

    def start(self) -> Belief:
        """(n, K) what is believed before anything is learned."""
        classes = self.near.shape[1]
        missed = 1 - COARSE_TRUST
        # What is wrong is of the other classes as they are common: else a small one would begin as
        # a mixture of the errors of all others.
        often = 1.0 + np.bincount(self.labels[self.known], minlength=classes)
        sides = np.tile(often, (classes, 1))
        np.fill_diagonal(sides, 0.0)
        sides *= missed / sides.sum(axis=1, keepdims=True)
        np.fill_diagonal(sides, COARSE_TRUST)
        closest = self.near.max(axis=1)
        least = min(self.limits[0], missed)
        p = self._rows(sides)
        share = least + (missed - least) * closest[self.outside]
        p[self.outside, 1:] *= (share / missed)[:, None]
        p[self.outside, 0] = 1 - share
        return self._checked(p / p.sum(axis=1, keepdims=True))

    def believe(self, evidence: Belief, sides: Sides) -> Belief:
        """(n, K) posterior of log-likelihoods (n, K) under the shares `sides` (K, K)."""
        p = self._rows(sides)
        foreground = p[:, 1:]  # `near` is 0 but outside, where background shares what is near
        foreground += (np.maximum(self.beside, foreground) - foreground) * self.near[:, 1:]
        total = foreground.sum(axis=1)
        most = np.minimum(1.0, RIGHT[1] / np.maximum(total, 1e-9))
        p[self.outside, 1:] *= most[self.outside, None]
        p[self.outside, 0] = 1 - (total * most)[self.outside]
        log = np.log(p)
        log[self.known, self.labels[self.known]] += self.shift[self.known]
        return self._checked(softmax(evidence + log))

    def shares(self, q: Belief) -> Sides:
        """(K, K) how the cells of each coarse label divide among the classes, within the limits."""
        classes = q.shape[1]
        sides = np.full((classes, classes), PSEUDO * (1 - COARSE_TRUST) / max(classes - 1, 1))
        np.fill_diagonal(sides, PSEUDO * COARSE_TRUST)
        told = self.labels[self.learning]
        for k in range(classes):
            sides[:, k] += np.bincount(told, q[self.learning, k], minlength=classes)
        sides /= sides.sum(axis=1, keepdims=True)
        for j in range(classes):
            low, high = (1 - self.limits[1], 1 - self.limits[0]) if j == 0 else RIGHT
            own = float(np.clip(sides[j, j], low, high))
            sides[j] *= (1 - own) / max(1 - sides[j, j], 1e-12)
            sides[j, j] = own
        for j in range(1, classes):
            others = sides[j, 1:].copy()
            others[j - 1] = 0.0
            excess = np.maximum(others - SWAPPED, 0.0)
            sides[j, 1:] -= excess
            sides[j, j] += excess.sum()
        limited: Sides = np.maximum(sides, 1e-6)
        return limited

    def _rows(self, sides: Sides) -> Belief:
        """(n, K) the share of each cell's side; cells without a label get that of all."""
        classes = sides.shape[1]
        counts = np.bincount(self.side, minlength=classes)[:classes]
        mean = (counts @ sides) / counts.sum() if counts.sum() else self.common
        rows: Belief = np.vstack([sides, mean]).T[:, self.side].T  # class by class in memory
        return rows

    def _checked(self, q: Belief) -> Belief:
        sure = self.certain
        q[sure] = 0.0
        q[sure, self.labels[sure]] = 1.0
        return q


def _edges(laid: NDArray[np.int8]) -> int:
    """Edges between tissue cells of different labels."""
    return sum(
        int(np.count_nonzero((a != b) & (a >= 0) & (b >= 0)))
        for a, b in ((laid[1:], laid[:-1]), (laid[:, 1:], laid[:, :-1]))
    )


def _without_single_cells(laid: NDArray[np.int8]) -> NDArray[np.int8]:
    """The labels with every tissue cell that is alone in its label given that of a neighbour."""
    around = np.pad(laid, 1, constant_values=-1)
    beside = np.stack([around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]])
    alone = (laid >= 0) & (beside != laid).all(axis=0) & (beside >= 0).any(axis=0)
    return np.where(alone, beside.max(axis=0), laid)


def _closeness(laid: NDArray[np.int8], grid: PatchGrid, classes: int, thickness: float) -> Belief:
    """(n, K) exp(-distance / thickness) of background cells to each class; 0 for other cells."""
    from scipy.ndimage import distance_transform_edt

    near = np.zeros((len(grid), classes))
    outside = laid[grid.rows, grid.cols] == 0
    for k in range(1, classes):
        if not (laid == k).any():
            continue
        distance = distance_transform_edt(laid != k)[grid.rows, grid.cols]
        beside = np.maximum(distance - 0.5, 0.0)  # from the border, not from the cell's centre
        near[:, k] = np.where(outside, np.exp(-beside / max(thickness, 1e-9)), 0.0)
    return near


def _logit(p: float | Belief) -> Belief:
    out: Belief = np.log(np.asarray(p) / (1 - np.asarray(p)))
    return out
