"""Label cleaning by multiple-instance learning, as the paper has it: on top of VGG16."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recontour.devices import PRECISIONS, pick_learning_device, pick_precision
from recontour.refiners.attention_mil import focal_slope, probabilities
from recontour.refiners.base import (
    Cells,
    check_patch_sets,
    check_predict,
    not_fitted,
    number,
    require,
    table,
    whole,
)
from recontour.refiners.fully_connected import (
    ROWS,
    AdamSettings,
    Answer,
    Layers,
    Linear,
    check_conv_features,
    check_finite,
    expected_cost,
    new_generator,
    uniform_start,
)
from recontour.refiners.lc_mil import draw_bags
from recontour.types import PatchSet, Progress, no_progress
from recontour.vgg import Vgg16Weights, load_vgg16

NAME = "lc_mil_vgg16"


class LcMilVgg16:
    """LC-MIL on VGG16: its three fully connected layers are trained, the convolutions are not.

    Wang, Popel, Sulam: "Label Cleaning Multiple Instance Learning: Refining Coarse Annotations on
    Single Whole-Slide Images", IEEE TMI (arXiv 2109.10778). As in the paper: the embedding h of a
    patch is the 1,000 logits of VGG16 pre-trained on ImageNet; bags, attention, focal loss and
    inference on bags of one as in `lc_mil`; Adam, one bag a step; the learning rate is halved after
    each block; dropout (½, after the first two layers) while learning.

    Departures: the convolutions are computed once a cell, by the encoder `vgg16`, which gives the
    same numbers because they are frozen; each bag goes through the network once, not twice as in
    the published code; the answer is given without dropout unless `published_dropout`.

    123.6 million weights with two moments each take 1.5 GB while learning, and 0.5 GB a model
    after.

    Parameters
    ----------
    bags, blocks, bag_length, attention, lr, weight_decay, focal_gamma : see `lc_mil`; the defaults
        are the paper's
    n_seeds : models averaged
    published_dropout : the published code leaves dropout on when it answers
    precision : of answering all cells: "auto" (bf16 on CUDA and on CPUs that compute in it),
        "fp32" or "bf16". Learning is float32: on 20 cells it waits for memory, not arithmetic
    device : "auto" (CUDA, else the CPU), "cpu", "cuda", "cuda:1", "mps"
    weights : see `recontour.vgg.load_vgg16`; None: those of the encoder

    Attributes
    ----------
    progress : called as progress("fit", bags done, bags in all)
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        bags: int = 1000,
        blocks: int = 10,
        bag_length: int = 20,
        attention: int = 64,
        lr: float = 5e-5,
        weight_decay: float = 1e-4,
        focal_gamma: str = "code",
        n_seeds: int = 1,
        published_dropout: bool = False,
        precision: str = "auto",
        device: str = "auto",
        weights: str | None = None,
    ) -> None:
        for name, value in (
            ("bags", bags),
            ("blocks", blocks),
            ("bag_length", bag_length),
            ("attention", attention),
            ("n_seeds", n_seeds),
        ):
            require(whole(value, 1), name, value, "a whole number of at least 1")
        require(whole(seed, 0), "seed", seed, "a whole number of at least 0")
        require(blocks <= bags, "blocks", blocks, f"at most the number of bags ({bags})")
        require(number(lr, 0, above=True), "lr", lr, "a number above 0")
        require(number(weight_decay, 0), "weight_decay", weight_decay, "a number of at least 0")
        require(focal_gamma in ("code", "paper"), "focal_gamma", focal_gamma, "code or paper")
        require(
            isinstance(published_dropout, bool),
            "published_dropout",
            published_dropout,
            "true or false",
        )
        require(precision in PRECISIONS, "precision", precision, "one of " + ", ".join(PRECISIONS))
        self.seed = seed
        self.bags = bags
        self.blocks = blocks
        self.bag_length = bag_length
        self.attention = attention
        self.lr = lr
        self.weight_decay = weight_decay
        self.focal_gamma = focal_gamma
        self.n_seeds = n_seeds
        self.published_dropout = published_dropout
        self.precision = precision
        self.device = pick_learning_device(device)
        self.weights = weights
        self.progress: Progress = no_progress
        self._fit: tuple[tuple[str, ...], int, tuple[BagModel, ...]] | None = None

    def fit(self, patch_sets: Sequence[PatchSet]) -> LcMilVgg16:
        """Learn from the labelled cells of one slide or many (their cells are pooled)."""
        cells = table(patch_sets)
        check_patch_sets(cells)
        weights = load_vgg16(self.weights)
        check_conv_features(NAME, cells, weights)
        self._fit = None  # the memory of what was learned before
        models = tuple(self.train(cells, weights, i) for i in range(self.n_seeds))
        self._fit = (cells.classes, cells.dim, models)
        return self

    def train(self, cells: Cells, weights: Vgg16Weights, i: int) -> BagModel:
        """Model `i`; depends on the seed and on `i`, not on how many there are."""
        rng = np.random.default_rng([self.seed, i])
        settings = AdamSettings(self.lr, self.weight_decay)
        with torch.inference_mode(False), torch.no_grad():
            model = BagModel(
                rng, weights, self.attention, len(cells.classes), settings, self.device
            )
            done = i * self.bags
            for block in draw_bags(rng, cells, self.bags, self.blocks, self.bag_length):
                for cut, _, sides in block.steps(1):
                    x = torch.from_numpy(cells.rows(block.index[cut])).to(self.device)
                    model.learn(x, torch.from_numpy(sides).to(self.device), self.focal_gamma)
                    done += 1
                    self.progress("fit", done, self.n_seeds * self.bags)
                settings.lr *= 0.5
        model.forget_moments()
        return model

    def predict_proba(self, patches: PatchSet) -> NDArray[np.float32]:
        """float32 (n, K), rows sum to 1: every cell is a bag of one, so attention drops out."""
        if self._fit is None:
            raise not_fitted(NAME)
        classes, dim, models = self._fit
        cells = table([patches])
        check_predict(cells, classes, dim)
        check_finite(cells)
        total = np.zeros((len(cells), len(classes)), np.float32)
        for i, model in enumerate(models):
            answer = model.answer(pick_precision(self.precision, self.device), self._dropout(i))
            with torch.no_grad():
                for rows, x in cells.chunks(ROWS):
                    total[rows] += answer(torch.from_numpy(x)).cpu().numpy()
        total /= total.sum(axis=1, keepdims=True)
        return total

    def expect(self, cells: int) -> tuple[float, int]:
        """Seconds on one core and bytes for so many cells."""
        pairs = load_vgg16(self.weights).fully_connected()
        return expected_cost(pairs, steps=self.bags, answers=cells, models=self.n_seeds)

    def _dropout(self, i: int) -> torch.Generator | None:
        if not self.published_dropout:
            return None
        return new_generator(np.random.default_rng([self.seed, i, 1]), self.device)


class BagModel:
    """P = σ(g · Σ_j w_j h_j + c), h = VGG16's logits, w = softmax(W tanh(V h)) over the bag."""

    def __init__(
        self,
        rng: np.random.Generator,
        weights: Vgg16Weights,
        attention: int,
        classes: int,
        settings: AdamSettings,
        device: torch.device,
    ) -> None:
        layers = weights.fully_connected()
        embedding = len(layers[-1][1])
        outputs = 1 if classes == 2 else classes
        self.layers = Layers(layers, settings, new_generator(rng, device), relu_last=False)

        # Attention has no biases: the paper's equation.
        self.v = Linear(
            uniform_start(rng, (attention, embedding), embedding, device), None, settings
        )
        self.w = Linear(uniform_start(rng, (1, attention), attention, device), None, settings)
        self.g = Linear(
            uniform_start(rng, (outputs, embedding), embedding, device),
            uniform_start(rng, (outputs,), embedding, device),
            settings,
        )

    def learn(self, x: Tensor, side: Tensor, focal_gamma: str) -> Tensor:
        """One step on the bag x (m, d), drawn from the class `side` (1,); its probs before."""
        h = self.layers.forward(x)
        t = self.v(h).tanh_()
        w = self.w(t).softmax(0)  # (m, 1)
        z = w.T @ h
        probs = probabilities(self.g(z))
        d_score = focal_slope(probs, side, focal_gamma)
        if len(self.g.weight) == 1:
            d_score = d_score[:, 1:]
        d_z = self.g.learn(z, d_score)
        assert d_z is not None
        d_w = h @ d_z.T
        d_t = self.w.learn(t, w * (d_w - (w * d_w).sum()))
        assert d_t is not None
        d_h = self.v.learn(h, d_t * (1 - t * t))
        assert d_h is not None
        self.layers.learn(d_h.addmm_(w, d_z))
        return probs

    def answer(self, dtype: torch.dtype, dropout: torch.Generator | None) -> Singletons:
        """The model as it is now, for many cells, each a bag of one."""
        return Singletons(self.layers.answer(dtype, dropout), self.g)

    def forget_moments(self) -> None:
        """Free what only learning needs."""
        self.layers.forget_moments()


class Singletons:
    """(m, d) -> (m, K): each row a bag of one, w = 1 and z = h."""

    def __init__(self, embed: Answer, classify: Linear) -> None:
        self._embed, self._classify = embed, classify

    def __call__(self, x: Tensor) -> Tensor:
        """Probabilities that sum to 1."""
        return probabilities(self._classify(self._embed(x)))
