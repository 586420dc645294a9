"""How much speaks for a group of cells being of one class and not of another.

A Potts field over the lattice (Geman & Geman 1984): a cell i is of class k with a chance in
proportion to exp(log p_i(k) + β Σ_j p_j(k)), where j runs over its up to four neighbours on
tissue. The first term is what the refiner says of the cell, the second what the cells around it
say. Nobody sets β: it is what makes the neighbours foretell the slide's own probabilities best
(pseudo-likelihood, Besag 1975). Where the probabilities change from cell to cell, neighbours
say little; where they hang together over long ways, be it that lesions are compact or that
neighbouring cells saw the same pixels, an island needs that much more evidence of its own.

For a connected part the field weighs class a against class b by

    Σ_i log p_i(a) / p_i(b)  +  β Σ_(i, j) [p_j(a) - p_j(b)],

i in the part and j its neighbours outside of it: its *support*. Above 0 the part is likelier a
than b. The first sum grows with the cells, the second with the border, so that a few sure cells
can do what many wavering ones cannot. Nothing in it depends on how large a slide is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recontour.types import PatchGrid

SUREST = 0.99
"""No cell is believed more than this: methods that vote say 0 or 1, and one cell would decide."""

MOST_WEIGHT = 50.0
"""Of a neighbour; far beyond what any slide asks for (a cell that contradicts all of its own
neighbours is added to each slide, which bounds the weight by about the logarithm of its cells)."""

FOREGROUND = -1
"""All classes but the background, where a class is asked for."""


@dataclass(frozen=True)
class Evidence:
    """What is known of each of n cells of a slide.

    Attributes
    ----------
    table : float64 (n, K + 1), chance of each class, last of all but the background; shifted so
        that the threshold is at one half
    around : intp (n, 4), the neighbours of a cell on tissue; n where there is none
    weight : β, what a neighbour's word counts
    """

    table: NDArray[np.float64]
    around: NDArray[np.intp]
    weight: float

    @classmethod
    def of(cls, grid: PatchGrid, probs: NDArray[np.floating], threshold: float = 0.5) -> Evidence:
        """From probabilities (n, K), rows sum to 1, before they are smoothed."""
        p = np.asarray(probs, np.float64).copy()
        p[:, 0] *= threshold
        p[:, 1:] *= 1 - threshold
        p /= p.sum(axis=1, keepdims=True)
        around = neighbours_of(grid)
        table = np.column_stack([p, 1 - p[:, 0]])
        return cls(table, around, neighbour_weight(p, around))

    def support(
        self,
        parts: NDArray[np.intp],
        count: int,
        wanted: NDArray[np.intp] | int,
        other: NDArray[np.intp] | int,
    ) -> NDArray[np.float64]:
        """How much speaks for each part being `wanted` and not `other`; above 0: more than against.

        Parameters
        ----------
        parts : intp (n,) in [0, count], the part each cell belongs to; 0: none
        wanted, other : class of each cell (n,), or of all; FOREGROUND: any class

        Returns
        -------
        (count + 1,) natural log-odds; of part 0 it means nothing
        """
        n = len(self.table)
        a, b = (np.broadcast_to(np.asarray(k, np.intp), n) for k in (wanted, other))
        mine = np.flatnonzero(parts > 0)
        a, b = a[mine], b[mine]
        sure = np.clip(self.table[mine, a], 1 - SUREST, SUREST)
        against = np.clip(self.table[mine, b], 1 - SUREST, SUREST)
        support = np.log(sure) - np.log(against)
        # Off tissue nobody speaks.
        padded = np.vstack([self.table, np.zeros(self.table.shape[1])])
        around = self.around[mine]
        outside = np.append(parts, 0)[around] != parts[mine][:, None]
        said = padded[around, a[:, None]] - padded[around, b[:, None]]
        support += self.weight * np.where(outside, said, 0.0).sum(axis=1)
        total: NDArray[np.float64] = np.zeros(count + 1)
        np.add.at(total, parts[mine], support)
        return total


def neighbours_of(grid: PatchGrid) -> NDArray[np.intp]:
    """intp (n, 4): the cells above, below, left and right of each; n where none takes part."""
    n = len(grid)
    at = np.full((grid.shape[0] + 2, grid.shape[1] + 2), n, np.int32)
    rows, cols = grid.rows + 1, grid.cols + 1
    at[rows, cols] = np.arange(n, dtype=np.int32)
    steps = ((-1, 0), (1, 0), (0, -1), (0, 1))
    return np.stack([at[rows + r, cols + c] for r, c in steps], axis=1).astype(np.intp)


def neighbour_weight(p: NDArray[np.float64], around: NDArray[np.intp]) -> float:
    """β with which the neighbours foretell a cell best.

    It maximises Σ_i Σ_k p_i(k) log softmax_k(β Σ_j p_j(k)), which is concave in β. One cell is
    added that contradicts all four of its neighbours, so that β stays finite on any slide.

    Parameters
    ----------
    p : (n, K), rows sum to 1
    around : (n, 4), see `neighbours_of`
    """
    from scipy.optimize import brentq

    said = np.vstack([p, np.zeros(p.shape[1])])[around].sum(axis=1)
    one = np.zeros((1, p.shape[1]))
    one[0, 0] = 1.0
    said, p = np.vstack([said, 4 * np.roll(one, 1)]), np.vstack([p, one])
    said -= said.max(axis=1, keepdims=True)  # no overflow, and the slope stays the same
    found = float(np.sum(p * said))

    def slope(weight: float) -> float:
        foretold = np.exp(weight * said)
        foretold /= foretold.sum(axis=1, keepdims=True)
        return found - float(np.sum(foretold * said))

    if slope(0.0) <= 0:
        return 0.0
    return float(brentq(slope, 0.0, MOST_WEIGHT, xtol=1e-4))
