"""Growth of cost with cells: embedding and every refiner, side by side at several sizes.

    python benchmarks/growth.py [--rounds 2] [--only em logistic …] [--cells 10000 20000 40000]

Cost that grows with cells to the power of 1 is linear. The power is the slope of a line through
the logarithms of CPU-seconds at three sizes, the least of the rounds each; what is quick is
measured on more cells, where what does not grow no longer counts. A method that takes a fixed
number of steps grows less than linearly. Exact neighbours (`deep_knn`) compare all cells with all:
they are the exception, and are shown as such. Refiners get made-up features, 424 numbers a cell
and as many of its surroundings; embedding is that of the default encoder.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import synthetic
from timing import interleaved

from recontour import make_refiner
from recontour.embedding import embed_patches
from recontour.grid import label_patches
from recontour.preparation import lay_out
from recontour.recipe import Recipe, Runtime
from recontour.types import PatchSet

EMBEDDING = "embedding"
QUICK, SLOW = (10_000, 20_000, 40_000), (2_500, 5_000, 10_000)
SIZES = {
    EMBEDDING: (400, 800, 1_600),
    "identity": QUICK,
    "em": QUICK,
    "logistic": QUICK,
    "deep_knn": QUICK,
    "lc_mil": SLOW,
    "prototype": SLOW,
    "pencil": SLOW,
}
"""Cells that each is measured on."""
EXACT_NEIGHBOURS = ("deep_knn",)
LINEAR = 1.2
"""A power above it is more than linear; noise and caches make up to this of what is linear."""


class Growth(NamedTuple):
    """How the cost of one thing grows.

    Attributes
    ----------
    power : 1: linear, 2: quadratic
    cpu : CPU-seconds at each size
    cells : the sizes, about
    """

    power: float
    cpu: tuple[float, ...]
    cells: tuple[int, ...]


def power_of(cells: Sequence[int], cpu: Sequence[float]) -> float:
    """Slope of the logarithms."""
    return float(np.polyfit(np.log(cells), np.log(np.maximum(cpu, 1e-6)), 1)[0])


def measure(
    only: Sequence[str] = tuple(SIZES), rounds: int = 2, cells: Sequence[int] | None = None
) -> dict[str, Growth]:
    """Growth of each method's fit and predict, and of "embedding" (reading and pooling included).

    Parameters
    ----------
    cells : three sizes for all; None: those of `SIZES`
    """
    growth = {}
    for name in only:
        sizes = tuple(cells or SIZES[name])
        made = {n: _embedding(n) if name == EMBEDDING else _learning(name, n) for n in sizes}
        quick = name != EMBEDDING and sizes[0] >= QUICK[0]
        if not quick:
            made[sizes[0]][0]()  # imports, and what is set up once
        cases = {str(n): run for n, (run, _) in made.items()}
        found = interleaved(cases, rounds, warm_up=quick)
        cpu = tuple(min(found[str(n)].cpu) for n in sizes)
        growth[name] = Growth(power_of([n for _, n in made.values()], cpu), cpu, sizes)
    return growth


def _embedding(cells: int) -> tuple[Callable[[], object], int]:
    """What embeds a slide by the default encoder, and how many cells that are."""
    slide = synthetic.SyntheticSlide(cells)
    layout = lay_out(slide, Recipe(cell_um=32), Runtime())
    return lambda: embed_patches(slide, layout.lattice, layout.encoder), len(layout.lattice)


def _learning(method: str, cells: int) -> tuple[Callable[[], object], int]:
    """What learns from an outline and answers, and of how many cells."""
    patches = _patches(cells)

    def learn() -> object:
        return make_refiner(method, seed=0).fit([patches]).predict_proba(patches)

    return learn, len(patches)


@cache
def _patches(cells: int) -> PatchSet:
    slide = synthetic.SyntheticSlide(cells)
    layout = lay_out(slide, Recipe(encoder=synthetic.register(), cell_um=32), Runtime())
    features = embed_patches(slide, layout.lattice, layout.encoder)
    labels = label_patches(layout.lattice, [slide.outline(0).regions])
    return PatchSet(
        slide.id, layout.lattice, features.cell, labels, ("background", "Tumor"), features.context
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, nargs="+")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=list(SIZES), choices=SIZES)
    arguments = parser.parse_args()
    for name, growth in measure(arguments.only, arguments.rounds, arguments.cells).items():
        seconds = ", ".join(
            f"{s:.2f} for {n:,}" for s, n in zip(growth.cpu, growth.cells, strict=True)
        )
        said = "linear" if growth.power <= LINEAR else "MORE than linear"
        if name in EXACT_NEIGHBOURS:
            said = "all cells with all"
        print(f"{name:12} power {growth.power:.2f}, {said:18} ({seconds} CPU-s)", flush=True)


if __name__ == "__main__":
    main()
