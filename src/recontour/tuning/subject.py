"""One outlined slide, as often refined, thinned out and outlined anew as tuning needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recontour.grid import label_patches
from recontour.postprocess import Rules, clean_labels, smooth_probs
from recontour.refiners import make_refiner
from recontour.simulation import simulate_coarse
from recontour.tracing import trace_regions
from recontour.types import UNLABELLED, Annotation, Geometry, PatchSet, Region


@dataclass(frozen=True)
class Answer:
    """What a method finds: float32 (n, K) smoothed, int8 (rows, cols) and int8 (n,) of it."""

    smooth: NDArray[np.float32]
    decided: NDArray[np.int8]
    labels: NDArray[np.int8]


@dataclass(frozen=True)
class Subject:
    """An embedded and outlined slide.

    Attributes
    ----------
    patches : its cells
    rules : how probabilities become areas
    size : (width, height) of the slide, level-0 px
    tissue : where refinement takes place, level-0 px
    """

    patches: PatchSet
    rules: Rules
    size: tuple[int, int]
    tissue: Geometry

    def refine(
        self,
        method: str,
        options: Mapping[str, Any],
        seed: int,
        labels: NDArray[np.int8] | None = None,
    ) -> Answer:
        """Refine with the coarse labels, or with others; as `pipeline.refine_slide` does."""
        patches = self.patches if labels is None else replace(self.patches, labels=labels)
        probs = make_refiner(method, seed=seed, **options).fit([patches]).predict_proba(patches)
        grid = patches.grid
        smooth = smooth_probs(grid, probs, self.rules)
        decided = clean_labels(grid, smooth, self.rules, raw=probs)
        return Answer(smooth, decided, decided[grid.rows, grid.cols])

    def resample(self, seed: int, number: int) -> NDArray[np.int8]:
        """Bootstrap `number`: the labels of n cells drawn with replacement, -1 where not drawn.

        About 63 % of the cells keep their label. How often a cell was drawn does not count: not
        every method knows weights.
        """
        n = len(self.patches)
        drawn = np.random.default_rng([seed, number]).integers(n, size=n)
        labels = np.full(n, UNLABELLED, np.int8)
        labels[drawn] = self.patches.labels[drawn]
        return labels

    def outline_anew(self, answer: Answer, kind: str, seed: int) -> NDArray[np.int8]:
        """Coarse labels int8 (n,) of an outline made from the refined one.

        Raises
        ------
        AnnotationError : nothing was found, or nothing is left of it
        """
        grid, classes = self.patches.grid, self.patches.classes
        areas = trace_regions(grid, answer.smooth, answer.decided, self.rules, slide_size=self.size)
        fine = tuple(
            Region(str(k), area, label=classes[k])
            for k, area in enumerate(areas, start=1)
            if not area.is_empty
        )
        coarse = simulate_coarse(
            Annotation(self.patches.slide_id, fine, "refined"),
            kind=kind,
            seed=seed,
            mpp=grid.mpp,
            size=self.size,
            tissue=self.tissue,
            exclude=(),
        )
        by_class = [[r for r in coarse.regions if r.label == name] for name in classes[1:]]
        return label_patches(grid, by_class)

    def digest(self) -> str:
        """Names the cells, their features and their coarse labels (16 hex digits)."""
        found = sha256(repr((self.rules, self.size, self.patches.classes)).encode())
        grid = self.patches.grid
        for array in (grid.rows, grid.cols, self.patches.labels, self.patches.features):
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()[:16]
