"""`recontour simulate`: coarse outlines made from fine ones, for experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recontour.cli import console
from recontour.cli import options as o

KINDS = "published, missed, generous, tight, shifted, wobbly, flipped"


def simulate(
    fine: Annotated[Path, typer.Argument(metavar="FINE", help="The true outline.")],
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", metavar="COARSE", help="GeoJSON or mask (.png, .tif) to write."
        ),
    ],
    slide: Annotated[
        Path | None,
        typer.Option("--slide", metavar="SLIDE", help="The slide: gives pixel size and tissue."),
    ] = None,
    kind: Annotated[str, typer.Option("--kind", help=f"How it goes wrong: {KINDS}.")] = "published",
    seed: o.Seed = o.DEFAULT.seed,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="NAME",
            help="Class to take; may be repeated. Default: all but those left out.",
        ),
    ] = None,
    exclude_class: o.ExcludeClasses = None,
    mpp: o.Mpp = None,
    reader: o.Reader = "auto",
    tissue: o.Tissue = o.DEFAULT.tissue,
    origin: o.Origin = o.DEFAULT.origin,
    entry: o.Entry = None,
    severity: Annotated[
        str,
        typer.Option("--severity", help="Committed recipe: mild, or hard (barely valid)."),
    ] = "mild",
    dilation_um: Annotated[
        float | None,
        typer.Option("--dilation-um", help="published: dilation before the hull. Default: 311."),
    ] = None,
    slip_um: Annotated[
        float | None,
        typer.Option("--slip-um", help="The other kinds: by how much the hand goes wrong."),
    ] = None,
    lesions: Annotated[
        int | None, typer.Option("--lesions", help="published: how many of the largest are kept.")
    ] = None,
    cut: Annotated[
        float | None, typer.Option("--cut", help="Share cut off each lesion first (PAIP2020: 0.5).")
    ] = None,
    drop: Annotated[
        float | None, typer.Option("--drop", help="missed: share of the lesions left out.")
    ] = None,
    excess: Annotated[
        float | None, typer.Option("--excess", help="generous: share of it that is no lesion.")
    ] = None,
    keep: Annotated[
        float | None, typer.Option("--keep", help="tight: share that stays inside.")
    ] = None,
    flip: Annotated[
        float | None, typer.Option("--flip", help="flipped: share left out, and put in elsewhere.")
    ] = None,
    overwrite: o.Overwrite = False,
    quiet: o.Quiet = False,
) -> None:
    """Make a coarse outline from a fine one: the papers' recipe, or another way to go wrong."""
    from recontour.experiments import simulate_file
    from recontour.recipe import Recipe
    from recontour.simulation import named_severity

    chosen = {
        "dilation_um": dilation_um,
        "slip_um": slip_um,
        "lesions": lesions,
        "cut": cut,
        "drop": drop,
        "excess": excess,
        "keep": keep,
        "flip": flip,
    }
    annotation = simulate_file(
        fine,
        out,
        slide=slide,
        kind=kind,
        seed=seed,
        recipe=Recipe(
            classes=tuple(classes or ()),
            exclude_classes=o.excluded(exclude_class),
            mpp=mpp,
            reader=o.reader_named(reader),
            tissue=tissue,
            origin=origin,
            entry=entry,
        ),
        severity={
            **named_severity(severity),
            **{name: value for name, value in chosen.items() if value is not None},
        },
        overwrite=overwrite,
    )
    console.note(annotation.notes, quiet=quiet)
    outlines = f"{len(annotation.regions):,} outline{'' if len(annotation.regions) == 1 else 's'}"
    console.say(f"{out}: {outlines} ({kind}, seed {seed})", quiet=quiet)
