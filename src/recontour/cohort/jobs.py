"""What a lane does for a task: one function for each kind.

A job is `job(task, work, runtime) -> facts`: it writes its files into the folder `work`, which is
put in the place of `task["target"]` when it is done, and returns a few figures of JSON types.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from recontour.cohort.rows import Row
from recontour.errors import UnknownNameError
from recontour.recipe import Progress, Recipe, Runtime, no_progress
from recontour.types import Refiner

Job = Callable[[dict[str, Any], Path, Runtime], dict[str, Any]]

JOBS = {
    "refine": "recontour.cohort.jobs:refine",
    "sample": "recontour.cohort.pool_jobs:sample",
    "fit": "recontour.cohort.pool_jobs:fit",
    "predict": "recontour.cohort.pool_jobs:predict",
}
"""Kind -> "module:function"."""


def job_of(kind: str) -> Job:
    """Import the job of a kind.

    Raises
    ------
    UnknownNameError : no such kind
    """
    if kind not in JOBS:
        raise UnknownNameError.of("kind of task", kind, JOBS)
    module, _, name = JOBS[kind].partition(":")
    return cast(Job, getattr(importlib.import_module(module), name))


def recipe_of(task: Mapping[str, Any]) -> Recipe:
    """The settings of the slide of a task: its own, for the rest those of the cohort."""
    data: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in task["recipe"].items()
    }
    return Row.from_dict(task["row"]).recipe_of(Recipe(**data))


def runtime_of(task: Mapping[str, Any], progress: Progress = no_progress) -> Runtime:
    """How the task is carried out."""
    data = dict(task["runtime"])
    if data.get("cache_dir") is not None:
        data["cache_dir"] = Path(data["cache_dir"])
    return Runtime(**data, progress=progress)


@contextlib.contextmanager
def local_row(task: Mapping[str, Any], runtime: Runtime) -> Iterator[Row]:
    """The row of a task with files on this machine: what lies at URLs is fetched, and held."""
    from recontour.cache import default_cache_dir
    from recontour.storage import FOLDER, held_copies

    row = Row.from_dict(task["row"])
    own = [path for path in (row.slide, row.coarse, row.reviewed, *row.also) if path]
    with held_copies(own, (runtime.cache_dir or default_cache_dir()) / FOLDER) as copies:
        at = dict(zip(own, map(str, copies), strict=True))
        yield replace(
            row,
            slide=at[row.slide],
            coarse=at[row.coarse],
            reviewed=at[row.reviewed] if row.reviewed else None,
            also=tuple(at[path] for path in row.also),
        )


def refine(
    task: dict[str, Any], work: Path, runtime: Runtime, *, refiner: Refiner | None = None
) -> dict[str, Any]:
    """Refine one slide, as `recontour refine` does; `work` gets the same files.

    `refiner` : fitted on a pool of slides; None learns from this one
    """
    from recontour.files import remove_leftovers
    from recontour.reports.cohort_thumbs import OVERVIEW, thumb_path, write_thumbnail
    from recontour.runs import refine_to_folder

    with local_row(task, runtime) as row:
        summary = refine_to_folder(
            row.slide,
            row.coarse,
            work,
            recipe_of(task),
            runtime,
            reviewed=row.reviewed,
            also=row.also,
            strict=bool(task.get("strict")),
            refiner=refiner,
        ).summary
    # Here, beside the other slides, and not at the end for thousands of them.
    thumb = thumb_path(Path(task["out"]), task["id"])
    if task.get("attempts"):  # one of them may have been killed while it wrote this
        remove_leftovers(thumb.parent, [thumb.name])
    write_thumbnail(work / OVERVIEW, thumb)
    return {"cells": summary["grid"]["n_cells"], "warnings": len(summary["warnings"])}
