"""How fine the border gets: cells as they are, interpolated between them, asked again in a band.

    python benchmarks/tissue_folder.py --data ../shared/data --out benchmarks/results/tissue
    python benchmarks/borders.py --folder benchmarks/results/tissue --method logistic

For each region and simulated outline one fit, traced in several ways:

coarse     the outline that was refined
blocky     the cells that were decided to be tumour, as squares
default    the smoothed probability, interpolated between the cells and contoured
band 2, 4  the same with cells of a half or a quarter of the stride around the border

And without a method, what the grid alone allows: `perfect` are the shares of each cell that the
truth covers, not smoothed, as squares and contoured. IoU is of the polygons' areas (pixels of no
size); distances are between the boundaries, in µm. Every run is kept in `borders.csv`.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import shapely
from real_tissue import KINDS, mean
from shapely import box

from recontour import Recipe, Runtime, open_slide, read_annotation
from recontour.band import Surface, sharpen
from recontour.embedding import embed_patches
from recontour.errors import RecontourError
from recontour.geometry import polygonal, union
from recontour.grid import coverage
from recontour.metrics.polygons import boundary_distance_um, median_distance_um, polygon_iou
from recontour.postprocess import Rules, clean_labels, rules_for, smooth_probs
from recontour.preparation import Work, open_cache, prepare
from recontour.refiners import make_refiner
from recontour.simulation import simulate_coarse
from recontour.tracing import trace_regions
from recontour.types import Annotation, Geometry, PatchGrid

FIGURES = ("iou", "mean_um", "median_um")


def blocky(grid: PatchGrid, labels: np.ndarray, size: tuple[int, int]) -> Geometry:
    """The cells themselves."""
    rows, cols = np.nonzero(labels)
    x, y = (grid.origin[i] + index * grid.stride for i, index in enumerate((cols, rows)))
    cells = shapely.box(x, y, x + grid.stride, y + grid.stride)
    return polygonal(union(cells).intersection(box(0, 0, *size)))


def compare(truth: Geometry, drawn: Geometry, mpp: float) -> dict[str, float]:
    """IoU, and the distance between the boundaries every 2 µm along them."""
    step = 2.0 / mpp
    return {
        "iou": polygon_iou(truth, drawn),
        "mean_um": boundary_distance_um(truth, drawn, mpp, step_px=step).mean,
        "median_um": median_distance_um(truth, drawn, mpp, step_px=step),
    }


def perfect(work: Work, truth: Geometry) -> Iterator[tuple[str, Geometry]]:
    """What the lattice could hold, from the share of each cell that is tumour."""
    share = coverage(work.grid, truth)
    probs = np.stack([1 - share, share], axis=1)
    rules = Rules(sigma_cells=0.0, min_area_cells=0)
    labels = clean_labels(work.grid, probs, rules)
    yield "perfect, blocky", blocky(work.grid, labels, work.slide.size)
    (area,) = trace_regions(work.grid, probs, labels, rules, slide_size=work.slide.size)
    yield "perfect, contoured", area


def traced(
    work: Work, recipe: Recipe, runtime: Runtime, factors: list[int]
) -> Iterator[tuple[str, Geometry, float]]:
    """One fit, drawn in several ways; with the seconds that each takes more than the fit."""
    rules = rules_for(recipe, work.grid)
    features = embed_patches(work.slide, work.lattice, work.encoder, cache=open_cache(runtime))
    patches = work.patch_set(features)
    refiner = make_refiner(recipe.method, seed=recipe.seed)
    probs = refiner.fit([patches]).predict_proba(patches)
    smooth = smooth_probs(work.grid, probs, rules)
    labels = clean_labels(work.grid, smooth, rules, raw=probs)
    first = Surface(work.grid, smooth, labels, rules)
    yield "blocky", blocky(work.grid, labels, work.slide.size), 0.0
    for factor in (1, *factors):
        start = time.perf_counter()
        surface = sharpen(first, work, patches, probs, refiner, factor, runtime)
        (area,) = trace_regions(*surface, slide_size=work.slide.size)
        seconds = time.perf_counter() - start
        yield "default" if factor == 1 else f"band {factor}", area, seconds


def area_of(annotation: Annotation) -> Geometry:
    """All that its regions cover."""
    return union(region.geometry for region in annotation.regions)


def run(args: argparse.Namespace) -> list[dict[str, object]]:
    """One row for each region, outline and way of drawing."""
    rows: list[dict[str, object]] = []
    runtime = Runtime(use_cache=not args.no_cache)
    for path in sorted(args.folder.glob("*.fine.geojson")):
        name = path.name.removesuffix(".fine.geojson")
        slide = open_slide(path.with_name(f"{name}.tif"))
        truth = read_annotation(path)
        area, best = area_of(truth), None
        for kind in args.kinds:
            for seed in range(args.seeds):
                coarse = simulate_coarse(
                    truth, kind=kind, seed=seed, mpp=slide.mpp, size=slide.size
                )
                recipe = Recipe(method=args.method, encoder=args.encoder, seed=seed)
                try:
                    work = prepare(slide, coarse, recipe, runtime)
                except RecontourError as error:
                    print(f"{name} {kind} {seed}: {error}", flush=True)
                    continue
                found = [("coarse", area_of(coarse), 0.0)]
                found += traced(work, recipe, runtime, args.factors)
                head = {"image": name, "kind": kind, "seed": seed, "cell_um": work.grid.cell_um}
                for way, drawn, seconds in found:
                    figures = compare(area, drawn, slide.mpp)
                    rows.append({**head, "way": way, **figures, "seconds": seconds})
                if best is None:  # the same for every outline
                    best = [(way, compare(area, a, slide.mpp)) for way, a in perfect(work, area)]
                rows += [{**head, "way": way, **figures, "seconds": 0.0} for way, figures in best]
                last = {r["way"]: f"{r['iou']:.3f}" for r in rows[-len(found) - 2 :]}
                print(name, kind, seed, last, flush=True)
        slide.close()
    return rows


def tables(rows: list[dict[str, object]]) -> str:
    """Markdown: means over the regions' means, then IoU and median distance of each region."""
    ways = list(dict.fromkeys(str(r["way"]) for r in rows))
    images = list(dict.fromkeys(str(r["image"]) for r in rows))

    def of(way: str, image: str, figure: str) -> float:
        mine = [r for r in rows if r["way"] == way and r["image"] == image]
        return mean([float(str(r[figure])) for r in mine])

    lines = ["| drawn as | IoU | mean distance | median distance | better than default | s |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for way in ways:
        iou, far, near, seconds = (
            mean([of(way, i, f) for i in images]) for f in (*FIGURES, "seconds")
        )
        wins = sum(of(way, i, "iou") > of("default", i, "iou") for i in images)
        better = "" if way == "default" else f"{wins} of {len(images)}"
        lines.append(
            f"| {way} | {iou:.3f} | {far:.1f} µm | {near:.1f} µm | {better} | {seconds:.1f} |"
        )
    head = [w for w in ways if w != "coarse"]
    lines += ["", "| region | cell | coarse | " + " | ".join(head) + " |"]
    lines.append("|---|---:|---:|" + "---:|" * len(head))
    for image in images:
        cell = of(ways[0], image, "cell_um")
        cells = [
            f"{of(w, image, 'iou'):.3f} / {of(w, image, 'median_um'):.1f}"
            for w in ("coarse", *head)
        ]
        lines.append(f"| {image} | {cell:.0f} µm | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/results/tissue"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/borders"))
    parser.add_argument("--method", default="logistic")
    parser.add_argument("--encoder", default="efficientnet_lite0")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--factors", type=int, nargs="*", default=[2])
    parser.add_argument("--no-cache", action="store_true")
    args = parser.parse_args()
    rows = run(args)
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / f"borders_{args.method}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    print(tables(rows))


if __name__ == "__main__":
    main()
