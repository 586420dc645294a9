"""Attention-based multiple-instance model with its gradient written out."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

CLAMP = 1e-5  # of the probability in the focal loss


class AttentionMil:
    """p = σ(g · Σ_j w_j h_j + c) with h = ReLU(A x + a) and w = softmax(W tanh(V h)) over the bag.

    Ilse, Tomczak, Welling (2018), as used by LC-MIL. With K = 2 there is one output and σ is the
    logistic function; with more there are K and σ is the softmax.

    All weights lie in one flat tensor, so that one fused Adam call takes the step. The gradient is
    written out because for bags of ten cells autograd costs more than the arithmetic.

    Parameters
    ----------
    rng : draws the starting weights; torch's global generator is not touched
    dim, hidden, attention : widths of x, h and tanh(V h)
    classes : K
    focal_gamma : "code" or "paper"; see `focal_exponent`
    """

    def __init__(
        self,
        rng: np.random.Generator,
        dim: int,
        hidden: int,
        attention: int,
        classes: int,
        focal_gamma: str,
    ) -> None:
        outputs = 1 if classes == 2 else classes
        shapes = {
            "A": (dim, hidden),
            "a": (1, hidden),
            "V": (hidden, attention),
            "W": (attention, 1),
            "g": (hidden, outputs),
            "c": (1, outputs),
        }
        fan_in = {"A": dim, "a": dim, "V": hidden, "W": attention, "g": hidden, "c": hidden}
        total = sum(rows * columns for rows, columns in shapes.values())
        self.parameters = torch.zeros(total)
        self.parameters.grad = torch.zeros(total)
        self.weights = _carve(self.parameters, shapes)
        self.gradients = _carve(self.parameters.grad, shapes)
        self.focal_gamma = focal_gamma
        for name, shape in shapes.items():
            bound = fan_in[name] ** -0.5  # as torch.nn.Linear starts
            start = rng.uniform(-bound, bound, shape).astype(np.float32)
            self.weights[name].copy_(torch.from_numpy(start))

    def learn(self, x: Tensor, member: Tensor, sides: Tensor) -> Tensor:
        """Put the gradient of the mean focal loss over B bags into `gradients`.

        Parameters
        ----------
        x : float32 (N, d), the cells of all bags
        member : bool (B, N), which cells are in which bag; each bag has one at least
        sides : int64 (B,), the class each bag was drawn from

        Returns
        -------
        (B, K) probabilities before the step
        """
        p, g = self.weights, self.gradients
        h = torch.addmm(p["a"], x, p["A"]).relu_()
        t = torch.mm(h, p["V"]).tanh_()
        score = torch.mm(t, p["W"]).view(1, -1)
        # (B, N), zero between a bag and the cells of another: every bag's softmax in one.
        w = torch.where(member, score, -torch.inf).softmax(-1)
        z = torch.mm(w, h)
        probs = probabilities(torch.addmm(p["c"], z, p["g"]))

        d_logit = focal_slope(probs, sides, self.focal_gamma) / len(sides)
        if p["g"].shape[-1] == 1:
            d_logit = d_logit[:, 1:]
        torch.sum(d_logit, 0, keepdim=True, out=g["c"])
        torch.mm(z.T, d_logit, out=g["g"])
        d_z = torch.mm(d_logit, p["g"].T)
        d_w = torch.mm(d_z, h.T)
        d_score = (w * (d_w - (w * d_w).sum(-1, keepdim=True))).sum(0).view(-1, 1)
        torch.mm(t.T, d_score, out=g["W"])
        d_t = (1 - t * t).mul_(d_score).mul_(p["W"].T)
        torch.mm(h.T, d_t, out=g["V"])
        d_h = torch.mm(w.T, d_z).addmm_(d_t, p["V"].T).mul_(h > 0)
        torch.mm(x.T, d_h, out=g["A"])
        torch.sum(d_h, 0, keepdim=True, out=g["a"])
        return probs

    def singletons(self, x: Tensor) -> Tensor:
        """(m, K) probabilities for x (m, d), each row a bag of one: w = 1, z = h."""
        p = self.weights
        h = torch.addmm(p["a"], x, p["A"]).relu_()
        return probabilities(torch.addmm(p["c"], h, p["g"]))


def focal_slope(probs: Tensor, sides: Tensor, focal_gamma: str) -> Tensor:
    """(B, K) gradient of the focal loss −(1 − p_t)^γ log p_t by the scores under a softmax.

    For K = 2 behind a logistic function, column 1 is the gradient by the single score. p_t is
    the probability of the true class, clamped to [1e-5, 1 − 1e-5] (no gradient beyond); γ as in
    `focal_exponent`.
    """
    p_t = probs.gather(-1, sides.view(-1, 1))
    gamma = focal_exponent(probs, p_t, focal_gamma)
    p = p_t.clamp(CLAMP, 1 - CLAMP)
    slope = gamma * (1 - p) ** (gamma - 1) * p.log() - (1 - p) ** gamma / p
    slope = slope * (p == p_t) * p_t
    return (-slope * probs).scatter_add_(-1, sides.view(-1, 1), slope)


def focal_exponent(probs: Tensor, p_t: Tensor, focal_gamma: str) -> Tensor:
    """γ of each bag, (B, 1): 5 where a probability is below 0.2, else 3; not differentiated.

    The probability is that of the true class ("code"), or that of any class but background
    ("paper": P(Y = 1)).
    """
    asked = p_t if focal_gamma == "code" else 1 - probs[:, :1]
    return 3.0 + 2.0 * (asked < 0.2)


def probabilities(score: Tensor) -> Tensor:
    """(B, 1) or (B, K) scores as (B, K) probabilities."""
    if score.shape[-1] > 1:
        return score.softmax(-1)
    return torch.cat([-score, score], -1).sigmoid_()


def _carve(flat: Tensor, shapes: dict[str, tuple[int, int]]) -> dict[str, Tensor]:
    views, start = {}, 0
    for name, (rows, columns) in shapes.items():
        views[name] = flat[start : start + rows * columns].view(rows, columns)
        start += rows * columns
    return views
