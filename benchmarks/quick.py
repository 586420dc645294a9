"""Judge refiners at cell level in about a minute: same cells, outlines and scores as the benchmark.

    python benchmarks/quick.py --tissue TISSUE -o OUT --methods em
    python benchmarks/quick.py --tissue TISSUE -o OUT --methods em,em:views=cell,as=cell --each

The first call draws the outlines and reads the features (minutes); they are kept in OUT. Methods
are written as for `recontour benchmark`. For each severity: mean F1 over the images of coarse,
method and oracle, share of the cases made better, 5th percentile of the change, and share of the
way from coarse to oracle. Only valid outlines count.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Sequence
from pathlib import Path

from quality import ENCODERS, SEEDS, Cells, cells_of, outline_names, plan_of, severity_of, site_of

from recontour.benchmark.recording import decide
from recontour.benchmark.scoring import score
from recontour.benchmark.spec import COARSE, ORACLE, MethodSpec, parse_method, split_specs
from recontour.benchmark.standing import Key, Standing, by_slide, macro, standing
from recontour.postprocess import rules_for
from recontour.recipe import Recipe
from recontour.refiners import make_refiner

Found = dict[str, dict[Key, float]]
"""Method -> outline -> F1."""


def judge(
    cells: Cells, methods: Sequence[MethodSpec], outlines: Sequence[str], seeds: int
) -> Found:
    """F1 of every method on every valid outline of a case."""
    found: Found = {name: {} for name in (COARSE, *(m.label for m in methods), ORACLE)}
    patches = cells.patches

    def f1(labels, given) -> float:
        figures = score(cells.truth, labels, given, patches.grid, patches.classes)
        return float(figures["metrics"]["f1"])

    def decided(probs, method: str):
        return decide(patches.grid, probs, rules_for(Recipe(), patches.grid, method))

    for outline in cells.outlines:
        if outline.label not in outlines or outline.seed >= seeds:
            continue
        given = outline.given
        figures = score(cells.truth, given, given, patches.grid, patches.classes)
        if not figures["valid"]:
            continue
        key = Key(cells.case, outline.label, outline.seed)
        found[COARSE][key] = float(figures["metrics"]["f1"])
        found[ORACLE][key] = f1(decided(cells.oracle[outline.seed], ORACLE), given)
        labelled = cells.labelled(outline)
        for method in methods:
            refiner = make_refiner(method.name, seed=outline.seed, **method.options)
            probs = refiner.fit([labelled]).predict_proba(labelled)
            found[method.label][key] = f1(decided(probs, method.name), given)
    return found


def run(
    tissue: Path,
    out: Path,
    methods: Sequence[MethodSpec],
    *,
    encoder: str = ENCODERS[0],
    severities: Sequence[str] = ("mild", "hard"),
    seeds: int = SEEDS,
    only: Sequence[str] = (),
    jobs: int = 2,
) -> Found:
    """F1 of every method on every valid outline of every case."""
    found: Found = {}
    tasks = (
        (cells, methods, outline_names(severities), seeds)
        for cells in cells_of(tissue, out / "runs", encoder, plan_of(()), only)
    )
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        for part in pool.imap(_judge, tasks):
            for method, scores in part.items():
                found.setdefault(method, {}).update(scores)
    return found


def _judge(task) -> Found:
    return judge(*task)


def line(name: str, s: Standing) -> str:
    """One method in one line."""
    return (
        f"{name:<28} {s.coarse:.3f} {s.found:.3f} {s.oracle:.3f} {s.found - s.coarse:+.3f} "
        f"{s.better:>6.1%} {s.worst:+.3f} {s.median:+.3f} {s.way:>6.1%} {s.cases:>5}"
    )


def report(found: Found, *, each: bool = False) -> str:
    """The summary for every severity and both together, then by site; with `each`, by image."""
    head = f"{'':<28} coarse found oracle change better  p5     median  way   cases"
    lines = []
    methods = [m for m in found if m not in (COARSE, ORACLE)]
    severities = list(dict.fromkeys(severity_of(key.outline) for key in found[COARSE]))
    groups = severities + (["all"] if len(severities) > 1 else [])
    for group in groups:
        part = {
            m: {k: v for k, v in scores.items() if group in ("all", severity_of(k.outline))}
            for m, scores in found.items()
        }
        lines += ["", f"== {group} outlines", head]
        lines += [line(m, standing(part[m], part[COARSE], part[ORACLE])) for m in methods]
        if each:
            names = [COARSE, *methods, ORACLE]
            columns = {m: by_slide(part[m]) for m in names}
            lines += ["", " " * 14 + " ".join(f"{m[:12]:>12}" for m in names)]
            for image in columns[COARSE]:
                figures = " ".join(f"{columns[m][image]:12.3f}" for m in names)
                lines.append(f"{image:<14}{figures}")
            for by, of in (("site", lambda k: site_of(k.slide)), ("kind", lambda k: k.outline)):
                lines.append(f"by {by}:")
                for value in dict.fromkeys(of(k) for k in part[COARSE]):
                    means = (
                        macro({k: v for k, v in part[m].items() if of(k) == value}) for m in names
                    )
                    lines.append(f"{value:<14}" + " ".join(f"{v:12.3f}" for v in means))
    return "\n".join(lines)


def main() -> None:
    """Judge what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tissue", type=Path, required=True, help="folder of tissue_folder.py")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=["em"])
    parser.add_argument("--encoder", default=ENCODERS[0], choices=ENCODERS)
    parser.add_argument("--severity", nargs="+", default=["mild", "hard"])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--cases", nargs="+", default=[], help="some cases or sites only")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--each", action="store_true", help="also by image, site and kind")
    args = parser.parse_args()
    methods = [parse_method(text) for text in split_specs(args.methods)]
    start = time.perf_counter()
    found = run(
        args.tissue,
        args.out,
        methods,
        encoder=args.encoder,
        severities=args.severity,
        seeds=args.seeds,
        only=args.cases,
        jobs=args.jobs,
    )
    print(report(found, each=args.each))
    print(f"\n{time.perf_counter() - start:.0f} s on {args.jobs} of {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
