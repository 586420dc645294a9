"""Lesions of 1 to 20 cells: how many are found, and how many false ones come with them.

    python benchmarks/tissue_folder.py --data ../shared/data --out benchmarks/results/tissue
    python benchmarks/small_lesions.py --folder benchmarks/results/tissue --methods em logistic

planted    real tissue. Connected tumour cells of a region are copied, with their features, to
           where the experts drew none, two cells away from tumour at least; the window around a
           cell is the mean of what it then holds. `islands` are the same the other way round:
           benign cells copied into tumour. No outline knows of them.
as they are  the same regions with nothing planted: what it costs or brings elsewhere.
generated  painted slides, whose nests of all sizes are known.

Each outline is refined once, then decided in three ways: `size` (objects and holes of fewer than
six cells go: the former default), `evidence` (the default) and `nothing removed` (the smoothed
probability alone). A lesion is found when at least half of its cells are tumour; an object is
false when less than half of its cells are. Counts are sums over all runs.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, label

from recontour import Recipe, Runtime, generate_slide, open_slide, read_annotation
from recontour.embedding import embed_patches
from recontour.grid import label_patches
from recontour.postprocess import MIN_AREA_CELLS, clean_labels, rules_for, smooth_probs
from recontour.preparation import lay_out, open_cache
from recontour.refiners import make_refiner
from recontour.simulation import simulate_coarse
from recontour.types import BACKGROUND, PatchGrid, PatchSet

SIZES = (1, 2, 3, 5, 8, 12, 20)
BINS = ((1, 1), (2, 3), (4, 5), (6, 10), (11, 20))
EACH = 3  # lesions of each size in a region
GAP = 2.0  # cells between a planted lesion and whatever is like it
KINDS = ("missed", "generous", "tight", "shifted", "wobbly")


class Case(NamedTuple):
    """Cells with features; `truth` and `lesions` (n,), the number of a small lesion or 0."""

    group: str
    patches: PatchSet
    truth: NDArray[np.bool_]
    lesions: NDArray[np.intp]
    islands: bool


def lay(grid: PatchGrid, values: NDArray) -> NDArray:
    """(n,) values as a lattice, 0 off tissue."""
    out = np.zeros(grid.shape, np.asarray(values).dtype)
    out[grid.rows, grid.cols] = values
    return out


def blob(rng: np.random.Generator, free: NDArray[np.bool_], size: int) -> list[tuple[int, int]]:
    """About round, `size` connected cells of `free`; fewer where there is no room."""
    places = np.argwhere(free)
    cells = [tuple(places[rng.integers(len(places))])]
    while len(cells) < size:
        middle = np.mean(cells, axis=0)
        rim = {(r + dr, c + dc) for r, c in cells for dr, dc in ((0, 1), (1, 0), (0, -1), (-1, 0))}
        rim = [
            p for p in sorted(rim - set(cells))
            if 0 <= p[0] < free.shape[0] and 0 <= p[1] < free.shape[1] and free[p]
        ]  # fmt: skip
        if not rim:
            break
        far = ((np.array(rim) - middle) ** 2).sum(axis=1) + 1.5 * rng.random(len(rim))
        cells.append(rim[int(far.argmin())])
    return cells


def plant(patches: PatchSet, truth: NDArray[np.bool_], islands: bool, seed: int) -> Case:
    """Copy parts of one kind of tissue into the other."""
    rng, grid = np.random.default_rng(seed), patches.grid
    index = np.full(grid.shape, -1)
    index[grid.rows, grid.cols] = np.arange(len(grid))
    there = lay(grid, truth != islands)
    free = (index >= 0) & ~there & (distance_transform_edt(~there) > GAP)
    lesions = np.zeros(grid.shape, np.intp)
    source = np.full(grid.shape, -1)
    for size in sorted(SIZES * EACH, reverse=True):
        for _ in range(200 if free.any() else 0):
            cells = np.array(blob(rng, free, size))
            starts = rng.permutation(np.argwhere(there))[:100]
            moved = cells[None] - cells[0] + starts[:, None]  # (100, size, 2)
            inside = ((moved >= 0) & (moved < grid.shape)).all(axis=(1, 2))
            fits = [m for m in moved[inside] if there[tuple(m.T)].all()]
            if len(cells) == size and fits:
                lesions[tuple(cells.T)] = lesions.max() + 1
                source[tuple(cells.T)] = index[tuple(fits[0].T)]
                free &= distance_transform_edt(lesions == 0) > GAP
                break
    cell = patches.features.astype(np.float32)
    context = np.asarray(patches.context, np.float32).copy()
    changed = np.argwhere(lesions > 0)
    share = np.array([[0.25, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 0.25]]) / 4
    new = cell.copy()
    for r, c in changed:
        difference = cell[source[r, c]] - cell[index[r, c]]
        new[index[r, c]] = cell[source[r, c]]
        for dr, dc in np.ndindex(3, 3):
            at = (r + dr - 1, c + dc - 1)
            if 0 <= at[0] < grid.shape[0] and 0 <= at[1] < grid.shape[1] and index[at] >= 0:
                context[index[at]] += share[dr, dc] * difference
    numbers = lesions[grid.rows, grid.cols]
    planted = PatchSet(
        patches.slide_id, grid, new, patches.labels, patches.classes, context.astype(np.float16)
    )
    group = "planted islands of benign tissue" if islands else "planted lesions"
    return Case(group, planted, np.where(numbers > 0, not islands, truth), numbers, islands)


def real(folder: Path, kinds: list[str], runtime: Runtime) -> Iterator[Case]:
    """Planted lesions and islands in each region, with one outline of each kind."""
    for path in sorted(folder.glob("*.fine.geojson")):
        slide = open_slide(path.with_name(path.name.replace(".fine.geojson", ".tif")))
        truth = read_annotation(path)
        layout = lay_out(slide, Recipe(), runtime)
        features = embed_patches(slide, layout.lattice, layout.encoder, cache=open_cache(runtime))
        fine = label_patches(layout.lattice, [truth.regions]) > 0
        for kind in kinds:
            coarse = simulate_coarse(truth, kind=kind, seed=0, mpp=slide.mpp, size=slide.size)
            labels = label_patches(layout.lattice, [coarse.regions])
            patches = PatchSet(
                slide.id, layout.lattice, features.cell, labels, (BACKGROUND, "Tumor"),
                features.context,
            )  # fmt: skip
            nothing = np.zeros(len(fine), np.intp)
            yield Case("regions as they are", patches, fine, nothing, False)
            for islands in (False, True):
                yield plant(patches, fine, islands, seed=1)
        slide.close()


def painted(seeds: list[int], side: int, kinds: list[str], runtime: Runtime) -> Iterator[Case]:
    """Generated slides; the lesions are their nests, as cells, that are small enough."""
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            made = generate_slide(Path(folder) / f"{seed}.tif", size=(side, side), seed=seed)
            slide = open_slide(made.path)
            layout = lay_out(slide, Recipe(), runtime)
            grid = layout.lattice
            features = embed_patches(slide, grid, layout.encoder, cache=open_cache(runtime))
            truth = label_patches(grid, [made.truth.regions]) > 0
            lesions, _ = label(lay(grid, truth))
            lesions[(np.bincount(lesions.ravel()) > BINS[-1][1])[lesions]] = 0
            for kind in kinds:
                coarse = simulate_coarse(
                    made.truth, kind=kind, seed=seed, mpp=made.mpp, tissue=made.tissue
                )
                labels = label_patches(grid, [coarse.regions])
                patches = PatchSet(
                    slide.id, grid, features.cell, labels, (BACKGROUND, "Tumor"), features.context
                )
                numbers = lesions[grid.rows, grid.cols].astype(np.intp)
                yield Case("nests of generated slides", patches, truth, numbers, False)
            slide.close()


def ways(grid: PatchGrid) -> dict[str, Recipe]:
    """How probabilities become objects."""
    return {
        "size": Recipe(min_area_um2=MIN_AREA_CELLS * grid.cell_um**2),
        "evidence": Recipe(),
        "nothing removed": Recipe(min_area_um2=0.0),
    }


def bin_of(size: int) -> tuple[int, int] | None:
    """The bin of a size; None: larger than a small lesion."""
    return next((b for b in BINS if b[0] <= size <= b[1]), None)


def score(case: Case, found: NDArray[np.bool_], tally: Counter) -> float:
    """Count lesions, found ones and false ones into `tally`; F1 of the cells."""
    wanted = not case.islands
    for number in np.unique(case.lesions[case.lesions > 0]):
        mine = case.lesions == number
        at = bin_of(int(mine.sum()))
        tally[at, "lesions"] += 1
        tally[at, "found"] += int((found[mine] == wanted).mean() >= 0.5)
    grid = case.patches.grid
    parts, count = label(lay(grid, found == wanted))
    parts = parts[grid.rows, grid.cols]
    size = np.bincount(parts, minlength=count + 1)
    right = np.bincount(parts, case.truth == wanted, count + 1)
    for number in range(1, count + 1):
        if right[number] < size[number] / 2:
            tally[bin_of(int(size[number])), "false"] += 1
    return float(2 * (case.truth & found).sum() / max(case.truth.sum() + found.sum(), 1))


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results/tissue"))
    parser.add_argument("--methods", nargs="+", default=["em", "logistic"])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[2, 5], help="generated slides")
    parser.add_argument("--side", type=int, default=3072, help="of generated slides, px")
    args = parser.parse_args()
    runtime = Runtime()
    tallies: dict[tuple[str, str, str], Counter] = {}
    f1: dict[tuple[str, str, str], list[float]] = {}
    for case in chain(
        real(args.folder, args.kinds, runtime),
        painted(args.seeds, args.side, args.kinds, runtime),
    ):
        grid = case.patches.grid
        for method in args.methods:
            refiner = make_refiner(method, seed=0)
            probs = refiner.fit([case.patches]).predict_proba(case.patches)
            for way, recipe in ways(grid).items():
                rules = rules_for(recipe, grid)
                smooth = smooth_probs(grid, probs, rules)
                labels = clean_labels(grid, smooth, rules, raw=probs)
                key = (case.group, method, way)
                found = labels[grid.rows, grid.cols] > 0
                f1.setdefault(key, []).append(
                    score(case, found, tallies.setdefault(key, Counter()))
                )
    head = [f"{a} cell" if b == 1 else f"{a}-{b}" for a, b in BINS]
    for group in dict.fromkeys(key[0] for key in tallies):
        print(f"\n### {group[0].upper()}{group[1:]}\n")
        print("| method | removed by | " + " | ".join(head) + " | false " + " | false ".join(head)
              + " | F1 of cells |")  # fmt: skip
        print("|---|---|" + "---:|" * (2 * len(head) + 1))
        for (name, method, way), tally in tallies.items():
            if name != group:
                continue
            recall = [f"{tally[b, 'found']} / {tally[b, 'lesions']}" for b in BINS]
            false = [str(tally[b, "false"]) for b in BINS]
            mean = np.mean(f1[name, method, way])
            print(f"| {method} | {way} | " + " | ".join([*recall, *false]) + f" | {mean:.4f} |")


if __name__ == "__main__":
    main()
