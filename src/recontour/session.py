"""One slide, many outlines: what does not depend on the outline is done once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from recontour.devices import limit_threads
from recontour.ground import Ground
from recontour.pipeline import refine_outline
from recontour.recipe import Recipe, Runtime
from recontour.types import Annotation, PatchSet, Refinement, Refiner, Slide, WarmRefiner


class Session:
    """A slide that is refined again and again while its outline is edited.

    The slide is opened at once; tissue, cells and features are found when the first outline is
    refined (or `embed` is called) and kept with all that hangs on them alone, in memory. After
    that an outline costs what hangs on it: labels, fit, probabilities, polygons.

        with Session("slide.svs") as session:
            first = session.refine("coarse.geojson")
            second = session.refine("edited.geojson")

    Parameters
    ----------
    slide : a slide, or the path of one; one that was opened elsewhere is not closed here
    recipe, runtime : as in `refine_slide`; other settings want another session

    Raises
    ------
    RecontourError : the settings make no sense, or the slide cannot be opened
    """

    def __init__(
        self,
        slide: Slide | str | Path,
        recipe: Recipe | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        self._ground = Ground(slide, recipe or Recipe(), runtime or Runtime())
        self._refiner: Refiner | None = None

    @property
    def slide(self) -> Slide:
        """The slide, open as long as the session is."""
        return self._ground.slide

    def embed(self) -> int:
        """Find tissue and cells and embed them all, before there is an outline.

        Returns
        -------
        cells of the tissue
        """
        with limit_threads(self._ground.runtime.threads):
            self._ground.embed()
        return len(self._ground.lay_out().lattice)

    def refine(
        self,
        coarse: Annotation | str | Path,
        *,
        reviewed: Annotation | str | Path | None = None,
        also: Sequence[Annotation | str | Path] = (),
        warm: bool = False,
    ) -> Refinement:
        """Refine an outline of this slide.

        Parameters
        ----------
        coarse, reviewed, also : as in `refine_slide`
        warm : start learning from the last answer, where the method can (`WarmRefiner`); sooner
            done, but the answer depends a little on the outlines before. False: bit for bit what
            `refine_slide` gives for this outline alone

        Raises
        ------
        RecontourError : as `refine_slide`; the session can be used on
        """
        learn = self._learn_on if warm else self._learn
        with limit_threads(self._ground.runtime.threads):
            return refine_outline(self._ground, coarse, learn, reviewed=reviewed, also=also)

    def close(self) -> None:
        """Close the slide, where it was opened here."""
        self._ground.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _learn(self, patches: PatchSet) -> Refiner:
        self._refiner = None  # one that is interrupted in learning is no start for the next
        refiner = self._refiner = self._ground.learn(patches)
        return refiner

    def _learn_on(self, patches: PatchSet) -> Refiner:
        before = self._refiner
        if not isinstance(before, WarmRefiner):
            return self._learn(patches)
        self._refiner = None
        refiner = self._refiner = before.refit([patches])
        return refiner
