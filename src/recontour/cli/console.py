"""Talking to a person: progress, warnings and tables. Results go to stdout, the rest to stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from recontour.recipe import Progress, no_progress

STAGES = {
    "tissue": "Finding tissue",
    "embed": "Embedding",
    "fit": "Learning from this slide",
    "trace": "Tracing",
    "write": "Writing",
    "generate": "Generating a slide",
    "benchmark": "Runs",
    "check": "Checking",
    "tune": "Trying options",
    "thumbnails": "Thumbnails",
}


@contextlib.contextmanager
def progress_of(quiet: bool) -> Iterator[Progress]:
    """A bar on a terminal, a line every ten percent in a log, nothing when quiet."""
    if quiet:
        yield no_progress
    elif sys.stderr.isatty():
        with _Bars() as bars:
            yield bars
    else:
        yield _Lines()


class _Lines:
    """Plain lines for logs: at the start, every ten percent, and at the end of a stage.

    Between start and end at most one a second, so that a quick stage is two lines.
    """

    def __init__(self) -> None:
        self.last: dict[str, int] = {}
        self.told: dict[str, float] = {}
        self.start = time.monotonic()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if not total:
            return
        tenth = 10 * done // total
        now = time.monotonic()
        between = stage in self.last and 0 < done < total
        if self.last.get(stage) == tenth or (between and now < self.told[stage] + 1):
            return
        self.last[stage], self.told[stage] = tenth, now
        seconds = now - self.start
        print(
            f"{STAGES.get(stage, stage)}: {done}/{total} ({seconds:.0f} s)",
            file=sys.stderr,
            flush=True,
        )


class _Bars:
    """One rich bar a stage."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> _Bars:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self.tasks:
            self.tasks[stage] = self.bars.add_task(STAGES.get(stage, stage), total=total)
        self.bars.update(self.tasks[stage], completed=done, total=total)


def say(message: str, *, quiet: bool = False) -> None:
    """A line for the person, on stderr."""
    if not quiet:
        print(message, file=sys.stderr, flush=True)


def warn(messages: Sequence[str]) -> None:
    """Warnings, one a line, on stderr; also when quiet."""
    for message in messages:
        say(f"warning: {message}")


def note(messages: Sequence[str], *, quiet: bool = False) -> None:
    """What is worth knowing, one a line, on stderr."""
    for message in messages:
        say(f"note: {message}", quiet=quiet)


def print_table(title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Two columns on stdout, readable as plain text too."""
    print(title)
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        print(f"  {name:<{width}}  {value}")


def print_json(data: Any) -> None:
    """JSON on stdout, figures unrounded."""
    import json

    print(json.dumps(data, indent=2, ensure_ascii=False))
