"""How a cohort goes, for a person: bars on a terminal, one line a slide in a log."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from recontour.cli.console import STAGES
from recontour.cohort.carrying import CohortProgress, Silent

LEARN = "learn"
NAMES = {"sample": "Samples", LEARN: "Learning", "answer": "Answers"}
"""The stages of a pooled cohort."""
FEW = 5
"""So many ids are named at most."""


@contextlib.contextmanager
def cohort_progress(quiet: bool) -> Iterator[CohortProgress]:
    """Bars on a terminal, lines in a log, nothing when quiet."""
    if quiet:
        yield Silent()
    elif sys.stderr.isatty():
        with CohortBars() as bars:
            yield bars
    else:
        yield CohortLines()


class Count:
    """Counts slides, and tells from those that ended how long the rest will take."""

    def __init__(self) -> None:
        self.total = self.before = self.ended = self.failed = 0
        self.start = time.monotonic()

    def begin(self, total: int, done: int) -> None:
        """So many slides, of which so many needed nothing."""
        self.total, self.before, self.start = total, done, time.monotonic()
        self.ended = self.failed = 0  # each stage of a pooled cohort begins anew

    def add(self, value: Mapping[str, Any]) -> None:
        """A slide ended."""
        self.ended += 1
        self.failed += value["outcome"] == "failed"

    def __str__(self) -> str:
        done = self.before + self.ended - self.failed
        said = [f"{done}/{self.total} done"]
        if self.failed:
            said.append(f"{self.failed} failed")
        left = self.total - self.before - self.ended
        if left and self.ended:
            seconds = (time.monotonic() - self.start) / self.ended * left
            said.append(f"ETA {duration(seconds)}")
        return ", ".join(said)


class CohortLines:
    """A `CohortProgress` of plain lines on stderr."""

    def __init__(self) -> None:
        self.count = Count()
        self.stage = ""

    def begin(self, total: int, done: int, stage: str = "") -> None:
        """Say how many there are."""
        self.count.begin(total, done)
        self.stage = stage
        slides = "1 slide" if total == 1 else f"{total} slides"
        said = "learned before" if done else "from all samples together"
        if stage != LEARN:
            said = f"{slides}, {done} of them settled already"
        _line(f"{NAMES[stage]}: {said}" if stage else said)

    def at(self, id: str, stage: str, done: int, total: int) -> None:
        """Nothing: a log is read later."""

    def ended(self, value: Mapping[str, Any]) -> None:
        """One line a slide."""
        self.count.add(value)
        said = f"failed: {value['error']}" if value["outcome"] == "failed" else value["outcome"]
        took = duration(value["seconds"])
        if self.stage == LEARN:  # its id is that of a fit
            _line(f"{NAMES[LEARN]}: {said} ({took})")
        else:
            _line(f"{value['id']}: {said} ({took}; {self.count})")

    def waiting(self, ids: Sequence[str]) -> None:
        """Say for what."""
        _line(f"waiting for {_some(ids)}: another process works there")


class CohortBars:
    """A `CohortProgress` with a bar of slides, and one line for each slide in work."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.count = Count()
        self.lock = threading.Lock()
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),  # an id may hold [brackets]
            BarColumn(),
            TextColumn("{task.fields[said]}", markup=False),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self.all = self.bars.add_task("Slides", total=None, said="")
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> CohortBars:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def begin(self, total: int, done: int, stage: str = "") -> None:
        """Show how many there are."""
        self.count.begin(total, done)
        what = NAMES.get(stage, "Slides")
        self.bars.update(
            self.all, description=what, total=total, completed=done, said=str(self.count)
        )

    def at(self, id: str, stage: str, done: int, total: int) -> None:
        """Show where a slide is."""
        with self.lock:
            if id not in self.tasks:
                self.tasks[id] = self.bars.add_task(f"  {id}", total=None, said="")
            said = STAGES.get(stage, stage)
            self.bars.update(self.tasks[id], total=total or None, completed=done, said=said)

    def ended(self, value: Mapping[str, Any]) -> None:
        """Take the slide off, and say why it failed."""
        self.count.add(value)
        with self.lock:
            if value["id"] in self.tasks:
                self.bars.remove_task(self.tasks.pop(value["id"]))
        if value["outcome"] == "failed":
            self.bars.console.print(
                f"{value['id']}: failed: {value['error']}", markup=False, highlight=False
            )
        ended = self.count.before + self.count.ended
        self.bars.update(self.all, completed=ended, said=str(self.count))

    def waiting(self, ids: Sequence[str]) -> None:
        """Say for what."""
        self.bars.update(self.all, said=f"{self.count}; others work on {_some(ids)}")


def duration(seconds: float) -> str:
    """A time for people, in one unit: 40 s, 12 min, 3.5 h, 2.1 days."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def _some(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - FEW} more" if len(ids) > FEW else ""
    return ", ".join(ids[:FEW]) + more


def _line(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
