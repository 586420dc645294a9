"""The path of the data: slide and coarse outline in, fine outline out.

`refine_outline` is the whole of it; each step is one function that lives elsewhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from recontour.band import Surface, sharpen
from recontour.clock import Clock
from recontour.constraints import SLIVER_CELLS, constrain
from recontour.devices import limit_threads
from recontour.doubts import doubts, judge_outline
from recontour.ground import Ground
from recontour.guidance import guide
from recontour.postprocess import clean_labels, rules_for, smooth_probs
from recontour.preparation import prepare
from recontour.recipe import Recipe, Runtime
from recontour.review import hold_labels, hold_probs
from recontour.summary import (
    list_changes,
    list_objects,
    object_key,
    state_confidence,
    state_facts,
)
from recontour.tracing import trace_regions
from recontour.trust import check_areas, check_labels
from recontour.types import Annotation, PatchSet, Refinement, Refiner, Slide


def refine_slide(
    slide: Slide | str | Path,
    coarse: Annotation | str | Path,
    recipe: Recipe | None = None,
    *,
    reviewed: Annotation | str | Path | None = None,
    also: Sequence[Annotation | str | Path] = (),
    runtime: Runtime | None = None,
    refiner: Refiner | None = None,
) -> Refinement:
    """Refine the coarse outline of a region on one slide.

    Parameters
    ----------
    slide : a slide, or the path of one
    coarse : the coarse outline in level-0 px, or the path of a GeoJSON or mask
    recipe : every setting that changes the result; the defaults suit most slides
    reviewed : regions (or their file) of which a person is certain: of a refined class, or of any
        other, which means background. Their cells keep that label
    also : outlines (or their files) of the same slide by other annotators: the label of a cell is
        that of most, and it is trusted the more of them agree
    runtime : device, threads, engine and precision of the encoder, cache, progress
    refiner : one that `recipe.method` names and that was fitted elsewhere, on many slides say; it
        answers as it is. None: a new one learns from this slide

    Returns
    -------
    Refinement, with the new objects in `.annotation`; nothing is written but the feature cache

    Raises
    ------
    RecontourError : see `recontour.errors`; the message says what to do
    """
    runtime = runtime or Runtime()
    with (
        limit_threads(runtime.threads),
        contextlib.closing(Ground(slide, recipe or Recipe(), runtime)) as ground,
    ):
        learn = ground.learn if refiner is None else (lambda _: refiner)
        return refine_outline(ground, coarse, learn, reviewed=reviewed, also=also)


def refine_outline(
    ground: Ground,
    coarse: Annotation | str | Path,
    learn: Callable[[PatchSet], Refiner],
    *,
    reviewed: Annotation | str | Path | None = None,
    also: Sequence[Annotation | str | Path] = (),
) -> Refinement:
    """Refine one outline of a slide, with what is known of the slide already.

    Parameters
    ----------
    ground : slide, settings, and what does not depend on the outline
    coarse, reviewed, also : as in `refine_slide`
    learn : makes a fitted refiner of the cells and their labels
    """
    recipe, runtime, clock = ground.recipe, ground.runtime, Clock()
    with clock("prepare"):
        work = prepare(
            ground.slide, coarse, recipe, runtime, reviewed=reviewed, also=also, lay=ground.lay_out
        )
        rules = rules_for(recipe, work.grid)
    with clock("embed"):
        features = ground.embed()
        patches = ground.patch_set(work)
    with clock("learn"):
        runtime.progress("fit", 0, 1)
        refiner = learn(patches)
        probs = hold_probs(patches, refiner.predict_proba(patches))
        trust = check_labels(patches, seed=recipe.seed)
        runtime.progress("fit", 1, 1)
    with clock("trace"):
        smooth = hold_probs(patches, smooth_probs(work.grid, probs, rules))
        decided = hold_labels(patches, clean_labels(work.grid, smooth, rules, raw=probs))
        confidence = state_confidence(patches, smooth, recipe)
        validity, judged = judge_outline(work, patches, confidence.probs, recipe)
        surface = Surface(work.grid, smooth, decided, rules)
    with clock("band"):
        surface = sharpen(surface, work, patches, probs, refiner, recipe.band, runtime)
    with clock("trace"):
        traced = trace_regions(*surface, slide_size=work.slide.size)
        areas = constrain(
            traced,
            work.drawn,
            only=recipe.only,
            within_px=recipe.within_um and recipe.within_um / work.slide.mpp,
            excluded=work.selection.excluded,
            min_area_px=SLIVER_CELLS * work.grid.stride**2,
        )
        key = object_key(work, recipe)
        objects = list_objects(work, areas, patches, confidence.probs, key)
        changes = list_changes(work, areas, patches, confidence, rules, key)
        guidance = guide(work, areas, changes, patches, smooth, confidence, rules, recipe)
    return Refinement(
        patches=patches,
        probs=probs,
        annotation=Annotation(work.slide.id, objects, source=f"recontour {recipe.method}"),
        changes=Annotation(work.slide.id, guidance.changes, source=f"recontour {recipe.method}"),
        coarse=work.coarse,
        tissue=work.tissue,
        recipe=recipe,
        facts={
            **state_facts(
                work, features, areas, patches, smooth, confidence, objects, rules, trust.facts
            ),
            "validity": judged,
            **guidance.facts,
        },
        warnings=(
            *check_areas(patches.classes, areas, work.drawn, work.tissue),
            *work.warnings,
            *doubts(validity, trust),
            *getattr(refiner, "notes", ()),
            *features.notes,
        ),
        timings=clock.seconds,
        calibrated=confidence.probs,
    )
