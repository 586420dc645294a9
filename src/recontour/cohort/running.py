"""A whole cohort: what is left to do, doing it, and what is known of all of it at the end."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from recontour import __version__
from recontour.claim import read_json
from recontour.cohort.carrying import CohortProgress, Silent, carry_out, working
from recontour.cohort.keys import row_key
from recontour.cohort.leases import STALE_S
from recontour.cohort.rows import Manifest, Row
from recontour.cohort.shards import Shard
from recontour.cohort.states import FOLDER, State, now, read_state
from recontour.cohort.sweeping import sweep, sweep_temporary
from recontour.cohort.tasks import DISK_ERROR
from recontour.errors import OutputError, OutputRefusedError
from recontour.executors import Executor, PreparingExecutor
from recontour.files import write_text
from recontour.locks import in_turn
from recontour.recipe import Recipe, Runtime
from recontour.reports.cohort_thumbs import FOLDER as THUMBS
from recontour.storage import is_url

SCHEMA = "recontour.cohort/1"
ABOUT = "cohort.json"
LOCK = ".cohort.lock"
KEYS_AT_ONCE = 8  # waiting for disks, mostly


@dataclass(frozen=True)
class Standing:
    """What is known of the rows before anything runs; `keys` has the key of every row.

    Attributes
    ----------
    done : finished with these very settings and inputs
    failed : failed before, and not to be tried again
    todo : all others
    """

    keys: dict[str, str]
    done: tuple[Row, ...]
    failed: tuple[tuple[Row, State], ...]
    todo: tuple[Row, ...]


@dataclass(frozen=True)
class CohortOutcome:
    """How a run of a cohort went.

    Attributes
    ----------
    done : ids that are finished now, and those of them that were before
    already : how many of `done` needed nothing
    failures : "id", "error", "error_kind", "attempts" of those that failed, now or before
    not_begun : ids that were not begun, since another failed
    removed : ids that have a state in OUT and no row in the manifest any more
    """

    done: tuple[str, ...]
    already: int
    failures: tuple[dict[str, Any], ...]
    not_begun: tuple[str, ...]
    removed: tuple[str, ...]

    @property
    def disk_error(self) -> str:
        """Why nothing could be written any more; "" when everything could."""
        said = (f["error"] for f in self.failures if f["error_kind"] == DISK_ERROR)
        return next(said, "")


def run_cohort(
    manifest: Manifest,
    out: Path | str,
    recipe: Recipe,
    runtime: Runtime,
    executor: Executor,
    *,
    skip_errors: bool = False,
    retry_failed: bool = False,
    strict: bool = False,
    timeout_s: float | None = None,
    shard: Shard | None = None,
    overwrite: bool = False,
    progress: CohortProgress | None = None,
    stale_s: float = STALE_S,
) -> CohortOutcome:
    """Refine every slide of a manifest that `out` does not hold yet; resumable at any moment.

    Several processes may do so at the same time with the same `out`, on one host or on several
    that share it: each slide is done by one of them.

    Parameters
    ----------
    manifest : checked before (`check_manifest`)
    recipe : for all slides; a row may differ
    executor : is closed at the end
    skip_errors : go on after a failure; else nothing is begun after the first one
    retry_failed : try again what failed before
    strict : an outline that looks invalid is a failure
    timeout_s : seconds after which a slide that is not done has failed
    shard : work on this part of the rows only
    overwrite : `out` may hold a cohort with another recipe; its slides are done again
    stale_s : seconds without a sign after which somebody else's slide is taken over

    Raises
    ------
    OutputRefusedError : `out` holds a cohort with another recipe
    OutputError : `out` cannot be written
    """
    out, progress = Path(out), progress or Silent()
    check_out(out, recipe, overwrite=overwrite)
    rows = rows_of(manifest, shard)
    with working(executor):
        standing = stand(rows, out, recipe, retry_failed=retry_failed)
        if standing.todo and isinstance(executor, PreparingExecutor):
            executor.prepare(out, some_inputs(standing.todo), device=runtime.device)
        write_about(manifest, out, recipe)
        progress.begin(len(rows), len(standing.done) + len(standing.failed))
        make = partial(
            task_of,
            out=out,
            recipe=recipe,
            runtime=runtime,
            timeout_s=timeout_s,
            strict=strict,
        )
        states = {row.id: read_state(out / FOLDER, row.id) for row in standing.todo}
        tasks = [make(row, standing.keys[row.id], states[row.id]) for row in standing.todo]
        try:
            ended = carry_out(
                tasks, executor, skip_errors=skip_errors, progress=progress, stale_s=stale_s
            )
            values = {value["id"]: value for value in ended}
        except BaseException:
            with contextlib.suppress(OutputError):
                write_about(manifest, out, recipe)
            raise
        _conclude(manifest, out, recipe, values)
    fine = {id for id, value in values.items() if value["outcome"] in ("done", "already")}
    fine |= {row.id for row in standing.done}
    failures = [_failure(row.id, state) for row, state in standing.failed]
    failures += [_failed(value) for value in values.values() if value["outcome"] == "failed"]
    known = fine | {failure["id"] for failure in failures}
    return CohortOutcome(
        done=tuple(row.id for row in rows if row.id in fine),
        already=len(standing.done),
        failures=tuple(failures),
        not_begun=tuple(row.id for row in rows if row.id not in known),
        removed=removed(manifest, out),
    )


def _conclude(
    manifest: Manifest, out: Path, recipe: Recipe, values: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write what is known of the whole cohort, and tidy up."""
    try:
        write_about(manifest, out, recipe)
    except OutputError:
        if all(value["error_kind"] != DISK_ERROR for value in values.values()):
            raise
        # It is the disk that stopped the run, and that is said already.
    sweep(out / FOLDER)
    sweep_temporary(out / THUMBS)


def some_inputs(rows: Sequence[Row], most: int = 8) -> list[str]:
    """Slides and outlines of some rows all over the manifest, which every worker has to see too.

    What is missing here is no fault of the workers, but of its row.
    """
    some = rows[:: -(-len(rows) // most)]
    paths = [path for row in some for path in (row.slide, row.coarse)]
    return [path for path in paths if is_url(path) or Path(path).exists()]


def rows_of(manifest: Manifest, shard: Shard | None) -> tuple[Row, ...]:
    """The rows to work on."""
    return tuple(row for row in manifest.rows if shard is None or row.id in shard)


def stand(
    rows: Sequence[Row], out: Path, recipe: Recipe, *, retry_failed: bool = False
) -> Standing:
    """Sort rows by what is known of them; one whose settings or files changed is to be done."""
    with ThreadPoolExecutor(KEYS_AT_ONCE) as pool:
        keys = list(pool.map(partial(row_key, recipe=recipe), rows))
        states = list(pool.map(partial(read_state, out / FOLDER), (row.id for row in rows)))
    done, failed, todo = [], [], []
    for row, key, state in zip(rows, keys, states, strict=True):
        if state is None or state.key != key:
            todo.append(row)
        elif state.outcome == "done" and (out / row.id / "run.json").exists():
            done.append(row)
        elif state.outcome == "failed" and not retry_failed and state.error_kind != DISK_ERROR:
            failed.append((row, state))
        else:
            todo.append(row)
    named = {row.id: key for row, key in zip(rows, keys, strict=True)}
    return Standing(named, tuple(done), tuple(failed), tuple(todo))


def task_of(
    row: Row,
    key: str,
    state: State | None,
    *,
    out: Path,
    recipe: Recipe,
    runtime: Runtime,
    timeout_s: float | None = None,
    strict: bool = False,
    kind: str = "refine",
) -> dict[str, Any]:
    """The task of a row, as `run_task` takes it; `state` is what is known of the slide."""
    settings = recipe.to_dict()
    if Path(settings["tissue"]).suffix:  # a file; the worker may be in another folder
        settings["tissue"] = str(Path(settings["tissue"]).absolute())
    return {
        "kind": kind,
        "id": row.id,
        "key": key,
        "row": row.to_dict(),
        "out": str(out.absolute()),
        "recipe": settings,
        "runtime": {
            **{f.name: getattr(runtime, f.name) for f in fields(runtime) if f.name != "progress"},
            "cache_dir": runtime.cache_dir and str(runtime.cache_dir.absolute()),
        },
        "timeout_s": timeout_s,
        "attempts": state.attempts if state is not None and state.key == key else 0,
        "strict": strict,
    }


def check_out(out: Path, recipe: Recipe, *, overwrite: bool = False, pooled: bool = False) -> None:
    """Refuse a folder with a cohort of another recipe: each of its slides would be replaced.

    Raises
    ------
    OutputRefusedError
    """
    if out.exists() and not out.is_dir():
        raise OutputRefusedError(f"{out} is a file; pass a folder with -o")
    before = read_json(out / ABOUT).get("recipe")
    ours = shown(recipe, pooled)
    if overwrite or not isinstance(before, dict):
        return
    names = sorted(n for n in {*before, *ours} if before.get(n) != ours.get(n))
    if names:
        said = ", ".join(f"{name} {before.get(name)} -> {ours.get(name)}" for name in names)
        raise OutputRefusedError(
            f"{out} holds a cohort with other settings ({said}); pass another folder, or "
            "--overwrite to do its slides again"
        )


def shown(recipe: Recipe, pooled: bool = False) -> dict[str, Any]:
    """The recipe for `cohort.json`: file names only, no folders."""
    settings = recipe.to_dict()
    if Path(settings["tissue"]).suffix:
        settings["tissue"] = Path(settings["tissue"]).name
    return {**settings, "pooled": True} if pooled else settings


def removed(manifest: Manifest, out: Path) -> tuple[str, ...]:
    """Ids with a state in `out` that the manifest has no more."""
    ids = {row.id for row in (*manifest.rows, *manifest.faulty)}
    found = (path.stem for path in (out / FOLDER).glob("*.json"))
    return tuple(sorted(id for id in found if id not in ids and not id.startswith(".")))


def write_about(manifest: Manifest, out: Path, recipe: Recipe, *, pooled: bool = False) -> None:
    """Write `cohort.json`, from the states of all rows: also what other processes did.

    Raises
    ------
    OutputError : it cannot be written
    """
    with in_turn(out / LOCK):  # of several processes, the one that looked last writes last
        write_text(out / ABOUT, _about(manifest, out, recipe, pooled))


def _about(manifest: Manifest, out: Path, recipe: Recipe, pooled: bool) -> str:
    states = [(row, read_state(out / FOLDER, row.id)) for row in manifest.rows]
    counts = {"rows": len(states), "done": 0, "failed": 0, "waiting": 0}
    for _, state in states:
        settled = state is not None and state.outcome in ("done", "failed")
        counts[state.outcome if state is not None and settled else "waiting"] += 1
    gone = removed(manifest, out)
    about = {
        "schema": SCHEMA,
        "manifest": {"file": manifest.path.name, "sha256": manifest.digest},
        "recipe": shown(recipe, pooled),
        "counts": {**counts, "removed": len(gone)},
        "failures": [
            {"line": row.line, **_failure(row.id, state)}
            for row, state in states
            if state is not None and state.outcome == "failed"
        ],
        "removed": list(gone),
        "updated": now(),
        "versions": {"recontour": __version__},
    }
    return json.dumps(about, indent=2, ensure_ascii=False) + "\n"


def _failure(id: str, state: State) -> dict[str, Any]:
    return {
        "id": id,
        "error": state.error,
        "error_kind": state.error_kind,
        "attempts": state.attempts,
    }


def _failed(value: dict[str, Any]) -> dict[str, Any]:
    return {name: value[name] for name in ("id", "error", "error_kind", "attempts")}
