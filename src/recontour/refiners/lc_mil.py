"""Label cleaning by multiple-instance learning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recontour.refiners.attention_mil import AttentionMil
from recontour.refiners.base import (
    Cells,
    ZScore,
    check_patch_sets,
    check_predict,
    check_views,
    not_fitted,
    number,
    require,
    table,
    whole,
)
from recontour.types import PatchSet

BAGS_A_STEP = 10  # what `batched=True` means
PREDICT_ROWS = 2048  # rows a pass; keeps the (rows, seeds * hidden) activations near 10 MB


class LcMil:
    """Label Cleaning Multiple Instance Learning on the features of any encoder.

    Wang, Popel, Sulam: "Label Cleaning Multiple Instance Learning: Refining Coarse Annotations on
    Single Whole-Slide Images", IEEE TMI (arXiv 2109.10778). Bags are drawn from inside and from
    outside the outline; an attention model learns to tell them apart although some instances of
    each bag are wrongly labelled; applied to every cell as a bag of one, it cleans the labels.

    As in the paper: bags in blocks, as many from each side, Binomial(bag_length, ½) instances
    (never 0) drawn with replacement; attention softmax(W tanh(V h)); focal loss; Adam; learning
    rate halved after each block. Departures: the embedding is h = ReLU(A x + a) on standardised
    features of a frozen encoder, not a fine-tuned VGG16; the answer is the mean over `n_seeds`
    models; K > 2 classes draw bags from each and end in a softmax instead of a sigmoid; `batched`
    bags share a step. Attention has no biases (the paper's equation).

    Parameters
    ----------
    bags : bags in all, shared evenly among the classes
    blocks : the learning rate is halved after each
    bag_length : a bag holds Binomial(bag_length, ½) cells, at least 1
    attention, hidden : width of the attention and of the embedding
    lr, weight_decay : of Adam
    n_seeds : models averaged
    batched : bags a step. False (1 bag) is the paper's loop; True is 10; or any number
    focal_gamma : "code": γ = 5 where the *true* class has less than 0.2, else 3, as the published
        code does; "paper": the same by the probability that the bag is positive, as the text says
    views : "cell", "context" (the window twice as wide) or "both"
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        bags: int = 1000,
        blocks: int = 10,
        bag_length: int = 20,
        attention: int = 64,
        hidden: int = 256,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        n_seeds: int = 5,
        batched: bool | int = True,
        focal_gamma: str = "code",
        views: str = "cell",
    ) -> None:
        for name, value in (
            ("bags", bags),
            ("blocks", blocks),
            ("bag_length", bag_length),
            ("attention", attention),
            ("hidden", hidden),
            ("n_seeds", n_seeds),
        ):
            require(whole(value, 1), name, value, "a whole number of at least 1")
        require(whole(seed, 0), "seed", seed, "a whole number of at least 0")
        require(blocks <= bags, "blocks", blocks, f"at most the number of bags ({bags})")
        require(number(lr, 0, above=True), "lr", lr, "a number above 0")
        require(number(weight_decay, 0), "weight_decay", weight_decay, "a number of at least 0")
        require(
            isinstance(batched, bool) or whole(batched, 1),
            "batched",
            batched,
            "true, false or a number of bags a step",
        )
        require(focal_gamma in ("code", "paper"), "focal_gamma", focal_gamma, "code or paper")
        check_views(views)
        self.seed = seed
        self.bags = bags
        self.blocks = blocks
        self.bag_length = bag_length
        self.attention = attention
        self.hidden = hidden
        self.lr = lr
        self.weight_decay = weight_decay
        self.n_seeds = n_seeds
        self.bags_a_step = (BAGS_A_STEP if batched else 1) if isinstance(batched, bool) else batched
        self.focal_gamma = focal_gamma
        self.views = views
        self._fit: tuple[tuple[str, ...], ZScore, AttentionMil] | None = None

    def fit(self, patch_sets: Sequence[PatchSet]) -> LcMil:
        """Learn from the labelled cells of one slide or many (their cells are pooled)."""
        cells = table(patch_sets, self.views)
        check_patch_sets(cells)
        scale = ZScore.of(cells)
        draws = [np.random.default_rng([self.seed, member]) for member in range(self.n_seeds)]
        model = AttentionMil(
            draws, cells.dim, self.hidden, self.attention, len(cells.classes), self.focal_gamma
        )
        optimizer = torch.optim.Adam(
            [model.parameters], lr=self.lr, weight_decay=self.weight_decay, fused=True
        )
        streams = [draw_bags(rng, cells, self.bags, self.blocks, self.bag_length) for rng in draws]
        with torch.no_grad():
            for blocks in zip(*streams, strict=True):
                for x, mask, sides in self._steps(cells, scale, blocks):
                    model.learn(x, mask, sides)
                    optimizer.step()
                for group in optimizer.param_groups:
                    group["lr"] *= 0.5
        self._fit = (cells.classes, scale, model)
        return self

    def predict_proba(self, patches: PatchSet) -> NDArray[np.float32]:
        """float32 (n, K), rows sum to 1: every cell is a bag of one, so attention drops out."""
        if self._fit is None:
            raise not_fitted("lc_mil")
        classes, scale, model = self._fit
        cells = table([patches], self.views)
        check_predict(cells, classes, len(scale.mean))
        probs = np.empty((len(cells), len(classes)), np.float32)
        with torch.no_grad():
            for rows, x in cells.chunks(PREDICT_ROWS):
                probs[rows] = model.singletons(torch.from_numpy(scale(x))).numpy()
        return probs

    def _steps(
        self, cells: Cells, scale: ZScore, blocks: Sequence[Bags]
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The steps of one block: x (S, B, L, d), mask (S, B, L), sides (S, B).

        S models train side by side, each on its own bags; shorter bags are padded to L.
        """
        lengths = np.stack([b.lengths for b in blocks])
        index = np.stack([b.index for b in blocks])
        sides = torch.from_numpy(np.stack([b.sides for b in blocks]))
        for i in range(0, lengths.shape[1], self.bags_a_step):
            step = slice(i, i + self.bags_a_step)
            longest = int(lengths[:, step].max())
            rows = index[:, step, :longest]
            x = scale(cells.rows(rows.reshape(-1))).reshape(*rows.shape, cells.dim)
            mask = np.arange(longest) < lengths[:, step, None]
            yield torch.from_numpy(x), torch.from_numpy(mask), sides[:, step]


@dataclass(frozen=True)
class Bags:
    """A block of m bags.

    Attributes
    ----------
    sides : int64 (m,), the class each bag was drawn from
    lengths : int64 (m,), from 1 to `bag_length`
    index : (m, bag_length) rows of the table; those past a bag's length take no part
    """

    sides: NDArray[np.int64]
    lengths: NDArray[np.int64]
    index: NDArray[np.intp]


def draw_bags(
    rng: np.random.Generator, cells: Cells, bags: int, blocks: int, bag_length: int
) -> Iterator[Bags]:
    """Draw `bags` bags in `blocks` blocks, as many from each class as can be, in random order.

    Instances are drawn with replacement, uniformly where no trust is given, else in proportion
    to it.
    """
    sides_of_bag = np.arange(bags) % len(cells.classes)
    members = [np.flatnonzero(cells.labels == k) for k in range(len(cells.classes))]
    cumulative = [np.cumsum(cells.trust[m]) for m in members]
    for block in np.array_split(sides_of_bag, blocks):
        sides = rng.permutation(block).astype(np.int64)
        # An empty bag has no score; the paper does not say what to do with one.
        lengths = np.maximum(rng.binomial(bag_length, 0.5, len(sides)), 1)
        where = rng.random((len(sides), bag_length))
        index = np.empty((len(sides), bag_length), np.intp)
        for k, (rows, mass) in enumerate(zip(members, cumulative, strict=True)):
            of_class = sides == k
            pick = np.searchsorted(mass, where[of_class] * mass[-1], side="right")
            index[of_class] = rows[np.minimum(pick, len(rows) - 1)]
        yield Bags(sides, lengths, index)
