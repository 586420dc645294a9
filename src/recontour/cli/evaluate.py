"""`recontour evaluate`: how good an outline is, given the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recontour.cli import console
from recontour.cli import options as o
from recontour.recipe import Recipe


def evaluate(
    truth: Annotated[Path, typer.Option("--truth", metavar="FINE", help="The true outline.")],
    prediction: Annotated[
        Path, typer.Option("--prediction", metavar="REFINED", help="The outline to judge.")
    ],
    coarse: Annotated[
        Path | None,
        typer.Option("--coarse", metavar="COARSE", help="The outline that was refined."),
    ] = None,
    slide: Annotated[
        Path | None,
        typer.Option("--slide", metavar="SLIDE", help="The slide: gives tissue and pixel size."),
    ] = None,
    classes: o.Classes = None,
    exclude_class: o.ExcludeClasses = None,
    subtract_class: Annotated[
        list[str] | None,
        typer.Option(
            "--subtract-class",
            metavar="PATTERN",
            help="Class whose regions are cut out of the truth and count as background; repeat.",
        ),
    ] = None,
    mpp: o.Mpp = None,
    cell_um: o.CellUm = None,
    cell_px: Annotated[
        int | None,
        typer.Option("--cell-px", min=1, help="Side of a cell in level-0 px. Default: 32 µm."),
    ] = None,
    label_rule: o.LabelRule = o.DEFAULT.label_rule,
    tissue: o.Tissue = o.DEFAULT.tissue,
    origin: o.Origin = o.DEFAULT.origin,
    format: o.OutputFormat = o.Format.table,
) -> None:
    """Compare an outline with the truth, on the cells of the tissue and as polygons."""
    from recontour.experiments import evaluate_files

    recipe = Recipe(
        classes=tuple(classes or ()),
        exclude_classes=o.excluded(exclude_class),
        mpp=mpp,
        cell_um=cell_um,
        label_rule=label_rule,
        tissue=tissue,
        origin=origin,
    )
    evaluation = evaluate_files(
        truth,
        prediction,
        coarse=coarse,
        slide=slide,
        recipe=recipe,
        cell_px=cell_px,
        subtract=tuple(subtract_class or ()),
    )
    if format is o.Format.json:
        console.print_json(evaluation.to_dict())
    else:
        from recontour.evaluation import format_table

        print(format_table(evaluation))
