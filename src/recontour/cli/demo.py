"""`recontour demo`: a generated slide with known truth, outlined badly, refined, and judged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recontour.cli import console
from recontour.cli import options as o
from recontour.recipe import Recipe, Runtime


def demo(
    out: Annotated[Path, typer.Option("-o", "--out", metavar="OUT", help="Output folder.")],
    method: o.Method = o.DEFAULT.method,
    encoder: o.EncoderName = o.DEFAULT.encoder,
    kind: Annotated[
        str, typer.Option("--kind", help="How the coarse outline goes wrong; see simulate.")
    ] = "generous",
    size_px: Annotated[
        int, typer.Option("--size-px", min=1024, help="Side of the generated slide.")
    ] = 6144,
    seed: o.Seed = o.DEFAULT.seed,
    device: o.Device = "auto",
    threads: o.Threads = None,
    overwrite: o.Overwrite = False,
    quiet: o.Quiet = False,
) -> None:
    """Generate a slide with known truth, outline it badly, refine the outline, and compare."""
    from recontour.demo import run_demo
    from recontour.evaluation import format_table

    recipe = Recipe(method=method, encoder=encoder, seed=seed)
    with console.progress_of(quiet) as progress:
        runtime = Runtime(device, threads, progress=progress)
        evaluation, outcome = run_demo(
            out, recipe, runtime, kind=kind, size_px=size_px, overwrite=overwrite
        )
    console.warn(outcome.summary["warnings"])
    if quiet:
        return
    print(format_table(evaluation))
    console.print_table(
        f"\nDemo in {out}",
        [
            ("before and after", str(out / "refined" / "overview.png")),
            ("report", str(out / "refined" / "report.html")),
            ("open in QuPath", f"{out / 'slide.tif'}, then drop in refined/refined.geojson"),
        ],
    )
