"""Refining again after an edited outline: labels, fit, probabilities, polygons and guidance.

    python benchmarks/rerun.py [--cells 15000 35000 190000] [--rounds 3] [--method em] [--command]

Synthetic slides (`benchmarks/synthetic.py`) whose features are in the cache. Each round refines an
outline of its own three ways, in turn: in a session, cold (what a run of its own would answer, bit
for bit) and warm, and by `refine_slide`, which finds tissue and reads the features from the cache
each time. `--command` adds the whole command line, with starting up, pictures and report.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import synthetic
from timing import Timing, interleaved

from recontour import Recipe, Runtime, Session, refine_slide

TARGETS = {15_000: 2.0, 35_000: 5.0}
"""Seconds for so many cells, on two cores."""
STAGES = ("prepare", "embed", "learn", "band", "trace")


class Rerun(NamedTuple):
    """What refining another outline took.

    Attributes
    ----------
    cells : of the tissue
    timings : of "session", "warm" and "refine_slide"
    stages : median seconds of each stage of a session
    differ : share of the cells whose likeliest class is another when started warm
    first : seconds of the first outline of a session, its features cached
    """

    cells: int
    timings: dict[str, Timing]
    stages: dict[str, float]
    differ: float
    first: float


def measure(cells: int, rounds: int = 3, method: str = "em") -> Rerun:
    """Edit the outline of a synthetic slide `rounds` times."""
    slide = synthetic.SyntheticSlide(cells)
    outlines = [slide.outline(seed) for seed in range(rounds + 2)]
    recipe = Recipe(encoder=synthetic.register(), method=method)
    with tempfile.TemporaryDirectory() as folder:
        runtime = Runtime(cache_dir=Path(folder))
        refine_slide(slide, outlines[0], recipe, runtime=runtime)  # fills the cache
        with Session(slide, recipe, runtime) as cold, Session(slide, recipe, runtime) as warm:
            start = time.perf_counter()
            found = cold.refine(outlines[0])
            first = time.perf_counter() - start
            warm.refine(outlines[0])
            at = {"session": 0, "warm": 0, "refine_slide": 0}
            stages: list[dict[str, float]] = []
            answers: dict[str, list[np.ndarray]] = {"session": [], "warm": []}

            def next_outline(name: str):
                at[name] += 1
                return outlines[at[name]]

            def session() -> None:
                refined = cold.refine(next_outline("session"))
                stages.append(dict(refined.timings))
                answers["session"].append(refined.probs.argmax(axis=1))

            def on() -> None:
                refined = warm.refine(next_outline("warm"), warm=True)
                answers["warm"].append(refined.probs.argmax(axis=1))

            def alone() -> None:
                refine_slide(slide, next_outline("refine_slide"), recipe, runtime=runtime)

            timings = interleaved({"session": session, "warm": on, "refine_slide": alone}, rounds)
    differ = [np.mean(a != b) for a, b in zip(*answers.values(), strict=True)]
    return Rerun(
        len(found.patches),
        timings,
        {stage: statistics.median(s.get(stage, 0.0) for s in stages) for stage in STAGES},
        float(np.mean(differ)),
        first,
    )


def measure_command(cells: int) -> tuple[float, float]:
    """Seconds and CPU-seconds of `recontour refine` on another outline, features cached.

    On a slide in a file, with the colours of cells as features: what the command adds to refining
    does not depend on the encoder.
    """
    import resource

    from recontour import generate_slide, simulate_coarse, write_annotation

    side = int(np.sqrt(cells / 0.53)) * 64
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = generate_slide(folder / "slide.tif", size=(side, side), seed=2)
        for seed in (0, 1):
            coarse = simulate_coarse(
                made.truth, kind="wobbly", seed=seed, mpp=made.mpp, size=made.size
            )
            write_annotation(coarse, folder / f"{seed}.geojson")
        for seed in (0, 1):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            start = time.perf_counter()
            subprocess.run(
                [
                    sys.executable, "-m", "recontour", "refine", folder / "slide.tif",
                    folder / f"{seed}.geojson", "-o", folder / f"out{seed}", "--encoder", "colour",
                    "--cache-dir", folder / "cache", "-q",
                ],
                check=True,
            )  # fmt: skip
            seconds = time.perf_counter() - start
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, nargs="+", default=[15_000, 35_000, 190_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--method", default="em")
    parser.add_argument("--command", action="store_true")
    arguments = parser.parse_args()
    for cells in arguments.cells:
        found = measure(cells, arguments.rounds, arguments.method)
        stages = ", ".join(f"{stage} {s:.2f}" for stage, s in found.stages.items() if s >= 0.005)
        print(f"{found.cells:,} cells, {arguments.method} (session: {stages})")
        for name, timing in found.timings.items():
            print(f"  {name:13} {timing.median:6.2f} s, {timing.cpu_median:6.2f} CPU-s")
        print(f"  warm: {found.differ:.2%} of the cells are of another class", flush=True)
    if arguments.command:
        seconds, used = measure_command(arguments.cells[0])
        print(f"the command, about {arguments.cells[0]:,} cells: {seconds:.1f} s, {used:.1f} CPU-s")


if __name__ == "__main__":
    main()
