"""A whole benchmark: every case, in this process or several, then what learns from all slides."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from recontour.benchmark.engine import failures, run_case
from recontour.benchmark.pooling import run_pooled
from recontour.benchmark.records import Results
from recontour.benchmark.spec import DRAWN, OutlineSpec, Plan
from recontour.benchmark.wanted import count_units, methods_on, wanted_outlines
from recontour.datasets import Case, Listing
from recontour.errors import OutputError, UnknownNameError, UsageError
from recontour.recipe import Progress, Runtime, no_progress
from recontour.simulation import KINDS

STAGE = "benchmark"
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Outcome:
    """How a benchmark went.

    Attributes
    ----------
    plan : all that the folder holds or was asked for
    failures : one sentence for each case, outline or method that failed
    left_out : one sentence for each case that took no part
    """

    plan: Plan
    failures: tuple[str, ...]
    left_out: tuple[str, ...]


def run_benchmark(
    plan: Plan,
    listing: Listing,
    out: Path,
    runtime: Runtime | None = None,
    *,
    jobs: int = 1,
    overwrite: bool = False,
    skip_missing: bool = False,
    facts: Mapping[str, Any] | None = None,
    finish: Callable[[Results], object] | None = None,
) -> Outcome:
    """Run all that `plan` asks for and `out` does not hold yet.

    Parameters
    ----------
    out : a new folder, or one with a benchmark of the same settings: methods, outlines, encoders
        and repeats may be added to it, and a killed run goes on
    jobs : processes, one case each; the cores are shared out among them
    skip_missing : go on without the cases whose files are missing
    facts : `notes` and `versions` for the report
    finish : called at the end, while the folder is still held

    Raises
    ------
    UsageError : files are missing, there is no case, or no case has an outline of that name
    OutputRefusedError : the folder holds something else
    OutputError : the results cannot be written
    """
    runtime = runtime or Runtime()
    check_cases(plan, listing, skip_missing=skip_missing)
    results = Results(out)
    with results.claim(plan, overwrite=overwrite) as joined:
        about = {"missing": listing.missing, "left_out": listing.left_out, **(facts or {})}
        results.write_about(about)
        counter = _Counter(plan, listing.cases, runtime.progress)
        if jobs == 1:
            for case in listing.cases:
                run_case(plan, case, results, runtime, counter.add)
                counter.finish(case)
        else:
            quiet = replace(runtime, progress=no_progress)
            _run_in_processes(plan, listing.cases, results, quiet, jobs, counter)
        counter.begin_pool()
        run_pooled(plan, listing.cases, results, runtime, counter.add)
        counter.end()
        outcome = Outcome(
            joined,
            tuple(failures(plan, listing.cases, results)),
            (*listing.left_out, *_left_out(results, listing.cases)),
        )
        if finish is not None:
            finish(results)
    return outcome


def check_cases(plan: Plan, listing: Listing, *, skip_missing: bool) -> None:
    """Refuse what cannot be run as asked, before anything is.

    Raises
    ------
    UsageError : files are missing, there is no case, or no case has an outline of that name
    """
    if listing.missing and not skip_missing:
        said = "\n  ".join(listing.missing)
        raise UsageError(
            f"{len(listing.missing)} file(s) missing:\n  {said}\n"
            "put them there, or pass --skip-missing to go on without those cases"
        )
    if not listing.cases:
        raise UsageError(f"the data set {plan.dataset} has no case with a slide and a true outline")
    ids = [case.id for case in listing.cases]
    for name in ids:
        if ids.count(name) > 1:
            raise UsageError(f"two cases are called {name!r}; ids must be unique")
    known = sorted({name for case in listing.cases for name in case.coarse})
    for spec in plan.outlines:
        _check_outline(spec, known)


def _check_outline(spec: OutlineSpec, known: Sequence[str]) -> None:
    if spec.simulated or spec.kind in known or (spec.kind == DRAWN and known):
        return
    if spec.kind == DRAWN:
        raise UsageError("no outline comes with the cases; name a simulated kind with --coarse")
    raise UnknownNameError.of("coarse outline", spec.kind, [*KINDS, *known])


def _left_out(results: Results, cases: Sequence[Case]) -> Iterator[str]:
    for case in cases:
        state = results.state(case.id)
        if state.get("state") == "left_out":
            yield f"{case.id}: {state['reason']}"


class _Counter:
    """Runs done, over all cases; what a case leaves undone counts when it ends."""

    def __init__(self, plan: Plan, cases: Sequence[Case], progress: Progress) -> None:
        self.progress = progress
        self.expected = {case.id: count_units(plan, case) for case in cases}
        pooled = sum(len(methods_on(plan, e, pooled=True)) for e in plan.encoders)
        self.pool = pooled and sum(pooled * len(wanted_outlines(plan, case)) for case in cases)
        self.total = sum(self.expected.values()) + self.pool
        self.done = 0
        self.ended = 0
        progress(STAGE, 0, self.total)

    def add(self, n: int) -> None:
        self.done += n
        self.progress(STAGE, min(self.done, self.total), self.total)

    def finish(self, case: Case) -> None:
        """A case has ended, well or not."""
        self.ended += self.expected[case.id]

    def begin_pool(self) -> None:
        self.done = self.ended

    def end(self) -> None:
        self.progress(STAGE, self.total, self.total)


def _run_in_processes(
    plan: Plan,
    cases: Sequence[Case],
    results: Results,
    runtime: Runtime,
    jobs: int,
    counter: _Counter,
) -> None:
    """`jobs` processes, one case each at a time; one that dies fails its case and no other."""
    context = multiprocessing.get_context("spawn")
    waiting = list(cases)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    runtime = replace(runtime, threads=runtime.threads or threads)
    working: dict[Connection, tuple[Any, Case]] = {}

    def start() -> None:
        here, there = context.Pipe()
        arguments = (plan, results.folder, runtime, there)
        process = context.Process(target=_work, args=arguments, daemon=True)
        process.start()
        there.close()
        give(here, process)

    def give(connection: Connection, process: Any) -> None:
        case = waiting.pop(0)
        working[connection] = process, case
        with contextlib.suppress(OSError):  # it has died: its end of the pipe will say so
            connection.send(case)

    try:
        with _environment(threads):
            while waiting or working:
                while waiting and len(working) < jobs:
                    start()
                for connection in wait(list(working)):
                    assert isinstance(connection, Connection)
                    process, case = working[connection]
                    try:
                        told = connection.recv()
                    except (EOFError, OSError):  # it has died
                        del working[connection]
                        connection.close()
                        process.join()
                        _judge(process.exitcode, case, results)
                        counter.finish(case)
                        continue
                    if isinstance(told, int):
                        counter.add(told)
                        continue
                    counter.finish(case)
                    del working[connection]
                    if waiting:
                        give(connection, process)
                    else:
                        connection.close()
                        process.join()
    finally:
        for process, _ in working.values():
            process.terminate()


def _judge(code: int | None, case: Case, results: Results) -> None:
    if code == CANNOT_WRITE:
        raise OutputError(
            f"cannot write in {results.folder}: is the disk full? The same command goes on from "
            "there"
        )
    how = f"was killed (signal {-code}); out of memory?" if code and code < 0 else f"ended ({code})"
    results.write_state(case.id, {"state": "failed", "reason": f"its process {how}"})


CANNOT_WRITE = 3


def _work(plan: Plan, folder: Path, runtime: Runtime, connection: Connection) -> None:
    """What a process does: the cases it is given, until there are no more."""
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    tell = _Teller(connection)
    while True:
        try:
            case = connection.recv()
        except EOFError:
            return
        try:
            run_case(plan, case, Results(folder), runtime, tell)
        except OutputError:
            raise SystemExit(CANNOT_WRITE) from None
        tell.flush()
        connection.send(case.id)


class _Teller:
    """Tells the other side how many runs are done, not more than ten times a second."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.held = 0
        self.last = 0.0

    def __call__(self, n: int) -> None:
        self.held += n
        if time.monotonic() - self.last > 0.1:
            self.flush()

    def flush(self) -> None:
        """Tell what is held back."""
        with contextlib.suppress(OSError):  # nobody listens any more
            self.connection.send(self.held)
        self.held, self.last = 0, time.monotonic()


def _end_with_parent() -> None:
    """A killed benchmark must not leave processes behind that go on writing."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        assert parent is not None
        parent.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Processes started inside compute with so many threads (libraries ask when they load)."""
    before = {name: os.environ.get(name) for name in _THREADS}
    try:
        for name, value in before.items():
            asked = int(value) if value and value.isdigit() else threads
            os.environ[name] = str(min(threads, asked))
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
