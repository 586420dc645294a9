"""Refine simulated outlines on real tissue with known truth; print and write the table.

    python benchmarks/real_tissue.py --data ../shared/data --out benchmarks/results/real_tissue

Each region becomes a pyramidal TIFF with the µm/px its README gives; five kinds of coarse outline,
three seeds, every method. F1 and IoU count tissue cells; cleaned and mis-modified are shares of the
wrong and of the right coarse labels. Every run is kept in `runs.csv`.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from PIL import Image

from recontour import Annotation, Recipe, Runtime, open_slide, read_annotation, refine_slide
from recontour.errors import RecontourError
from recontour.evaluation import evaluate
from recontour.geometry import repair
from recontour.reports.overview import write_overview
from recontour.simulation import simulate_coarse
from recontour.types import Frame

KINDS = ("missed", "generous", "tight", "shifted", "wobbly")
METRICS = ("f1", "iou", "ppv", "tpr", "accuracy")
FIGURES = ("f1", "iou", "cleaned", "mis_modified")


class Case(NamedTuple):
    """One region of real tissue: image, mask of classes, µm/px, classes that are tumour."""

    group: str
    name: str
    image: str
    mask: str
    mpp: float
    tumour: tuple[int, ...] = ()


def cases(data: Path) -> Iterator[Case]:
    """The regions of the data folder, as its README describes them."""
    for name in ("1008", "1015", "1019"):
        yield Case("bcss", name, f"bcss/{name}.jpg", f"bcss/{name}_tumor.png", 0.25)
    yield Case("idc", "14082", "idc/14082.png", "idc/14082_tumor.png", 4.0)
    for path in sorted((data / "prostate").glob("*_classes.png")):
        name = path.name.removesuffix("_classes.png")
        yield Case("prostate", name, f"prostate/{name}.jpg", f"prostate/{path.name}", 0.5, (0, 1))
    yield Case("lung", "68", "lung/68.png", "lung/68_classes.png", 1.0, (0,))


def write_case(data: Path, case: Case, folder: Path) -> tuple[Path, Annotation]:
    """The region as a tiled pyramidal TIFF, and the experts' tumour outline."""
    folder.mkdir(parents=True, exist_ok=True)
    slide, mask = folder / f"{case.group}_{case.name}.tif", folder / f"{case.group}_{case.name}.png"
    image = np.asarray(Image.open(data / case.image).convert("RGB"))
    classes = np.asarray(Image.open(data / case.mask))
    tumour = np.isin(classes, case.tumour) if case.tumour else classes > 0
    if tumour.ndim == 3:
        tumour = tumour.any(axis=2)
    Image.fromarray(tumour.astype(np.uint8)).save(mask)
    with tifffile.TiffWriter(slide, bigtiff=False) as tiff:
        level = Image.fromarray(image)
        mpp = case.mpp
        while True:
            tiff.write(
                np.asarray(level),
                tile=(256, 256),
                photometric="rgb",
                compression="deflate",
                resolution=(1e4 / mpp, 1e4 / mpp),
                resolutionunit="CENTIMETER",
                subfiletype=int(mpp > case.mpp),
            )
            if max(level.size) < 1024:
                break
            mpp *= 2
            level = level.reduce(2)
    size = (image.shape[1], image.shape[0])
    truth = read_annotation(mask, Frame(size=size, mpp=case.mpp))
    # The steps of a mask's pixels are no border; within a pixel, a tenth of the points will do.
    smooth = (replace(r, geometry=repair(r.geometry.simplify(1.0))[0]) for r in truth.regions)
    return slide, replace(truth, regions=tuple(r for r in smooth if not r.geometry.is_empty))


def run(args: argparse.Namespace) -> list[dict[str, object]]:
    """One row a run: the scores of the coarse outline and of the refined one."""
    rows: list[dict[str, object]] = []
    runtime = Runtime(cache_dir=args.out / "cache")
    for case in cases(args.data):
        path, truth = write_case(args.data, case, args.out / "slides")
        slide = open_slide(path)
        for kind in args.kinds:
            for seed in range(args.seeds):
                coarse = simulate_coarse(
                    truth, kind=kind, seed=seed, mpp=slide.mpp, size=slide.size
                )
                for method in args.methods:
                    recipe = Recipe(method=method, seed=seed, encoder=args.encoder)
                    label = f"{case.group}/{case.name} {kind} {seed} {method}"
                    try:
                        refined = refine_slide(slide, coarse, recipe, runtime=runtime)
                    except RecontourError as error:
                        print(f"{label}: {error}", flush=True)
                        continue
                    found = evaluate(
                        truth,
                        refined.annotation,
                        coarse=coarse,
                        tissue=refined.tissue,
                        slide_size=slide.size,
                        mpp=slide.mpp,
                        cell_px=refined.patches.grid.stride,
                    )
                    assert found.coarse is not None
                    row: dict[str, object] = {
                        "group": case.group,
                        "image": case.name,
                        "kind": kind,
                        "seed": seed,
                        "method": method,
                        "cells": len(refined.patches),
                        "cell_um": refined.patches.grid.cell_um,
                        "valid": found.coarse.valid,
                    }
                    for metric in METRICS:
                        row[f"coarse_{metric}"] = found.coarse.overall[metric]
                        row[metric] = found.prediction.overall[metric]
                    row["cleaned"], row["mis_modified"] = found.cleaned, found.mis_modified
                    row["seconds"] = sum(refined.timings.values())
                    rows.append(row)
                    print(
                        f"{label}: F1 {row['coarse_f1']:.3f} -> {row['f1']:.3f}"
                        f"  ({row['seconds']:.1f} s)",
                        flush=True,
                    )
                    if seed == 0 and method == args.methods[0]:
                        name = f"{case.group}_{case.name}_{kind}.png"
                        write_overview(slide, refined, args.out / "overviews" / name)
        slide.close()
    return rows


def mean(values: list[float]) -> float:
    """Mean of what is defined."""
    defined = [v for v in values if not math.isnan(v)]
    return sum(defined) / len(defined) if defined else math.nan


def mean_rows(
    rows: list[dict[str, object]], by: tuple[str, ...], methods: list[str]
) -> dict[str, list[float]]:
    """Group -> number of outlines, coarse F1 and IoU, then the figures of each method."""
    found = {}
    for key in dict.fromkeys("/".join(str(r[k]) for k in by) for r in rows):
        members = [r for r in rows if "/".join(str(r[k]) for k in by) == key]
        first = [r for r in members if r["method"] == methods[0]]
        figures = [float(len(first))]
        figures += [mean([float(r[c]) for r in first]) for c in ("coarse_f1", "coarse_iou")]
        for method in methods:
            own = [r for r in members if r["method"] == method]
            figures += [mean([float(r[c]) for r in own]) for c in FIGURES]
        found[key] = figures
    return found


def tables(rows: list[dict[str, object]], methods: list[str]) -> str:
    """Markdown: valid outlines by image and by kind; then how often a run made it worse."""
    valid = [r for r in rows if r["valid"]]
    lines = []
    for title, by in (("image", ("group", "image")), ("kind of outline", ("kind",))):
        head = [title, "outlines", "coarse F1", "coarse IoU"]
        head += [f"{m}: {name}" for m in methods for name in ("F1", "IoU", "cleaned", "mis-mod.")]
        lines += ["", f"### By {title}", "", "| " + " | ".join(head) + " |"]
        lines.append("|---|" + "---:|" * (len(head) - 1))
        groups = mean_rows(valid, by, methods)
        for name, figures in groups.items():
            cells = [name, f"{figures[0]:.0f}", *(f"{v:.3f}" for v in figures[1:])]
            lines.append("| " + " | ".join(cells) + " |")
        means = [mean([f[i] for f in groups.values()]) for i in range(1, len(head) - 1)]
        total = sum(f[0] for f in groups.values())
        cells = ["mean of the rows", f"{total:.0f}", *(f"{v:.3f}" for v in means)]
        lines.append("| " + " | ".join(f"**{c}**" for c in cells) + " |")
    lines.append("")
    for method in methods:
        own = [r for r in valid if r["method"] == method]
        seconds = mean([float(r["seconds"]) for r in own])
        gains = sorted(float(r["f1"]) - float(r["coarse_f1"]) for r in own)
        lines.append(
            f"- {method}: better than the coarse outline in {mean([g > 0 for g in gains]):.0%} of "
            f"{len(gains)} runs; change of F1: 5th percentile {gains[len(gains) // 20]:+.3f}, "
            f"median {gains[len(gains) // 2]:+.3f}; {seconds:.1f} s a run with "
            "cached features"
        )
    wrong = [r for r in rows if not r["valid"] and r["method"] == methods[0]]
    lines.append(f"- left out: {len(wrong)} outlines that were not valid (PPV or NPV <= 0.5)")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/real_tissue"))
    parser.add_argument("--methods", nargs="+", default=["lc_mil", "logistic"])
    parser.add_argument("--encoder", default="efficientnet_lite0")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    rows = run(args)
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "runs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (args.out / "runs.json").write_text(json.dumps(rows, indent=1))
    text = tables(rows, args.methods)
    (args.out / "tables.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
