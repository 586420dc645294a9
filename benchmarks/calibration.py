"""Do probabilities mean what they say? Before any review and after ten reviewed regions.

    python benchmarks/calibration.py --tissue TISSUE -o OUT [--method em] [--jobs 2]

For every image and valid outline: expected calibration error (ten bins of equal mass, foreground
probability over cells; of the likeliest class too) and Brier score of the method's smoothed
probabilities (`raw`), of logits divided by the temperature that is best on the truth of the *other*
sites (`others`), and of the calibrated ones (`calibrated`). Then ten regions of 3 x 3 cells are
reviewed, at random or where it is least sure, the method learns again, and cells that were not
reviewed are judged: without and with the reviewed cells as a sample (`fixed`, `sample`). Error
targets are compared with the errors there are. Writes `calibration.json` and `calibration.png`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from quality import Cells, Outline, site_of
from strokes import pick, publish, refine, reviewed, tasks_of, worth_of

from recontour.calibration import calibrate, decisions, sure_cells
from recontour.metrics import brier, calibration_error, reliability, top_label_error
from recontour.types import PatchSet

REGIONS = 10
TARGETS = (0.05, 0.1, 0.15)
HEATS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0)
FIGURES = ("ece", "top", "brier")


def scores(probs: NDArray, truth: NDArray) -> dict[str, float]:
    """Expected calibration error of foreground and of the likeliest class, and Brier score."""
    foreground = np.clip(1 - probs[:, 0].astype(float), 0, 1)
    return {
        "ece": calibration_error(foreground, truth > 0),
        "top": top_label_error(probs, truth),
        "brier": brier(probs, truth),
    }


def heated(probs: NDArray, heat: float) -> NDArray:
    """Logits divided by `heat`."""
    powers = np.clip(probs.astype(float), 1e-6, 1) ** (1 / heat)
    return powers / powers.sum(axis=1, keepdims=True)


def targets_of(patches: PatchSet, smooth: NDArray, truth: NDArray, found) -> list[dict]:
    """For each error target what was promised and what came."""
    wrong = decisions(smooth) != truth
    rows = []
    for target in TARGETS:
        sure = sure_cells(patches, smooth, found, target)
        came = float(wrong[sure.cells].mean()) if sure.cells.any() else None
        rows.append(
            {
                **sure.facts,
                "error": came,
                "wrong_found": float((wrong & ~sure.cells).sum() / max(wrong.sum(), 1)),
            }
        )
    return rows


def judge(cells: Cells, outline: Outline, method: str) -> dict[str, object]:
    """Everything about one outline of one image."""
    patches, seed = cells.labelled(outline), outline.seed
    truth = cells.truth[patches.grid.rows, patches.grid.cols].astype(int)
    smooth, _ = refine(patches, method, seed)
    start = time.perf_counter()
    found = calibrate(patches, smooth, seed=seed)
    row: dict[str, object] = {
        "image": cells.case,
        "outline": outline.label,
        "seed": seed,
        "cells": len(patches),
        "seconds": time.perf_counter() - start,
        "error": float(np.mean(decisions(smooth) != truth)),
        "expected_error": found.facts["expected_error"],
        "before": {"raw": scores(smooth, truth), "calibrated": scores(found.probs, truth)},
        "heats": {str(heat): scores(heated(smooth, heat), truth) for heat in HEATS},
        "targets": targets_of(patches, smooth, truth, found),
    }
    curves = {"raw": (smooth, truth), "calibrated": (found.probs, truth)}
    for place in ("random", "uncertain"):
        worth = worth_of(place, patches, smooth, truth, seed)
        told = reviewed(patches, truth, pick(patches, worth, REGIONS))
        again, _ = refine(told, method, seed)
        rest = told.trust < 1
        after = {"raw": again}
        for name, sample in (("fixed", False), ("sample", True)):
            after[name] = calibrate(told, again, seed=seed, sample=sample).probs
        row[place] = {name: scores(p[rest], truth[rest]) for name, p in after.items()}
        if place == "random":
            curves["sample"] = (after["sample"][rest], truth[rest])
    row["curves"] = {
        name: {"predicted": c.predicted.tolist(), "observed": c.observed.tolist()}
        for name, (p, t) in curves.items()
        for c in [reliability(np.clip(1 - p[:, 0].astype(float), 0, 1), t > 0)]
    }
    return row


def _judge(task: tuple[Cells, Outline, str]) -> dict[str, object]:
    return judge(*task)


def best_of_others(rows: Sequence[dict], site: str) -> str:
    """The temperature with the lowest error on the images of all other sites, sites alike."""
    sites = sorted({site_of(row["image"]) for row in rows} - {site})
    return min(
        map(str, HEATS),
        key=lambda heat: np.mean(
            [
                np.mean([r["heats"][heat]["ece"] for r in rows if site_of(r["image"]) == other])
                for other in sites
            ]
        ),
    )


def add_others(rows: list[dict]) -> None:
    """Give every row the scores at the temperature of the other sites."""
    heat = {site: best_of_others(rows, site) for site in {site_of(r["image"]) for r in rows}}
    for row in rows:
        row["heat"] = heat[site_of(row["image"])]
        row["before"]["others"] = row["heats"][row["heat"]]


def images_of(rows: Sequence[dict]) -> list[str]:
    """In the order they came."""
    return list(dict.fromkeys(row["image"] for row in rows))


def table(rows: Sequence[dict], figure: str) -> Iterator[str]:
    """One line an image, and the mean over images."""
    columns = [("before", n) for n in ("raw", "others", "calibrated")]
    columns += [(p, n) for p in ("random", "uncertain") for n in ("raw", "fixed", "sample")]
    yield f"| image | {' | '.join(f'{p}: {n}' for p, n in columns)} |"
    yield "|---" * (len(columns) + 1) + "|"
    means = [
        [np.mean([r[p][n][figure] for r in rows if r["image"] == image]) for p, n in columns]
        for image in images_of(rows)
    ]
    for image, values in [*zip(images_of(rows), means, strict=True), ("mean", np.mean(means, 0))]:
        yield f"| {image} | {' | '.join(f'{v:.3f}' for v in values)} |"


def target_table(rows: Sequence[dict]) -> Iterator[str]:
    """Promised and real error of the sure cells, mean over images."""
    yield "| target | sure share | expected error | real error | of the wrong cells left out |"
    yield "|---|---|---|---|---|"
    for i, target in enumerate(TARGETS):

        def mean(key: str, i: int = i) -> float:
            per_image = [
                [
                    r["targets"][i][key]
                    for r in rows
                    if r["image"] == image and r["targets"][i][key] is not None
                ]
                for image in images_of(rows)
            ]
            return float(np.mean([np.mean(v) for v in per_image if v]))

        figures = [mean(k) for k in ("share", "expected_error", "error", "wrong_found")]
        yield f"| {target} | {' | '.join(f'{v:.3f}' for v in figures)} |"


def kind_table(rows: Sequence[dict]) -> Iterator[str]:
    """Calibration error by kind of outline, mean over images."""
    yield "| outline | raw | calibrated |"
    yield "|---|---|---|"
    for kind in dict.fromkeys(row["outline"] for row in rows):
        means = [
            np.mean([row["before"][name]["ece"] for row in rows if row["outline"] == kind])
            for name in ("raw", "calibrated")
        ]
        yield f"| {kind} | {' | '.join(f'{v:.3f}' for v in means)} |"


def draw(rows: Sequence[dict], method: str, path: Path) -> None:
    """Reliability: every outline a thin line, the mean over images a thick one."""
    from matplotlib.figure import Figure

    names = {"raw": f"{method}, as it is", "calibrated": "calibrated", "sample": "ten regions seen"}
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    for axes, (name, title) in zip(
        figure.subplots(1, 3, sharex=True, sharey=True), names.items(), strict=True
    ):
        axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
        for row in rows:
            c = row["curves"][name]
            axes.plot(c["predicted"], c["observed"], color="tab:blue", alpha=0.12, linewidth=0.8)
        means = [
            np.mean(
                [
                    [row["curves"][name][k] for k in ("predicted", "observed")]
                    for row in rows
                    if row["image"] == image
                ],
                axis=0,
            )
            for image in images_of(rows)
        ]
        axes.plot(*np.mean(means, axis=0), color="tab:red", marker="o", markersize=4)
        axes.set(title=title, xlabel="probability of tumour", xlim=(0, 1), ylim=(0, 1))
    figure.axes[0].set_ylabel("share that is tumour")
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tissue", type=Path, required=True, help="folder of tissue_folder.py")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--method", default="em")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--docs", type=Path, help="page whose markers are filled")
    args = parser.parse_args()
    start = time.perf_counter()
    tasks = ((c, o, args.method) for c, o in tasks_of(args.tissue, args.out, args.seeds))
    with multiprocessing.get_context("fork").Pool(args.jobs) as pool:
        rows = list(pool.imap(_judge, tasks))
    add_others(rows)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "calibration.json").write_text(json.dumps(rows, indent=1) + "\n")
    draw(rows, args.method, args.out / "calibration.png")
    parts = {figure: "\n".join(table(rows, figure)) for figure in FIGURES}
    parts["targets"] = "\n".join(target_table(rows))
    parts["kinds"] = "\n".join(kind_table(rows))
    for name, text in parts.items():
        print(f"\n{name}:\n{text}")
    if args.docs:
        publish(args.docs, parts, args.out / "calibration.png")
    print(
        "\ntemperature of the other sites:",
        *sorted({f"{site_of(r['image'])} {r['heat']}" for r in rows}),
    )
    print(f"calibrating took {np.median([r['seconds'] for r in rows]):.2f} s (median)")
    print(f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
