"""How far answers that start from the last one are from those of a run of its own.

    python benchmarks/warm.py [--side 6000] [--edits 5] [--method em]

A generated slide; a careless outline of its tumour is edited again and again, each time by adding
or cutting off a disc at a random place of its border. Each edit is refined cold and warm; printed
are the share of cells on which the two differ, and how right each is.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recontour import Recipe, Runtime, Session, generate_slide, open_slide, simulate_coarse
from recontour.grid import label_patches
from recontour.types import Annotation, Refinement

KINDS = ("wobbly", "generous", "tight", "missed")
DISC_CELLS = (4, 12)
"""Radius of what an edit adds or cuts off."""


def edits(outline: Annotation, count: int, cell_px: float, seed: int) -> Iterator[Annotation]:
    """The outline after each of `count` edits; each leaves something of every region."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        regions = list(outline.regions)
        i = int(rng.integers(len(regions)))
        geometry = regions[i].geometry
        middle = geometry.boundary.interpolate(rng.uniform(), normalized=True)
        disc = middle.buffer(rng.uniform(*DISC_CELLS) * cell_px)
        drawn = geometry.union(disc) if rng.uniform() < 0.5 else geometry.difference(disc)
        if not drawn.is_empty:
            regions[i] = replace(regions[i], geometry=drawn)
        outline = replace(outline, regions=tuple(regions))
        yield outline


def f1(found: NDArray[np.integer], true: NDArray[np.integer]) -> float:
    """Of foreground cells."""
    both = np.count_nonzero((found > 0) & (true > 0))
    return 2 * both / max(np.count_nonzero(found) + np.count_nonzero(true), 1)


def labels_of(refined: Refinement) -> NDArray[np.int8]:
    """What the new outline says of each cell."""
    regions = [[r.geometry for r in refined.annotation.regions]]
    return label_patches(refined.patches.grid, regions)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--side", type=int, default=6000)
    parser.add_argument("--edits", type=int, default=5)
    parser.add_argument("--method", default="em")
    arguments = parser.parse_args()
    side, recipe = arguments.side, Recipe(method=arguments.method)
    apart, gain = [], []
    with tempfile.TemporaryDirectory() as folder:
        made = generate_slide(Path(folder) / "slide.tif", size=(side, side), seed=2)
        runtime = Runtime(cache_dir=Path(folder) / "cache")
        slide = open_slide(made.path)
        for seed, kind in enumerate(KINDS):
            outline = simulate_coarse(
                made.truth, kind=kind, seed=seed, mpp=made.mpp, size=made.size
            )
            with Session(slide, recipe, runtime) as cold, Session(slide, recipe, runtime) as warm:
                grid = warm.refine(outline).patches.grid
                cold.embed()
                true = label_patches(grid, [made.truth.regions])
                for i, edited in enumerate(edits(outline, arguments.edits, grid.stride, seed)):
                    anew = labels_of(cold.refine(edited))
                    on = labels_of(warm.refine(edited, warm=True))
                    apart.append(float(np.mean(anew != on)))
                    gain.append(f1(on, true) - f1(anew, true))
                    print(
                        f"{kind:10} edit {i + 1}: {apart[-1]:6.2%} of the cells differ; "
                        f"F1 {f1(anew, true):.3f} cold, {f1(on, true):.3f} warm",
                        flush=True,
                    )
        slide.close()
    print(
        f"{len(apart)} edits, {len(true):,} cells: {np.median(apart):.2%} of the cells differ in "
        f"the median, {max(apart):.2%} at most; F1 warm minus cold {np.mean(gain):+.4f} on average "
        f"({min(gain):+.4f} to {max(gain):+.4f})"
    )


if __name__ == "__main__":
    main()
