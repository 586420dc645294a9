"""`recontour embed`: compute and cache the features of a slide, before anybody outlines it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recontour.cli import console
from recontour.cli import options as o
from recontour.cli.presets import with_preset
from recontour.recipe import Recipe, Runtime


def embed(
    context: typer.Context,
    slide: o.SlidePath,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="NPZ", help="Also write centres and features to this .npz file."
        ),
    ] = None,
    preset: o.PresetName = None,
    encoder: o.EncoderName = o.DEFAULT.encoder,
    mpp: o.Mpp = None,
    reader: o.Reader = "auto",
    mpp_embed: o.MppEmbed = None,
    cell_um: o.CellUm = None,
    patch_um: o.PatchUm = None,
    cell_px: o.CellPx = None,
    patch_px: o.PatchPx = None,
    tissue: o.Tissue = o.DEFAULT.tissue,
    tissue_downsample: o.TissueDownsample = None,
    origin: o.Origin = o.DEFAULT.origin,
    device: o.Device = "auto",
    threads: o.Threads = None,
    engine: o.Engine = "eager",
    precision: o.Precision = "auto",
    cache_dir: o.CacheDir = None,
    overwrite: o.Overwrite = False,
    quiet: o.Quiet = False,
) -> None:
    """Embed the tissue of a slide into the cache, so that a later `refine` starts at once."""
    from recontour.embedding import in_words
    from recontour.planning import embed_slide, export_features

    if out is not None and out.exists() and not overwrite:
        from recontour.errors import OutputRefusedError

        raise OutputRefusedError(f"{out} exists; pass --overwrite to replace it")
    recipe = Recipe(
        encoder=encoder,
        mpp=mpp,
        reader=o.reader_named(reader),
        mpp_embed=mpp_embed,
        cell_um=cell_um,
        patch_um=patch_um,
        cell_px=cell_px,
        patch_px=patch_px,
        tissue=tissue,
        tissue_downsample=tissue_downsample,
        origin=origin,
    )
    recipe = with_preset(context, recipe, preset)
    with console.progress_of(quiet) as progress:
        runtime = Runtime(
            device, threads, cache_dir, progress=progress, engine=engine, precision=precision
        )
        grid, features, choice = embed_slide(slide, recipe, runtime=runtime)
    if out is not None:
        export_features(out, grid, features)
    if not quiet:
        n, d = features.cell.shape
        wider = "" if features.context is None else f", and {d} of the window twice as wide"
        console.print_table(
            f"Embedded {slide.name}",
            [
                ("cells", f"{n:,} of {grid.cell_um:.1f} µm: {'; '.join(choice.reasons)}"),
                ("features", f"{d} a cell" + wider),
                ("from the cache", f"{features.from_cache:,} cells"),
                ("speed", in_words(features.effort.facts())),
            ],
        )
