"""Deep k nearest neighbours: a cell is what the cells most like it were called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from recontour.devices import pick_learning_device
from recontour.errors import RefinerError
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
    unit_rows,
    whole,
)
from recontour.refiners.head import ROWS, Head, over_all, predict, standard_rows, train_on_labels
from recontour.refiners.keeping import Learned, scale_arrays, scale_of
from recontour.refiners.neighbours import nearest
from recontour.refiners.same_cells import cell_keys, find_keys
from recontour.types import PatchSet

MODES = ("vote", "filter")


@dataclass(frozen=True)
class _Fit:
    """What was learned, and the labelled cells that vote.

    Attributes
    ----------
    references : float32 (n, hidden), unit rows
    labels : int8 (n,)
    trust : float32 (n,), above 0
    keys : uint64 (n,), which cell each is
    """

    classes: tuple[str, ...]
    scale: ZScore
    head: Head
    references: NDArray[np.float32] = field(repr=False)
    labels: NDArray[np.int8] = field(repr=False)
    trust: NDArray[np.float32] = field(repr=False)
    keys: NDArray[np.uint64] = field(repr=False)


class DeepKnn:
    """Deep k nearest neighbours (DkNN) on the features of any encoder.

    Bahri, Jiang, Gupta: "Deep k-NN for Noisy Labels", ICML 2020 (arXiv 2004.12289); in the form in
    which LC-MIL (arXiv 2109.10778) compares with it. A classifier Linear → ReLU → Linear is trained
    on the coarse labels by cross-entropy (Adam); its penultimate activations, L2-normalised, say
    how alike two cells are; each cell gets the share of each class among the coarse labels of its
    k nearest labelled cells, p_c = Σ_j trust_j [y_j = c] / Σ_j trust_j. Neighbours are exact,
    whatever the number of cells. Where two classes have equal shares they stay equal (0.5 and 0.5,
    for two classes and even k): who cuts at "more than 0.5" calls that background.

    Departures: the classifier sits on standardised features of a frozen encoder, not on a VGG16
    that is trained with it; trust weighs the loss and the vote; K > 2 classes vote alike; the
    published code applies the network to patches half a cell off those it was trained on, which is
    not repeated. Unlabelled cells neither train nor vote.

    Parameters
    ----------
    k : neighbours; the paper finds 3, 5 and 7 alike
    mode : "vote": as above. "filter": as Bahri et al.: labelled cells whose label has fewer votes
        than another are dropped, the classifier is trained anew on the others and answers
    include_self : whether a cell is one of its own k neighbours, as the formula and the code of
        the LC-MIL paper have it (so that the vote is the own label and four others). A cell is
        recognised by slide, position and features, so this concerns the slides fitted on
    majority : answer 1 for the class with most votes (the lower one of equals) instead of the
        shares, as the paper does; for "vote" only
    epochs, batch, lr, weight_decay : of Adam. Five epochs: longer, and the classifier learns the
        wrong labels by heart. Batch and weight decay as in the code of the LC-MIL paper
    hidden : width of the penultimate layer
    views : "cell", "context" (the window twice as wide) or "both"
    device : where neighbours are searched: "auto" (a CUDA device if there is one), "cpu", "cuda"

    Attributes
    ----------
    notes : what the last fit has to say to the user
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        k: int = 5,
        mode: str = "vote",
        include_self: bool = False,
        majority: bool = False,
        epochs: int = 5,
        batch: int = 64,
        lr: float = 1e-3,
        weight_decay: float = 1e-3,
        hidden: int = 256,
        views: str = "cell",
        device: str = "auto",
    ) -> None:
        for name, value in (("k", k), ("epochs", epochs), ("batch", batch), ("hidden", hidden)):
            require(whole(value, 1), name, value, "a whole number of at least 1")
        require(whole(seed, 0), "seed", seed, "a whole number of at least 0")
        require(mode in MODES, "mode", mode, "one of " + ", ".join(MODES))
        for name, flag in (("include_self", include_self), ("majority", majority)):
            require(isinstance(flag, bool), name, flag, "true or false")
        require(not (majority and mode == "filter"), "majority", majority, "false in mode filter")
        require(number(lr, 0, above=True), "lr", lr, "a number above 0")
        require(number(weight_decay, 0), "weight_decay", weight_decay, "a number of at least 0")
        check_views(views)
        pick_learning_device(device)  # refused here, not after minutes of embedding
        self.seed = seed
        self.k = k
        self.mode = mode
        self.include_self = include_self
        self.majority = majority
        self.epochs = epochs
        self.batch = batch
        self.lr = lr
        self.weight_decay = weight_decay
        self.hidden = hidden
        self.views = views
        self.device = device
        self.notes: tuple[str, ...] = ()
        self._fit: _Fit | None = None

    def fit(self, patch_sets: Sequence[PatchSet]) -> DeepKnn:
        """Learn from the labelled cells of one slide or many (their cells are pooled).

        Raises
        ------
        RefinerError : fewer labelled cells than neighbours
        """
        cells = table(patch_sets, self.views)
        check_patch_sets(cells)
        known = np.flatnonzero((cells.labels >= 0) & (cells.trust > 0))
        self._check_enough(len(known))
        scale = ZScore.of(cells)
        rng = np.random.default_rng(self.seed)
        labels, trust = cells.labels[known], cells.trust[known].astype(np.float32)
        x = standard_rows(cells, scale, known)
        head = self._train(rng, x, labels, trust, len(cells.classes))
        references = _embed(x, head)
        self.notes = ()
        if self.mode == "filter":
            keep = self._agreeing(references, labels, trust, cells.classes)
            head = self._train(rng, x[keep], labels[keep], trust[keep], len(cells.classes))
            references = references[:0]  # the classifier answers, not the neighbours
        self._fit = _Fit(
            classes=cells.classes,
            scale=scale,
            head=head,
            references=references,
            labels=labels,
            trust=trust,
            keys=np.concatenate([cell_keys(p, self.views) for p in patch_sets])[known],
        )
        return self

    def predict_proba(self, patches: PatchSet) -> NDArray[np.float32]:
        """float32 (n, K), rows sum to 1."""
        fit = self._fit
        if fit is None:
            raise not_fitted("deep_knn")
        cells = table([patches], self.views)
        check_predict(cells, fit.classes, len(fit.scale.mean))
        k = len(fit.classes)
        if self.mode == "filter":
            return predict(cells, fit.scale, fit.head, k)
        queries, itself = self._queries(cells, cell_keys(patches, self.views), fit)
        index, _ = nearest(queries, fit.references, self.k, exclude=itself, device=self.device)
        shares = votes(fit.labels[index], fit.trust[index], k)
        if self.majority:
            winners: NDArray[np.float32] = np.eye(k, dtype=np.float32)[shares.argmax(axis=1)]
            return winners
        return shares

    def learned(self) -> Learned:
        """What the last fit found, the cells that vote included."""
        if self._fit is None:
            raise not_fitted("deep_knn")
        fit = self._fit
        arrays = {
            **scale_arrays(fit.scale),
            "head": fit.head.parameters.numpy(),
            "references": fit.references,
            "labels": fit.labels,
            "trust": fit.trust,
            "keys": fit.keys,
        }
        return Learned(arrays, {"classes": list(fit.classes)})

    def recall(self, learned: Learned) -> None:
        """Go on from what was kept."""
        classes, arrays = tuple(learned.facts["classes"]), learned.arrays
        scale = scale_of(arrays)
        self.notes = ()
        self._fit = _Fit(
            classes=classes,
            scale=scale,
            head=Head.of(arrays["head"], len(scale.mean), self.hidden, len(classes)),
            references=arrays["references"],
            labels=arrays["labels"],
            trust=arrays["trust"],
            keys=arrays["keys"],
        )

    def _queries(
        self, cells: Cells, keys: NDArray[np.uint64], fit: _Fit
    ) -> tuple[NDArray[np.float32], NDArray[np.intp] | None]:
        """Unit rows of `cells`, and the reference that each of them is (-1: none)."""
        itself = None if self.include_self else find_keys(keys, fit.keys)
        if np.array_equal(keys, fit.keys):
            return fit.references, itself  # one and the same array: half of the products do
        embedded = np.empty((len(cells), self.hidden), np.float32)
        with torch.no_grad():
            for rows, h in over_all(cells, fit.scale, fit.head):
                embedded[rows] = h.numpy()
        return unit_rows(embedded), itself

    def _train(
        self,
        rng: np.random.Generator,
        x: NDArray[np.float32],
        labels: NDArray[np.int8],
        trust: NDArray[np.float32],
        classes: int,
    ) -> Head:
        return train_on_labels(
            rng,
            torch.from_numpy(x),
            torch.from_numpy(labels.astype(np.int64)),
            torch.from_numpy(trust),
            classes,
            hidden=self.hidden,
            epochs=self.epochs,
            batch=self.batch,
            lr=self.lr,
            weight_decay=self.weight_decay,
        )

    def _agreeing(
        self,
        references: NDArray[np.float32],
        labels: NDArray[np.int8],
        trust: NDArray[np.float32],
        classes: tuple[str, ...],
    ) -> NDArray[np.bool_]:
        """Which labels have as many votes among their neighbours as any other."""
        itself = None if self.include_self else np.arange(len(labels))
        index, _ = nearest(references, references, self.k, exclude=itself, device=self.device)
        shares = votes(labels[index], trust[index], len(classes))
        own = shares[np.arange(len(labels)), labels]
        keep: NDArray[np.bool_] = own >= shares.max(axis=1)
        for k, name in enumerate(classes):
            if not keep[labels == k].any():
                keep |= labels == k
                self.notes += (
                    f"No cell of {name!r} has neighbours that agree with it; "
                    "its labels were kept as they are.",
                )
        return keep

    def _check_enough(self, labelled: int) -> None:
        needed = self.k + (not self.include_self)
        if labelled < needed:
            raise RefinerError(
                f"deep_knn with k={self.k} needs {needed} labelled cells and has {labelled}; "
                "lower k, outline more, or use smaller cells"
            )


def votes(
    labels: NDArray[np.int8], trust: NDArray[np.float32], classes: int
) -> NDArray[np.float32]:
    """float32 (m, K): the share of each class among the labels (m, k), weighed by trust above 0."""
    shares = np.stack([np.where(labels == c, trust, 0).sum(axis=1) for c in range(classes)], axis=1)
    total = shares.sum(axis=1, keepdims=True)
    out: NDArray[np.float32] = (shares / total).astype(np.float32)
    return out


def _embed(x: NDArray[np.float32], head: Head) -> NDArray[np.float32]:
    """float32 (n, hidden), the penultimate activations of standardised rows, as unit rows."""
    with torch.no_grad():
        parts = [head.hidden(part).numpy() for part in torch.split(torch.from_numpy(x), ROWS)]
    return unit_rows(np.concatenate(parts))
