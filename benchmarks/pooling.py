"""Does a refiner gain from learning on several slides at once?

    python benchmarks/tissue_folder.py --data ../shared/data --out TISSUE
    python benchmarks/pooling.py --tissue TISSUE -o OUT

Slides of one site are a pool. For each method: mean F1 over slides, outlines and repeats where each
slide is learned alone; from all cells of the pool as they are; from all cells, each slide aligned
(standardised by its own levels); and from an aligned sample of each slide, as `recontour cohort
--pooled` does. Last, on how many (slide, outline) pairs that is better than alone by more than
0.005, or worse. Only valid outlines count. Outlines and scores are those of `quick.py`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from quality import ENCODERS, Cells, cells_of, outline_names, plan_of, site_of

from recontour.benchmark.recording import decide
from recontour.benchmark.scoring import score
from recontour.benchmark.spec import MethodSpec, parse_method, split_specs
from recontour.errors import RecontourError
from recontour.postprocess import rules_for
from recontour.recipe import Recipe
from recontour.refiners import make_refiner
from recontour.refiners.aligning import Aligned, align, levels_of
from recontour.refiners.sampling import sample_order, take_cells
from recontour.types import PatchSet, Refiner

METHODS = ("logistic", "lc_mil", "deep_knn", "pencil", "prototype", "em")
EQUAL = 0.005  # of F1: closer are called the same


class Figure(NamedTuple):
    """F1 of one slide under one outline."""

    method: str
    way: str
    site: str
    case: str
    outline: str
    seed: int
    f1: float


def fit(method: MethodSpec, seed: int, sets: Sequence[PatchSet]) -> Refiner:
    """The method, fitted on slides together."""
    return make_refiner(method.name, seed=seed, **method.options).fit(sets)


def sampled(patches: PatchSet, most: int, seed: int) -> PatchSet:
    """A bounded sample of a slide."""
    return take_cells(patches, np.sort(sample_order(patches, most, seed=seed)))


def judge(
    pool: Sequence[Cells], method: MethodSpec, outline: str, seed: int, sizes: Sequence[int]
) -> Iterator[Figure]:
    """F1 of each slide of a pool, learned alone and together."""
    given = {
        cells.case: one
        for cells in pool
        for one in cells.outlines
        if (one.label, one.seed) == (outline, seed)
    }
    labelled = {c.case: c.labelled(given[c.case]) for c in pool if c.case in given}

    def f1(cells: Cells, refiner: Refiner) -> float:
        patches = cells.patches
        probs = refiner.predict_proba(labelled[cells.case])
        labels = decide(patches.grid, probs, rules_for(Recipe(), patches.grid, method.name))
        return float(scored(cells, labels)["metrics"]["f1"])

    def scored(cells: Cells, labels: NDArray[np.int8]) -> dict[str, Any]:
        patches = cells.patches
        return score(cells.truth, labels, given[cells.case].given, patches.grid, patches.classes)

    levels = {case: levels_of(patches) for case, patches in labelled.items()}
    ways = {
        "pool": list(labelled.values()),
        "aligned": [align(p, levels[case]) for case, p in labelled.items()],
    }
    for most in sizes:
        ways[f"aligned, {most} cells"] = [
            align(sampled(p, most, seed), levels[case]) for case, p in labelled.items()
        ]
    fitted = {way: fit(method, seed, sets) for way, sets in ways.items()}
    for cells in pool:
        if cells.case not in labelled or not scored(cells, given[cells.case].given)["valid"]:
            continue
        try:
            own = fit(method, seed, [labelled[cells.case]])
        except RecontourError:
            continue
        for way, learned in {"alone": own, **fitted}.items():
            aligned = way.startswith("aligned")
            refiner = Aligned(learned, levels[cells.case]) if aligned else learned
            of = (method.label, way, site_of(cells.case), cells.case, outline, seed)
            yield Figure(*of, f1(cells, refiner))


def table(figures: Sequence[Figure]) -> str:
    """Markdown: a line for each site and method, a column for each way."""
    ways = list(dict.fromkeys(f.way for f in figures))
    lines = [
        "| site | method | pairs | " + " | ".join(ways) + " | better / worse |",
        "|---|---|---|" + "---|" * len(ways) + "---|",
    ]
    for site in dict.fromkeys(f.site for f in figures):
        for method in dict.fromkeys(f.method for f in figures):
            here = [f for f in figures if (f.site, f.method) == (site, method)]
            of = {
                way: {(f.case, f.outline, f.seed): f.f1 for f in here if f.way == way}
                for way in ways
            }
            alone = of[ways[0]]
            if not alone:
                continue
            means = [f"{np.mean(list(of[way].values())):.3f}" for way in ways]
            change = [of[ways[-1]][key] - value for key, value in alone.items()]
            better, worse = sum(c > EQUAL for c in change), sum(c < -EQUAL for c in change)
            lines.append(
                f"| {site} | {method} | {len(alone)} | {' | '.join(means)} | {better} / {worse} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Judge what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tissue", type=Path, required=True, help="folder of tissue_folder.py")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--encoder", default=ENCODERS[0], choices=ENCODERS)
    parser.add_argument("--severity", nargs="+", default=["mild", "hard"])
    parser.add_argument("--sites", nargs="+", default=["bcss", "prostate"])
    parser.add_argument("--cells", nargs="+", type=int, default=[500], help="of a slide's sample")
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    methods = [parse_method(text) for text in split_specs(args.methods)]
    start = time.process_time()
    every = list(cells_of(args.tissue, args.out / "runs", args.encoder, plan_of(()), args.sites))
    figures: list[Figure] = []
    for site in args.sites:
        by_classes: dict[tuple[str, ...], list[Cells]] = {}
        for cells in every:
            if site_of(cells.case) == site:
                by_classes.setdefault(cells.patches.classes, []).append(cells)
        for pool in by_classes.values():
            for method in methods:
                for outline in outline_names(args.severity):
                    for seed in range(args.seeds):
                        figures += judge(pool, method, outline, seed, args.cells)
                print(f"{site} {method.label} {time.process_time() - start:.0f} CPU-s", flush=True)
    print(table(figures))


if __name__ == "__main__":
    main()
