"""Prototype-guided refinement of coarse labels."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

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
    whole,
)
from recontour.refiners.cell_classifier import CellClassifier, layer_norm
from recontour.refiners.cell_training import (
    Inputs,
    cosine_rate,
    draw_balanced,
    draw_shuffled,
    predict,
    train,
)
from recontour.refiners.keeping import Learned, check_shape, scale_arrays, scale_of
from recontour.refiners.kmeans import STARTS
from recontour.refiners.known_cells import POOLED, Known, with_every_class
from recontour.refiners.prototypes import cosines, directions, global_prototypes, local_prototypes
from recontour.refiners.pseudo_labels import (
    INSIDE_NONMAJOR,
    MAJORS,
    MATCHES,
    Majors,
    count_cells,
    find_majors,
    match_prototypes,
    pseudo_label,
)
from recontour.types import PatchSet

PROTOTYPES = ("global", "local", "none")
SAMPLING = ("dynamic", "shuffled")
ABLATIONS: dict[str, dict[str, Any]] = {
    "CA": {"prototypes": "none", "sampling": "shuffled", "refinetune": False},
    "LP": {"prototypes": "local", "sampling": "shuffled", "refinetune": False},
    "GP": {"prototypes": "global", "sampling": "shuffled", "refinetune": False},
    "DDS": {"prototypes": "global", "sampling": "dynamic", "refinetune": False},
    "RF": {"prototypes": "global", "sampling": "dynamic", "refinetune": True},
}
"""The rows of the paper's table, each with all that the one above has: `RF` is the method."""

REFINETUNE_BATCH = 512


class Prototype:
    """Of "A Prototype-Guided Coarse Annotations Refining Approach for Whole Slide Images".

    arXiv 2503.19407. K-means finds typical cells (prototypes) of each slide, and of those the
    typical ones of all slides. A prototype that is common inside the outline is *major*; a cell
    outside that looks like one gets the label of the inside. A classifier learns from these
    pseudo-labels in balanced batches, labels every cell, and is tuned on its own labels.

    The paper leaves most numbers open, and how many prototypes are major. Departures: features are
    standardised before their cosine is taken (`standardise=False`: as they are); `major="lift"`
    and `inside_nonmajor="ignore"` instead of the literal `"coverage"` and `"keep"`, because a
    generous outline is full of what is common outside too. With K > 2 classes each has its own
    majors, against the background and all other classes. Cells without a label or without trust
    are predicted and take no other part; trust weighs the counts and the draws.

    Parameters
    ----------
    k_local : prototypes of a slide; None: min(16, cells / 50), at least 2
    k_global : prototypes of all slides; None: min(32, all local ones). Of one slide the local ones
        are the global ones
    starts : runs of K-means, of which the best counts
    standardise : z-score the features before taking cosines
    major : "lift": at least `min_share` of the inside cells, and at least `lift` times as common
        inside as outside; "coverage": the fewest that hold `coverage` of the inside cells
    match : "nearest": a cell looks like its nearest prototype; "threshold": like every one whose
        cosine is at least `match_threshold`
    inside_nonmajor : a cell inside that looks like no major prototype is left out ("ignore"), keeps
        its label ("keep") or becomes background ("negative")
    prototypes : "global"; "local": every slide by its own; "none": the coarse labels are learnt
    sampling : "dynamic": balanced batches, drawn afresh; "shuffled": plain minibatches, as many
    refinetune : train on, `epochs` times all cells with their predicted label, at `refinetune_lr`.
        A cell is background where the classes together have less than `refinetune_threshold`.
        Left out, with a note, where more than `most_flips` of the coarse labels would flip or a
        class would vanish
    ablation : "CA", "LP", "GP", "DDS" or "RF": sets the three options above to a row of the paper's
        table (coarse labels; + local prototypes; + global; + dynamic sampling; + re-finetuning)
    per_slide : one classifier a slide instead of one for all; it answers for its own slide only
    hidden, dropout : of the classifier
    iterations, per_class, lr, weight_decay : steps, cells of each class a step, and AdamW
    focal_gamma, focal_alpha : of the focal loss
    views : "cell", "context" (the window twice as wide) or "both"

    Attributes
    ----------
    notes : sentences on what the last fit had to do without
    """

    notes: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        seed: int = 0,
        k_local: int | None = None,
        k_global: int | None = None,
        starts: int = STARTS,
        standardise: bool = True,
        major: str = "lift",
        lift: float = 2.0,
        min_share: float = 0.02,
        coverage: float = 0.8,
        match: str = "nearest",
        match_threshold: float = 0.5,
        inside_nonmajor: str = "ignore",
        prototypes: str = "global",
        sampling: str = "dynamic",
        refinetune: bool = True,
        ablation: str | None = None,
        per_slide: bool = False,
        hidden: int = 256,
        dropout: float = 0.25,
        iterations: int = 2000,
        per_class: int = 256,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        focal_gamma: float = 2.0,
        focal_alpha: float = 0.5,
        epochs: int = 5,
        refinetune_lr: float = 1e-4,
        refinetune_threshold: float = 0.5,
        most_flips: float = 0.4,
        views: str = "cell",
    ) -> None:
        require(whole(seed, 0), "seed", seed, "a whole number of at least 0")
        for name, count, least in (
            ("k_local", k_local, 2),
            ("k_global", k_global, 2),
            ("starts", starts, 1),
            ("hidden", hidden, 1),
            ("iterations", iterations, 1),
            ("per_class", per_class, 1),
            ("epochs", epochs, 1),
        ):
            optional = name in ("k_local", "k_global") and count is None
            require(
                optional or whole(count, least), name, count, f"a whole number of at least {least}"
            )
        for name, chosen, known in (
            ("major", major, MAJORS),
            ("match", match, MATCHES),
            ("inside_nonmajor", inside_nonmajor, INSIDE_NONMAJOR),
            ("prototypes", prototypes, PROTOTYPES),
            ("sampling", sampling, SAMPLING),
            ("ablation", ablation, (None, *ABLATIONS)),
        ):
            words = ", ".join(str(k) for k in known if k is not None)
            require(chosen in known, name, chosen, f"one of {words}")
        for name, flag in (
            ("standardise", standardise),
            ("refinetune", refinetune),
            ("per_slide", per_slide),
        ):
            require(isinstance(flag, bool), name, flag, "true or false")
        for name, value in (("lift", lift), ("lr", lr), ("refinetune_lr", refinetune_lr)):
            require(number(value, 0, above=True), name, value, "a number above 0")
        for name, value in (("weight_decay", weight_decay), ("focal_gamma", focal_gamma)):
            require(number(value, 0), name, value, "a number of at least 0")
        for name, value in (
            ("min_share", min_share),
            ("focal_alpha", focal_alpha),
            ("refinetune_threshold", refinetune_threshold),
            ("most_flips", most_flips),
        ):
            require(number(value, 0) and value <= 1, name, value, "a number from 0 to 1")
        require(
            number(coverage, 0, above=True) and coverage <= 1,
            "coverage",
            coverage,
            "a share above 0, at most 1",
        )
        require(
            number(match_threshold, -1) and match_threshold <= 1,
            "match_threshold",
            match_threshold,
            "a cosine, -1 to 1",
        )
        require(number(dropout, 0) and dropout < 1, "dropout", dropout, "a share below 1")
        check_views(views)
        switches: dict[str, Any] = {
            "prototypes": prototypes,
            "sampling": sampling,
            "refinetune": refinetune,
        }
        if ablation is not None:
            for name, value in switches.items():
                row = ABLATIONS[ablation][name]
                require(
                    value in (row, ABLATIONS["RF"][name]),
                    name,
                    value,
                    f"{row!r}, or left out, with ablation={ablation!r}",
                )
            switches = ABLATIONS[ablation]
        self.seed = seed
        self.k_local = k_local
        self.k_global = k_global
        self.starts = starts
        self.standardise = standardise
        self.major = major
        self.lift = lift
        self.min_share = min_share
        self.coverage = coverage
        self.match = match
        self.match_threshold = match_threshold
        self.inside_nonmajor = inside_nonmajor
        self.prototypes: str = switches["prototypes"]
        self.sampling: str = switches["sampling"]
        self.refinetune: bool = switches["refinetune"]
        self.per_slide = per_slide
        self.hidden = hidden
        self.dropout = dropout
        self.iterations = iterations
        self.per_class = per_class
        self.lr = lr
        self.weight_decay = weight_decay
        self.focal_gamma = focal_gamma
        self.focal_alpha = focal_alpha
        self.epochs = epochs
        self.refinetune_lr = refinetune_lr
        self.refinetune_threshold = refinetune_threshold
        self.most_flips = most_flips
        self.views = views
        self._fit: tuple[tuple[str, ...], ZScore, dict[str, CellClassifier]] | None = None

    def fit(self, patch_sets: Sequence[PatchSet]) -> Prototype:
        """Learn from the labelled cells of one slide or many."""
        cells = table(patch_sets, self.views)
        check_patch_sets(cells)
        scale = ZScore.of(cells)
        known = Known.of(cells, tuple(p.slide_id for p in patch_sets))
        notes: list[str] = []
        learnt = self.pseudo_labels(cells, known, scale, notes)
        models = {}
        threads = torch.get_num_threads()
        # In a thread of its own the setting is its own. Two threads a step gain little on an idle
        # machine, and on a busy one they wait for each other at every step.
        try:
            with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as single:
                for name, own in known.groups(self.per_slide):
                    part = known.only(own)
                    training = single.submit(
                        self._train, cells, part, scale, learnt[own], name, notes
                    )
                    models[name] = training.result()
        finally:
            torch.set_num_threads(threads)
        self.notes = tuple(notes)
        self._fit = (cells.classes, scale, models)
        return self

    def predict_proba(self, patches: PatchSet) -> NDArray[np.float32]:
        """float32 (n, K), rows sum to 1."""
        if self._fit is None:
            raise not_fitted("prototype")
        classes, scale, models = self._fit
        cells = table([patches], self.views)
        check_predict(cells, classes, len(scale.mean))
        name = patches.slide_id if self.per_slide else POOLED
        if name not in models:
            raise RefinerError(
                f"{name}: per_slide=true has models of {', '.join(models)} only; fit on this slide "
                "too, or use per_slide=false"
            )
        probs = np.empty((len(cells), len(classes)), np.float32)
        with torch.no_grad():
            for rows, x in cells.chunks():
                normal = torch.from_numpy(layer_norm(scale(x)))
                probs[rows] = models[name].predict(normal).numpy()
        return probs

    def learned(self) -> Learned:
        """What the last fit found: the classifier, or that of each slide (`per_slide`)."""
        if self._fit is None:
            raise not_fitted("prototype")
        classes, scale, models = self._fit
        weights = np.stack([model.parameters.numpy() for model in models.values()])
        return Learned(
            {**scale_arrays(scale), "models": weights},
            {"classes": list(classes), "slides": list(models)},
        )

    def recall(self, learned: Learned) -> None:
        """Go on from what was kept."""
        classes = tuple(learned.facts["classes"])
        scale = scale_of(learned.arrays)
        models = {}
        for name, weights in zip(learned.facts["slides"], learned.arrays["models"], strict=True):
            model = self._model(np.random.default_rng(0), len(scale.mean), len(classes))
            check_shape(weights, tuple(model.parameters.shape))
            model.parameters.copy_(torch.from_numpy(weights))
            models[name] = model
        self.notes = ()
        self._fit = (classes, scale, models)

    def _model(self, rng: np.random.Generator, dim: int, classes: int) -> CellClassifier:
        return CellClassifier(
            rng,
            dim,
            self.hidden,
            classes,
            dropout=self.dropout,
            gamma=self.focal_gamma,
            alpha=self.focal_alpha,
        )

    def pseudo_labels(
        self, cells: Cells, known: Known, scale: ZScore, notes: list[str]
    ) -> NDArray[np.int8]:
        """Steps 1 to 5: int8 (n,), what each known cell teaches, -1 for nothing."""
        if self.prototypes == "none":
            return known.labels
        space = scale if self.standardise else None
        slides = np.unique(known.slides)
        local = [
            local_prototypes(
                directions(cells, known.index[known.slides == s], space),
                self.k_local,
                seed=self._seed(1, int(s)),
                starts=self.starts,
            )
            for s in slides
        ]
        if self.prototypes == "global":
            everywhere = np.ones(len(known), bool)
            shared = global_prototypes(local, self.k_global, seed=self._seed(2), starts=self.starts)
            groups = [(everywhere, shared)]
        else:
            groups = [(known.slides == s, own) for s, own in zip(slides, local, strict=True)]
        learnt = np.empty(len(known), np.int8)
        for own, prototypes in groups:
            part = known.only(own)
            cosine = cosines(cells, part.index, space, prototypes)
            majors = self._majors(cosine, part, len(cells.classes))
            where = part.slide_name if self.prototypes == "local" and len(slides) > 1 else ""
            notes += _forced(majors, cells.classes, self.lift, self.min_share, where)
            strength = match_prototypes(cosine, majors, self.match, self.match_threshold)
            learnt[own] = pseudo_label(part.labels, strength, self.inside_nonmajor)
        return learnt

    def _majors(self, cosine: NDArray[np.float32], known: Known, classes: int) -> Majors:
        counts = count_cells(
            cosine.argmax(axis=1), known.labels, known.trust, classes, cosine.shape[1]
        )
        return find_majors(
            counts,
            rule=self.major,
            lift=self.lift,
            min_share=self.min_share,
            coverage=self.coverage,
        )

    def _train(
        self,
        cells: Cells,
        known: Known,
        scale: ZScore,
        learnt: NDArray[np.int8],
        name: str,
        notes: list[str],
    ) -> CellClassifier:
        """Steps 6 to 8 on the known cells of one slide or of all."""
        who = f"{name}: " if name else ""
        learnt = with_every_class(known.labels, learnt, cells.classes, who, notes)
        # A slide's model must not depend on which other slides there are.
        rng = np.random.default_rng([self.seed, 3, *name.encode()])
        k = len(cells.classes)
        model = self._model(rng, cells.dim, k)
        inputs = Inputs(cells, known.index, scale)
        blocks = (
            draw_balanced(
                rng,
                learnt,
                known.slides,
                known.trust,
                steps=self.iterations,
                per_class=self.per_class,
            )
            if self.sampling == "dynamic"
            else draw_shuffled(
                rng, learnt, known.trust, batch=k * self.per_class, steps=self.iterations
            )
        )
        train(model, inputs, blocks, cosine_rate(self.lr, self.iterations), self.weight_decay)
        if not self.refinetune:
            return model
        found = likeliest(predict(model, inputs, k), self.refinetune_threshold)
        why_not = self._unsafe(known.labels, found, cells.classes)
        if why_not:
            notes.append(f"{who}no re-finetuning: {why_not}")
            return model
        everyone = np.ones(len(known))
        again = draw_shuffled(rng, found, everyone, batch=REFINETUNE_BATCH, epochs=self.epochs)
        train(model, inputs, again, lambda _: self.refinetune_lr, self.weight_decay)
        return model

    def _unsafe(
        self, labels: NDArray[np.int8], found: NDArray[np.int8], classes: tuple[str, ...]
    ) -> str:
        """Why learning the predicted labels would go wrong; empty if it would not."""
        flips = float(np.mean(labels != found))
        if flips > self.most_flips:
            return f"{flips:.0%} of the coarse labels would flip (most_flips={self.most_flips:g})"
        gone = np.setdiff1d(labels, found)
        if len(gone):
            return f"no cell would be left of {classes[gone[0]]!r}"
        return ""

    def _seed(self, *purpose: int) -> int:
        return int(np.random.default_rng([self.seed, *purpose]).integers(2**31))


def likeliest(probs: NDArray[np.float32], threshold: float) -> NDArray[np.int8]:
    """int8 (n,): the likeliest class where all classes together have `threshold`, else background.

    Parameters
    ----------
    probs : (n, K), rows sum to 1
    """
    classes = probs[:, 1:]
    found: NDArray[np.int8] = np.where(
        classes.sum(axis=1) >= threshold, 1 + classes.argmax(axis=1), 0
    ).astype(np.int8)
    return found


def _forced(
    majors: Majors, classes: tuple[str, ...], lift: float, share: float, where: str
) -> list[str]:
    who = f"{where}: " if where else ""
    return [
        f"{who}no prototype of {classes[k]!r} is {lift:g} times as common inside as outside and "
        f"holds {share:.0%} of it; took the one with the highest lift "
        f"({majors.lift[k][majors.major[k]].max():.2f})"
        for k in majors.forced
    ]
