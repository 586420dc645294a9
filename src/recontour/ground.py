"""What of a run hangs on the slide and the recipe alone: found out once for all its outlines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recontour.embedding import Features
from recontour.memo import Memo
from recontour.preparation import Layout, Work, check_settings, embed_cells, lay_out
from recontour.recipe import Recipe, Runtime
from recontour.refiners import make_refiner
from recontour.slides import open_slide
from recontour.types import PatchSet, Refiner, Slide


class Ground:
    """A slide with its tissue, its cells and their features, each found when first asked for.

    Parameters
    ----------
    slide : a slide, or the path of one

    Raises
    ------
    UsageError : settings that make no sense
    SlideError : the slide cannot be opened
    """

    def __init__(self, slide: Slide | str | Path, recipe: Recipe, runtime: Runtime) -> None:
        check_settings(recipe)
        make_refiner(recipe.method, seed=recipe.seed, **recipe.method_options)
        self.recipe, self.runtime = recipe, runtime
        self._opened = not isinstance(slide, Slide)
        self.slide: Slide = (
            slide if isinstance(slide, Slide) else open_slide(slide, recipe.mpp, recipe.reader)
        )
        self._layout: Layout | None = None
        self._features: Features | None = None
        self._last: tuple[NDArray[np.bool_], PatchSet] | None = None

    def lay_out(self) -> Layout:
        """The tissue and its cells."""
        if self._layout is None:
            self._layout = lay_out(self.slide, self.recipe, self.runtime)
        return self._layout

    def embed(self) -> Features:
        """The features of all cells of the tissue, whether an outline excludes them or not."""
        if self._features is None:
            layout = self.lay_out()
            self._features = embed_cells(self.slide, layout.lattice, layout.encoder, self.runtime)
        return self._features

    def patch_set(self, work: Work) -> PatchSet:
        """What a refiner sees. What was found out from the features of the same cells is kept."""
        patches = work.patch_set(self.embed())
        last = self._last  # another thread may refine an outline that excludes other cells
        if last is None or not np.array_equal(last[0], work.kept):
            memo = Memo(patches.features, patches.context)
            self._last = last = work.kept, replace(patches, memo=memo)
        same = last[1]
        return replace(patches, features=same.features, context=same.context, memo=same.memo)

    def learn(self, patches: PatchSet) -> Refiner:
        """A refiner of the recipe, fitted to one outline."""
        recipe = self.recipe
        refiner = make_refiner(recipe.method, seed=recipe.seed, **recipe.method_options)
        if hasattr(refiner, "progress"):
            refiner.progress = self.runtime.progress
        return refiner.fit([patches])

    def close(self) -> None:
        """Close the slide, where it was opened here."""
        if self._opened:
            self.slide.close()
