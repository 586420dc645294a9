"""The whole product on a slide whose truth is known: generate, outline badly, refine, judge."""

from __future__ import annotations

import json
from pathlib import Path

from recontour.annotations import write_annotation
from recontour.errors import OutputRefusedError
from recontour.evaluation import Evaluation
from recontour.experiments import evaluate_files, simulate_file
from recontour.files import write_text
from recontour.generated import generate_slide
from recontour.recipe import Recipe, Runtime
from recontour.refiners import make_refiner
from recontour.runs import Outcome, refine_to_folder


def run_demo(
    out: Path,
    recipe: Recipe,
    runtime: Runtime,
    *,
    kind: str = "generous",
    size_px: int = 6144,
    overwrite: bool = False,
) -> tuple[Evaluation, Outcome]:
    """Leave `slide.tif`, `truth.geojson`, `coarse.geojson`, `refined/`, `evaluation.json`.

    A slide that an earlier call left is used again.

    Raises
    ------
    OutputRefusedError : `out` holds a demo of another slide or outline
    RecontourError : as `refine_to_folder`
    """
    slide, truth, coarse = out / "slide.tif", out / "truth.geojson", out / "coarse.geojson"
    make_refiner(recipe.method, seed=recipe.seed, **recipe.method_options)
    settings = json.dumps({"kind": kind, "size_px": size_px, "seed": recipe.seed}) + "\n"
    held = out / "demo.json"
    if held.exists() and held.read_text() != settings and not overwrite:
        raise OutputRefusedError(
            f"{out} holds another demo ({held.read_text().strip()}); pass another folder, or "
            "--overwrite to replace it"
        )
    write_text(held, settings)
    if overwrite or not (slide.exists() and truth.exists()):
        runtime.progress("generate", 0, 1)
        truth.unlink(missing_ok=True)
        made = generate_slide(slide, size=(size_px, size_px), mpp=0.5, seed=recipe.seed)
        # Last: a truth means that the slide beside it is whole.
        write_annotation(made.truth, truth)
        runtime.progress("generate", 1, 1)
    simulate_file(
        truth, coarse, slide=slide, kind=kind, seed=recipe.seed, recipe=recipe, overwrite=True
    )
    outcome = refine_to_folder(slide, coarse, out / "refined", recipe, runtime, overwrite=overwrite)
    evaluation = evaluate_files(
        truth, out / "refined" / "refined.geojson", coarse=coarse, slide=slide, recipe=recipe
    )
    write_text(out / "evaluation.json", json.dumps(evaluation.to_dict(), indent=2) + "\n")
    return evaluation, outcome
