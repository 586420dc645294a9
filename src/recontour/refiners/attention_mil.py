"""Attention-based multiple-instance model: S members trained side by side, gradients by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

CLAMP = 1e-5  # of the probability in the focal loss


class AttentionMil:
    """S independent models of the form p = σ(g · Σ_j w_j h_j + c), w = softmax(W tanh(V h)).

    h = ReLU(A x + a). With K = 2 there is one output and σ is the logistic function; with more
    there are K and σ is the softmax. Ilse, Tomczak, Welling (2018), as used by LC-MIL.

    All weights lie in one flat tensor, so that one fused Adam call steps every member; gradients
    are written out because for bags of ten cells autograd costs more than the arithmetic.

    Parameters
    ----------
    draws : a generator for each of the S members; a member's start depends on its own alone
    dim, hidden, attention : widths of x, h and tanh(V h)
    classes : K
    focal_gamma : "code" or "paper"; see `focal_slope`
    """

    def __init__(
        self,
        draws: Sequence[np.random.Generator],
        dim: int,
        hidden: int,
        attention: int,
        classes: int,
        focal_gamma: str,
    ) -> None:
        members = len(draws)
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
        total = members * sum(rows * columns for rows, columns in shapes.values())
        self.parameters = torch.zeros(total)
        self.parameters.grad = torch.zeros(total)
        self.weights = _carve(self.parameters, members, shapes)
        self.gradients = _carve(self.parameters.grad, members, shapes)
        self.focal_gamma = focal_gamma
        for member, rng in enumerate(draws):
            for name, shape in shapes.items():
                # The start of torch.nn.Linear, without touching torch's global generator.
                bound = fan_in[name] ** -0.5
                start = rng.uniform(-bound, bound, shape).astype(np.float32)
                self.weights[name][member] = torch.from_numpy(start)

    def learn(self, x: Tensor, mask: Tensor, sides: Tensor) -> Tensor:
        """Put the gradient of the mean focal loss over B bags into `gradients`.

        Parameters
        ----------
        x : float32 (S, B, L, d)
        mask : bool (S, B, L), true where a bag has a cell; each bag has one at least
        sides : int64 (S, B), the class of each bag

        Returns
        -------
        (S, B, K) probabilities before the step
        """
        p, g = self.weights, self.gradients
        s, b, length, dim = x.shape
        x = x.reshape(s, b * length, dim)
        h = torch.baddbmm(p["a"], x, p["A"]).relu_()
        t = torch.bmm(h, p["V"]).tanh_()
        score = torch.bmm(t, p["W"]).view(s, b, length)
        weight = score.masked_fill_(~mask, -torch.inf).softmax(-1)
        bags = h.view(s * b, length, -1)
        z = torch.bmm(weight.view(s * b, 1, length), bags).view(s, b, -1)
        probs = _probabilities(torch.baddbmm(p["c"], z, p["g"]))

        d_logit = focal_slope(probs, sides, self.focal_gamma) / b
        if p["g"].shape[-1] == 1:
            d_logit = d_logit[..., 1:]
        torch.sum(d_logit, 1, keepdim=True, out=g["c"])
        torch.bmm(z.mT, d_logit, out=g["g"])
        d_z = torch.bmm(d_logit, p["g"].mT).view(s * b, 1, -1)
        d_weight = torch.bmm(d_z, bags.mT).view(s, b, length)
        d_score = weight * (d_weight - (weight * d_weight).sum(-1, keepdim=True))
        d_score = d_score.view(s, b * length, 1)
        torch.bmm(t.mT, d_score, out=g["W"])
        d_t = (1 - t * t).mul_(d_score).mul_(p["W"].mT)
        torch.bmm(h.mT, d_t, out=g["V"])
        d_h = torch.bmm(weight.view(s * b, length, 1), d_z).view(s, b * length, -1)
        d_h = torch.baddbmm(d_h, d_t, p["V"].mT).mul_(h > 0)
        torch.bmm(x.mT, d_h, out=g["A"])
        torch.sum(d_h, 1, keepdim=True, out=g["a"])
        return probs

    def singletons(self, x: Tensor) -> Tensor:
        """(m, K) mean over the members for x (m, d), each row a bag of one (w = 1)."""
        p = self.weights
        mean = torch.zeros(())
        for member in range(len(p["A"])):
            h = torch.addmm(p["a"][member], x, p["A"][member]).relu_()
            mean = mean + _probabilities(torch.addmm(p["c"][member], h, p["g"][member]))
        mean = mean / len(p["A"])
        return mean / mean.sum(-1, keepdim=True)


def focal_slope(probs: Tensor, sides: Tensor, focal_gamma: str) -> Tensor:
    """(…, K) gradient of the focal loss −(1 − p_t)^γ log p_t by the scores under a softmax.

    For K = 2 behind a logistic function, column 1 is the gradient by the single score. p_t is
    the probability of the true class, clamped to [1e-5, 1 − 1e-5] (no gradient beyond); γ as in
    `focal_exponent`.
    """
    true = torch.nn.functional.one_hot(sides, probs.shape[-1]).to(probs.dtype)
    p_t = (probs * true).sum(-1, keepdim=True)
    gamma = focal_exponent(probs, p_t, focal_gamma)
    inside = (p_t >= CLAMP) & (p_t <= 1 - CLAMP)
    p = p_t.clamp(CLAMP, 1 - CLAMP)
    slope = gamma * (1 - p) ** (gamma - 1) * p.log() - (1 - p) ** gamma / p
    return slope * inside * p_t * (true - probs)


def focal_exponent(probs: Tensor, p_t: Tensor, focal_gamma: str) -> Tensor:
    """γ of each bag: 5 where a probability is below 0.2, else 3; a constant to the gradient.

    That of the true class ("code"), or of any class but background ("paper": P(Y = 1)).
    """
    asked = p_t if focal_gamma == "code" else 1 - probs[..., :1]
    return torch.where(asked < 0.2, 5.0, 3.0)


def _probabilities(score: Tensor) -> Tensor:
    """(…, 1) or (…, K) scores as (…, K) probabilities."""
    if score.shape[-1] > 1:
        return score.softmax(-1)
    return torch.cat([(-score).sigmoid(), score.sigmoid()], -1)


def _carve(flat: Tensor, members: int, shapes: dict[str, tuple[int, int]]) -> dict[str, Tensor]:
    views, start = {}, 0
    for name, (rows, columns) in shapes.items():
        size = members * rows * columns
        views[name] = flat[start : start + size].view(members, rows, columns)
        start += size
    return views
