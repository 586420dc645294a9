"""`recontour report`: tables and figures of a benchmark, made again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recontour.cli import console
from recontour.cli import options as o


def report(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="Folder that `recontour benchmark -o` wrote.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR", help="Write here. Default: into RESULTS."),
    ] = None,
    quiet: o.Quiet = False,
) -> None:
    """Make the report of a benchmark again, also of one that is not finished."""
    from recontour.benchmark.records import Results
    from recontour.reports.benchmark_page import write_benchmark_report

    page = write_benchmark_report(Results(results), out)
    console.say(f"report: {page}", quiet=quiet)
