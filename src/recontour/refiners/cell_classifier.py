"""A small network on single cells, with its gradient written out."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CLAMP = 1e-5  # of the probability in the focal loss
FLAT = 1e-5  # added to the variance, as torch.nn.LayerNorm does


class CellClassifier:
    """LayerNorm → Linear(d, hidden) → ReLU → dropout → Linear(hidden, 1 or K).

    With K = 2 there is one output and a logistic function; with more there are K and a softmax.
    LayerNorm has no weights of its own: the linear layer behind it would only undo them; so it can
    be applied to the cells beforehand (`layer_norm`).

    All weights lie in one flat tensor, so that one fused AdamW call takes the step. The gradient is
    written out because in steps this small autograd costs as much as the arithmetic.

    Parameters
    ----------
    rng : draws the starting weights and the dropout; torch's global generator is not touched
    dim, hidden : d, and the width of the layer
    classes : K
    dropout : share of the hidden units left out in a step, rounded to 1/256
    gamma, alpha : of the focal loss −α_t (1 − p_t)^γ log p_t, with α_t = α for the classes and
        1 − α for the background
    """

    def __init__(
        self,
        rng: np.random.Generator,
        dim: int,
        hidden: int,
        classes: int,
        *,
        dropout: float = 0.25,
        gamma: float = 2.0,
        alpha: float = 0.5,
    ) -> None:
        outputs = 1 if classes == 2 else classes
        shapes = {"A": (dim, hidden), "a": (1, hidden), "g": (hidden, outputs), "c": (1, outputs)}
        fan_in = {"A": dim, "a": dim, "g": hidden, "c": hidden}
        total = sum(rows * columns for rows, columns in shapes.values())
        self.rng = rng
        self.drop_below = min(round(dropout * 256), 255)
        self.gamma = gamma
        self.alpha = alpha
        self.parameters = torch.zeros(total)
        self.parameters.grad = torch.zeros(total)
        self.weights: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}
        start = 0
        for name, (rows, columns) in shapes.items():
            here = slice(start, start + rows * columns)
            self.weights[name] = self.parameters[here].view(rows, columns)
            self.gradients[name] = self.parameters.grad[here].view(rows, columns)
            bound = fan_in[name] ** -0.5  # as torch.nn.Linear starts
            values = rng.uniform(-bound, bound, (rows, columns)).astype(np.float32)
            self.weights[name].copy_(torch.from_numpy(values))
            start = here.stop

    def learn(self, x: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """Put the gradient of the mean weighted focal loss of a batch into `gradients`.

        Parameters
        ----------
        x : float32 (m, d), layer-normed
        labels : int64 (m,)
        weights : float32 (m,)

        Returns
        -------
        (m, K) probabilities before the step, under dropout
        """
        p, g = self.weights, self.gradients
        h = torch.addmm(p["a"], x, p["A"]).relu_()
        keep = 1 - self.drop_below / 256
        if self.drop_below:
            bits = self.rng.integers(0, 256, h.shape, dtype=np.uint8)
            h.mul_(torch.from_numpy(bits >= self.drop_below))
        probs = probabilities(torch.addmm(p["c"], h, p["g"], alpha=1 / keep))
        d_logit = focal_slope(probs, labels, self.gamma, self.alpha)
        d_logit.mul_(weights.view(-1, 1) / len(x))
        if p["g"].shape[-1] == 1:
            d_logit = d_logit[:, 1:]
        torch.sum(d_logit, 0, keepdim=True, out=g["c"])
        torch.mm(h.T, d_logit, out=g["g"]).mul_(1 / keep)
        # Where a unit was dropped, h is 0 as behind the ReLU.
        d_h = torch.mm(d_logit, p["g"].T).mul_(h > 0).mul_(1 / keep)
        torch.mm(x.T, d_h, out=g["A"])
        torch.sum(d_h, 0, keepdim=True, out=g["a"])
        return probs

    def predict(self, x: Tensor) -> Tensor:
        """(m, K) probabilities of x (m, d), layer-normed; nothing is dropped."""
        p = self.weights
        h = torch.addmm(p["a"], x, p["A"]).relu_()
        return probabilities(torch.addmm(p["c"], h, p["g"]))


def layer_norm(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each row of float32 (m, d) to mean 0 and variance 1, in place; returns `x`."""
    x -= x.mean(axis=1, keepdims=True)
    variance = np.einsum("ij,ij->i", x, x) / x.shape[1]
    x *= (1 / np.sqrt(variance + FLAT))[:, None]
    return x


def focal_slope(probs: Tensor, labels: Tensor, gamma: float, alpha: float) -> Tensor:
    """(m, K) gradient of −α_t (1 − p_t)^γ log p_t by the scores under a softmax.

    For K = 2 behind a logistic function, column 1 is the gradient by the single score. p_t is
    clamped to [1e-5, 1 − 1e-5], without a gradient beyond.
    """
    true = labels.view(-1, 1)
    p_t = probs.gather(-1, true)
    p = p_t.clamp(CLAMP, 1 - CLAMP)
    slope = (1 - p) ** (gamma - 1) * (gamma * p * p.log() - (1 - p))
    slope = slope * (p == p_t) * torch.where(true > 0, alpha, 1 - alpha)
    return (-slope * probs).scatter_add_(-1, true, slope)


def probabilities(score: Tensor) -> Tensor:
    """(m, 1) or (m, K) scores as (m, K) probabilities."""
    if score.shape[-1] > 1:
        return score.softmax(-1)
    return torch.cat([-score, score], -1).sigmoid_()
