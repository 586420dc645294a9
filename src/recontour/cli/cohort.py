"""`recontour cohort`: many slides in one folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recontour.cli import console
from recontour.cli import options as o
from recontour.cli.presets import with_preset
from recontour.cli.refine import Only, parse_options
from recontour.errors import ClusterError
from recontour.recipe import Recipe, Runtime

if TYPE_CHECKING:
    from recontour.cohort.rows import Manifest, Problem
    from recontour.cohort.running import CohortOutcome
    from recontour.cohort.shards import Shard

MOST_SAID = 20
"""So many failures are printed; `cohort.json` and the summary have them all."""


class ExecutorName(StrEnum):
    """What carries out the slides."""

    serial = "serial"
    threads = "threads"
    dask = "dask"


def cohort(
    context: typer.Context,
    manifest: Annotated[
        Path,
        typer.Argument(metavar="MANIFEST", help="CSV with one line a slide: slide, coarse, …"),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="OUT", help="Folder of the whole cohort.")
    ],
    coarse_dir: Annotated[
        Path | None,
        typer.Option(
            "--coarse-dir",
            metavar="FOLDER",
            help="Outlines named as the slides, for rows that name none.",
            rich_help_panel=o.READING,
        ),
    ] = None,
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
            help="σ of the smoothing of probabilities, in cells. Default: the method's.",
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
            "--only", help="Let outlines only grow or only shrink.", rich_help_panel=o.REFINING
        ),
    ] = None,
    within_um: Annotated[
        float | None,
        typer.Option(
            "--within-um",
            metavar="N",
            help="Never move further than N µm from the given outlines.",
            rich_help_panel=o.REFINING,
        ),
    ] = None,
    postprocess: Annotated[
        o.PostProcess,
        typer.Option(
            "--postprocess",
            help="default, published or none: see refine.",
            rich_help_panel=o.REFINING,
        ),
    ] = o.PostProcess.default,
    band: o.Band = o.DEFAULT.band,
    reviewed_sample: o.ReviewedSample = False,
    error_target: o.ErrorTarget = None,
    seed: o.Seed = o.DEFAULT.seed,
    pooled: Annotated[
        bool,
        typer.Option(
            "--pooled",
            help="The method learns from samples of all slides together, then answers for each; "
            "with --method prototype, logistic, lc_mil, deep_knn or pencil.",
            rich_help_panel=o.REFINING,
        ),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="A slide whose outline looks wrong as a whole fails, instead of a warning.",
            rich_help_panel=o.RUNNING,
        ),
    ] = False,
    skip_errors: Annotated[
        bool,
        typer.Option(
            "--skip-errors",
            help="Go on after a slide that fails; without, none is begun after the first failure.",
            rich_help_panel=o.RUNNING,
        ),
    ] = False,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed",
            help="Try again what failed before; without, it stays failed.",
            rich_help_panel=o.RUNNING,
        ),
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout",
            metavar="MIN",
            min=0.0,
            help="Minutes after which a slide that is not done has failed. Default: none, but one "
            "that says nothing for an hour hangs.",
            rich_help_panel=o.RUNNING,
        ),
    ] = None,
    executor: Annotated[
        ExecutorName,
        typer.Option(
            "--executor",
            help="serial: one slide at a time; threads: several on this machine; dask: on a "
            "cluster.",
            rich_help_panel=o.RUNNING,
        ),
    ] = ExecutorName.threads,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs",
            min=1,
            help="Slides worked on side by side; they share the cores.",
            rich_help_panel=o.RUNNING,
        ),
    ] = 1,
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler",
            metavar="ADDRESS",
            help="With --executor dask: a running scheduler, tcp://HOST:8786. Default: a cluster "
            "on this machine.",
            rich_help_panel=o.RUNNING,
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            metavar="I/N",
            help="Work on the I-th of N parts of the manifest only: for array jobs.",
            rich_help_panel=o.RUNNING,
        ),
    ] = None,
    device: o.Device = "auto",
    threads: o.Threads = None,
    engine: o.Engine = "eager",
    precision: o.Precision = "auto",
    cache_dir: o.CacheDir = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="OUT may hold a cohort with other settings: its slides are done again.",
            rich_help_panel=o.RUNNING,
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check the manifest; say what is to do and how long it takes; write nothing.",
            rich_help_panel=o.RUNNING,
        ),
    ] = False,
    format: o.OutputFormat = o.Format.table,
    quiet: o.Quiet = False,
) -> None:
    """Refine the outlines of many slides; resumable, and safe to run from several processes."""
    recipe = Recipe(
        method=method,
        method_options=parse_options(method_option or []),
        encoder=encoder,
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
    from recontour.cohort.manifest import read_manifest
    from recontour.cohort.settings import check_runtime
    from recontour.cohort.shards import parse_shard

    part = None if shard is None else parse_shard(shard)
    table = read_manifest(manifest, coarse_dir=coarse_dir)
    console.note(table.notes, quiet=quiet)
    # On a cluster the workers know their own cores best.
    shared = jobs > 1 and scheduler is None and executor is not ExecutorName.serial
    threads = threads or (max(1, cores() // jobs) if shared else None)
    runtime = Runtime(device, threads, cache_dir, engine=engine, precision=precision)
    check_runtime(recipe, runtime, here=scheduler is None)
    if pooled:
        from recontour.cohort.pooling import check_method

        check_method(table, recipe)
    told = {"skip_errors": skip_errors, "overwrite": overwrite, "quiet": quiet, "pooled": pooled}
    _check(table, out, recipe, runtime, **told)
    if dry_run:
        from recontour.cohort.outlook import plan_cohort

        plan = plan_cohort(
            table,
            out,
            recipe,
            runtime,
            jobs=1 if executor is ExecutorName.serial else jobs,
            shard=part,
            retry_failed=retry_failed,
            overwrite=overwrite,
            pooled=pooled,
        )
        _print_plan(plan, format)
        return
    from recontour.cli.cohort_progress import cohort_progress
    from recontour.cohort.pooling import run_pooled
    from recontour.cohort.running import ABOUT, run_cohort
    from recontour.executors import make_executor

    carrier = make_executor(executor.value, jobs=jobs, scheduler=scheduler)
    try:
        with cohort_progress(quiet) as progress:
            outcome = (run_pooled if pooled else run_cohort)(
                table,
                out,
                recipe,
                runtime,
                carrier,
                skip_errors=skip_errors,
                retry_failed=retry_failed,
                strict=strict,
                timeout_s=None if timeout is None else timeout * 60,
                shard=part,
                overwrite=overwrite,
                progress=progress,
            )
    except ClusterError:  # what was done until then is worth a look
        if (out / ABOUT).exists():
            _summarise(table, out, quiet=quiet)
        raise
    if not outcome.disk_error:
        _summarise(table, out, quiet=quiet)
    _finish(outcome, out, part, format, quiet=quiet)


def _summarise(table: Manifest, out: Path, *, quiet: bool) -> None:
    """Write the summary of all rows, whatever part of them was worked on now."""
    from recontour.reports.cohort_page import write_cohort_summary

    with console.progress_of(quiet) as progress:
        notes = write_cohort_summary(out, table.rows, threads=cores(), progress=progress)
    console.note(notes, quiet=quiet)


def cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check(
    table: Manifest,
    out: Path,
    recipe: Recipe,
    runtime: Runtime,
    *,
    skip_errors: bool,
    overwrite: bool,
    quiet: bool,
    pooled: bool,
) -> None:
    """Refuse a manifest with problems, all of them at once.

    With --skip-errors what is wrong with the files of a row is that row's failure alone.
    """
    from recontour.cohort.checking import check_manifest
    from recontour.cohort.pooling import answered
    from recontour.cohort.rows import refusal
    from recontour.cohort.running import check_out, stand

    check_out(out, recipe, overwrite=overwrite, pooled=pooled)
    if pooled:
        done = answered(table.rows, out, recipe)
    else:
        done = stand(table.rows, out, recipe).done if out.is_dir() else ()
    with console.progress_of(quiet) as progress:
        told = replace(runtime, progress=progress)
        problems = check_manifest(table, recipe, told, finished={r.id for r in done})
    grave = problems if not skip_errors else [p for p in problems if _is_grave(p, table)]
    if grave:
        raise refusal(table.path.name, problems)
    console.warn([f"{problem}; it will fail" for problem in problems])


def _is_grave(problem: Problem, table: Manifest) -> bool:
    return problem.line == 0 or problem in table.problems


def _finish(
    outcome: CohortOutcome, out: Path, part: Shard | None, format: o.Format, *, quiet: bool
) -> None:
    """Say how it went; exit 1 when something failed."""
    for failure in outcome.failures[:MOST_SAID]:
        times = f" (attempt {failure['attempts']})" if failure["attempts"] > 1 else ""
        console.say(f"failed: {failure['id']}: {failure['error']}{times}")
    if len(outcome.failures) > MOST_SAID:
        console.say(f"failed: {len(outcome.failures) - MOST_SAID} more; see {out / 'cohort.json'}")
    if outcome.removed:
        more = ", …" if len(outcome.removed) > MOST_SAID else ""
        console.note(
            [
                f"in {out} but no longer in the manifest, and left as they are "
                f"({len(outcome.removed)}): {', '.join(outcome.removed[:MOST_SAID])}{more}"
            ],
            quiet=quiet,
        )
    if format is o.Format.json:
        console.print_json(
            {
                "schema": "recontour.cohort_outcome/1",
                "out": str(out),
                "done": list(outcome.done),
                "already": outcome.already,
                "failures": list(outcome.failures),
                "not_begun": list(outcome.not_begun),
                "removed": list(outcome.removed),
            }
        )
    elif not quiet:
        rows = [("done", f"{len(outcome.done)} ({outcome.already} of them before)")]
        rows += [("failed", str(len(outcome.failures)))] if outcome.failures else []
        rows += [("not begun", str(len(outcome.not_begun)))] if outcome.not_begun else []
        rows += [] if outcome.disk_error else [("look at", str(out / "summary.html"))]
        console.print_table(f"Cohort in {out}{f', part {part}' if part else ''}", rows)
    if not outcome.failures:
        return
    if outcome.disk_error:
        console.say("nothing could be written; free some space, and the same command goes on")
    elif outcome.not_begun:
        console.say(
            "the same command goes on with the others; --skip-errors does not stop at a failure, "
            "--retry-failed tries the failed again"
        )
    else:
        console.say("--retry-failed tries the failed again")
    raise typer.Exit(1)


def _print_plan(plan: Mapping[str, Any], format: o.Format) -> None:
    from recontour.cli.cohort_progress import duration

    if format is o.Format.json:
        console.print_json(plan)
        return
    expected = plan["expected"]
    rows = [
        ("slides", f"{plan['rows']}, {plan['done']} of them done"),
        ("failed before", ", ".join(plan["failed"][:MOST_SAID])),
        ("to do", str(len(plan["todo"]))),
    ]
    if plan["cells_per_slide"] is not None:
        rows.append(("cells", f"about {plan['cells_per_slide']:,} a slide"))
    if expected["seconds"] is not None:
        rows.append(
            (
                "expected time",
                f"{duration(expected['seconds'])} with {expected['jobs']} at a time; "
                f"{duration(expected['seconds_per_slide'])} a slide: {expected['basis']}",
            )
        )
    console.print_table("Would refine (dry run; nothing was written)", [r for r in rows if r[1]])
