"""A cohort whose method learns from all slides together: samples, one fit, an answer for each.

Each stage is tasks like any other of a cohort, with a state file and a lease each, so that a killed
run goes on where it was. The fit is named by what it is made of: an unchanged cohort is never
fitted again, a changed one always is, and the samples of unchanged slides stay.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from recontour import registry
from recontour.claim import read_json
from recontour.cohort.carrying import CohortProgress, Silent, carry_out, working
from recontour.cohort.keys import row_key
from recontour.cohort.leases import STALE_S
from recontour.cohort.pool_jobs import FITS, REFINER, SAMPLES
from recontour.cohort.pool_plan import (
    ABOUT,
    STATES,
    Plan,
    PoolSize,
    is_settled,
    make_plan,
    write_pool,
)
from recontour.cohort.rows import Manifest, Row
from recontour.cohort.running import (
    KEYS_AT_ONCE,
    CohortOutcome,
    check_out,
    removed,
    rows_of,
    some_inputs,
    task_of,
    write_about,
)
from recontour.cohort.shards import Shard
from recontour.cohort.states import FOLDER, State, read_state
from recontour.cohort.sweeping import sweep
from recontour.errors import OutputError, RecontourError, UsageError
from recontour.executors import Executor, PreparingExecutor
from recontour.recipe import Recipe, Runtime, digest
from recontour.refiners.keeping import can_keep

AFTER = (
    *("method", "method_options", "threshold", "smooth_cells", "min_area_um2", "simplify_um"),
    *("only", "within_um", "postprocess", "band", "error_target", "reviewed_sample"),
)
"""What of a recipe does not touch a sample: with another method the samples are used again."""

Task = dict[str, Any]
Failures = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Stage:
    """How the rows stand with one of the stages; `keys` has the key of each."""

    keys: Mapping[str, str]
    done: tuple[Row, ...] = ()
    failed: tuple[tuple[Row, State], ...] = ()
    todo: tuple[tuple[Row, State | None], ...] = ()


def run_pooled(
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
    size: PoolSize | None = None,
    align: bool = True,
) -> CohortOutcome:
    """Refine every slide of a manifest by a method that learned from all of them.

    As `run_cohort`, and with the same promises. A slide of which no sample can be drawn has failed;
    with `skip_errors` the pool does without it, and `OUT/pool/pool.json` says so.

    Parameters
    ----------
    size : of the pool
    align : standardise each slide by its own mean and spread first

    Raises
    ------
    UsageError : the method cannot learn from a pool, or rows differ in their method
    OutputRefusedError : `out` holds another cohort
    RecontourError : no sample to learn from; samples that do not fit together; with `shard`,
        samples of other parts are missing yet; the fit failed
    """
    out, progress, size = Path(out), progress or Silent(), size or PoolSize()
    check_method(manifest, recipe)
    check_out(out, recipe, overwrite=overwrite, pooled=True)
    rows = rows_of(manifest, shard)
    make = partial(task_of, out=out, recipe=recipe, runtime=runtime, timeout_s=timeout_s)
    run = partial(
        _run_stage, executor=executor, skip_errors=skip_errors, progress=progress, stale_s=stale_s
    )
    answers = Stage({})
    with working(executor), _telling(manifest, out, recipe):
        drawn = _keys(manifest.rows, partial(sample_key, recipe=recipe, size=size))
        samples = _stand(rows, drawn, out / STATES, out / SAMPLES, "sample.npz", retry_failed)
        if isinstance(executor, PreparingExecutor):
            executor.prepare(out, some_inputs(rows), device=runtime.device)
        failures = run(samples, partial(_sample_task, make=make, size=size), name="sample")
        for id in failures:
            _tell(out, id)
        if skip_errors or not failures:
            plan = make_plan(manifest.rows, drawn, out, recipe, size, align=align)
            _fit(plan, make, run, out)
            write_pool(out, plan, manifest.rows)
            left = [row for row in rows if row.id not in failures]
            keys = _keys(left, partial(answer_key, recipe=recipe, plan=plan.digest))
            answers = _stand(left, keys, out / FOLDER, out, "run.json", retry_failed)
            answer = partial(_answer_task, make=make, plan=plan, strict=strict)
            failures |= run(answers, answer, name="answer")
        for folder in (out / STATES, out / FITS / FOLDER, out / FOLDER):
            sweep(folder)
    fine = {id for id, key in answers.keys.items() if _is_done(out, id, key)}
    known = fine | set(failures)
    return CohortOutcome(
        done=tuple(row.id for row in rows if row.id in fine),
        already=len(answers.done),
        failures=tuple(failures.values()),
        not_begun=tuple(row.id for row in rows if row.id not in known),
        removed=removed(manifest, out),
    )


def check_method(manifest: Manifest, recipe: Recipe) -> None:
    """Refuse what cannot learn from a pool, before anything is embedded.

    Raises
    ------
    UsageError
    """
    if not can_keep(recipe.method):
        able = [name for name in registry.names("refiner") if can_keep(name)]
        raise UsageError(
            f"--pooled: {recipe.method} learns from one slide at a time; choose a --method that "
            f"learns from many: {', '.join(able)}"
        )
    own = [row for row in manifest.rows if {"method", "method_options", "seed"} & set(row.settings)]
    if own:
        named = ", ".join(f"line {row.line} ({row.id})" for row in own[:5])
        raise UsageError(
            f"--pooled: one method for all slides, but these have their own method, options or "
            f"seed: {named}; leave them out of the manifest"
        )


def sample_key(row: Row, *, recipe: Recipe, size: PoolSize) -> str:
    """Names all that a sample depends on: the method and what comes after it are not among it."""
    plain = {name: getattr(Recipe(), name) for name in AFTER}
    own = {name: value for name, value in row.settings.items() if name not in AFTER}
    key = row_key(replace(row, settings=own), replace(recipe, **plain))
    return digest([key, size.a_slide])


def answer_key(row: Row, *, recipe: Recipe, plan: str) -> str:
    """Names all that the answer for a slide depends on: its own, and the pool."""
    return digest([row_key(row, recipe), plan])


def answered(rows: Sequence[Row], out: Path, recipe: Recipe) -> tuple[Row, ...]:
    """The rows that the present pool has answered for; a changed manifest may make another pool."""
    plan = read_json(out / ABOUT).get("digest", "")
    if not plan:
        return ()
    keys = _keys(rows, partial(answer_key, recipe=recipe, plan=plan))
    return _stand(rows, keys, out / FOLDER, out, "run.json", retry_failed=False).done


def _sample_task(
    row: Row, key: str, state: State | None, *, make: Callable[..., Task], size: PoolSize
) -> Task:
    task = make(row, key, state, kind="sample")
    target = (SAMPLES / row.id).as_posix()
    return {**task, "states": STATES.as_posix(), "target": target, "most": size.a_slide}


def _answer_task(
    row: Row,
    key: str,
    state: State | None,
    *,
    make: Callable[..., Task],
    plan: Plan,
    strict: bool,
) -> Task:
    task = make(row, key, state, kind="predict", strict=strict)
    return {**task, "plan": plan.digest, "sample": plan.known[row.id]}


def _fit(plan: Plan, make: Callable[..., Task], run: Callable[..., Failures], out: Path) -> None:
    """Fit once, whoever does it; its state lies beside its result.

    Raises
    ------
    RecontourError : it failed
    """
    nobody = Row(plan.digest, slide="", coarse="")
    keys = {nobody.id: nobody.id}
    stage = _stand([nobody], keys, out / FITS / FOLDER, out / FITS, REFINER, retry_failed=True)

    def task(row: Row, key: str, state: State | None) -> Task:
        more = {"plan": plan.digest, "states": (FITS / FOLDER).as_posix()}
        return {**make(row, key, state, kind="fit"), **more, "target": (FITS / row.id).as_posix()}

    failed = run(stage, task, name="learn")
    if failed:
        raise RecontourError(f"learning from the pool failed: {failed[nobody.id]['error']}")


def _run_stage(
    stage: Stage,
    task: Callable[[Row, str, State | None], Task],
    *,
    name: str,
    executor: Executor,
    skip_errors: bool,
    progress: CohortProgress,
    stale_s: float,
) -> Failures:
    """Do what is left of a stage; failures by id, those from before included."""
    failures = {row.id: _failure(row.id, vars(state)) for row, state in stage.failed}
    settled = len(stage.done) + len(failures)
    progress.begin(len(stage.todo) + settled, settled, name)
    if failures and not skip_errors:
        return failures
    tasks = [task(row, stage.keys[row.id], state) for row, state in stage.todo]
    ended = carry_out(tasks, executor, skip_errors=skip_errors, progress=progress, stale_s=stale_s)
    values = {value["id"]: value for value in ended if value["outcome"] == "failed"}
    return failures | {id: _failure(id, value) for id, value in values.items()}


def _failure(id: str, told: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": id, **{name: told[name] for name in ("error", "error_kind", "attempts")}}


def _keys(rows: Sequence[Row], key: Callable[[Row], str]) -> dict[str, str]:
    with ThreadPoolExecutor(KEYS_AT_ONCE) as pool:
        return dict(zip((row.id for row in rows), pool.map(key, rows), strict=True))


def _stand(
    rows: Sequence[Row],
    keys: Mapping[str, str],
    states: Path,
    places: Path,
    file: str,
    retry_failed: bool,
) -> Stage:
    """Sort the rows by what is known of them; a result is `places`/id/`file`."""
    done, failed, todo = [], [], []
    for row in rows:
        state = read_state(states, row.id)
        if state is None or not is_settled(state, keys[row.id]):
            todo.append((row, state))
        elif state.outcome == "done" and (places / row.id / file).exists():
            done.append(row)
        elif state.outcome == "failed" and not retry_failed:
            failed.append((row, state))
        else:
            todo.append((row, state))
    return Stage(keys, tuple(done), tuple(failed), tuple(todo))


def _is_done(out: Path, id: str, key: str) -> bool:
    state = read_state(out / FOLDER, id)
    return state is not None and state.key == key and state.outcome == "done"


def _tell(out: Path, id: str) -> None:
    """A slide without a sample has failed for the cohort too, where the summary looks."""
    state = read_state(out / STATES, id)
    if state is not None and state.outcome == "failed":
        state.write(out / FOLDER)


@contextlib.contextmanager
def _telling(manifest: Manifest, out: Path, recipe: Recipe) -> Iterator[None]:
    """Keep `cohort.json`: at the beginning, and however it ends."""
    write_about(manifest, out, recipe, pooled=True)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OutputError):
            write_about(manifest, out, recipe, pooled=True)
        raise
    write_about(manifest, out, recipe, pooled=True)
