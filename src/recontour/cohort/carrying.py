"""Carrying out many tasks with an executor: those others are at are waited for, not done twice."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from recontour.cohort.lanes import LANES
from recontour.cohort.leases import STALE_S, Watch
from recontour.cohort.states import FOLDER, State, now, read_state
from recontour.cohort.tasks import DISK_ERROR, WATCHERS, run_task, settled
from recontour.executors import Executor, Outcome

POLL_S = 1.0
"""Between two looks at the slides that others work on."""
LOST = "ExecutorError"
"""The kind of error of a task that never came back: its worker died, with it or because of it."""


STAGES = ("sample", "learn", "answer")
"""The stages of a pooled cohort, as `CohortProgress.begin` is told of them."""


class CohortProgress(Protocol):
    """Is told how a cohort goes."""

    def begin(self, total: int, done: int, stage: str = "") -> None:
        """So many slides, of which so many needed nothing; `stage` of several: one of `STAGES`."""

    def at(self, id: str, stage: str, done: int, total: int) -> None:
        """A slide of this machine is somewhere; called from several threads."""

    def ended(self, value: Mapping[str, Any]) -> None:
        """A slide ended: what `run_task` gave."""

    def waiting(self, ids: Sequence[str]) -> None:
        """Only slides that somebody else works on are left."""


class Silent:
    """A `CohortProgress` that says nothing."""

    def begin(self, total: int, done: int, stage: str = "") -> None:
        """Nothing."""

    def at(self, id: str, stage: str, done: int, total: int) -> None:
        """Nothing."""

    def ended(self, value: Mapping[str, Any]) -> None:
        """Nothing."""

    def waiting(self, ids: Sequence[str]) -> None:
        """Nothing."""


@contextlib.contextmanager
def working(executor: Executor) -> Iterator[None]:
    """Give back the executor and the lanes at the end; at once when something goes wrong."""
    try:
        yield
    except BaseException:
        LANES.stop()  # else the executor would wait for the slides in work
        raise
    finally:
        executor.close()
        LANES.close()


def carry_out(
    tasks: Sequence[dict[str, Any]],
    executor: Executor,
    *,
    skip_errors: bool = False,
    progress: CohortProgress | None = None,
    stale_s: float = STALE_S,
) -> Iterator[dict[str, Any]]:
    """Run tasks, each until it is done or failed, whoever does it.

    Parameters
    ----------
    tasks : as `run_task` takes them, ids unique
    skip_errors : go on after a failure; else what runs is finished and nothing begun any more
    stale_s : after so many seconds without a sign somebody else's slide is taken over

    Yields
    ------
    what `run_task` gives, in order of completion, never "busy"; tasks that were not begun give
    nothing. A disk that cannot be written stops all, whatever `skip_errors`: it is the same disk
    for the next slide.
    """
    progress = progress or Silent()
    watch = Watch(stale_s)
    pending = list(tasks)
    stopped = False
    WATCHERS.append(progress.at)
    try:
        while pending and not stopped:
            busy: list[dict[str, Any]] = []
            for outcome in executor.map(run_task, pending):
                value = _value_of(outcome)
                if value["outcome"] == "busy":
                    busy.append(outcome.item)
                    continue
                if value["outcome"] == "failed" and not (
                    skip_errors and value["error_kind"] != DISK_ERROR
                ):
                    stopped = True
                    executor.stop()
                progress.ended(value)
                yield value
            if stopped:
                return
            if busy:
                progress.waiting([task["id"] for task in busy])
            pending = _wait_for(busy, watch)
    finally:
        WATCHERS.remove(progress.at)


def _wait_for(busy: list[dict[str, Any]], watch: Watch) -> list[dict[str, Any]]:
    """Wait until one of the tasks that others are at can be taken; all of them then go on."""
    while busy:
        found = []
        for task in busy:
            states = _states(task)
            state = read_state(states, task["id"])
            stale = watch.stale(states / f"{task['id']}.lease")
            if stale is not None or (state is not None and settled(state, task)):
                found.append({**task, "stale": stale or None})
        if found:
            ready = {task["id"] for task in found}
            # The others come last, in the hope that they are free by then.
            return [*found, *(task for task in busy if task["id"] not in ready)]
        time.sleep(POLL_S)
    return []


def _value_of(outcome: Outcome[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    """What became of a task; one that never came back is recorded here, since nobody else did."""
    if outcome.value is not None:
        return outcome.value
    task = outcome.item
    states = _states(task)
    state = read_state(states, task["id"])
    attempts = state.attempts if state is not None and state.key == task["key"] else 1
    with contextlib.suppress(Exception):  # a full disk must not hide the error below
        State(
            task["id"],
            task["key"],
            task["kind"],
            "failed",
            attempts,
            error=outcome.error,
            error_kind=LOST,
            seconds=outcome.seconds,
            finished=now(),
        ).write(states)
    return {
        "id": task["id"],
        "kind": task["kind"],
        "outcome": "failed",
        "error": outcome.error,
        "error_kind": LOST,
        "seconds": outcome.seconds,
        "attempts": attempts,
        "facts": {},
    }


def _states(task: Mapping[str, Any]) -> Path:
    return Path(task["out"], task.get("states", FOLDER))
