"""What a cohort would take (`--dry-run`): nothing is written."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from recontour.cohort.pooling import answered
from recontour.cohort.rows import Manifest, Row
from recontour.cohort.running import check_out, rows_of, stand
from recontour.cohort.shards import Shard
from recontour.cohort.states import FOLDER, read_state
from recontour.errors import RecontourError
from recontour.recipe import Recipe, Runtime
from recontour.storage import is_url

SCHEMA = "recontour.cohort_plan/1"
SAMPLE = 3
"""Slides that are looked at where no slide was finished yet."""


def plan_cohort(
    manifest: Manifest,
    out: Path,
    recipe: Recipe,
    runtime: Runtime,
    *,
    jobs: int = 1,
    shard: Shard | None = None,
    retry_failed: bool = False,
    overwrite: bool = False,
    pooled: bool = False,
) -> dict[str, Any]:
    """What `run_cohort` would do, and how long it would take.

    The time is that of the slides of this cohort that are finished already; where none is, a few
    are laid out in cells and one small trial tells the speed of the encoder.

    Raises
    ------
    OutputRefusedError : `out` holds a cohort with another recipe
    """
    check_out(out, recipe, overwrite=overwrite, pooled=pooled)
    rows = rows_of(manifest, shard)
    standing = stand(rows, out, recipe, retry_failed=retry_failed)
    if pooled:
        done = answered(rows, out, recipe)
        todo = tuple(row for row in rows if row not in done)
        standing = replace(standing, done=done, failed=(), todo=todo)
    seconds, basis, cells = _measured(standing.done, out)
    if seconds is None and standing.todo:
        seconds, basis, cells = _tried(standing.todo, recipe, runtime)
    return {
        "schema": SCHEMA,
        "rows": len(rows),
        "done": len(standing.done),
        "failed": [row.id for row, _ in standing.failed],
        "todo": [row.id for row in standing.todo],
        "cells_per_slide": cells,
        "expected": {
            "seconds_per_slide": seconds,
            "seconds": None if seconds is None else seconds * len(standing.todo) / jobs,
            "jobs": jobs,
            "basis": basis,
        },
    }


def _measured(done: Sequence[Row], out: Path) -> tuple[float | None, str, int | None]:
    """(seconds and cells of a slide, and where that is from), of what is finished."""
    states = [state for row in done if (state := read_state(out / FOLDER, row.id)) is not None]
    spent = [state.seconds for state in states if state.seconds]
    if not spent:
        return None, "unknown", None
    cells = [int(state.facts["cells"]) for state in states if "cells" in state.facts]
    basis = f"the median of {len(spent)} finished slides"
    return statistics.median(spent), basis, round(statistics.median(cells)) if cells else None


def _tried(
    todo: Sequence[Row], recipe: Recipe, runtime: Runtime
) -> tuple[float | None, str, int | None]:
    """The same, of a few slides spread over the manifest."""
    from recontour.planning import plan

    here = [row for row in todo if not is_url(row.slide) and not is_url(row.coarse)]
    spent, cells = [], []
    for row in here[:: max(1, len(here) // SAMPLE)][:SAMPLE]:
        try:
            found = plan(Path(row.slide), Path(row.coarse), row.recipe_of(recipe), runtime=runtime)
        except RecontourError:  # it fails when its turn comes; this is about the others
            continue
        spent.append(found["expected"]["seconds"])
        cells.append(found["grid"]["n_cells"])
    if not spent:
        return None, "unknown", None
    basis = f"the mean of {len(spent)} slides that were looked at"
    return statistics.mean(spent), basis, round(statistics.mean(cells))
