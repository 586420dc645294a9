"""What lanes do for a pooled cohort: draw a sample of a slide, fit on all samples, answer for one.

sample   slide + outline -> OUT/pool/samples/<id>/   (features cached on the way)
fit      all samples     -> OUT/pool/fits/<digest>/  (one task for the whole cohort)
predict  slide + fit     -> OUT/<id>/                (what `refine` writes)
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from recontour.claim import read_json
from recontour.cohort.jobs import local_row, recipe_of, refine
from recontour.cohort.samples import about_sample, read_levels, read_sample, write_sample
from recontour.errors import RecontourError
from recontour.files import write_bytes, write_text
from recontour.recipe import Recipe, Runtime
from recontour.types import Refiner

SAMPLES = Path("pool", "samples")
FITS = Path("pool", "fits")
PLANS = Path("pool", "plans")
REFINER = "refiner.npz"


def sample(task: dict[str, Any], work: Path, runtime: Runtime) -> dict[str, Any]:
    """Embed one slide and draw its sample: `task["most"]` cells."""
    from recontour.preparation import embed_cells, prepare
    from recontour.slides import open_slide

    recipe = recipe_of(task)
    with contextlib.ExitStack() as stack:
        row = stack.enter_context(local_row(task, runtime))
        slide = open_slide(row.slide, mpp=recipe.mpp, reader=recipe.reader)
        stack.callback(slide.close)
        ready = prepare(slide, row.coarse, recipe, runtime, reviewed=row.reviewed, also=row.also)
        features = embed_cells(slide, ready.lattice, ready.encoder, runtime)
        patches = ready.patch_set(features)
    about = write_sample(
        work,
        patches,
        task["most"],
        seed=recipe.seed,
        about={"encoder": ready.encoder.identifier, "cell_um": patches.grid.cell_um},
    )
    return {"cells": about["cells"], "drawn": about["drawn"]}


def fit(task: dict[str, Any], work: Path, runtime: Runtime) -> dict[str, Any]:
    """Fit the method on the samples that the plan `task["plan"]` names."""
    from recontour.refiners import make_refiner
    from recontour.refiners.aligning import align
    from recontour.refiners.keeping import pack

    out = Path(task["out"])
    plan = read_json(out / PLANS / f"{task['plan']}.json")
    if plan.get("digest") != task["plan"]:
        raise RecontourError(
            f"no plan {task['plan']} in {out / PLANS}; run the same command again, which makes it"
        )
    refiner = make_refiner(plan["method"], seed=plan["seed"], **plan["options"])
    if hasattr(refiner, "progress"):
        refiner.progress = runtime.progress
    sets = []
    for i, (id, sha) in enumerate(plan["samples"]):
        runtime.progress("read", i, len(plan["samples"]))
        patches = read_sample(out / SAMPLES / id, plan["cells_a_slide"], sha)
        if getattr(refiner, "views", None) == "cell":
            patches = replace(patches, context=None)
        if plan["align"]:
            patches = align(patches, read_levels(out / SAMPLES / id, sha))
        sets.append(patches)
    runtime.progress("fit", 0, 1)
    with one_thread():
        refiner.fit(sets)
    runtime.progress("fit", 1, 1)
    about = {
        "slides": len(sets),
        "cells": sum(len(patches) for patches in sets),
        "align": plan["align"],
        "notes": list(getattr(refiner, "notes", ())),
    }
    data = pack(refiner, plan["method"], plan["seed"], plan["options"], about)
    write_bytes(work / REFINER, data)
    write_text(work / "run.json", json.dumps({**plan, **about}, indent=2) + "\n")
    return about


def predict(task: dict[str, Any], work: Path, runtime: Runtime) -> dict[str, Any]:
    """Refine one slide with the refiner that was fitted on the pool."""
    from recontour.refiners.aligning import Aligned

    out = Path(task["out"])
    check_encoder(recipe_of(task), runtime, about_sample(out / SAMPLES / task["id"])["encoder"])
    refiner, about = fitted(str(out / FITS / task["plan"] / REFINER))
    if about["align"]:
        refiner = Aligned(refiner, read_levels(out / SAMPLES / task["id"], task["sample"]))
    return refine(task, work, runtime, refiner=refiner)


def check_encoder(recipe: Recipe, runtime: Runtime, sampled: str) -> None:
    """The slide is embedded as its sample was, or its numbers would mean something else.

    Raises
    ------
    RecontourError
    """
    from recontour.preparation import encoder_of

    encoder = encoder_of(recipe, runtime)
    if encoder.identifier != sampled:
        raise RecontourError(
            f"the pool learned from {sampled}, and this run computes {encoder.identifier}; use the "
            "same --engine, --precision and kind of --device, or an OUT of its own"
        )


@functools.lru_cache(1)  # a lane answers for many slides with one fit
def fitted(path: str) -> tuple[Refiner, dict[str, Any]]:
    """The refiner in a file, and what is said about its pool.

    Raises
    ------
    RecontourError : it is not there, or damaged
    """
    from recontour.refiners.keeping import unpack

    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise RecontourError(
            f"{path} is gone; run the same command again, which fits it anew"
        ) from error
    return unpack(data)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Sums in one thread: the fit does not depend on how many the machine has."""
    import torch
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)
