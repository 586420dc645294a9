"""`recontour refine`: the main job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from recontour.cli import console
from recontour.cli import options as o
from recontour.cli.presets import with_preset
from recontour.errors import UsageError
from recontour.recipe import Recipe, Runtime

FEW = 3
"""So many notes on the outlines are printed unless --verbose."""


class Only(StrEnum):
    """Directions in which the outline may move."""

    add = "add"
    remove = "remove"


def refine(
    context: typer.Context,
    slide: o.SlidePath,
    coarse: Annotated[
        Path, typer.Argument(metavar="COARSE", help="Coarse outline: GeoJSON, mask, XML or .sav.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="OUT", help="Output folder.")],
    preset: o.PresetName = None,
    method: o.Method = o.DEFAULT.method,
    method_option: o.MethodOption = None,
    encoder: o.EncoderName = o.DEFAULT.encoder,
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
    entry: o.Entry = None,
    threshold: o.Threshold = o.DEFAULT.threshold,
    smooth_cells: Annotated[
        float | None,
        typer.Option(
            "--smooth-cells",
            help="σ of the smoothing of probabilities, in cells. Default: the method's (em 0.4, "
            "others 0.7).",
            rich_help_panel=o.REFINING,
        ),
    ] = None,
    min_area_um2: o.MinArea = None,
    simplify_um: Annotated[
        float | None,
        typer.Option(
            "--simplify-um",
            metavar="UM",
            help="How far simplification may move a border. Default: a twentieth of a cell.",
            rich_help_panel=o.REFINING,
        ),
    ] = None,
    only: Annotated[
        Only | None,
        typer.Option(
            "--only", help="Let the outline only grow or only shrink.", rich_help_panel=o.REFINING
        ),
    ] = None,
    within_um: Annotated[
        float | None,
        typer.Option(
            "--within-um",
            metavar="N",
            help="Never move further than N µm from the given outline.",
            rich_help_panel=o.REFINING,
        ),
    ] = None,
    postprocess: Annotated[
        o.PostProcess,
        typer.Option(
            "--postprocess",
            help="default; published: Gaussian, threshold 0.6 and 100 cells, as in the LC-MIL "
            "paper; none: the threshold alone.",
            rich_help_panel=o.REFINING,
        ),
    ] = o.PostProcess.default,
    band: o.Band = o.DEFAULT.band,
    reviewed: o.Reviewed = None,
    reviewed_sample: o.ReviewedSample = False,
    also: o.Also = None,
    error_target: o.ErrorTarget = None,
    seed: o.Seed = o.DEFAULT.seed,
    device: o.Device = "auto",
    threads: o.Threads = None,
    engine: o.Engine = "eager",
    precision: o.Precision = "auto",
    cache_dir: o.CacheDir = None,
    overwrite: o.Overwrite = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Refuse an outline that looks wrong as a whole, instead of warning.",
            rich_help_panel=o.RUNNING,
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Say the grid, cells, expected time and memory; write nothing.",
            rich_help_panel=o.RUNNING,
        ),
    ] = False,
    format: o.OutputFormat = o.Format.table,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Refine a coarse outline on a slide; leaves GeoJSON for QuPath, a picture and a report."""
    recipe = Recipe(
        method=method,
        method_options=parse_options(method_option or []),
        encoder=encoder,
        classes=tuple(classes or ()),
        exclude_classes=o.DEFAULT.exclude_classes
        if exclude_class is None
        else tuple(exclude_class),
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
        entry=entry,
        threshold=threshold,
        smooth_cells=smooth_cells,
        min_area_um2=min_area_um2,
        simplify_um=simplify_um,
        only=only.value if only else None,
        within_um=within_um,
        postprocess=postprocess.value,
        band=band,
        error_target=error_target,
        reviewed_sample=reviewed_sample,
        seed=seed,
    )
    recipe = with_preset(context, recipe, preset)
    runtime = Runtime(device, threads, cache_dir, engine=engine, precision=precision)
    if dry_run:
        _plan(slide, coarse, recipe, reviewed, also or (), runtime, format)
        return
    from recontour.runs import refine_to_folder

    with console.progress_of(quiet) as progress:
        outcome = refine_to_folder(
            slide,
            coarse,
            out,
            recipe,
            replace(runtime, progress=progress),
            reviewed=reviewed,
            also=also or (),
            overwrite=overwrite,
            strict=strict,
        )
    if outcome.already_done:
        console.say(f"{out} already holds this run, finished; nothing to do", quiet=quiet)
    elif outcome.resumed:
        console.say("resumed an unfinished run", quiet=quiet)
    console.warn(outcome.summary["warnings"])
    console.note(outcome.summary["notes"], quiet=quiet)
    repairs = outcome.summary["repairs"]
    console.note(repairs if verbose else _shortened(repairs), quiet=quiet)
    if format is o.Format.json:
        console.print_json(outcome.summary)
    elif not quiet:
        print_summary(outcome.summary, out)


def parse_options(pairs: list[str]) -> dict[str, Any]:
    """NAME=VALUE pairs; a value is read as a number, true or false where it is one."""
    import json

    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--method-option {pair}: write NAME=VALUE, e.g. bags=500")
        try:
            found[name.replace("-", "_")] = json.loads(text)
        except ValueError:
            found[name.replace("-", "_")] = text
    return found


def _shortened(sentences: Sequence[str]) -> list[str]:
    """The first few; a real file can need hundreds of repairs."""
    if len(sentences) <= FEW:
        return list(sentences)
    return [*sentences[:FEW], f"{len(sentences) - FEW} more: see run.json, or pass --verbose"]


def print_summary(summary: Mapping[str, Any], out: Path) -> None:
    """What a person wants to know first."""
    from recontour.embedding import in_words
    from recontour.reports.outlook import verdict

    rows = [("µm/px", _pixel_size(summary)), ("cells", _cells(summary))]
    for name, area in summary["areas_um2"].items():
        rows.append(
            (
                name,
                f"{area['coarse'] / 1e6:.3f} mm² -> {area['refined'] / 1e6:.3f} mm² "
                f"(+{area['added'] / 1e6:.3f}, -{area['removed'] / 1e6:.3f})",
            )
        )
    rows.append(("objects", str(len(summary["objects"]))))
    if validity := summary.get("validity"):
        rows.append(("coarse outline", verdict(validity)))
    rows += _outlook(summary)
    if embedding := in_words(summary["embedding"]):
        rows.append(("embedding", embedding))
    rows.append(("time", f"{sum(summary['timings_s'].values()):.1f} s"))
    rows.append(("look at", str(out / "overview.png")))
    rows.append(("open in QuPath", str(out / "refined.geojson")))
    console.print_table(f"Refined {summary['slide']['id']}", rows)


def _outlook(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How much may be wrong, why it changed, and the first places to look at."""
    from recontour.reports.outlook import brief, sentences, where

    rows = [("", said) for said in sentences(summary, summary["recipe"])]
    rows[:1] = [("estimate", said) for _, said in rows[:1]]
    for place in (summary.get("look_first") or {}).get("places", ())[:FEW]:
        said = f"{brief(place)}, at {where(place)}: {place['reason']}"
        rows.append((f"look first: #{place['number']}", said))
    return rows


def _pixel_size(summary: Mapping[str, Any]) -> str:
    return f"{summary['slide']['mpp']:.4f} ({summary['slide']['mpp_source']})"


def _cells(summary: Mapping[str, Any]) -> str:
    grid = summary["grid"]
    return f"{grid['n_cells']:,} of {grid['cell_um']:.1f} µm: {'; '.join(grid['reasons'])}"


def _plan(
    slide: Path,
    coarse: Path,
    recipe: Recipe,
    reviewed: Path | None,
    also: Sequence[Path],
    runtime: Runtime,
    format: o.Format,
) -> None:
    from recontour.planning import plan

    found = plan(slide, coarse, recipe, reviewed=reviewed, also=also, runtime=runtime)
    if format is o.Format.json:
        console.print_json(found)
        return
    labels = ", ".join(f"{name} {count:,}" for name, count in found["labels"].items())
    expected = found["expected"]
    console.print_table(
        f"Would refine {found['slide']['id']} (dry run; nothing was written)",
        [
            ("µm/px", _pixel_size(found)),
            ("cells", _cells(found)),
            ("labels", labels),
            (
                "expected time",
                f"{expected['seconds']:.0f} s, embedding {expected['seconds_embed']:.0f} s of them "
                f"({expected['cached_share']:.0%} is cached)",
            ),
            ("expected memory", f"{expected['bytes'] / 2**30:.2f} GiB"),
        ],
    )
    console.warn(found["warnings"])
    console.note(found["notes"])
