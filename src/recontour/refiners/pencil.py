"""PENCIL: labels that are learned together with the classifier."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recontour.refiners.base import (
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
from recontour.refiners.head import Head, predict, standard_rows
from recontour.refiners.keeping import Learned, scale_arrays, scale_of
from recontour.types import PatchSet

LABEL_START = 10.0  # the logit of the given class at the start, that of the others being 0
LEAST_DRAWS = 2000  # an epoch: with fewer cells its steps would be too few to learn from
LABEL_BATCH = 128  # the batch that the paper's λ belongs to


class Pencil:
    """Probabilistic End-to-end Noise Correction for Learning with Noisy Labels.

    Yi, Wu: "Probabilistic End-to-end Noise Correction for Learning with Noisy Labels", CVPR 2019
    (arXiv 1903.07788), on the features of any encoder. Each labelled cell has a label
    distribution y = softmax(ỹ), at the start ỹ = 10 for the given class. A classifier
    Linear → ReLU → Linear with output f is trained in three stages:

    1. on the given labels by cross-entropy, at a high, fixed learning rate, which learns the rule
       before the exceptions;
    2. on L = KL(f ‖ y) / K + α CE(y, given) + β H(f) / K; after each batch every ỹ in it moves by
       −λ ∂L/∂ỹ, so that labels which the classifier keeps contradicting give way;
    3. on KL(f ‖ y) / K alone, y fixed, at a falling learning rate.

    The division by K is that of the published code, which takes the mean over batch and classes.
    Its λ = 600 belongs to the mean over a batch of 128: here ỹ of each cell moves by λ / 128 times
    the gradient of its own L, whatever the batch. Its learning rates of stage 3 are divided as
    whole numbers and end at 0; here each third of stage 3 has a tenth of the rate of the one
    before. Its CE(y, given) applies a softmax to y, which is one already: `double_softmax`.

    Departures: the classifier sits on standardised features of a frozen encoder; every batch holds
    as many cells of one given class as of any other, so that both sides of an outline count alike;
    an epoch is as many draws as there are labelled cells, 2,000 at least; there is no momentum.
    Trust weighs a cell's share in the gradient of the classifier, and α: a label that is trusted
    less gives way sooner. Unlabelled cells take no part. The classifier answers, for every cell.

    Parameters
    ----------
    epochs_1, epochs_2, epochs_3 : of the three stages. The paper's 70, 130 and 120 are for deep
        networks; on features that are learned already fewer do, and labels learned by heart are
        not put right
    lr : of stages 1 and 2 and of the first third of stage 3, by stochastic gradient descent
    momentum : of the descent. The published code has 0.9, ten times the way in a step: on features
        that are learned already, stage 1 then learns the outline by heart, wrong labels included,
        and there is nothing left that contradicts a label
    alpha : how strongly a label is held at what was given. The paper's 0.4 is for a hundred
        thousand images and mostly right labels; 0.1 lets go of the wrong ones of an outline
    beta : how strongly the classifier is made to decide
    label_lr : λ, at a batch of 128 (see above)
    batch : cells a step
    weight_decay : of the classifier
    hidden : width of the classifier
    double_softmax : CE(y, given) as in the published code
    views : "cell", "context" (the window twice as wide) or "both"

    Attributes
    ----------
    labels_ : float32 (n, K), the label distributions after the last fit, of the n labelled cells
        in order
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        epochs_1: int = 10,
        epochs_2: int = 30,
        epochs_3: int = 40,
        lr: float = 0.01,
        momentum: float = 0.0,
        alpha: float = 0.1,
        beta: float = 0.1,
        label_lr: float = 600.0,
        batch: int = 128,
        weight_decay: float = 1e-4,
        hidden: int = 256,
        double_softmax: bool = False,
        views: str = "cell",
    ) -> None:
        require(whole(seed, 0), "seed", seed, "a whole number of at least 0")
        require(whole(epochs_1, 1), "epochs_1", epochs_1, "a whole number of at least 1")
        for name, value in (("epochs_2", epochs_2), ("epochs_3", epochs_3)):
            require(whole(value, 0), name, value, "a whole number of at least 0")
        for name, value in (("batch", batch), ("hidden", hidden)):
            require(whole(value, 1), name, value, "a whole number of at least 1")
        require(number(lr, 0, above=True), "lr", lr, "a number above 0")
        require(number(momentum, 0) and momentum < 1, "momentum", momentum, "0 or more, below 1")
        for name, amount in (
            ("alpha", alpha),
            ("beta", beta),
            ("label_lr", label_lr),
            ("weight_decay", weight_decay),
        ):
            require(number(amount, 0), name, amount, "a number of at least 0")
        require(isinstance(double_softmax, bool), "double_softmax", double_softmax, "true or false")
        check_views(views)
        self.seed = seed
        self.epochs_1 = epochs_1
        self.epochs_2 = epochs_2
        self.epochs_3 = epochs_3
        self.lr = lr
        self.momentum = momentum
        self.alpha = alpha
        self.beta = beta
        self.label_lr = label_lr
        self.batch = batch
        self.weight_decay = weight_decay
        self.hidden = hidden
        self.double_softmax = double_softmax
        self.views = views
        self.labels_: NDArray[np.float32] | None = None
        self._fit: tuple[tuple[str, ...], ZScore, Head] | None = None

    def fit(self, patch_sets: Sequence[PatchSet]) -> Pencil:
        """Learn from the labelled cells of one slide or many (their cells are pooled)."""
        cells = table(patch_sets, self.views)
        check_patch_sets(cells)
        scale = ZScore.of(cells)
        known = np.flatnonzero((cells.labels >= 0) & (cells.trust > 0))
        x = torch.from_numpy(standard_rows(cells, scale, known))
        trust = torch.from_numpy(cells.trust[known].astype(np.float32))
        with torch.no_grad():
            head, labels = self._train(x, cells.labels[known], trust, len(cells.classes))
        self.labels_ = labels.softmax(1).numpy()
        self._fit = (cells.classes, scale, head)
        return self

    def predict_proba(self, patches: PatchSet) -> NDArray[np.float32]:
        """float32 (n, K), rows sum to 1."""
        if self._fit is None:
            raise not_fitted("pencil")
        classes, scale, head = self._fit
        cells = table([patches], self.views)
        check_predict(cells, classes, len(scale.mean))
        return predict(cells, scale, head, len(classes))

    def learned(self) -> Learned:
        """What the last fit found, but for `labels_`: the classifier answers."""
        if self._fit is None:
            raise not_fitted("pencil")
        classes, scale, head = self._fit
        return Learned(
            {**scale_arrays(scale), "head": head.parameters.numpy()}, {"classes": list(classes)}
        )

    def recall(self, learned: Learned) -> None:
        """Go on from what was kept."""
        classes = tuple(learned.facts["classes"])
        scale = scale_of(learned.arrays)
        head = Head.of(learned.arrays["head"], len(scale.mean), self.hidden, len(classes))
        self._fit = (classes, scale, head)

    def _train(
        self, x: Tensor, given: NDArray[np.int8], trust: Tensor, classes: int
    ) -> tuple[Head, Tensor]:
        """The classifier, and ỹ (n, K)."""
        rng = np.random.default_rng(self.seed)
        head = Head(rng, x.shape[1], self.hidden, classes)
        sgd = torch.optim.SGD(
            [head.parameters],
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            fused=True,
        )
        one_hot = torch.eye(classes)[torch.from_numpy(given.astype(np.int64))]
        labels = LABEL_START * one_hot
        weights = (trust / trust.mean()).view(-1, 1)
        held = self.alpha * trust.view(-1, 1)
        draws = BalancedBatches(rng, given, classes, self.batch, max(len(given), LEAST_DRAWS))
        for epoch, lr in enumerate(self.learning_rates()):
            sgd.param_groups[0]["lr"] = lr
            for rows in draws.epoch():
                part = x[rows]
                h = head.hidden(part)
                f = head.scores(h).softmax(1)
                if epoch < self.epochs_1:
                    slope = f - one_hot[rows]
                else:
                    second = epoch < self.epochs_1 + self.epochs_2
                    y = labels[rows]
                    if second:
                        step = label_slope(f, y, one_hot[rows], held[rows], self.double_softmax)
                        labels.index_add_(0, rows, step, alpha=-self.label_lr / LABEL_BATCH)
                    slope = score_slope(f, y, self.beta if second else 0.0)
                head.learn(part, h, slope.mul_(weights[rows] / len(rows)))
                sgd.step()
        return head, labels

    def learning_rates(self) -> list[float]:
        """The learning rate of each epoch, all stages; never 0."""
        falling = [self.lr / 10 ** (3 * i // max(self.epochs_3, 1)) for i in range(self.epochs_3)]
        return [self.lr] * (self.epochs_1 + self.epochs_2) + falling


def score_slope(f: Tensor, y: Tensor, beta: float) -> Tensor:
    """(m, K) gradient of [KL(f ‖ softmax y) + β H(f)] / K by the scores, f = softmax of them."""
    log = (1 - beta) * f.clamp_min(1e-30).log() - y.log_softmax(1)
    return f * (log - (f * log).sum(1, keepdim=True)) / f.shape[1]


def label_slope(
    f: Tensor, y: Tensor, one_hot: Tensor, held: Tensor, double_softmax: bool = False
) -> Tensor:
    """(m, K) gradient of KL(f ‖ softmax y) / K + held · CE(softmax y, given) by y.

    Parameters
    ----------
    held : (m, 1), α times the trust
    double_softmax : CE takes softmax(softmax y) for the distribution, as the published code
    """
    p = y.softmax(1)
    if double_softmax:
        by_p = p.softmax(1) - one_hot
        compatibility = p * (by_p - (p * by_p).sum(1, keepdim=True))
    else:
        compatibility = p - one_hot
    return (p - f) / f.shape[1] + held * compatibility


class BalancedBatches:
    """Draws batches with as many cells of each class, by turns through shuffled lists.

    A list that is used up is shuffled again, so the cells of one class are drawn equally often.

    Parameters
    ----------
    labels : int8 (n,), each class 0 to K - 1 at least once
    batch : cells a batch; where K does not divide it, the classes take turns with the rest
    draws : cells an epoch
    """

    def __init__(
        self,
        rng: np.random.Generator,
        labels: NDArray[np.int8],
        classes: int,
        batch: int,
        draws: int,
    ) -> None:
        self._rng = rng
        self._members = [np.flatnonzero(labels == k) for k in range(classes)]
        self._left = [m[:0] for m in self._members]
        self._turn = 0
        self._batch = batch
        self._draws = draws

    def epoch(self) -> list[Tensor]:
        """Batches of rows."""
        classes = len(self._members)
        turn = (self._turn + np.arange(self._draws)) % classes
        self._turn = (self._turn + self._draws) % classes
        rows = np.empty(self._draws, np.int64)
        for k in range(classes):
            where = np.flatnonzero(turn == k)
            rows[where] = self._take(k, len(where))
        return list(torch.split(torch.from_numpy(rows), self._batch))

    def _take(self, k: int, count: int) -> NDArray[np.intp]:
        parts = [self._left[k]]
        while sum(map(len, parts)) < count:
            parts.append(self._rng.permutation(self._members[k]))
        drawn = np.concatenate(parts)
        self._left[k] = drawn[count:]
        return drawn[:count]
