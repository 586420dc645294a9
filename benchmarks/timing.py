"""Timing cases side by side: interleaved rounds, medians and spread, ratios round by round."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple


class Timing(NamedTuple):
    """Seconds and CPU-seconds (children that have ended included) of each round."""

    seconds: tuple[float, ...]
    cpu: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def cpu_median(self) -> float:
        return statistics.median(self.cpu)


class Ratio(NamedTuple):
    """Median, lowest and highest ratio of rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{_short(self.median)}x ({_short(self.low)}–{_short(self.high)})"


def interleaved(
    cases: Mapping[str, Callable[[], object]], rounds: int, *, warm_up: bool = True
) -> dict[str, Timing]:
    """Run every case once a round, in turn and from another start each round."""
    names = list(cases)
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in names}
    for i in range(-1 if warm_up else 0, rounds):
        turn = max(i, 0) % len(names)
        for name in names[turn:] + names[:turn]:
            start, used = time.perf_counter(), cpu_seconds()
            cases[name]()
            if i >= 0:
                found[name][0].append(time.perf_counter() - start)
                found[name][1].append(cpu_seconds() - used)
    return {name: Timing(tuple(wall), tuple(cpu)) for name, (wall, cpu) in found.items()}


def ratio(slow: Timing, fast: Timing, *, of: float = 1.0, cpu: bool = False) -> Ratio:
    """How many times as long `slow` takes, round by round; `of`: work of `fast` over that of it."""
    a, b = (slow.cpu, fast.cpu) if cpu else (slow.seconds, fast.seconds)
    each = [of * x / max(y, 1e-9) for x, y in zip(a, b, strict=True)]
    return Ratio(statistics.median(each), min(each), max(each))


def cpu_seconds() -> float:
    """CPU-seconds of this process and of its children that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch compute with `count` threads inside."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
