"""Label cleaning by multiple-instance learning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

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
from recontour.refiners.keeping import Learned, check_shape, scale_arrays, scale_of
from recontour.types import PatchSet

# What `batched=True` means. A fifth of the time of one bag a step, and on three regions of real
# tissue with four kinds of outline no worse; 33 a step leaves too few steps for few features.
BAGS_A_STEP = 10
PREDICT_ROWS = 2048  # rows a pass; its activations stay in the cache of a core


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
    models; K > 2 classes draw bags from each and end in a softmax instead of a sigmoid; by default
    ten bags share a step (`batched`). Attention has no biases (the paper's equation).

    Parameters
    ----------
    bags : bags in all, shared evenly among the classes
    blocks : the learning rate is halved after each
    bag_length : a bag holds Binomial(bag_length, ½) cells, at least 1
    attention, hidden : width of the attention and of the embedding
    lr, weight_decay : of Adam; B bags a step take √B times the learning rate, the rule that keeps
        Adam's course when batches grow (Malladi et al. 2022)
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
        self._fit: tuple[tuple[str, ...], ZScore, tuple[AttentionMil, ...]] | None = None

    def fit(self, patch_sets: Sequence[PatchSet]) -> LcMil:
        """Learn from the labelled cells of one slide or many (their cells are pooled)."""
        cells = table(patch_sets, self.views)
        check_patch_sets(cells)
        scale = ZScore.of(cells)
        threads = torch.get_num_threads()
        # A step is too small to be shared by threads; whole models are not.
        try:
            with ThreadPoolExecutor(
                min(threads, self.n_seeds), initializer=torch.set_num_threads, initargs=(1,)
            ) as pool:
                models = tuple(pool.map(lambda i: self.train(cells, scale, i), range(self.n_seeds)))
        finally:
            torch.set_num_threads(threads)
        self._fit = (cells.classes, scale, models)
        return self

    def predict_proba(self, patches: PatchSet) -> NDArray[np.float32]:
        """float32 (n, K), rows sum to 1: every cell is a bag of one, so attention drops out."""
        if self._fit is None:
            raise not_fitted("lc_mil")
        classes, scale, models = self._fit
        cells = table([patches], self.views)
        check_predict(cells, classes, len(scale.mean))
        probs = np.empty((len(cells), len(classes)), np.float32)
        with torch.no_grad():
            for rows, x in cells.chunks(PREDICT_ROWS):
                standard = torch.from_numpy(scale(x))
                mean = sum((m.singletons(standard) for m in models), torch.zeros(()))
                probs[rows] = (mean / mean.sum(-1, keepdim=True)).numpy()
        return probs

    def learned(self) -> Learned:
        """What the last fit found: `models` is float32 (n_seeds, number of weights)."""
        if self._fit is None:
            raise not_fitted("lc_mil")
        classes, scale, models = self._fit
        weights = np.stack([model.parameters.numpy() for model in models])
        return Learned({**scale_arrays(scale), "models": weights}, {"classes": list(classes)})

    def recall(self, learned: Learned) -> None:
        """Go on from what was kept."""
        classes = tuple(learned.facts["classes"])
        scale = scale_of(learned.arrays)
        models = []
        for weights in learned.arrays["models"]:
            model = self._model(np.random.default_rng(0), len(scale.mean), len(classes))
            check_shape(weights, tuple(model.parameters.shape))
            model.parameters.copy_(torch.from_numpy(weights))
            models.append(model)
        self._fit = (classes, scale, tuple(models))

    def _model(self, rng: np.random.Generator, dim: int, classes: int) -> AttentionMil:
        return AttentionMil(rng, dim, self.hidden, self.attention, classes, self.focal_gamma)

    def train(self, cells: Cells, scale: ZScore, i: int) -> AttentionMil:
        """Model `i` of the ensemble; depends on the seed and on `i`, not on how many there are."""
        rng = np.random.default_rng([self.seed, i])
        model = self._model(rng, cells.dim, len(cells.classes))
        optimizer = torch.optim.Adam(
            [model.parameters],
            lr=self.lr * self.bags_a_step**0.5,
            weight_decay=self.weight_decay,
            fused=True,
        )
        with torch.no_grad():
            for block in draw_bags(rng, cells, self.bags, self.blocks, self.bag_length):
                x = torch.from_numpy(scale(cells.rows(block.index)))
                for cut, member, sides in block.steps(self.bags_a_step):
                    model.learn(x[cut], torch.from_numpy(member), torch.from_numpy(sides))
                    optimizer.step()
                for group in optimizer.param_groups:
                    group["lr"] *= 0.5
        return model


@dataclass(frozen=True)
class Bags:
    """A block of m bags with N instances in all.

    Attributes
    ----------
    sides : int64 (m,), the class each bag was drawn from
    lengths : int64 (m,), from 1 to `bag_length`; they add up to N
    index : (N,) rows of the table, bag after bag
    """

    sides: NDArray[np.int64]
    lengths: NDArray[np.int64]
    index: NDArray[np.intp]

    def steps(self, bags: int) -> Iterator[tuple[slice, NDArray[np.bool_], NDArray[np.int64]]]:
        """Up to `bags` bags at a time: their slice of `index`, bool (bags, n) who is in which bag,
        and their sides.
        """
        ends = np.cumsum(self.lengths)
        for i in range(0, len(self.sides), bags):
            lengths = self.lengths[i : i + bags]
            start, stop = int(ends[i] - lengths[0]), int(ends[i] + lengths[1:].sum())
            bag = np.repeat(np.arange(len(lengths)), lengths)
            yield (
                slice(start, stop),
                bag == np.arange(len(lengths))[:, None],
                self.sides[i : i + bags],
            )


def draw_bags(
    rng: np.random.Generator, cells: Cells, bags: int, blocks: int, bag_length: int
) -> Iterator[Bags]:
    """Draw `bags` bags in `blocks` blocks, as many from each class as can be, in random order.

    Instances are drawn with replacement, uniformly where no trust is given, else in proportion
    to it.
    """
    members = [np.flatnonzero(cells.labels == k) for k in range(len(cells.classes))]
    cumulative = [np.cumsum(cells.trust[m]) for m in members]
    for block in np.array_split(np.arange(bags) % len(cells.classes), blocks):
        sides = rng.permutation(block).astype(np.int64)
        # An empty bag has no score; the paper does not say what to do with one.
        lengths = np.maximum(rng.binomial(bag_length, 0.5, len(sides)), 1)
        side_of = np.repeat(sides, lengths)
        where = rng.random(len(side_of))
        index = np.empty(len(side_of), np.intp)
        for k, (rows, mass) in enumerate(zip(members, cumulative, strict=True)):
            of_class = side_of == k
            pick = np.searchsorted(mass, where[of_class] * mass[-1], side="right")
            index[of_class] = rows[np.minimum(pick, len(rows) - 1)]
        yield Bags(sides, lengths, index)
