"""Does tuning without the truth find what is better with it? On real tissue with known truth.

    python benchmarks/tuning.py --data ../shared/data --out benchmarks/results/tuning

For each region and kind of outline, as `recontour tune` does: every criterion of every candidate,
and beside it the true F1 of that candidate (tissue cells, after post-processing). Then Spearman's
rank correlation of each criterion with the true F1 among the candidates of an option, and the true
F1 of the chosen options against the defaults, both in full. Finished candidates are kept: a killed
run goes on.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from real_tissue import KINDS, cases, mean, write_case

from recontour import Recipe, Runtime, open_slide
from recontour.embedding import embed_patches
from recontour.errors import RecontourError
from recontour.grid import label_patches
from recontour.postprocess import rules_for
from recontour.preparation import open_cache, prepare
from recontour.simulation import simulate_coarse
from recontour.tuning import Plan, Subject, tune
from recontour.tuning.criteria import macro_f1

CRITERIA = ("stability", "prototype_stability", "information", "consistency")


def run(args: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """One row a candidate, and one row an outline: the default against what was chosen."""
    candidates: list[dict[str, Any]] = []
    gains: list[dict[str, Any]] = []
    runtime = Runtime(cache_dir=args.out / "cache")
    recipe = Recipe(method=args.method, encoder=args.encoder)
    for case in cases(args.data):
        image = f"{case.group}/{case.name}"
        if args.images and image not in args.images:
            continue
        path, fine = write_case(args.data, case, args.out / "slides")
        slide = open_slide(path)
        for kind in args.kinds:
            coarse = simulate_coarse(fine, kind=kind, seed=0, mpp=slide.mpp, size=slide.size)
            try:
                work = prepare(slide, coarse, recipe, runtime)
            except RecontourError as error:
                print(f"{image} {kind}: {error}", flush=True)
                continue
            features = embed_patches(slide, work.lattice, work.encoder, cache=open_cache(runtime))
            subject = Subject(
                work.patch_set(features), rules_for(recipe, work.grid), slide.size, work.tissue
            )
            truth = label_patches(work.grid, [fine.regions])
            plan = Plan(
                method=args.method,
                bootstraps=args.bootstraps,
                kinds=tuple(args.exam),
                rule=args.rule,
                quick=not args.thorough,
            )
            kept = args.out / "kept" / f"{case.group}_{case.name}_{kind}.json"
            found = tune(subject, plan, kept=kept)
            where = {"image": image, "kind": kind}
            known: dict[str, float] = {}
            for c in found.candidates:
                setting = repr(sorted(c.options.items()))
                if setting not in known:
                    known[setting] = true_f1(subject, truth, args.method, c.options)
                row = {**where, "option": c.option, "value": c.value, "true_f1": known[setting]}
                row |= {name: getattr(c.scores, name) for name in CRITERIA}
                candidates.append(row)
            before = true_f1(subject, truth, args.method, {})
            chosen = found.method_options
            after = true_f1(subject, truth, args.method, chosen) if chosen else before
            gains.append(
                {
                    **where,
                    "coarse_f1": macro_f1(truth, subject.patches.labels),
                    "default_f1": before,
                    "tuned_f1": after,
                    "gain": after - before,
                    "chosen": "; ".join(f"{k}={v}" for k, v in chosen.items()),
                }
            )
            print(f"{image} {kind}: F1 {before:.3f} -> {after:.3f} with {chosen}", flush=True)
        slide.close()
    return candidates, gains


def true_f1(subject: Subject, truth: Any, method: str, options: Any) -> float:
    """F1 against the truth, NaN where the method fails."""
    try:
        return macro_f1(truth, subject.refine(method, options, 0).labels)
    except RecontourError:
        return math.nan


def correlations(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Spearman's ρ of each criterion with the true F1, for each outline and option."""
    from scipy.stats import spearmanr

    found = []
    for image, kind, option in dict.fromkeys((r["image"], r["kind"], r["option"]) for r in rows):
        own = [r for r in rows if (r["image"], r["kind"], r["option"]) == (image, kind, option)]
        for name in CRITERIA:
            pairs = [(r[name], r["true_f1"]) for r in own]
            defined = np.array([p for p in pairs if not np.isnan(p).any()])
            # Of constant values, and of fewer than three, there is no rank to speak of.
            if len(defined) < 3 or (np.ptp(defined, axis=0) < 1e-9).any():
                continue
            rho = float(spearmanr(*defined.T).statistic)
            found.append(
                {"image": image, "kind": kind, "option": option, "criterion": name, "rho": rho}
            )
    return found


def tables(ranks: Sequence[dict[str, Any]], gains: Sequence[dict[str, Any]]) -> str:
    """Markdown: correlation by criterion and option, then the gain by kind of outline."""
    lines = ["### Rank correlation with the true F1", ""]
    lines += ["| criterion | option | outlines | mean ρ | ρ > 0 |", "|---|---|---:|---:|---:|"]
    for name, option in dict.fromkeys((r["criterion"], r["option"]) for r in ranks):
        rho = [r["rho"] for r in ranks if (r["criterion"], r["option"]) == (name, option)]
        share = mean([float(v > 0) for v in rho])
        lines.append(f"| {name} | {option} | {len(rho)} | {mean(rho):+.2f} | {share:.0%} |")
    lines += ["", "### Tuned against the default", ""]
    lines += ["| outline | number | coarse F1 | default F1 | tuned F1 | better | worse |"]
    lines += ["|---|---:|---:|---:|---:|---:|---:|"]
    for kind in (*dict.fromkeys(g["kind"] for g in gains), "all"):
        own = [g for g in gains if kind in (g["kind"], "all")]
        figures = [mean([g[n] for g in own]) for n in ("coarse_f1", "default_f1", "tuned_f1")]
        better = sum(g["gain"] > 0.005 for g in own)
        worse = sum(g["gain"] < -0.005 for g in own)
        shown = " | ".join(f"{v:.3f}" for v in figures)
        lines.append(f"| {kind} | {len(own)} | {shown} | {better} | {worse} |")
    return "\n".join(lines) + "\n"


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A CSV file; nothing where there is no row."""
    if rows:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/tuning"))
    parser.add_argument("--method", default="prototype")
    parser.add_argument("--encoder", default="efficientnet_lite0")
    parser.add_argument("--images", nargs="+", help="such as prostate/102; all by default")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    parser.add_argument("--exam", nargs="+", default=["generous", "missed"])
    parser.add_argument("--bootstraps", type=int, default=3)
    parser.add_argument("--rule", default="auto")
    parser.add_argument("--thorough", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    candidates, gains = run(args)
    ranks = correlations(candidates)
    write_rows(args.out / "candidates.csv", candidates)
    write_rows(args.out / "correlations.csv", ranks)
    write_rows(args.out / "gains.csv", gains)
    text = tables(ranks, gains)
    (args.out / "tables.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
