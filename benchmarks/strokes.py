"""What reviewing is worth: F1 after 0 to 20 strokes of 3 x 3 cells, by where they are made.

    python benchmarks/strokes.py --tissue TISSUE -o OUT [--methods em,logistic] [--jobs 2]

A stroke tells the true class of its cells. Strokes are made where the first result is most wrong
(`errors`: as a person would who sees it), where it is least sure (`uncertain`) or anywhere
(`random`), all at once, before the method learns again. F1 counts all tissue cells, and again only
those that no stroke touched (`elsewhere`). Writes `strokes.json` and `strokes.png`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from default_refiner import fill
from numpy.typing import NDArray
from quality import ENCODERS, Cells, Outline, cells_of, outline_names, plan_of

from recontour.benchmark.scoring import score
from recontour.calibration import calibrate
from recontour.metrics import confusion
from recontour.postprocess import clean_labels, rules_for, smooth_probs
from recontour.recipe import Recipe
from recontour.refiners import make_refiner
from recontour.review import hold_labels, hold_probs
from recontour.types import COARSE_TRUST, PatchSet

STROKES = (0, 2, 5, 10, 20)
PLACES = ("errors", "uncertain", "random")


def refine(patches: PatchSet, method: str, seed: int) -> tuple[NDArray, NDArray]:
    """Smoothed probabilities (n, K) and decided labels (n,) as in a run."""
    grid, rules = patches.grid, rules_for(Recipe(method=method), patches.grid)
    probs = make_refiner(method, seed=seed).fit([patches]).predict_proba(patches)
    probs = hold_probs(patches, probs)
    smooth = hold_probs(patches, smooth_probs(grid, probs, rules))
    decided = hold_labels(patches, clean_labels(grid, smooth, rules, raw=probs))
    return smooth, decided[grid.rows, grid.cols]


def pick(patches: PatchSet, worth: NDArray, count: int) -> list[NDArray[np.intp]]:
    """Cells of `count` strokes of 3 x 3 that do not overlap, most worth first."""
    rows, cols = patches.grid.rows, patches.grid.cols
    laid = np.full(tuple(side + 2 for side in patches.grid.shape), -1)
    laid[rows + 1, cols + 1] = np.arange(len(rows))
    steps = [(i, j) for i in (0, 1, 2) for j in (0, 1, 2)]
    near = np.stack([laid[rows + i, cols + j] for i, j in steps], axis=1)
    total = np.where(near >= 0, worth[near], 0).sum(axis=1)
    found: list[NDArray[np.intp]] = []
    taken = np.zeros(len(rows), bool)
    for cell in np.argsort(-total, kind="stable"):
        stroke = near[cell][near[cell] >= 0]
        if not taken[stroke].any():
            taken[stroke] = True
            found.append(stroke)
        if len(found) == count:
            break
    return found


def reviewed(patches: PatchSet, truth: NDArray, strokes: Sequence[NDArray[np.intp]]) -> PatchSet:
    """The cells with the true labels of the strokes, certain."""
    labels, trust = patches.labels.copy(), np.full(len(patches), COARSE_TRUST, np.float32)
    for stroke in strokes:
        labels[stroke], trust[stroke] = truth[stroke], 1.0
    return replace(patches, labels=labels, trust=trust)


def worth_of(place: str, patches: PatchSet, smooth: NDArray, truth: NDArray, seed: int) -> NDArray:
    """(n,) how much a stroke on each cell is worth."""
    if place == "errors":
        return 1 - np.take_along_axis(smooth, truth[:, None].astype(int), axis=1)[:, 0]
    if place == "uncertain":
        return 1 - calibrate(patches, smooth).probs.max(axis=1)
    return np.random.default_rng(seed).random(len(patches)) ** 9  # a sum of nine stays random


def judge(cells: Cells, outline: Outline, method: str) -> Iterator[dict[str, object]]:
    """One row a place and number of strokes."""
    patches = cells.labelled(outline)
    grid = patches.grid
    truth = cells.truth[grid.rows, grid.cols]
    smooth, first = refine(patches, method, outline.seed)
    for place in PLACES:
        strokes = pick(patches, worth_of(place, patches, smooth, truth, outline.seed), STROKES[-1])
        for count in STROKES:
            told = reviewed(patches, truth, strokes[:count])
            found = refine(told, method, outline.seed)[1] if count else first
            rest = told.trust < 1
            yield {
                "image": cells.case,
                "outline": outline.label,
                "method": method,
                "place": place,
                "strokes": count,
                "coarse": confusion(truth > 0, patches.labels > 0).ratios()["f1"],
                "f1": confusion(truth > 0, found > 0).ratios()["f1"],
                "elsewhere": confusion(truth[rest] > 0, found[rest] > 0).ratios()["f1"],
                "elsewhere_before": confusion(truth[rest] > 0, first[rest] > 0).ratios()["f1"],
            }


def tasks_of(tissue: Path, out: Path, seeds: int) -> Iterator[tuple[Cells, Outline]]:
    """Every valid outline of every image."""
    for cells in cells_of(tissue, out / "runs", ENCODERS[0], plan_of(())):
        grid, classes = cells.patches.grid, cells.patches.classes
        for outline in cells.outlines:
            if outline.label not in outline_names(["mild"]) or outline.seed >= seeds:
                continue
            if score(cells.truth, outline.given, outline.given, grid, classes)["valid"]:
                yield cells, outline


def _judge(task: tuple[Cells, Outline, Sequence[str]]) -> list[dict[str, object]]:
    cells, outline, methods = task
    return [row for method in methods for row in judge(cells, outline, method)]


def by_image(rows: Sequence[dict], figure: str, **only: object) -> dict[str, float]:
    """Mean of a figure over the outlines of each image."""
    found = defaultdict(list)
    for row in rows:
        if all(row[key] == value for key, value in only.items()):
            found[row["image"]].append(row[figure])
    return {image: float(np.mean(values)) for image, values in found.items()}


def curve(rows: Sequence[dict], method: str, place: str, figure: str = "f1") -> list[float]:
    """Mean over images for each number of strokes."""
    return [
        float(np.mean(list(by_image(rows, figure, method=method, place=place, strokes=n).values())))
        for n in STROKES
    ]


def table(rows: Sequence[dict], methods: Sequence[str]) -> Iterator[str]:
    """F1 for each method, place and number of strokes; then the first method image by image."""
    yield f"| method | strokes on | {' | '.join(map(str, STROKES))} | elsewhere |"
    yield "|---" * (len(STROKES) + 3) + "|"
    ten = STROKES.index(10)
    for method in methods:
        for place in PLACES:
            values = " | ".join(f"{v:.3f}" for v in curve(rows, method, place))
            gain = curve(rows, method, place, "elsewhere")[ten]
            gain -= curve(rows, method, place, "elsewhere_before")[ten]
            yield f"| {method} | {place} | {values} | {gain:+.3f} |"
    yield ""
    yield f"| `{methods[0]}`, by image | 0 | ten on errors | ten on uncertain |"
    yield "|---|---|---|---|"
    columns = [
        by_image(rows, "f1", method=methods[0], place=place, strokes=count)
        for place, count in (("errors", 0), ("errors", 10), ("uncertain", 10))
    ]
    for image in columns[0]:
        yield f"| {image} | {' | '.join(f'{c[image]:.3f}' for c in columns)} |"


def publish(page: Path, parts: dict[str, str], picture: Path) -> None:
    """Fill the markers of a page of the documentation, and copy a figure to its images."""
    page.write_text(fill(page.read_text("utf-8"), parts), "utf-8")
    shutil.copyfile(picture, page.parent.parent / "images" / picture.name)


def draw(rows: Sequence[dict], methods: Sequence[str], path: Path) -> None:
    """The curves: one panel a method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(methods), 3.4), layout="constrained")
    for axes, method in zip(
        figure.subplots(1, len(methods), sharey=True, squeeze=False)[0], methods, strict=True
    ):
        for place in PLACES:
            axes.plot(STROKES, curve(rows, method, place), marker="o", label=place)
        axes.set(title=method, xlabel="strokes of 3 x 3 cells")
        axes.grid(alpha=0.3)
        axes.label_outer()
    figure.axes[0].set_ylabel("F1, mean over images")
    figure.axes[0].legend(title="strokes on")
    figure.savefig(path, dpi=150)


def judged(
    title: str, methods: str, judge: Callable[[tuple[Cells, Outline, Sequence[str]]], list[dict]]
) -> tuple[argparse.Namespace, list[str], list[dict]]:
    """Arguments of the command, its methods, and the rows of every outline of every image."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--tissue", type=Path, required=True, help="folder of tissue_folder.py")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--methods", default=methods)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--docs", type=Path, help="page whose markers are filled")
    args = parser.parse_args()
    chosen = args.methods.split(",")
    tasks = (
        (cells, outline, chosen) for cells, outline in tasks_of(args.tissue, args.out, args.seeds)
    )
    with multiprocessing.get_context("fork").Pool(args.jobs) as pool:
        rows = [row for part in pool.imap(judge, tasks) for row in part]
    args.out.mkdir(parents=True, exist_ok=True)
    return args, chosen, rows


def main() -> None:
    start = time.perf_counter()
    args, methods, rows = judged(__doc__.splitlines()[0], "em,logistic", _judge)
    (args.out / "strokes.json").write_text(json.dumps(rows, indent=1) + "\n")
    draw(rows, methods, args.out / "strokes.png")
    lines = "\n".join(table(rows, methods))
    print(lines)
    if args.docs:
        publish(args.docs, {"strokes": lines}, args.out / "strokes.png")
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
