"""Tuning from files: what `recontour tune` does before anything is printed."""

from __future__ import annotations

import contextlib
from pathlib import Path

from recontour.postprocess import rules_for
from recontour.preparation import embed_cells, prepare
from recontour.recipe import Recipe, Runtime
from recontour.slides import open_slide
from recontour.tuning.search import Plan, Tuning, check_plan, tune
from recontour.tuning.subject import Subject


def tune_slide(
    slide: Path,
    coarse: Path,
    plan: Plan | None = None,
    *,
    recipe: Recipe | None = None,
    runtime: Runtime | None = None,
    kept: Path | None = None,
) -> Tuning:
    """Tune a method on one outlined slide; see `tune`. The slide is embedded once, cached.

    Parameters
    ----------
    recipe : everything but the method, its options and the seed, which are the plan's
    kept : file of finished candidates, for resuming

    Raises
    ------
    RecontourError : as `pipeline.refine_slide`
    """
    plan, recipe, runtime = plan or Plan(), recipe or Recipe(), runtime or Runtime()
    check_plan(plan)
    with contextlib.closing(open_slide(slide, recipe.mpp, recipe.reader)) as opened:
        work = prepare(opened, coarse, recipe, runtime)
        features = embed_cells(opened, work.lattice, work.encoder, runtime)
        subject = Subject(
            work.patch_set(features),
            rules_for(recipe, work.grid, plan.method),
            opened.size,
            work.tissue,
        )
    return tune(subject, plan, kept=kept, progress=runtime.progress)
