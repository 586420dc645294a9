"""`recontour tune`: choose a method's options on one slide, without the truth."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recontour.cli import console
from recontour.cli import options as o
from recontour.cli.refine import parse_options
from recontour.errors import OutputRefusedError, UsageError
from recontour.recipe import Recipe, Runtime

if TYPE_CHECKING:
    from recontour.tuning import Tuning

KEPT = ".recontour-tune.json"
"""Finished candidates of an unfinished run."""
SLIDE_OPTIONS = (
    "encoder",
    "mpp",
    "reader",
    "mpp_embed",
    "cell_um",
    "cell_px",
    "patch_um",
    "patch_px",
    "label_rule",
    "tissue",
    "tissue_downsample",
    "origin",
    "entry",
    "seed",
)
"""Settings of a recipe that `refine` takes under their own name."""


def tune(
    slide: o.SlidePath,
    coarse: Annotated[
        Path, typer.Argument(metavar="COARSE", help="Coarse outline: GeoJSON, mask, XML or .sav.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="OUT", help="Folder for tune.json, .csv and .png."),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="Method to tune; prototype, logistic and deep_knn have candidates of their own.",
            rich_help_panel=o.REFINING,
        ),
    ] = "prototype",
    method_option: o.MethodOption = None,
    candidates: Annotated[
        list[str] | None,
        typer.Option(
            "--candidates",
            metavar="NAME=V1,V2,…",
            help="Values of an option to try; may be repeated, tuned in this order. "
            "Default: the method's own.",
            rich_help_panel=o.REFINING,
        ),
    ] = None,
    rule: Annotated[
        str,
        typer.Option(
            "--rule",
            help="plateau, stability or consistency; auto: plateau for k_local, else consistency.",
            rich_help_panel=o.REFINING,
        ),
    ] = "auto",
    bootstraps: Annotated[
        int,
        typer.Option(
            "--bootstraps", min=0, help="Resamples for the stability.", rich_help_panel=o.REFINING
        ),
    ] = 3,
    kinds: Annotated[
        str,
        typer.Option(
            "--kinds",
            help="Kinds of outline for the self-consistency, with commas; see simulate.",
            rich_help_panel=o.REFINING,
        ),
    ] = "generous,missed",
    thorough: Annotated[
        bool,
        typer.Option(
            "--thorough",
            help="Try prototype with all its iterations, not 300; seven times as long.",
            rich_help_panel=o.REFINING,
        ),
    ] = False,
    encoder: o.EncoderName = o.DEFAULT.encoder,
    classes: o.Classes = None,
    exclude_class: o.ExcludeClasses = None,
    mpp: o.Mpp = None,
    reader: o.Reader = "auto",
    mpp_embed: o.MppEmbed = None,
    cell_um: o.CellUm = None,
    cell_px: o.CellPx = None,
    patch_um: o.PatchUm = None,
    patch_px: o.PatchPx = None,
    label_rule: o.LabelRule = o.DEFAULT.label_rule,
    tissue: o.Tissue = o.DEFAULT.tissue,
    tissue_downsample: o.TissueDownsample = None,
    origin: o.Origin = o.DEFAULT.origin,
    entry: o.Entry = None,
    seed: o.Seed = o.DEFAULT.seed,
    device: o.Device = "auto",
    threads: o.Threads = None,
    cache_dir: o.CacheDir = None,
    overwrite: o.Overwrite = False,
    format: o.OutputFormat = o.Format.table,
    quiet: o.Quiet = False,
) -> None:
    """Choose a method's options on one slide without the truth; prints every criterion."""
    from recontour.reports.tuning import describe_tuning, write_tuning
    from recontour.tuning import Plan, tune_slide

    plan = Plan(
        method=method,
        options=parse_options(method_option or []),
        candidates=parse_candidates(candidates or []),
        bootstraps=bootstraps,
        kinds=tuple(kind.strip() for kind in kinds.split(",") if kind.strip()),
        rule=rule,
        seed=seed,
        quick=not thorough,
    )
    recipe = Recipe(
        encoder=encoder,
        classes=tuple(classes or ()),
        exclude_classes=o.excluded(exclude_class),
        mpp=mpp,
        reader=o.reader_named(reader),
        mpp_embed=mpp_embed,
        cell_um=cell_um,
        cell_px=cell_px,
        patch_um=patch_um,
        patch_px=patch_px,
        label_rule=label_rule,
        tissue=tissue,
        tissue_downsample=tissue_downsample,
        origin=origin,
        entry=entry,
        seed=seed,
    )
    if out is not None and (out / "tune.json").exists() and not overwrite:
        raise OutputRefusedError(f"{out} holds a tuning; pass --overwrite to replace it")
    with console.progress_of(quiet) as progress:
        runtime = Runtime(device, threads, cache_dir, progress=progress)
        kept = None if out is None else out / KEPT
        found = tune_slide(slide, coarse, plan, recipe=recipe, runtime=runtime, kept=kept)
    command = refine_command(slide, coarse, recipe, found)
    if out is not None:
        write_tuning(out, found, command)
        (out / KEPT).unlink(missing_ok=True)
    if format is o.Format.json:
        console.print_json(describe_tuning(found, command))
        return
    if quiet:
        return
    print_scores(found)
    for choice in found.choices:
        unchanged = " (as it was)" if choice.value == choice.before else ""
        print(f"{choice.option} = {choice.value}{unchanged}, by {choice.rule}: {choice.because}")
    print("These criteria never saw the truth: look at the result before you trust them.")
    print(command)


def parse_candidates(pairs: list[str]) -> dict[str, tuple[Any, ...]]:
    """NAME=V1,V2,… as values by name; read as --method-option reads them."""
    found: dict[str, tuple[Any, ...]] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name or not text:
            raise UsageError(f"--candidates {pair}: write NAME=V1,V2,…, e.g. k_local=4,8,16")
        values = [parse_options([f"{name}={value.strip()}"]) for value in text.split(",")]
        found[name.replace("-", "_")] = tuple(v for value in values for v in value.values())
    return found


def refine_command(slide: Path, coarse: Path, recipe: Recipe, tuning: Tuning) -> str:
    """The `recontour refine` to run with what was chosen."""
    default = Recipe()
    words = ["recontour", "refine", str(slide), str(coarse), "-o", "OUT"]
    words += ["--method", tuning.plan.method]
    for name, value in tuning.method_options.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        words += ["--method-option", f"{name}={text}"]
    for field in SLIDE_OPTIONS:
        option = "--" + field.replace("_", "-")
        if getattr(recipe, field) != getattr(default, field):
            words += [option, str(getattr(recipe, field))]
    for name in recipe.classes:
        words += ["--class", name]
    if recipe.exclude_classes != default.exclude_classes:
        for name in recipe.exclude_classes:
            words += ["--exclude-class", name]
    return shlex.join(words)


def print_scores(tuning: Tuning) -> None:
    """Every criterion of every candidate, and what stood in the way of one."""
    chosen = {choice.option: choice.value for choice in tuning.choices}
    head = ("", "stability", "of prototypes", "information", "consistency", "foreground")
    rows = [head]
    for c in tuning.candidates:
        mark = "*" if chosen[c.option] == c.value else " "
        s = c.scores
        rows.append(
            (
                f"{mark} {c.option}={c.value}",
                _with_spread(s.stability, s.stability_sd),
                _figure(s.prototype_stability),
                _figure(s.information),
                _figure(s.consistency),
                _figure(s.foreground),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    for row in rows:
        cells = (text.ljust(w) for text, w in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    for c in tuning.candidates:
        console.note([f"{c.option}={c.value}: {problem}" for problem in c.scores.problems])


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _with_spread(value: float, spread: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f} ± {spread:.3f}"
