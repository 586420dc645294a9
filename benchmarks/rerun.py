"""Refining again after an edited outline: labels, fit, probabilities and polygons, features cached.

    python benchmarks/rerun.py [--side 11000] [--rounds 3]

Generates a slide of about 15,000 cells, embeds it once, and refines three different outlines with
each method in turn. The same run without the cache would cost the embedding again: its time is
printed beside, from the same run.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from recontour import Recipe, Runtime, generate_slide, open_slide, refine_slide, simulate_coarse

METHODS = ("lc_mil", "logistic")
STAGES = ("prepare", "embed", "learn", "trace")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=11_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    side = arguments.side
    with tempfile.TemporaryDirectory() as folder:
        made = generate_slide(Path(folder) / "slide.tif", size=(side, side), seed=2)
        slide = open_slide(made.path)
        runtime = Runtime(cache_dir=Path(folder) / "cache")
        coarse = [
            simulate_coarse(made.truth, kind="wobbly", seed=i, mpp=made.mpp, size=made.size)
            for i in range(arguments.rounds)
        ]
        first = refine_slide(slide, coarse[0], Recipe(method="identity"), runtime=runtime)
        spent: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
        for outline in coarse:
            for method in METHODS:
                found = refine_slide(slide, outline, Recipe(method=method), runtime=runtime)
                spent[method].append(dict(found.timings))
        slide.close()
    embedding = first.timings["embed"]
    print(f"{len(first.patches):,} cells; embedding them once took {embedding:.1f} s")
    for method, runs in spent.items():
        medians = {stage: statistics.median(r[stage] for r in runs) for stage in STAGES}
        rerun = medians["embed"] + medians["learn"] + medians["trace"]
        stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in medians.items())
        print(
            f"{method}: {rerun:.2f} s after the outline is read ({stages}); "
            f"{(embedding + rerun) / rerun:.0f} times less than without the cache"
        )


if __name__ == "__main__":
    main()
