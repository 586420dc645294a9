"""Side-prior EM: a discriminant and its labels correct each other, on the slide alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recontour.errors import RefinerError
from recontour.refiners.base import (
    check_patch_sets,
    check_predict,
    not_fitted,
    number,
    require,
    table,
    whole,
)
from recontour.refiners.discriminant import SHRINKAGE, Discriminant, Projection, softmax
from recontour.refiners.outline_prior import Belief, Extent, OutlinePrior
from recontour.types import PatchGrid, PatchSet

VIEWS = ("all", "cell", "context", "both")
COMPONENTS = (10, 24)
LAST = 3  # rounds whose beliefs are averaged
SETTLE = 5  # times that beliefs and shares follow one another within a round
DOUBT = 0.15  # chance that features say nothing: no appearance is proof
FADED = 0.1  # of the cells it was drawn on: what falls below has been explained away
SAME = 0.4  # standard deviations between two classes that look alike
STRONG = 3.0  # how much more a cell counts in learning that a person has checked


@dataclass(frozen=True)
class _Round:
    """What one round learned: `views` and `components` of the features, how their scores make
    evidence, and how the cells of each label divided."""

    views: tuple[int, ...]
    components: int
    models: tuple[Discriminant, ...]
    evidence: Discriminant
    sides: NDArray[np.float64]


@dataclass(frozen=True)
class _Slide:
    """The features of one slide, its outline, and how its cells lie."""

    xs: tuple[NDArray[np.float32], ...]
    prior: OutlinePrior
    grid: PatchGrid
    sigma: float


@dataclass(frozen=True)
class _Fit:
    classes: tuple[str, ...]
    views: tuple[str, ...]
    projections: tuple[Projection, ...]
    rounds: tuple[_Round, ...]
    cell_um: float
    extents: Mapping[str, Extent]
    common: NDArray[np.float64]


@dataclass(frozen=True)
class _Last:
    """What the last fit was told of which cells, and what each member believed of all of them when
    its last rounds began: float32 (n, K)."""

    classes: tuple[str, ...]
    slides: tuple[str, ...]
    grids: tuple[PatchGrid, ...]
    priors: tuple[OutlinePrior, ...]
    members: tuple[NDArray[np.float32], ...]

    def fits(self, now: _Last, members: int) -> bool:
        """Whether the same members now ask about the same cells and classes."""
        return (
            self.classes == now.classes
            and self.slides == now.slides
            and len(self.members) == members
            and all(map(_same_cells, self.grids, now.grids))
        )

    def beliefs(self, now: _Last, member: int) -> list[Belief]:
        """What the last rounds of a member begin with; of cells told otherwise the start."""
        ends = np.cumsum([len(prior.labels) for prior in self.priors])[:-1]
        found = []
        for old, new, q in zip(
            self.priors, now.priors, np.split(self.members[member], ends), strict=True
        ):
            told = (old.labels != new.labels) | (old.sure != new.sure)
            found.append(np.where(told[:, None], new.start(), q.astype(np.float64)))
        return found


class Em:
    """Balanced linear discriminants and labels that correct each other, under the outline's prior.

    Every cell has a hidden class; its coarse label is that class with errors, whose share inside
    and outside of the outline is learned (`OutlinePrior`). From the beliefs of a start that trusts
    the outline, each round

    1. fits a discriminant a view (cell, and the window twice as wide) to the beliefs: all classes
       count alike, covariance is pooled and shrunk, the features are few principal components;
    2. averages their scores over the views and over the cells around (a Gaussian), as evidence of
       neighbours but not their labels: the outline is spatial already, the features are noisy;
    3. turns scores into evidence by a second discriminant on the scores (one dimension for two
       classes), so that it is as sure as the classes are apart, and never surer than `DOUBT`
       allows;
    4. updates the beliefs by Bayes' rule, then the shares, a few times.

    The probabilities are the mean over the last rounds of all members: {cell and context, cell} x
    {10, 24} components. Nothing is random; the seed changes nothing.

    Measured, with what did not help, in docs/research/em.md.

    Parameters
    ----------
    rounds : few; many let the strongest contrast of the tissue take over from the outline
    views : "cell", "context", "both", or "all" that there are
    components : sizes of the members
    shrinkage : of the covariance, 0 to 1
    smooth : σ of the smoothing of scores, in cells

    Attributes
    ----------
    notes : sentences about the last fit
    estimates : `trust`: for each class, the share of the cells it was drawn on that belong to it
    smooth_cells : σ of what smoothing its probabilities still need, in cells
    """

    smooth_cells = 0.4

    def __init__(
        self,
        *,
        seed: int = 0,
        rounds: int = 8,
        views: str = "all",
        components: Sequence[int] | int = COMPONENTS,
        shrinkage: float = SHRINKAGE,
        smooth: float = 0.35,
    ) -> None:
        sizes = (components,) if isinstance(components, int) else tuple(components)
        require(whole(rounds, 1), "rounds", rounds, "a whole number of at least 1")
        require(views in VIEWS, "views", views, "one of " + ", ".join(VIEWS))
        good = bool(sizes) and all(whole(size, 1) for size in sizes)
        require(good, "components", components, "whole numbers of at least 1")
        require(number(shrinkage, 0) and shrinkage <= 1, "shrinkage", shrinkage, "0 to 1")
        require(number(smooth, 0), "smooth", smooth, "a number of at least 0")
        self.seed = seed
        self.rounds = rounds
        self.views = views
        self.components = sizes
        self.shrinkage = shrinkage
        self.smooth = smooth
        self.notes: tuple[str, ...] = ()
        self.estimates: Mapping[str, Any] = {}
        self._fit: _Fit | None = None
        self._last: _Last | None = None

    def fit(self, patch_sets: Sequence[PatchSet]) -> Em:
        """Learn from one slide or many; forgets what it learned before.

        Slides share the discriminants; each has an outline of its own, whose errors are its own.

        Raises
        ------
        RefinerError : see `check_patch_sets`; features that are not finite
        """
        return self._fit_from(patch_sets, None)

    def refit(self, patch_sets: Sequence[PatchSet]) -> Em:
        """Learn again after an outline was edited, but only the last rounds.

        They begin with what was believed of each cell when they began last time, so that many edits
        are no more rounds than one; cells whose label is another, or is now checked, start afresh.
        Where slides, cells or classes are others, it is `fit`.

        Raises
        ------
        RefinerError : as `fit`
        """
        last, self._last = self._last, None
        return self._fit_from(patch_sets, last)

    def _fit_from(self, patch_sets: Sequence[PatchSet], last: _Last | None) -> Em:
        self._last = None
        check_patch_sets(table(patch_sets, "context" if self.views == "context" else "cell"))
        views = self._views(patch_sets)
        tables = [table(patch_sets, view) for view in views]
        if not len(tables[0]):
            raise RefinerError("no cell to learn from")
        classes = tables[0].classes
        projections = tuple(Projection.of(cells, max(self.components)) for cells in tables)
        xs = [project(cells) for project, cells in zip(projections, tables, strict=True)]
        cell_um = float(np.median([patches.grid.cell_um for patches in patch_sets]))
        labels = tables[0].labels
        counts = np.bincount(labels[labels >= 0], minlength=len(classes)).astype(np.float64)
        common = counts / counts.sum()
        starts = tables[0].starts
        slides = [
            self._slide(patches, tuple(x[i:j] for x in xs), common, cell_um)
            for patches, i, j in zip(patch_sets, starts[:-1], starts[1:], strict=True)
        ]
        groups = [tuple(range(len(views)))] + ([(0,)] if len(views) > 1 else [])
        members = [(group, size) for group in groups for size in self.components]
        now = _Last(
            classes,
            tuple(patches.slide_id for patches in patch_sets),
            tuple(patches.grid for patches in patch_sets),
            tuple(slide.prior for slide in slides),
            (),
        )
        fits = last is not None and last.fits(now, len(members))
        rounds: list[_Round] = []
        believed = np.zeros((len(tables[0]), len(classes)))
        answers = []
        for i, (group, size) in enumerate(members):
            before = last.beliefs(now, i) if last is not None and fits else None
            found, q, began = self._learn(slides, group, size, before)
            rounds += found
            believed += q
            answers.append(began.astype(np.float32))
        extents = {p.slide_id: s.prior.extent for p, s in zip(patch_sets, slides, strict=True)}
        self._fit = _Fit(classes, views, projections, tuple(rounds), cell_um, extents, common)
        self._describe(patch_sets, slides, believed)
        self._last = replace(now, members=tuple(answers))
        return self

    def predict_proba(self, patches: PatchSet) -> NDArray[np.float32]:
        """float32 (n, K), rows sum to 1.

        The slide's own coarse labels take part, as in `fit`; unlabelled cells get the prior of the
        slide as a whole, and where it has no label that of all slides. Cells finer than those
        of `fit` are taken for a part of the slide of that name: its outline is as large as it was.
        """
        fit = self._fit
        if fit is None:
            raise not_fitted("em")
        if not len(patches):
            return np.empty((0, len(fit.classes)), np.float32)
        tables = [table([patches], view) for view in fit.views]
        for cells, projection in zip(tables, fit.projections, strict=True):
            check_predict(cells, fit.classes, len(projection.scale.mean))
        xs = tuple(project(cells) for project, cells in zip(fit.projections, tables, strict=True))
        finer = patches.grid.cell_um < 0.99 * fit.cell_um
        extent = fit.extents.get(patches.slide_id) if finer else None
        return self._posterior(self._slide(patches, xs, fit.common, fit.cell_um, extent))

    def _views(self, patch_sets: Sequence[PatchSet]) -> tuple[str, ...]:
        if self.views in ("cell", "context"):
            return (self.views,)
        if self.views == "all" and any(p.context is None for p in patch_sets):
            return ("cell",)
        return ("cell", "context")

    def _slide(
        self,
        patches: PatchSet,
        xs: tuple[NDArray[np.float32], ...],
        common: NDArray[np.float64],
        cell_um: float,
        extent: Extent | None = None,
    ) -> _Slide:
        prior = OutlinePrior.of(
            patches.labels,
            patches.trust,
            patches.grid,
            len(common),
            extent=extent,
            common=common,
        )
        sigma = self.smooth * cell_um / patches.grid.cell_um
        return _Slide(xs, prior, patches.grid, sigma)

    def _learn(
        self,
        slides: Sequence[_Slide],
        views: tuple[int, ...],
        components: int,
        before: Sequence[Belief] | None = None,
    ) -> tuple[list[_Round], Belief, Belief]:
        """The last rounds of one member, its last beliefs, and those its last rounds began with.

        `before`: beliefs to begin the last rounds with.
        """
        beliefs = [slide.prior.start() for slide in slides]
        weight = np.concatenate([np.where(slide.prior.sure, STRONG, 1.0) for slide in slides])
        first = np.concatenate(beliefs).sum(axis=0)
        rounds = self.rounds
        if before is not None:
            beliefs, rounds = list(before), min(self.rounds, LAST)
        found: list[_Round] = []
        began: deque[list[Belief]] = deque(maxlen=LAST)
        for _ in range(rounds):
            began.append(beliefs)
            q = np.concatenate(beliefs) * weight[:, None]
            models = tuple(
                Discriminant.of(
                    np.concatenate([s.xs[v][:, :components] for s in slides]), q, self.shrinkage
                )
                for v in views
            )
            scores = [_scores(slide, models, views, components) for slide in slides]
            every = np.concatenate(scores)
            for _ in range(SETTLE):
                evidence = Discriminant.of(every, np.concatenate(beliefs) * weight[:, None], 0.0)
                sides = [s.prior.shares(q) for s, q in zip(slides, beliefs, strict=True)]
                beliefs = [
                    slide.prior.believe(evidence.scores(score), share)
                    for slide, score, share in zip(slides, scores, sides, strict=True)
                ]
            made = _Round(views, components, models, evidence, np.mean(sides, axis=0))
            faded = np.concatenate(beliefs).sum(axis=0) < FADED * first
            if faded.any() and found:
                break
            found.append(made)
            if faded.any():
                break
        return found[-LAST:], np.concatenate(beliefs), np.concatenate(began[0])

    def _posterior(self, slide: _Slide) -> NDArray[np.float32]:
        assert self._fit is not None
        total = np.zeros((len(slide.grid), len(self._fit.classes)))
        for found in self._fit.rounds:
            scores = _scores(slide, found.models, found.views, found.components)
            evidence = found.evidence.scores(scores)
            sides = found.sides
            for _ in range(SETTLE):
                sides = slide.prior.shares(slide.prior.believe(evidence, sides))
            total += slide.prior.believe(_doubted(evidence), sides)
        total /= total.sum(axis=1, keepdims=True)
        return total.astype(np.float32)

    def _describe(
        self, patch_sets: Sequence[PatchSet], slides: Sequence[_Slide], believed: Belief
    ) -> None:
        """Notes and estimates of this fit."""
        assert self._fit is not None
        classes = self._fit.classes
        labels = np.concatenate([slide.prior.labels for slide in slides])
        probs = believed / believed.sum(axis=1, keepdims=True)
        self.estimates = {
            "trust": {name: float(probs[labels == k, k].mean()) for k, name in enumerate(classes)}
        }
        start = np.concatenate([slide.prior.start() for slide in slides])
        x = np.concatenate([slide.xs[0] for slide in slides])
        model = Discriminant.of(x, start, self.shrinkage)
        self.notes = (
            *_alike(model.scores(x), labels, classes),
            *(
                f"the outline of {patches.slide_id} is finer than its cells of "
                f"{patches.grid.cell_um:.0f} µm and stays about as it was drawn; a smaller "
                "--cell-um lets it be refined"
                for patches, slide in zip(patch_sets, slides, strict=True)
                if slide.prior.extent.fine
            ),
        )


def _same_cells(one: PatchGrid, other: PatchGrid) -> bool:
    return (
        (one.origin, one.stride, one.mpp) == (other.origin, other.stride, other.mpp)
        and np.array_equal(one.rows, other.rows)
        and np.array_equal(one.cols, other.cols)
    )


def _scores(
    slide: _Slide, models: Sequence[Discriminant], views: Sequence[int], components: int
) -> NDArray[np.float32]:
    """float32 (n, K - 1): scores of the classes above that of the background, smoothed."""
    from scipy.ndimage import gaussian_filter

    scores: Belief = np.mean(
        [m.scores(slide.xs[v][:, :components]) for m, v in zip(models, views, strict=True)], axis=0
    )
    above: NDArray[np.float32] = (scores[:, 1:] - scores[:, :1]).astype(np.float32)
    if slide.sigma == 0:
        return above

    def blur(values: NDArray[np.float32]) -> NDArray[np.float32]:
        laid = np.zeros(slide.grid.shape, np.float32)
        laid[slide.grid.rows, slide.grid.cols] = values
        blurred = gaussian_filter(laid, slide.sigma, mode="constant")
        picked: NDArray[np.float32] = blurred[slide.grid.rows, slide.grid.cols]
        return picked

    weight = blur(np.ones(len(above), np.float32))
    smooth: NDArray[np.float32] = np.stack([blur(column) / weight for column in above.T], axis=1)
    return smooth


def _doubted(evidence: Belief) -> Belief:
    """Evidence in which with the chance `DOUBT` the features say nothing."""
    p = softmax(evidence)
    out: Belief = np.log((1 - DOUBT) * p + DOUBT / p.shape[1])
    return out


def _alike(scores: Belief, labels: NDArray[np.intp], classes: tuple[str, ...]) -> list[str]:
    """A sentence for each two classes whose coarse labels the features do not tell apart.

    Their scores differ by less than `SAME` standard deviations, beyond what chance makes.
    """
    sentences = []
    for a in range(len(classes)):
        for b in range(a + 1, len(classes)):
            one = scores[labels == a, b] - scores[labels == a, a]
            other = scores[labels == b, b] - scores[labels == b, a]
            if min(len(one), len(other)) < 2:
                continue
            spread = np.sqrt(0.5 * (one.var() + other.var()))
            apart = (other.mean() - one.mean()) / max(float(spread), 1e-12)
            chance = np.sqrt(max(COMPONENTS) * (1 / len(one) + 1 / len(other)))
            if apart < SAME + chance:
                sentences.append(
                    f"{classes[a]!r} and {classes[b]!r} look like the same tissue: the features "
                    "hardly tell them apart, and the result will mostly follow the outline"
                )
    return sentences
