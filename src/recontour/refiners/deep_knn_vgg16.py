"""Deep k nearest neighbours, as the LC-MIL paper has it: on top of VGG16."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recontour.devices import PRECISIONS, pick_learning_device, pick_precision
from recontour.errors import RefinerError
from recontour.refiners.attention_mil import probabilities
from recontour.refiners.base import (
    Cells,
    check_patch_sets,
    check_predict,
    not_fitted,
    number,
    require,
    table,
    unit_rows,
    whole,
)
from recontour.refiners.deep_knn import votes
from recontour.refiners.fully_connected import (
    ROWS,
    AdamSettings,
    Layers,
    Linear,
    check_conv_features,
    check_finite,
    expected_cost,
    new_generator,
    uniform_start,
)
from recontour.refiners.neighbours import nearest
from recontour.refiners.same_cells import cell_keys, find_keys
from recontour.types import PatchSet, Progress, no_progress
from recontour.vgg import Vgg16Weights, load_vgg16

NAME = "deep_knn_vgg16"
KEY_COLUMNS = 64  # with slide and place, features enough to know a cell again


class DeepKnnVgg16:
    """Deep k nearest neighbours (DkNN) on VGG16: two of its fully connected layers are trained.

    Bahri, Jiang, Gupta: "Deep k-NN for Noisy Labels", ICML 2020 (arXiv 2004.12289); in the form in
    which LC-MIL (arXiv 2109.10778) compares with it: VGG16 pre-trained on ImageNet without its last
    layer, and one fully connected layer with a sigmoid on top, trained on the coarse labels by
    cross-entropy for one epoch (Adam, dropout ½). The 4,096 numbers before that layer, without
    dropout and L2-normalised, say how alike two cells are; each cell gets the class of most of its
    k nearest labelled cells, itself among them.

    Departures: the convolutions are computed once a cell, by the encoder `vgg16`, which gives the
    same numbers because they are frozen; the published code applies the network to patches half a
    cell off those it was trained on, which is not repeated. Trust weighs the loss and the vote,
    K > 2 classes end in a softmax.

    119.5 million weights with two moments each take 1.4 GB while learning, and 0.5 GB after, with
    16 kB for each labelled cell.

    Parameters
    ----------
    k : neighbours; the paper finds 3, 5 and 7 alike
    include_self : whether a cell is one of its own k neighbours, as the paper's formula and code
        have it (so that the vote is the own label and four others)
    majority : answer 1 for the class with most votes (the lower one of equals), as the paper does,
        instead of the share of each class
    epochs, batch, lr, weight_decay : of Adam; the defaults are those of the paper's code
    precision : of the 4,096 numbers: "auto" (bf16 on CUDA and on CPUs that compute in it), "fp32"
        or "bf16". Learning is float32
    device : "auto" (CUDA, else the CPU), "cpu", "cuda", "cuda:1", "mps"
    weights : see `recontour.vgg.load_vgg16`; None: those of the encoder

    Attributes
    ----------
    progress : called as progress("fit", batches done, batches in all)
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        k: int = 5,
        include_self: bool = True,
        majority: bool = True,
        epochs: int = 1,
        batch: int = 64,
        lr: float = 5e-5,
        weight_decay: float = 1e-3,
        precision: str = "auto",
        device: str = "auto",
        weights: str | None = None,
    ) -> None:
        for name, value in (("k", k), ("epochs", epochs), ("batch", batch)):
            require(whole(value, 1), name, value, "a whole number of at least 1")
        require(whole(seed, 0), "seed", seed, "a whole number of at least 0")
        for name, flag in (("include_self", include_self), ("majority", majority)):
            require(isinstance(flag, bool), name, flag, "true or false")
        require(number(lr, 0, above=True), "lr", lr, "a number above 0")
        require(number(weight_decay, 0), "weight_decay", weight_decay, "a number of at least 0")
        require(precision in PRECISIONS, "precision", precision, "one of " + ", ".join(PRECISIONS))
        self.seed = seed
        self.k = k
        self.include_self = include_self
        self.majority = majority
        self.epochs = epochs
        self.batch = batch
        self.lr = lr
        self.weight_decay = weight_decay
        self.precision = precision
        self.device = pick_learning_device(device)
        self.weights = weights
        self.progress: Progress = no_progress
        self._fit: _Fit | None = None

    def fit(self, patch_sets: Sequence[PatchSet]) -> DeepKnnVgg16:
        """Learn from the labelled cells of one slide or many (their cells are pooled).

        Raises
        ------
        RefinerError : fewer labelled cells than neighbours
        """
        cells = table(patch_sets)
        check_patch_sets(cells)
        known = np.flatnonzero((cells.labels >= 0) & (cells.trust > 0))
        needed = self.k + (not self.include_self)
        if len(known) < needed:
            raise RefinerError(
                f"{NAME} with k={self.k} needs {needed} labelled cells and has {len(known)}; "
                "lower k, outline more, or use smaller cells"
            )
        weights = load_vgg16(self.weights)
        check_conv_features(NAME, cells, weights)
        self._fit = None  # the memory of what was learned before
        layers = self.train(cells, known, weights).layers
        self._fit = _Fit(
            classes=cells.classes,
            dim=cells.dim,
            layers=layers,
            references=self._embed(cells, layers)[known],
            labels=cells.labels[known],
            trust=cells.trust[known].astype(np.float32),
            keys=np.concatenate([_keys(p) for p in patch_sets])[known],
        )
        return self

    def train(self, cells: Cells, known: NDArray[np.intp], weights: Vgg16Weights) -> LabelModel:
        """The network after `epochs` passes over the rows `known`."""
        rng = np.random.default_rng(self.seed)
        settings = AdamSettings(self.lr, self.weight_decay)
        trust = cells.trust[known] / cells.trust[known].mean()
        with torch.inference_mode(False), torch.no_grad():
            model = LabelModel(rng, weights, len(cells.classes), settings, self.device)
            done, steps = 0, -(-len(known) // self.batch)
            for _ in range(self.epochs):
                order = rng.permutation(len(known))
                for i in range(0, len(order), self.batch):
                    part = order[i : i + self.batch]
                    labels = cells.labels[known[part]].astype(np.int64)
                    model.learn(
                        torch.from_numpy(cells.rows(known[part])).to(self.device),
                        torch.from_numpy(labels).to(self.device),
                        torch.from_numpy(trust[part].astype(np.float32)).to(self.device),
                    )
                    done += 1
                    self.progress("fit", done, self.epochs * steps)
        model.layers.forget_moments()
        return model

    def predict_proba(self, patches: PatchSet) -> NDArray[np.float32]:
        """float32 (n, K), rows sum to 1: 0 or 1 unless `majority` is off."""
        fit = self._fit
        if fit is None:
            raise not_fitted(NAME)
        cells = table([patches])
        check_predict(cells, fit.classes, fit.dim)
        check_finite(cells)
        keys = _keys(patches)
        known = np.array_equal(keys, fit.keys)
        queries = fit.references if known else self._embed(cells, fit.layers)
        itself = None if self.include_self else find_keys(keys, fit.keys)
        where = "cuda" if self.device.type == "cuda" else "cpu"
        index, _ = nearest(queries, fit.references, self.k, exclude=itself, device=where)
        shares = votes(fit.labels[index], fit.trust[index], len(fit.classes))
        if self.majority:
            shares = np.eye(len(fit.classes), dtype=np.float32)[shares.argmax(axis=1)]
        return shares

    def expect(self, cells: int) -> tuple[float, int]:
        """Seconds on one core and bytes for so many cells."""
        pairs = load_vgg16(self.weights).fully_connected()[:-1]
        steps = self.epochs * -(-cells // self.batch)
        # A cell of a batch costs what it does in an answer three times: forward, and two gradients.
        answers = cells * (1 + 3 * self.epochs)
        seconds, size = expected_cost(pairs, steps=steps, answers=answers)
        return seconds, size + 4 * cells * len(pairs[-1][1])

    def _embed(self, cells: Cells, layers: Layers) -> NDArray[np.float32]:
        """Unit rows, float32 (n, 4096)."""
        out = np.empty((len(cells), len(layers.layers[-1].weight)), np.float32)
        answer = layers.answer(pick_precision(self.precision, self.device))
        with torch.no_grad():
            for rows, x in cells.chunks(ROWS):
                out[rows] = answer(torch.from_numpy(x)).cpu().numpy()
        return unit_rows(out)


@dataclass(frozen=True)
class _Fit:
    """What was learned, and the labelled cells that vote.

    Attributes
    ----------
    references : float32 (n, 4096), unit rows
    labels : int8 (n,)
    trust : float32 (n,), above 0
    keys : uint64 (n,), which cell each is
    """

    classes: tuple[str, ...]
    dim: int
    layers: Layers = field(repr=False)
    references: NDArray[np.float32] = field(repr=False)
    labels: NDArray[np.int8] = field(repr=False)
    trust: NDArray[np.float32] = field(repr=False)
    keys: NDArray[np.uint64] = field(repr=False)


class LabelModel:
    """VGG16's fully connected layers but the last, and one with a sigmoid (K > 2: softmax)."""

    def __init__(
        self,
        rng: np.random.Generator,
        weights: Vgg16Weights,
        classes: int,
        settings: AdamSettings,
        device: torch.device,
    ) -> None:
        pairs = weights.fully_connected()[:-1]
        hidden = len(pairs[-1][1])
        outputs = 1 if classes == 2 else classes
        self.layers = Layers(pairs, settings, new_generator(rng, device), relu_last=True)
        self.head = Linear(
            uniform_start(rng, (outputs, hidden), hidden, device),
            uniform_start(rng, (outputs,), hidden, device),
            settings,
        )

    def learn(self, x: Tensor, labels: Tensor, trust: Tensor) -> Tensor:
        """One step on x (m, d) by the mean of trust · cross-entropy; (m, K) probs before."""
        h = self.layers.forward(x)
        probs = probabilities(self.head(h))
        wrong = probs - torch.nn.functional.one_hot(labels, probs.shape[1])
        d_score = wrong * (trust / len(trust)).view(-1, 1)
        if len(self.head.weight) == 1:
            d_score = d_score[:, 1:]
        d_h = self.head.learn(h, d_score)
        assert d_h is not None
        self.layers.learn(d_h)
        return probs


def _keys(patches: PatchSet) -> NDArray[np.uint64]:
    return cell_keys(replace(patches, features=patches.features[:, :KEY_COLUMNS]), "cell")
