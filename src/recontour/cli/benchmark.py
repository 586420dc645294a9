"""`recontour benchmark`: many slides, outlines and methods, measured alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recontour.cli import console
from recontour.cli import options as o
from recontour.cli.presets import with_preset
from recontour.recipe import Recipe, Runtime

MOST_SAID = 20
"""So many failures are printed; the report has them all."""


def benchmark(
    context: typer.Context,
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET", help="camelyon16, paip2019, paip2020, or folder (your own)."
        ),
    ],
    data: Annotated[
        Path, typer.Option("--data", metavar="ROOT", help="The folder as it was downloaded.")
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="RESULTS", help="Folder of the results.")
    ],
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--methods",
            metavar="LIST",
            help="NAME or NAME:option=value,…, separated by commas; all; ablation. Ours: "
            "pooled=true, as=LABEL, on=ENCODER. Default: that of the preset, else em.",
            rich_help_panel=o.REFINING,
        ),
    ] = None,
    coarse: Annotated[
        list[str] | None,
        typer.Option(
            "--coarse",
            metavar="LIST",
            help="Outlines: a kind to simulate (see simulate; KIND@hard, KIND:option=value), the "
            "name of one that comes with the cases, or drawn (all of those). Default: published.",
            rich_help_panel=o.READING,
        ),
    ] = None,
    coarse_file: Annotated[
        Path | None,
        typer.Option(
            "--coarse-file",
            metavar="SAV",
            help="Coarse outlines released apart from the data set.",
            rich_help_panel=o.READING,
        ),
    ] = None,
    encoders: Annotated[
        list[str] | None,
        typer.Option(
            "--encoders",
            metavar="LIST",
            help="Encoders, separated by commas. Default: that of the preset, else "
            f"{o.DEFAULT.encoder}.",
            rich_help_panel=o.REFINING,
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option("--seeds", min=1, help="Repeats: other simulated outlines, other methods."),
    ] = 5,
    preset: o.PresetName = None,
    keep_all: Annotated[
        bool,
        typer.Option(
            "--all", help="Also slides whose lesion is under 10 % or over 90 % of the tissue."
        ),
    ] = False,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Go on without cases whose files are missing.")
    ] = False,
    classes: o.Classes = None,
    exclude_class: o.ExcludeClasses = None,
    mpp: o.Mpp = None,
    reader: o.Reader = "auto",
    mpp_embed: o.MppEmbed = None,
    cell_um: o.CellUm = None,
    patch_um: o.PatchUm = None,
    cell_px: o.CellPx = None,
    patch_px: o.PatchPx = None,
    label_rule: o.LabelRule = o.DEFAULT.label_rule,
    tissue: o.Tissue = o.DEFAULT.tissue,
    tissue_downsample: o.TissueDownsample = None,
    origin: o.Origin = o.DEFAULT.origin,
    threshold: o.Threshold = o.DEFAULT.threshold,
    min_area_um2: o.MinArea = None,
    postprocess: Annotated[
        o.PostProcess,
        typer.Option(
            "--postprocess",
            help="default, published or none: see refine.",
            rich_help_panel=o.REFINING,
        ),
    ] = o.PostProcess.default,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs", min=1, help="Slides worked on side by side.", rich_help_panel=o.RUNNING
        ),
    ] = 1,
    device: o.Device = "auto",
    threads: o.Threads = None,
    cache_dir: o.CacheDir = None,
    overwrite: o.Overwrite = False,
    format: o.OutputFormat = o.Format.table,
    quiet: o.Quiet = False,
) -> None:
    """Run methods on simulated and drawn outlines of many slides; leaves tables and a report."""
    from recontour.benchmark.records import SCHEMA
    from recontour.benchmark.running import run_benchmark
    from recontour.benchmark.spec import (
        Plan,
        check_encoders,
        check_places,
        parse_methods,
        parse_outlines,
    )
    from recontour.datasets import open_dataset
    from recontour.reports.benchmark_page import PAGE, write_benchmark_report
    from recontour.runs import versions

    recipe = with_preset(
        context,
        Recipe(
            classes=tuple(classes or ()),
            exclude_classes=o.excluded(exclude_class),
            mpp=mpp,
            reader=o.reader_named(reader),
            mpp_embed=mpp_embed,
            cell_um=cell_um,
            patch_um=patch_um,
            cell_px=cell_px,
            patch_px=patch_px,
            label_rule=label_rule,
            tissue=tissue,
            tissue_downsample=tissue_downsample,
            origin=origin,
            threshold=threshold,
            min_area_um2=min_area_um2,
            postprocess=postprocess.value,
        ),
        preset,
    )
    found, notes = parse_methods(
        methods or [recipe.method],
        recipe,
        pooled=preset is not None and _learns_from_all(preset, recipe.method),
    )
    outlines, more = parse_outlines(coarse or ["published"], _simulation(preset, dataset))
    named = check_encoders(_split(encoders or [recipe.encoder]))
    check_places(found, named)
    plan = Plan(
        dataset=dataset,
        recipe=recipe,
        methods=found,
        outlines=outlines,
        encoders=named,
        seeds=seeds,
        preset=preset or "",
        keep_all=keep_all,
    )
    listing = open_dataset(dataset).list_cases(data, coarse=coarse_file)
    notes = (*notes, *more)
    console.note(notes, quiet=quiet)
    if skip_missing:
        console.warn(listing.missing)
    with console.progress_of(quiet) as progress:
        outcome = run_benchmark(
            plan,
            listing,
            out,
            Runtime(device, threads, cache_dir, progress=progress),
            jobs=jobs,
            overwrite=overwrite,
            skip_missing=skip_missing,
            facts={"notes": notes, "versions": versions()},
            finish=write_benchmark_report,
        )
    console.note([f"left out: {reason}" for reason in outcome.left_out], quiet=quiet)
    for failure in outcome.failures[:MOST_SAID]:
        console.say(f"failed: {failure}")
    if len(outcome.failures) > MOST_SAID:
        console.say(f"failed: {len(outcome.failures) - MOST_SAID} more; see {out / PAGE}")
    if format is o.Format.json:
        console.print_json(
            {
                "schema": SCHEMA,
                "results": str(out),
                "report": str(out / PAGE),
                "failures": list(outcome.failures),
                "left_out": list(outcome.left_out),
            }
        )
    elif not quiet:
        print_means(out)
    if outcome.failures:
        console.say("the same command tries again what failed")
        raise typer.Exit(1)


def print_means(results: Path) -> None:
    """The first table of the report, and where the rest is."""
    from recontour.benchmark.loading import load
    from recontour.benchmark.records import Results
    from recontour.benchmark.summaries import VALIDITY, main_group, mean_table
    from recontour.reports.benchmark_page import PAGE

    data = load(Results(results))
    for encoder in data.encoders:
        table = mean_table(data, encoder, main_group(data), VALIDITY[0], repeats=False)
        if table is None:
            continue
        names = ("F1", "accuracy", "cleaned", "mis-modified")
        shown = [i for i, column in enumerate(table.columns) if column.name in names]
        rows = [("", "  ".join(f"{table.columns[i].name:<15}" for i in shown).rstrip())]
        for row, cells in zip(table.rows, table.cells(), strict=True):
            said = "  ".join(f"{cells[i]:<15}" for i in shown).rstrip()
            rows.append((str(row.values[0]), said))
        console.print_table(table.title, rows)
    print(f"report: {results / PAGE}")


def _split(texts: list[str]) -> list[str]:
    return [name for text in texts for name in text.replace(",", " ").split()]


def _learns_from_all(preset: str, method: str) -> bool:
    """Whether the paper pools its slides, and the method is still that of the paper."""
    from recontour.presets import load

    own = load(preset)
    return own.pooled and own.recipe.method == method


def _simulation(preset: str | None, dataset: str) -> dict[str, object]:
    """How a paper simulates outlines on a data set: as the preset says, or any preset for it."""
    from recontour.presets import load, names

    if preset is not None:
        return dict(load(preset).simulation)
    found = (load(name) for name in names())
    return next((dict(p.simulation) for p in found if p.dataset == dataset and p.simulation), {})
