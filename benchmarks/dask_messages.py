"""What a slide costs the scheduler: bytes moved, time, and memory, for 10 to 3,000 slides.

    python benchmarks/dask_messages.py

A cluster of two workers on this machine; tasks as a cohort makes them, which do nothing.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from recontour import Recipe, Runtime
from recontour.cohort.rows import Row
from recontour.cohort.running import task_of
from recontour.executors.dask import Dask

COUNTS = (10, 100, 1000, 3000)


def nothing(task: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": task["id"],
        "kind": task["kind"],
        "outcome": "done",
        "error": None,
        "error_kind": None,
        "seconds": 12.3,
        "attempts": 1,
        "facts": {"cells": 20000, "warnings": 0},
    }


def tasks(count: int) -> list[dict[str, Any]]:
    folder = "/data/cohort"
    names = [f"slide_{number:05d}" for number in range(count)]
    rows = [Row(n, f"{folder}/slides/{n}.svs", f"{folder}/outlines/{n}.geojson") for n in names]
    make = {"out": Path("/data/out"), "recipe": Recipe(), "runtime": Runtime(device="cpu")}
    return [task_of(row, 16 * "0", None, **make) for row in rows]


def measure(counts: tuple[int, ...] = COUNTS) -> list[dict[str, float]]:
    """One record a count: figures a task, and MB of client (with scheduler) and largest worker."""
    executor = Dask(jobs=2)
    here = psutil.Process()
    found = []
    with tempfile.TemporaryDirectory() as out:
        executor.prepare(Path(out), device="cpu")
        try:
            for count in counts:
                sent, received = executor.sent_bytes, executor.received_bytes
                wall, cpu = time.perf_counter(), time.process_time()
                done = sum(o.value is not None for o in executor.map(nothing, tasks(count)))
                assert done == count
                workers = [p.memory_info().rss for p in here.children(recursive=True)]
                found.append(
                    {
                        "tasks": count,
                        "sent_bytes": (executor.sent_bytes - sent) / count,
                        "received_bytes": (executor.received_bytes - received) / count,
                        "wall_ms": (time.perf_counter() - wall) / count * 1e3,
                        "client_cpu_ms": (time.process_time() - cpu) / count * 1e3,
                        "client_mb": here.memory_info().rss / 1e6,
                        "worker_mb": max(workers) / 1e6,
                    }
                )
        finally:
            executor.close()
    return found


def main() -> None:
    for record in measure():
        print("  ".join(f"{name} {value:,.1f}" for name, value in record.items()), flush=True)


if __name__ == "__main__":
    main()
