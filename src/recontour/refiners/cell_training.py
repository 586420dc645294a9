"""Which cells a classifier sees in which step, and the steps themselves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from recontour.refiners.base import CHUNK, Cells, ZScore
from recontour.refiners.cell_classifier import CellClassifier, layer_norm

STEPS_A_BLOCK = 8
STORED_BYTES = 2**28
"""Up to this size the standardised cells are kept, above it they are made anew for each block."""


class Block(NamedTuple):
    """Some steps at once: which cells, their labels and weights, and how many each step takes.

    `where` (N,) counts among the cells to learn from, step after step; `labels` int64 (N,),
    `weights` float32 (N,), `sizes` add up to N.
    """

    where: NDArray[np.intp]
    labels: NDArray[np.int64]
    weights: NDArray[np.float32]
    sizes: tuple[int, ...]


class Inputs:
    """The cells `index` (n,), standardised and layer-normed, as float32 rows on demand."""

    def __init__(self, cells: Cells, index: NDArray[np.intp], scale: ZScore) -> None:
        self.cells = cells
        self.index = index
        self.scale = scale
        self.stored: NDArray[np.float32] | None = None
        if len(index) * cells.dim * 4 <= STORED_BYTES:
            stored = np.empty((len(index), cells.dim), np.float32)
            for i in range(0, len(index), CHUNK):
                stored[i : i + CHUNK] = self._make(index[i : i + CHUNK])
            self.stored = stored

    def __len__(self) -> int:
        return len(self.index)

    def rows(self, where: NDArray[np.intp]) -> NDArray[np.float32]:
        """Rows `where` (m,) as float32 (m, d)."""
        if self.stored is not None:
            return self.stored[where]
        return self._make(self.index[where])

    def _make(self, index: NDArray[np.intp]) -> NDArray[np.float32]:
        return layer_norm(self.scale(self.cells.rows(index)))


def draw_balanced(
    rng: np.random.Generator,
    labels: NDArray[np.int8],
    slides: NDArray[np.intp],
    trust: NDArray[np.float64],
    *,
    steps: int,
    per_class: int,
) -> Iterator[Block]:
    """Step 7, dynamic data sampling: each step draws afresh, `per_class` cells of each class.

    Within a class every slide that has it gives the same number, to within one, whatever its
    size; within a slide cells are drawn with replacement in proportion to their trust.

    Parameters
    ----------
    labels : int8 (n,), -1 is never drawn; classes without a cell are left out
    slides : (n,) number of each cell's slide
    """
    strata = []
    for k in np.unique(labels[labels >= 0]):
        parts = []
        for slide in np.unique(slides[labels == k]):
            members = np.flatnonzero((labels == k) & (slides == slide))
            parts.append((members, np.cumsum(trust[members])))
        strata.append((int(k), parts))
    per_step = per_class * len(strata)
    for first in range(0, steps, STEPS_A_BLOCK):
        count = min(STEPS_A_BLOCK, steps - first)
        where = np.empty((count, per_step), np.intp)
        of = np.empty((count, per_step), np.int64)
        for column, (k, parts) in enumerate(strata):
            here = slice(column * per_class, (column + 1) * per_class)
            # A random slide begins, so that what does not divide evenly falls to each in turn.
            turn = rng.integers(len(parts), size=(count, 1)) + np.arange(per_class)
            chance = rng.random((count, per_class))
            drawn = np.empty((count, per_class), np.intp)
            for i, (members, mass) in enumerate(parts):
                own = turn % len(parts) == i
                pick = np.searchsorted(mass, chance[own] * mass[-1], side="right")
                drawn[own] = members[np.minimum(pick, len(members) - 1)]
            where[:, here] = drawn
            of[:, here] = k
        flat = where.ravel()
        ones = np.ones(len(flat), np.float32)
        yield Block(flat, of.ravel(), ones, (per_step,) * count)


def draw_shuffled(
    rng: np.random.Generator,
    labels: NDArray[np.int8],
    weights: NDArray[np.float64],
    *,
    batch: int,
    steps: int | None = None,
    epochs: int = 1,
) -> Iterator[Block]:
    """Plain minibatches: every labelled cell once an epoch, in random order.

    Parameters
    ----------
    labels : int8 (n,), -1 is left out
    weights : (n,), of the loss; scaled to mean 1
    steps : so many steps, however many epochs they are; None: `epochs` whole epochs
    """
    known = np.flatnonzero(labels >= 0)
    scaled = (weights / weights[known].mean()).astype(np.float32)
    an_epoch = math.ceil(len(known) / batch)
    left = epochs * an_epoch if steps is None else steps
    while left > 0:
        order = rng.permutation(known)
        for first in range(0, min(left, an_epoch), STEPS_A_BLOCK):
            stop = min(first + STEPS_A_BLOCK, left, an_epoch)
            where = order[first * batch : stop * batch]
            sizes = [batch] * (stop - first)
            sizes[-1] -= sum(sizes) - len(where)
            yield Block(where, labels[where].astype(np.int64), scaled[where], tuple(sizes))
        left -= min(left, an_epoch)


def train(
    model: CellClassifier,
    inputs: Inputs,
    blocks: Iterator[Block],
    rate: Callable[[int], float],
    weight_decay: float,
) -> None:
    """Take the steps of `blocks` with AdamW; `rate` gives the learning rate of each step."""
    optimizer = torch.optim.AdamW([model.parameters], weight_decay=weight_decay, fused=True)
    step = 0
    with torch.no_grad():
        for block in blocks:
            x = torch.from_numpy(inputs.rows(block.where))
            labels, weights = torch.from_numpy(block.labels), torch.from_numpy(block.weights)
            start = 0
            for size in block.sizes:
                cut = slice(start, start + size)
                optimizer.param_groups[0]["lr"] = rate(step)
                model.learn(x[cut], labels[cut], weights[cut])
                optimizer.step()
                start += size
                step += 1


def cosine_rate(rate: float, steps: int) -> Callable[[int], float]:
    """From `rate` to 0 along half a cosine."""
    return lambda step: rate * 0.5 * (1 + math.cos(math.pi * step / steps))


def predict(model: CellClassifier, inputs: Inputs, classes: int) -> NDArray[np.float32]:
    """float32 (n, K) probabilities of all `inputs`."""
    out = np.empty((len(inputs), classes), np.float32)
    with torch.no_grad():
        for i in range(0, len(inputs), CHUNK):
            where = np.arange(i, min(i + CHUNK, len(inputs)))
            out[i : i + CHUNK] = model.predict(torch.from_numpy(inputs.rows(where))).numpy()
    return out
