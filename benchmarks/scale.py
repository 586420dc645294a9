"""Cohorts of 10, 100 and 1,000 slides of 20,000 cells: does anything grow faster than they do?

    python benchmarks/scale.py [--slides 10 100 1000] [--cells 20000] [--workers 2] [--out FOLDER]

Each cohort is made up (small pictures of 8 µm/px, synthetic features of 64 numbers) and goes
through `recontour cohort --executor dask` whole, with a scheduler, workers and lanes in processes
of their own, as on a cluster. Measured: seconds, and of each stage of a slide; the peak of resident
memory of client, scheduler, workers and the processes they refine in; bytes over the loopback
interface (so nothing else may use it); starting again when all is done; the summary. Needs the
extra `dask`, Linux, and about 7 MB of disk a slide.

Writes results.json and growth.png to FOLDER (default: benchmarks/results/scale).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from shapely import affinity
from synthetic import PIXEL, SyntheticSlide

from recontour.annotations import write_annotation
from recontour.types import Annotation, Frame

MPP = 8.0
BASES = 20
"""So many pictures are drawn; the others are these, shifted round."""
ENCODER = "synthetic_narrow"
PORT = 28786
ROLES = ("client", "scheduler", "workers", "lanes")


def make_cohort(folder: Path, slides: int, cells: int) -> Path:
    """Pictures, outlines and the manifest; what is there already stays."""
    manifest = folder / f"manifest_{slides}.csv"
    files = folder / "slides"
    files.mkdir(parents=True, exist_ok=True)
    bases: dict[int, SyntheticSlide] = {}
    lines = ["slide,coarse,mpp"]
    for i in range(slides):
        name = f"slide_{i:05d}"
        lines.append(f"slides/{name}.jpg,slides/{name}.geojson,{MPP:g}")
        if (files / f"{name}.geojson").exists():
            continue
        base = bases.setdefault(i % BASES, SyntheticSlide(cells, i % BASES))
        shifted = SyntheticSlide.__new__(SyntheticSlide)
        shifted.__dict__.update(base.__dict__)
        by = i // BASES * 4
        shifted.picture = np.roll(base.picture, by, axis=1)
        shifted.tumor = np.roll(base.tumor, by, axis=1)
        Image.fromarray(shifted.picture).save(files / f"{name}.jpg", quality=80)
        drawn = shifted.outline(i)
        regions = tuple(
            type(r)(r.id, affinity.scale(r.geometry, 1 / PIXEL, 1 / PIXEL, origin=(0, 0)), r.label)
            for r in drawn.regions
        )
        side = len(shifted.picture)
        frame = Frame((0.0, 0.0), (side, side), MPP, name, None)
        write_annotation(Annotation(name, regions, "scale"), files / f"{name}.geojson", frame)
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


def make_plugin(folder: Path) -> Path:
    """What an installed package with the encoder would leave: an entry point."""
    about = folder / "plugin" / "recontour_scale-1.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: recontour-scale\nVersion: 1\n")
    (about / "entry_points.txt").write_text(
        f"[recontour.encoders]\n{ENCODER} = scale_encoder:NarrowEncoder\n"
    )
    return about.parent


def environment_of(plugin: Path) -> dict[str, str]:
    """As few threads as there are workers on a core."""
    import recontour

    paths = [str(Path(recontour.__file__).parents[1]), str(Path(__file__).parent), str(plugin)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(paths)}


@contextmanager
def cluster(workers: int, folder: Path, environment: dict[str, str]) -> Iterator[dict[str, int]]:
    """A scheduler and workers as on a cluster; gives the process of each role."""
    log = (folder / "cluster.log").open("ab")
    common: dict[str, Any] = {"stdout": log, "stderr": log, "env": environment, "cwd": folder}
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    started = [
        subprocess.Popen([*dask, "--host", "127.0.0.1", "--port", str(PORT), "--no-dashboard"],
                         **common)
    ]  # fmt: skip
    pids = {"scheduler": started[0].pid}
    for i in range(workers):
        worker = [sys.executable, "-m", "distributed.cli.dask_worker", f"tcp://127.0.0.1:{PORT}"]
        settings = ["--nthreads", "1", "--no-dashboard", "--name", f"w{i}", "--memory-limit", "0"]
        started.append(subprocess.Popen([*worker, *settings], **common))
        pids[f"worker {i}"] = started[-1].pid
    try:
        yield pids
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(60)
        log.close()


class Watch:
    """Peak resident memory by role while the client runs, looked at twice a second."""

    def __init__(self, pids: dict[str, int], client: int) -> None:
        self.pids, self.client = pids, client
        self.peaks: dict[str, float] = defaultdict(float)
        self.spent: dict[tuple[str, int], tuple[float, float]] = {}
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def stop(self) -> tuple[dict[str, float], dict[str, float]]:
        """MB by role (of workers and lanes, of the largest), and CPU-seconds by role (of all)."""
        self.over.set()
        self.thread.join()
        cpu = dict.fromkeys(ROLES, 0.0)
        for (role, _), (first, last) in self.spent.items():
            cpu[role] += last - first
        return {role: self.peaks[role] / 1e6 for role in ROLES}, cpu

    def _watch(self) -> None:
        while not self.over.wait(0.5):
            self._look("client", self.client)
            for name, pid in self.pids.items():
                self._look(name.split()[0].removesuffix("s") if "worker" not in name else "workers",
                           pid)  # fmt: skip
                if "worker" in name:
                    for child in self._children(pid):
                        lane = "recontour.cohort.lane" in " ".join(self._command(child))
                        self._look("lanes" if lane else "workers", child.pid)

    def _look(self, role: str, pid: int) -> None:
        try:
            process = psutil.Process(pid)
            size = float(process.memory_info().rss)
            times = process.cpu_times()
        except psutil.Error:
            return
        self.peaks[role] = max(self.peaks[role], size)
        spent = times.user + times.system
        # Client and lanes begin with the run; what the others did before is not of it.
        new = 0.0 if role in ("client", "lanes") else spent
        self.spent[role, pid] = (self.spent.get((role, pid), (new, 0.0))[0], spent)

    @staticmethod
    def _children(pid: int) -> list[psutil.Process]:
        try:
            return psutil.Process(pid).children(recursive=True)
        except psutil.Error:
            return []

    @staticmethod
    def _command(process: psutil.Process) -> list[str]:
        try:
            return process.cmdline()
        except psutil.Error:
            return []


def loopback() -> int:
    """Bytes sent over the loopback interface so far."""
    counters = psutil.net_io_counters(pernic=True)
    return int(counters["lo"].bytes_sent)


def measure(manifest: Path, out: Path, folder: Path, arguments: argparse.Namespace) -> dict:
    """One cohort from nothing, and the same command once more."""
    from recontour.cohort.manifest import read_manifest
    from recontour.reports.cohort_page import write_cohort_summary

    environment = environment_of(make_plugin(folder))
    shutil.rmtree(out, ignore_errors=True)
    cache = folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    command = [
        sys.executable, "-m", "recontour", "cohort", str(manifest), "-o", str(out),
        "--executor", "dask", "--scheduler", f"tcp://127.0.0.1:{PORT}", "--encoder", ENCODER,
        "--method", arguments.method, "--cell-px", "4", "--mpp-embed", f"{MPP:g}",
        "--cache-dir", str(cache), "--threads", "1", "--skip-errors",
    ]  # fmt: skip
    found: dict[str, Any] = {}
    with cluster(arguments.workers, folder, environment) as pids:
        time.sleep(5)
        for name in ("cold", "again"):
            before, start = loopback(), time.perf_counter()
            with (folder / f"{name}_{out.name}.log").open("wb") as log:
                client = subprocess.Popen(command, env=environment, stderr=log, stdout=log)
                watch = Watch(pids, client.pid)
                code = client.wait()
            seconds, moved = time.perf_counter() - start, loopback() - before
            peaks, cpu = watch.stop()
            found[name] = {
                "seconds": seconds, "code": code, "bytes": moved, "peak_mb": peaks, "cpu": cpu
            }  # fmt: skip
    rows = read_manifest(manifest).rows
    start = time.perf_counter()
    write_cohort_summary(out, rows)
    found["summary_seconds"] = time.perf_counter() - start
    found["stages"] = stages(out, [row.id for row in rows])
    found["bytes_on_disk"] = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    return found


def stages(out: Path, ids: Sequence[str]) -> dict[str, float]:
    """Median seconds of each stage of a slide, its cells, and of the slide in all."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for name in ids:
        run = json.loads((out / name / "run.json").read_text())
        state = json.loads((out / "state" / f"{name}.json").read_text())
        for stage, spent in run["timings_s"].items():
            seconds[stage].append(spent)
        seconds["slide"].append(state["seconds"])
        seconds["cells"].append(run["grid"]["n_cells"])
    return {stage: statistics.median(values) for stage, values in seconds.items()}


def draw(results: dict[int, dict], path: Path) -> None:
    """Time, memory and bytes against the number of slides."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    counts = sorted(results)
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    for name, label in (("cold", "whole run"), ("again", "again, all done")):
        left.plot(counts, [results[n][name]["seconds"] for n in counts], "o-", label=label)
    left.plot(counts, [results[n]["summary_seconds"] for n in counts], "o-", label="summary")
    for role in ("client", "scheduler"):
        left.plot(counts, [results[n]["cold"]["cpu"][role] for n in counts], "o--",
                  label=f"{role}, CPU")  # fmt: skip
    first = results[counts[-1]]["cold"]["seconds"] / counts[-1]
    left.plot(counts, [first * n for n in counts], ":", color="grey", label="linear")
    left.set(xscale="log", yscale="log", xlabel="slides", ylabel="s")
    left.legend(fontsize=7)
    for role in ROLES:
        middle.plot(counts, [results[n]["cold"]["peak_mb"][role] for n in counts], "o-", label=role)
    middle.set(xscale="log", xlabel="slides", ylabel="peak memory of one process, MB")
    middle.set_ylim(bottom=0)
    middle.legend(fontsize=7)
    right.plot(counts, [results[n]["cold"]["bytes"] / n / 1e3 for n in counts], "o-")
    right.set(xscale="log", xlabel="slides", ylabel="kB over the network a slide")
    right.set_ylim(bottom=0)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slides", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--method", default="em")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scale"))
    arguments = parser.parse_args()
    folder = arguments.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[int, dict] = {}
    for count in arguments.slides:
        start = time.perf_counter()
        manifest = make_cohort(folder, count, arguments.cells)
        print(f"{count} slides made in {time.perf_counter() - start:.0f} s", flush=True)
        found = measure(manifest, folder / f"out_{count}", folder, arguments)
        results[count] = found
        cold, again = found["cold"], found["again"]
        peaks = ", ".join(f"{role} {size:.0f} MB" for role, size in cold["peak_mb"].items())
        spent = ", ".join(f"{role} {cpu / count:.3f}" for role, cpu in cold["cpu"].items())
        print(
            f"{count} slides, {found['stages']['cells']:.0f} cells: {cold['seconds']:.0f} s "
            f"({cold['seconds'] / count:.2f} a slide), exit {cold['code']}; again "
            f"{again['seconds']:.1f} s; summary {found['summary_seconds']:.2f} s; {peaks}; "
            f"{cold['bytes'] / count / 1e3:.1f} kB a slide; CPU-seconds a slide: {spent}; "
            + ", ".join(f"{k} {v:.2f} s" for k, v in found["stages"].items() if k != "cells"),
            flush=True,
        )
        (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    draw(results, folder / "growth.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
