"""VGG16's fully connected layers, trained on a few cells at a time, with the gradient written out.

With 123.6 million weights and at most 64 cells a step, a step waits for memory. So a layer's
gradient is made and used up tile by tile in the processor's cache instead of being kept: a third
of the traffic less, and 0.5 GB less memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.adam import adam

from recontour.errors import RefinerError
from recontour.refiners.base import Cells
from recontour.vgg import Vgg16Weights

DROPOUT = 0.5
WEIGHT_NS = 2.2  # nanoseconds a weight and step takes one core; `benchmarks/vgg16.py`
ANSWER_NS = 0.024  # a weight and cell
TILE = 2**18  # weights whose gradient is made at a time on a CPU: 1 MB
ROWS = 512  # cells a pass when all are answered: 51 MB of float32


@dataclass
class AdamSettings:
    """Of all layers of a model; `lr` may be changed between steps."""

    lr: float
    weight_decay: float


class Linear:
    """y = x Wᵀ + b, which learns by Adam while it passes the gradient back.

    Parameters
    ----------
    weight, bias : (out, in) and (out,), written on; None: no bias
    settings : of Adam, as torch.optim.Adam has them (its weight decay is added to the gradient)
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, settings: AdamSettings) -> None:
        self.weight, self.bias, self.settings = weight, bias, settings
        rows = max(1, TILE // weight.shape[1]) if weight.device.type == "cpu" else len(weight)
        self._tiles = [_Trained(weight[i : i + rows]) for i in range(0, len(weight), rows)]
        self._bias = None if bias is None else _Trained(bias)
        self._gradient = torch.empty((rows, weight.shape[1]), device=weight.device)

    def __call__(self, x: Tensor) -> Tensor:
        """(m, in) -> (m, out)."""
        return torch.nn.functional.linear(x, self.weight, self.bias)

    def learn(self, x: Tensor, d_y: Tensor, *, want_input: bool = True) -> Tensor | None:
        """Take one step given the input and the gradient by the output.

        Returns
        -------
        (m, in), the gradient by the input (by the weights before the step), where it is wanted
        """
        d_x = d_y @ self.weight if want_input else None
        start = 0
        for tile in self._tiles:
            stop = start + len(tile.values)
            gradient = self._gradient[: stop - start]
            torch.mm(d_y[:, start:stop].T, x, out=gradient)
            tile.step(gradient, self.settings)
            start = stop
        if self._bias is not None:
            self._bias.step(d_y.sum(0), self.settings)
        return d_x

    def forget_moments(self) -> None:
        """Free what only learning needs: two thirds of the memory."""
        self._tiles, self._bias, self._gradient = [], None, self._gradient[:0].clone()


class _Trained:
    """Some weights with their moments."""

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.mean, self.square = torch.zeros_like(values), torch.zeros_like(values)
        self.steps = torch.zeros((), device=values.device)

    def step(self, gradient: Tensor, settings: AdamSettings) -> None:
        adam(
            [self.values],
            [gradient],
            [self.mean],
            [self.square],
            [],
            [self.steps],
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            eps=1e-8,
            maximize=False,
        )


class Layers:
    """Linear layers; after each but the last (or each, `relu_last`) a ReLU and dropout.

    Parameters
    ----------
    pairs : (weight (out, in), bias (out,)) of each; copied
    generator : draws what drops out; torch's global generator is not touched
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Tensor, Tensor]],
        settings: AdamSettings,
        generator: torch.Generator,
        *,
        relu_last: bool,
    ) -> None:
        device = generator.device
        self.layers = [
            Linear(_own(weight, device), _own(bias, device), settings) for weight, bias in pairs
        ]
        self._bends = [i < len(pairs) - 1 or relu_last for i in range(len(pairs))]
        self._generator = generator
        self._tape: list[tuple[Tensor, Tensor | None]] = []

    def forward(self, x: Tensor) -> Tensor:
        """(m, in) -> (m, out) with dropout; remembers what `learn` needs."""
        self._tape = []
        for layer, bends in zip(self.layers, self._bends, strict=True):
            given, x = x, layer(x)
            gate = None
            if bends:
                gate = dropout(x, self._generator).mul_(x > 0)
                x = x * gate
            self._tape.append((given, gate))
        return x

    def learn(self, d_y: Tensor) -> None:
        """One step of every layer, by the gradient (m, out) of the last `forward`."""
        for i in reversed(range(len(self.layers))):
            given, gate = self._tape.pop()
            gradient = d_y if gate is None else d_y * gate
            d_x = self.layers[i].learn(given, gradient, want_input=i > 0)
            if d_x is not None:
                d_y = d_x

    def forget_moments(self) -> None:
        """Free what only learning needs."""
        for layer in self.layers:
            layer.forget_moments()

    def answer(self, dtype: torch.dtype, generator: torch.Generator | None = None) -> Answer:
        """The layers as they are now, for many cells."""
        return Answer(self.layers, self._bends, dtype, generator)


class Answer:
    """(m, in) -> (m, out) without learning; with dropout only where there is a generator."""

    def __init__(
        self,
        layers: Sequence[Linear],
        bends: Sequence[bool],
        dtype: torch.dtype,
        generator: torch.Generator | None,
    ) -> None:
        self._pairs = [
            (layer.weight.to(dtype), None if layer.bias is None else layer.bias.to(dtype))
            for layer in layers
        ]
        self._bends, self._dtype, self._generator = bends, dtype, generator

    def __call__(self, x: Tensor) -> Tensor:
        """float32 in, float32 out."""
        x = x.to(self._pairs[0][0].device, self._dtype)
        for (weight, bias), bends in zip(self._pairs, self._bends, strict=True):
            x = torch.nn.functional.linear(x, weight, bias)
            if bends:
                x = x.relu_()
                if self._generator is not None:
                    x = x * dropout(x, self._generator)
        return x.float()


def dropout(like: Tensor, generator: torch.Generator) -> Tensor:
    """2 with probability ½, else 0: the factors of dropout, shaped like `like`."""
    kept = torch.empty_like(like).bernoulli_(1 - DROPOUT, generator=generator)
    return kept.div_(1 - DROPOUT)


def expected_cost(
    pairs: Sequence[tuple[Tensor, Tensor]], *, steps: int, answers: int, models: int = 1
) -> tuple[float, int]:
    """(seconds on one core, bytes) that `steps` steps and `answers` cells take, for `--dry-run`."""
    weights = sum(weight.numel() for weight, _ in pairs)
    seconds = weights * 1e-9 * (steps * WEIGHT_NS + answers * ANSWER_NS)
    # While the last model learns: its two moments, and every model's weights.
    return models * seconds, 4 * weights * (models + 2)


def new_generator(rng: np.random.Generator, device: torch.device) -> torch.Generator:
    """A generator of torch's that `rng` seeds."""
    return torch.Generator(device).manual_seed(int(rng.integers(2**31)))


def uniform_start(
    rng: np.random.Generator, shape: tuple[int, ...], fan_in: int, device: torch.device
) -> Tensor:
    """Weights as torch.nn.Linear starts them: uniform in ± fan_in^-½."""
    bound = fan_in**-0.5
    return torch.from_numpy(rng.uniform(-bound, bound, shape).astype(np.float32)).to(device)


def _own(values: Tensor, device: torch.device) -> Tensor:
    return values.to(device, torch.float32, copy=True).contiguous()


def check_conv_features(name: str, cells: Cells, weights: Vgg16Weights) -> None:
    """Refuse features that are not those of the convolutional part of the same VGG16.

    Raises
    ------
    RefinerError : another width, or NaN or infinity
    """
    if cells.dim != weights.conv_dim:
        raise RefinerError(
            f"{name} needs the {weights.conv_dim:,} features of VGG16's convolutions, given "
            f"{cells.dim:,}; pass --encoder vgg16 with the same weights"
        )
    check_finite(cells)


def check_finite(cells: Cells) -> None:
    """Refuse features that are NaN or infinite, without a float32 copy of all of them.

    Raises
    ------
    RefinerError : there are some
    """
    for views in cells.blocks:
        for view in views:
            for i in range(0, len(view), ROWS):
                if not _finite(view[i : i + ROWS]):
                    raise RefinerError(
                        "features hold NaN or infinite values; embed the slide again"
                    )


def _finite(x: NDArray[np.floating]) -> bool:
    if x.dtype == np.float16:
        # All exponent bits set: several times as fast as asking numpy, which converts each number.
        return not bool(((x.view(np.uint16) & 0x7C00) == 0x7C00).any())
    return bool(np.isfinite(x).all())
