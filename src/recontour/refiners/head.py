"""A small classifier on features, with its gradient written out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recontour.refiners.base import Cells, ZScore

ROWS = 4096  # a pass over all cells: 7 MB of float32 at d = 424


class Head:
    """f = softmax(B h + b) with h = ReLU(A x + a): Linear, ReLU, Linear.

    For two classes the difference of the two scores is all that matters, so that this is the
    logistic function of one score, and cross-entropy is binary cross-entropy.

    All weights lie in one flat tensor, so that one step of an optimiser is one call. The gradient
    is written out because for small batches autograd costs more than the arithmetic.

    Parameters
    ----------
    rng : draws the starting weights; torch's global generator is not touched
    dim, hidden, classes : widths of x, h and f
    """

    def __init__(self, rng: np.random.Generator, dim: int, hidden: int, classes: int) -> None:
        shapes = ((dim, hidden), (1, hidden), (hidden, classes), (1, classes))
        sizes = [rows * columns for rows, columns in shapes]
        self.parameters = torch.zeros(sum(sizes))
        self.gradient = torch.zeros(sum(sizes))
        self.parameters.grad = self.gradient
        self._weights = [
            p.view(shape)
            for p, shape in zip(torch.split(self.parameters, sizes), shapes, strict=True)
        ]
        self._slopes = [
            g.view(shape)
            for g, shape in zip(torch.split(self.gradient, sizes), shapes, strict=True)
        ]
        for weight, fan_in in zip(self._weights, (dim, dim, hidden, hidden), strict=True):
            bound = fan_in**-0.5  # as torch.nn.Linear starts
            start = rng.uniform(-bound, bound, tuple(weight.shape)).astype(np.float32)
            weight.copy_(torch.from_numpy(start))

    @classmethod
    def of(cls, weights: NDArray[np.float32], dim: int, hidden: int, classes: int) -> Head:
        """With given `parameters`, float32 (number of weights,)."""
        head = cls(np.random.default_rng(0), dim, hidden, classes)
        if weights.shape != head.parameters.shape:
            raise ValueError(f"{weights.shape} weights where {head.parameters.shape} are needed")
        head.parameters.copy_(torch.from_numpy(weights))
        return head

    def hidden(self, x: Tensor) -> Tensor:
        """(m, d) -> (m, hidden), the penultimate activations."""
        return torch.addmm(self._weights[1], x, self._weights[0]).relu_()

    def scores(self, h: Tensor) -> Tensor:
        """(m, hidden) -> (m, K), before the softmax."""
        return torch.addmm(self._weights[3], h, self._weights[2])

    def learn(self, x: Tensor, h: Tensor, slope: Tensor) -> None:
        """Put the gradient of the loss into `gradient`.

        Parameters
        ----------
        x, h : (m, d) and its `hidden`
        slope : (m, K), the gradient of the loss by the scores
        """
        g = self._slopes
        torch.mm(h.T, slope, out=g[2])
        torch.sum(slope, 0, keepdim=True, out=g[3])
        d_h = torch.mm(slope, self._weights[2].T).mul_(h > 0)
        torch.mm(x.T, d_h, out=g[0])
        torch.sum(d_h, 0, keepdim=True, out=g[1])


def standard_rows(cells: Cells, scale: ZScore, index: NDArray[np.intp]) -> NDArray[np.float32]:
    """The standardised rows `index`, float32 (m, d): read once, they are used every epoch."""
    x = np.empty((len(index), cells.dim), np.float32)
    for i in range(0, len(index), ROWS):
        x[i : i + ROWS] = scale(cells.rows(index[i : i + ROWS]))
    return x


def over_all(cells: Cells, scale: ZScore, head: Head) -> Iterator[tuple[slice, Tensor]]:
    """Every cell once, in order: (which rows, their `hidden`)."""
    for rows, x in cells.chunks(ROWS):
        yield rows, head.hidden(torch.from_numpy(scale(x)))


def predict(cells: Cells, scale: ZScore, head: Head, classes: int) -> NDArray[np.float32]:
    """float32 (n, K) probabilities of every cell."""
    probs = np.empty((len(cells), classes), np.float32)
    with torch.no_grad():
        for rows, h in over_all(cells, scale, head):
            probs[rows] = head.scores(h).softmax(1).numpy()
    return probs


def train_on_labels(
    rng: np.random.Generator,
    x: Tensor,
    labels: Tensor,
    weights: Tensor,
    classes: int,
    *,
    hidden: int,
    epochs: int,
    batch: int,
    lr: float,
    weight_decay: float,
) -> Head:
    """A head fitted by Adam to minimise the weighted mean cross-entropy of each batch.

    Parameters
    ----------
    x : float32 (n, d), standardised
    labels : int64 (n,), 0 to K - 1
    weights : float32 (n,), above 0, relative to one another (a batch is divided by their overall
        mean, so that a batch of doubtful cells takes a smaller step)
    """
    head = Head(rng, x.shape[1], hidden, classes)
    adam = torch.optim.Adam([head.parameters], lr=lr, weight_decay=weight_decay, fused=True)
    weights = (weights / weights.mean()).view(-1, 1)
    with torch.no_grad():
        for _ in range(epochs):
            order = torch.from_numpy(rng.permutation(len(x)))
            for rows in torch.split(order, batch):
                part = x[rows]
                h = head.hidden(part)
                slope = head.scores(h).softmax(1)
                slope.scatter_add_(1, labels[rows].view(-1, 1), slope.new_full((len(rows), 1), -1))
                head.learn(part, h, slope.mul_(weights[rows] / len(rows)))
                adam.step()
    return head
