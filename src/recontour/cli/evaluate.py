"""`recontour evaluate`: how good an outline is, given the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recontour.cli import console
from recontour.cli import options as o
from recontour.errors import UsageError
from recontour.recipe import Recipe


def evaluate(
    truth: Annotated[Path, typer.Option("--truth", metavar="FINE", help="The true outline.")],
    prediction: Annotated[
        Path,
        typer.Option(
            "--prediction",
            metavar="REFINED",
            help="The outline to judge, or a heat map (.npy, NaN off tissue).",
        ),
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
    reader: o.Reader = "auto",
    cell_um: o.CellUm = None,
    cell_px: Annotated[
        int | None,
        typer.Option("--cell-px", min=1, help="Side of a cell in level-0 px. Default: 32 µm."),
    ] = None,
    label_rule: o.LabelRule = o.DEFAULT.label_rule,
    tissue: o.Tissue = o.DEFAULT.tissue,
    tissue_downsample: o.TissueDownsample = None,
    origin: o.Origin = o.DEFAULT.origin,
    entry: o.Entry = None,
    stride_px: Annotated[
        int | None,
        typer.Option(
            "--stride-px",
            min=1,
            metavar="PX",
            help="Heat map: side of its cells in level-0 px. Default: 256.",
        ),
    ] = None,
    postprocess: Annotated[
        o.PostProcess | None,
        typer.Option(
            "--postprocess",
            help="Heat map: default; published: Gaussian, threshold 0.6 and 100 cells, as in the "
            "LC-MIL paper; none: the threshold alone.",
        ),
    ] = None,
    format: o.OutputFormat = o.Format.table,
) -> None:
    """Compare an outline with the truth, on the cells of the tissue and as polygons."""
    from recontour.experiments import evaluate_files, evaluate_heatmap_files
    from recontour.heatmaps import is_heatmap

    recipe = Recipe(
        classes=tuple(classes or ()),
        exclude_classes=o.excluded(exclude_class),
        mpp=mpp,
        reader=o.reader_named(reader),
        cell_um=cell_um,
        label_rule=label_rule,
        tissue=tissue,
        tissue_downsample=tissue_downsample,
        origin=origin,
        entry=entry,
        cell_px=cell_px,
        postprocess=(postprocess or o.PostProcess.default).value,
    )
    subtract = tuple(subtract_class or ())
    if is_heatmap(prediction):
        evaluation = evaluate_heatmap_files(
            truth,
            prediction,
            coarse=coarse,
            slide=slide,
            recipe=recipe,
            stride_px=stride_px,
            subtract=subtract,
        )
    else:
        for name, value in (("--stride-px", stride_px), ("--postprocess", postprocess)):
            if value is not None:
                raise UsageError(
                    f"{name} {value} is for heat maps (.npy), and {prediction.name} is none: leave "
                    "it out"
                )
        evaluation = evaluate_files(
            truth,
            prediction,
            coarse=coarse,
            slide=slide,
            recipe=recipe,
            cell_px=cell_px,
            subtract=subtract,
        )
    if format is o.Format.json:
        console.note(evaluation.notes)
        console.print_json(evaluation.to_dict())
    else:
        from recontour.evaluation import format_table

        print(format_table(evaluation))
