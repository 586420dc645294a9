"""How well invalid outlines are told from valid ones, without truth; prints the weights to use.

    python benchmarks/validity.py --data ../shared/data --out benchmarks/results/validity

Beside the valid ones of five kinds of simulated outline (three seeds) stand the bad outlines of the
committed recipe (`recontour.simulation.BAD_OUTLINES`) that are invalid in the paper's sense; a bad
outline that happens to be half right counts for neither side. The combination is fitted on three
of the four sites and tested on the fourth, in turn. `harder` are valid outlines as wrong as
validity allows: they must not all be called invalid. Writes outlines.json, results.json, tables.md
and roc.png.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from real_tissue import KINDS, Case, cases, write_case

from recontour import Annotation, Recipe, Runtime, open_slide
from recontour.embedding import embed_patches
from recontour.errors import RecontourError
from recontour.grid import label_patches
from recontour.preparation import lay_out, open_cache
from recontour.refiners import make_refiner
from recontour.simulation import (
    BAD_KINDS,
    BAD_OUTLINES,
    BAD_SEEDS,
    Other,
    Severity,
    is_valid,
    simulate_bad,
    simulate_coarse,
)
from recontour.types import PatchSet, Slide
from recontour.validity import INVALID, NEAR_CHANCE, PLACE, SIDE, VALID, judge

HARDER = Severity(valid=False, drop=0.4, excess=0.45, keep=0.45, flip=0.35)
Row = dict[str, Any]


def outlines(
    slide: Slide, truth: Annotation, others: list[tuple[Annotation, tuple[int, int]]]
) -> Iterator[tuple[str, str, int, Annotation]]:
    """(group, kind, seed, outline): "good", "bad" and "harder"."""
    made: dict[str, Any] = {"mpp": slide.mpp, "size": slide.size}
    for seed in BAD_SEEDS:
        for kind in KINDS:
            yield "good", kind, seed, simulate_coarse(truth, kind=kind, seed=seed, **made)
        for n, bad in enumerate(BAD_OUTLINES):
            fine, size = others[(n + 5 * seed) % len(others)]
            other = Other(fine, size, bad.fitted) if bad.kind == "other" else None
            try:
                yield (
                    "bad",
                    bad.kind,
                    seed,
                    simulate_bad(truth, bad.kind, seed, other=other, **made),
                )
            except RecontourError as error:
                print(f"{truth.slide_id}: {error}", flush=True)
    for kind in (*KINDS, "flipped"):
        yield "harder", kind, 0, simulate_coarse(truth, kind=kind, severity=HARDER, **made)


def judge_case(task: tuple[Path, Path, int, str]) -> list[Row]:
    """A row for each outline of one image."""
    data, out, number, encoder = task
    known = list(cases(data))
    case = known[number]
    path, truth = write_case(data, case, out / "slides")
    slide = open_slide(path)
    runtime = Runtime(threads=1)
    layout = lay_out(slide, Recipe(encoder=encoder), runtime)
    features = embed_patches(
        slide, layout.lattice, layout.encoder, cache=open_cache(runtime), threads=1
    )
    fine = label_patches(layout.lattice, [list(truth.regions)])
    others = [_other(data, out, c) for c in known if c.group != case.group]
    rows: list[Row] = []
    for group, kind, seed, outline in outlines(slide, truth, others):
        labels = (label_patches(layout.lattice, [list(outline.regions)]) > 0).astype(np.int8)
        patches = PatchSet(
            slide.id,
            layout.lattice,
            features.cell,
            labels,
            ("background", "Tumor"),
            features.context,
        )
        if not 0 < labels.sum() < len(labels):
            continue
        probs = make_refiner("em", seed=0).fit([patches]).predict_proba(patches)
        found = judge(patches, probs)
        if not found.signals:
            print(f"{slide.id} {kind} {seed}: {found.reasons[0]}", flush=True)
            continue
        rows.append(
            {
                "site": case.group,
                "image": f"{case.group}/{case.name}",
                "group": group,
                "kind": kind,
                "seed": seed,
                "valid": is_valid(fine, labels),
                "verdict": found.verdict,
                "score": found.score,
                "ppv": found.ppv,
                "npv": found.npv,
                "error_rate": found.error_rate,
                **found.signals,
            }
        )
    print(f"{case.group}/{case.name}: {len(rows)} outlines", flush=True)
    return rows


def _other(data: Path, out: Path, case: Case) -> tuple[Annotation, tuple[int, int]]:
    path, truth = write_case(data, case, out / "others" / f"{case.group}_{case.name}")
    slide = open_slide(path)
    slide.close()
    return truth, slide.size


def auroc(score: NDArray[np.float64], valid: NDArray[np.bool_]) -> float:
    """The chance that a valid outline scores higher than an invalid one."""
    from scipy.stats import rankdata

    n, m = int(valid.sum()), int((~valid).sum())
    if not n or not m:
        return float("nan")
    return float((rankdata(score)[valid].sum() - n * (n + 1) / 2) / (n * m))


def fit(rows: list[Row]) -> tuple[tuple[float, dict[str, float]], ...]:
    """`PLACE` and `SIDE` from rows: (bias, weight of each signal).

    Place: all that lie right (flipped ones do) against the others; side: valid against flipped.
    Sites and kinds weigh alike.
    """
    from sklearn.linear_model import LogisticRegression

    found = []
    for (_, names), wanted in ((PLACE, "place"), (SIDE, "side")):
        used = [r for r in rows if wanted == "place" or r["valid"] or r["kind"] == "flipped"]
        right = np.array(
            [r["valid"] or (wanted == "place" and r["kind"] == "flipped") for r in used]
        )
        groups = [(r["site"], r["kind"], r["valid"]) for r in used]
        weights = np.array([1 / groups.count(g) for g in groups])
        for value in (True, False):
            weights[right == value] /= weights[right == value].sum()
        x = np.array([[r[name] for name in names] for r in used])
        mean, std = x.mean(axis=0), x.std(axis=0)
        model = LogisticRegression(C=0.3)
        model.fit((x - mean) / std, right, sample_weight=weights * len(used))
        coefficients = model.coef_[0] / std
        bias = float(model.intercept_[0] - coefficients @ mean)
        found.append((bias, dict(zip(names, map(float, coefficients), strict=True))))
    return tuple(found)


def score(rows: list[Row], models: Any) -> NDArray[np.float64]:
    """The product of both chances, as `recontour.validity.chances`."""
    total = np.ones(len(rows))
    for bias, weights in models:
        z = bias + sum(np.array([r[n] for r in rows]) * w for n, w in weights.items())
        total *= 1 / (1 + np.exp(-z))
    return total


SINGLE = {
    "belongs": 1, "agreement": 1, "rim": -1, "varied": -1, "agree": 1,
    "recall_inside": 1, "recall_outside": 1, "ambiguity": -1, "ppv": 1, "npv": 1, "error_rate": -1,
}  # fmt: skip


def analyse(rows: list[Row]) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
    """Figures, and the rotated scores."""
    used = [
        r for r in rows if (r["group"] == "good") == r["valid"] and r["group"] in ("good", "bad")
    ]
    sites = list(dict.fromkeys(r["site"] for r in used))
    site = np.array([r["site"] for r in used])
    rotated = np.zeros(len(used))
    for name in sites:
        models = fit([r for r in used if r["site"] != name])
        test = np.flatnonzero(site == name)
        rotated[test] = score([used[i] for i in test], models)
    final = fit(used)
    everything = np.zeros(len(rows))
    for name in sites:
        test = [i for i, r in enumerate(rows) if r["site"] == name]
        models = fit([r for r in used if r["site"] != name])
        everything[test] = score([rows[i] for i in test], models)
    truly = np.array([r["valid"] for r in rows])
    valid = np.array([r["valid"] for r in used])
    kind = np.array([r["kind"] for r in used])
    image = np.array([r["image"] for r in used])
    scores = {n: sign * np.array([r[n] for r in used]) for n, sign in SINGLE.items()}
    scores["combined, rotated"] = rotated
    scores["combined, fitted on all"] = score(used, final)
    table = {}
    for name, values in scores.items():
        row = {"pooled": auroc(values, valid)}
        row |= {
            k: auroc(values[valid | (kind == k)], valid[valid | (kind == k)]) for k in BAD_KINDS
        }
        row |= {s: auroc(values[site == s], valid[site == s]) for s in sites}
        within = [auroc(values[image == i], valid[image == i]) for i in dict.fromkeys(image)]
        row["within an image"] = float(np.nanmean(within))
        table[name] = row
    results = {
        "outlines": {"valid": int(valid.sum()), "bad": int((~valid).sum())},
        "auroc": table,
        "auroc of all outlines, rotated": auroc(everything, truly),
        "PLACE": final[0],
        "SIDE": final[1],
        "quantiles": {
            f"{q:g}": [float(np.quantile(rotated[valid == v], q)) for v in (True, False)]
            for q in (0.02, 0.05, 0.1, 0.5, 0.9)
        },
        "verdicts": verdicts(rows, everything),
    }
    return results, {"valid": valid, "kind": kind, "rotated": rotated}


def verdicts(rows: list[Row], scores: NDArray[np.float64]) -> dict[str, dict[str, int]]:
    """How often each verdict is given, by group, validity and kind, of scores (n,)."""
    found: dict[str, dict[str, int]] = {}
    for r, value in zip(rows, scores, strict=True):
        truly = "valid" if r["valid"] else "invalid"
        kind = f" {r['kind']}" if r["group"] == "bad" else ""
        name = f"{r['group']}{kind}, {truly}"
        counts = found.setdefault(name, {"valid": 0, "doubtful": 0, "invalid": 0})
        verdict = "valid" if value >= VALID else "doubtful" if value >= INVALID else "invalid"
        if verdict == "valid" and 2 * r["agreement"] - 1 < NEAR_CHANCE:
            verdict = "doubtful"
        counts[verdict] += 1
    return found


def tables(results: dict[str, Any]) -> str:
    """Markdown."""
    lines = []
    columns = list(next(iter(results["auroc"].values())))
    lines += ["| signal | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for name, row in results["auroc"].items():
        lines.append(f"| {name} | " + " | ".join(f"{row[c]:.3f}" for c in columns) + " |")
    lines += ["", "| outlines | n | valid | doubtful | invalid |", "|---|---:|---:|---:|---:|"]
    for name, counts in results["verdicts"].items():
        n = sum(counts.values())
        lines.append(
            f"| {name} | {n} | " + " | ".join(f"{c / n:.0%}" for c in counts.values()) + " |"
        )
    whole = results["auroc of all outlines, rotated"]
    lines += ["", f"AUROC of all outlines, none left out, rotated: {whole:.3f}"]
    return "\n".join(lines) + "\n"


def draw(scores: dict[str, Any], path: Path) -> None:
    """ROC of the rotated combination: pooled, and of each kind of bad outline."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5.2, 5.0))
    valid, kind, values = scores["valid"], scores["kind"], scores["rotated"]
    for name in ("pooled", *BAD_KINDS):
        used = valid | (kind == name) if name != "pooled" else np.ones(len(valid), bool)
        order = np.argsort(values[used])
        bad = ~valid[used][order]
        if not bad.any():
            continue
        hit = np.concatenate([[0], np.cumsum(bad) / bad.sum()])
        alarm = np.concatenate([[0], np.cumsum(~bad) / (~bad).sum()])
        area = auroc(values[used], valid[used])
        style = {"color": "black", "lw": 2.5} if name == "pooled" else {"lw": 1.2}
        axes.plot(alarm, hit, label=f"{name} ({area:.3f})", **style)
    axes.plot([0, 1], [0, 1], color="grey", lw=0.7, ls=":")
    axes.set(xlabel="valid outlines called bad", ylabel="bad outlines called bad")
    axes.set_title("Outlines of a site that was not fitted on", fontsize=10)
    axes.legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/validity"))
    parser.add_argument("--encoder", default="efficientnet_lite0")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="from outlines.json of an earlier run")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    kept = args.out / "outlines.json"
    if args.again:
        rows = json.loads(kept.read_text())
    else:
        count = len(list(cases(args.data)))
        tasks = [(args.data, args.out, i, args.encoder) for i in range(count)]
        with Pool(args.jobs) as pool:
            rows = [r for part in pool.imap(judge_case, tasks, chunksize=1) for r in part]
        kept.write_text(json.dumps(rows, indent=1))
    results, scores = analyse(rows)
    (args.out / "results.json").write_text(json.dumps(results, indent=1))
    text = tables(results)
    (args.out / "tables.md").write_text(text)
    draw(scores, args.out / "roc.png")
    print(text)
    for name in ("PLACE", "SIDE"):
        bias, weights = results[name]
        print(
            f"{name} = ({bias:.2f}, {{{', '.join(f'{k!r}: {v:.2f}' for k, v in weights.items())}}})"
        )
    print("score of valid and bad outlines at quantiles:", results["quantiles"])


if __name__ == "__main__":
    main()
