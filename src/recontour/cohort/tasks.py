"""One slide of a cohort, from its lease to its state: the function that executors map."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from recontour.cohort.lanes import LANES, JobFailedError
from recontour.cohort.leases import BEAT_S, Lease, acquire
from recontour.cohort.states import FOLDER, State, now, read_state, state_path
from recontour.errors import OutputError, OutputRefusedError, RecontourError
from recontour.files import remove_leftovers

WORK = "work"
"""Under the folder of states: what a lane writes before it is put in its place."""

WATCHERS: list[Callable[[str, str, int, int], None]] = []
"""Called as watcher(id, stage, done, total), from the threads of this process that work."""

DISK_ERROR = OutputError.__name__
"""The kind of error that is no fault of the slide: tried again without being asked to."""


def run_task(task: dict[str, Any]) -> dict[str, Any]:
    """Carry out a task, unless it is done already or somebody else is at it.

    Parameters
    ----------
    task : of JSON types, so that it can travel. Always: `kind` (see `cohort.jobs`), `id`, `key`
        (names settings and content: the same key is done once), `row` (`Row.to_dict`), `out`
        (OUT), `recipe` (`Recipe.to_dict`), `runtime` ("device", "threads", "cache_dir") and
        `timeout_s` (or None). Optional: `target`, the folder under OUT that the job's files
        become (default: the id; "" for a job that leaves no folder); `states`, the folder under
        OUT of state files and leases (default "state"; another for each stage of several);
        `attempts`, known when the task was made: more of them in the state file mean that
        somebody else tried it since; `stale`, the token of an abandoned lease to take over;
        `beat_s`, seconds between beats; whatever else the job looks at.

    Returns
    -------
    "id", "kind", "outcome" ("done", "already": by somebody else, "failed", "busy": somebody is at
    it), "error" and "error_kind" of a failed one, "seconds", "attempts", "facts" of the job

    Raises
    ------
    LaneStopped : the run is ending
    """
    try:
        return _run(task)
    except OutputError as error:  # not even its state could be written
        failed = {"error": str(error), "error_kind": DISK_ERROR, "attempts": 1}
        return {**_value(task, "failed"), **failed}


def _run(task: dict[str, Any]) -> dict[str, Any]:
    start = time.perf_counter()
    states = Path(task["out"]) / task.get("states", FOLDER)
    try:
        states.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write in {states}: {error.strerror or error}") from error
    lease = acquire(
        states / f"{task['id']}.lease",
        stale=task.get("stale"),
        beat_s=task.get("beat_s", BEAT_S),
    )
    if lease is None:
        return _value(task, "busy")
    with lease:
        before = read_state(states, task["id"])
        if before and settled(before, task):
            outcome = "already" if before.outcome == "done" else "failed"
            return _value(task, outcome, before)
        if before and before.outcome == "running":  # and killed, perhaps while it wrote
            remove_leftovers(states, [state_path(states, task["id"]).name])
        begun = State(
            task["id"],
            task["key"],
            task["kind"],
            "running",
            1 + (before.attempts if before and before.key == task["key"] else 0),
            started=now(),
        )
        begun.write(states)
        ended = _work(task, begun, states, lease)
        if ended is None:
            return _value(task, "busy")
        ended = replace(ended, seconds=time.perf_counter() - start, finished=now())
        ended.write(states)
        return _value(task, ended.outcome, ended)


def settled(state: State, task: dict[str, Any]) -> bool:
    """Whether a slide needs no more work: done, or failed since the task was made."""
    if state.key != task["key"]:
        return False
    if state.outcome == "done":
        target = _target(task)
        # Of a slide's folder `run.json` is written last, and looked for by `stand`, too.
        sign = target and (target if "target" in task else target / "run.json")
        return sign is None or sign.exists()
    return state.outcome == "failed" and state.attempts > task.get("attempts", 0)


def _work(task: dict[str, Any], begun: State, states: Path, lease: Lease) -> State | None:
    """Let a lane do the job; None when the lease was lost and the work dropped."""
    target = _target(task)
    place = states / WORK / task["id"]
    work = place / lease.token
    try:
        _tidy(place, target)
        _check_ours(target)
        work.mkdir(parents=True)
        runtime = task["runtime"]
        with LANES.borrow(runtime.get("threads"), runtime.get("device", "auto")) as lane:

            def heard(stage: str, done: int, total: int) -> None:
                for watcher in WATCHERS:
                    watcher(task["id"], stage, done, total)

            facts = lane.run(task, work, heard, task.get("timeout_s"))
        if not lease.held():
            return None
        if target is not None:
            _put(work, target, place / f"old-{lease.token}")
        return replace(begun, outcome="done", facts=facts, versions=_versions())
    except JobFailedError as error:
        kind, said = error.kind, str(error)
    except RecontourError as error:
        kind, said = type(error).__name__, str(error)
    except OSError as error:
        kind, said = DISK_ERROR, f"cannot write in {place}: {error.strerror or error}"
    finally:
        shutil.rmtree(work, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty: somebody else's
            place.rmdir()
    if not lease.held():
        return None
    return replace(begun, outcome="failed", error=said, error_kind=kind, versions=_versions())


def _target(task: dict[str, Any]) -> Path | None:
    """The folder that the job's files become."""
    name = task.get("target", task["id"])
    return Path(task["out"]) / name if name else None


def _tidy(place: Path, target: Path | None) -> None:
    """Remove what killed attempts left; put back what one of them had only moved away."""
    for left in place.iterdir() if place.is_dir() else ():
        if left.name.startswith("old-") and target is not None:
            if target.exists():
                _keep_others(left, target)
            else:
                left.rename(target)
        shutil.rmtree(left, ignore_errors=True)


def _check_ours(target: Path | None) -> None:
    """A folder that holds something else is not replaced.

    Raises
    ------
    OutputRefusedError
    """
    if target is None or not target.exists():
        return
    if not target.is_dir():
        raise OutputRefusedError(f"{target} is a file, in the place of a slide's folder; move it")
    if any(target.iterdir()) and not (target / "run.json").exists():
        raise OutputRefusedError(
            f"{target} holds something else than a finished run; move it, or choose another OUT"
        )


def _put(work: Path, target: Path, old: Path) -> None:
    """Put a finished folder in its place, with what the user laid beside the old files."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        target.rename(old)
    try:
        work.rename(target)
    except OSError:  # a full disk, or somebody took over: the old one stays
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    if not old.exists():
        return
    _keep_others(old, target)
    shutil.rmtree(old, ignore_errors=True)


def _keep_others(old: Path, target: Path) -> None:
    """Move what is not of the run out of the old folder into the new one."""
    for left in old.iterdir():
        if not (target / left.name).exists() and not left.name.startswith("."):
            left.rename(target / left.name)


def _value(task: dict[str, Any], outcome: str, state: State | None = None) -> dict[str, Any]:
    return {
        "id": task["id"],
        "kind": task["kind"],
        "outcome": outcome,
        "error": state and state.error,
        "error_kind": state and state.error_kind,
        "seconds": (state and state.seconds) or 0.0,
        "attempts": state.attempts if state else 0,
        "facts": dict(state.facts) if state else {},
    }


def _versions() -> dict[str, str]:
    from recontour import __version__

    return {"recontour": __version__}
