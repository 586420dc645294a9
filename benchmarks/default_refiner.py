"""The default refiner beside every published method: all tables and figures from one command.

    python benchmarks/default_refiner.py --data ../shared/data -o OUT --jobs 2

Eleven regions of tissue, five kinds of outline, mild and hard, three repeats, two encoders. Runs
are kept in OUT/runs, as by `recontour benchmark`: killed, it goes on; asked for more, it runs what
is missing. `prototype` takes 15 s a run: it has one repeat (`--slow-seeds`) and the default
encoder. After a change of the refiner, `--again em` runs it anew and nothing else.

OUT/report.md holds the tables, OUT/tables each as CSV, OUT/figures the pictures. `--docs PAGE`
writes them between the markers of a page, `<!-- begin NAME -->` and `<!-- end NAME -->`, and the
figures of tissue that may be shown (BCSS is CC0) into `images` beside its folder. `--all-parts`
also runs the scripts for calibration, validity, strokes, borders and small lesions, and writes what
they print below.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from quality import ENCODERS, SEEDS, listing_of, plan_of, site_of
from quality_figures import publish_figures, write_figures
from quality_tables import (
    class_table,
    image_table,
    kind_table,
    pairs_table,
    rotated_table,
    standing_table,
)
from tissue_folder import write_folder

from recontour import registry
from recontour.benchmark.loading import Data, load, write_runs
from recontour.benchmark.records import Results
from recontour.benchmark.running import run_benchmark
from recontour.benchmark.spec import VGG, MethodSpec, Plan, parse_method, split_specs
from recontour.benchmark.tables import Table, markdown, write_tables
from recontour.recipe import Runtime
from recontour.refiners import make_refiner

SLOW = ("prototype", "prototype:major=coverage,inside_nonmajor=keep,as=prototype_literal")
CLASS_SITES = ("prostate", "lung")
CLASS_METHODS = ("logistic", "lc_mil", "deep_knn", "pencil")
PARTS = ("calibration", "validity", "strokes", "borders", "small_lesions")


def methods_of(texts: Iterable[str]) -> list[MethodSpec]:
    """Methods written as for `recontour benchmark`, each once."""
    given = [*texts]
    found = {spec.label: spec for spec in map(parse_method, split_specs(given) if given else [])}
    return list(found.values())


def check(methods: Iterable[MethodSpec]) -> None:
    """Find a name or an option that there is not now, and not in an hour."""
    for method in methods:
        make_refiner(method.name, **method.options)


def fast_methods() -> list[str]:
    """Every registered method that takes seconds a run at most."""
    slow = {parse_method(text).name for text in SLOW}
    return [n for n in registry.names("refiner") if VGG not in n and n not in slow]


def run(plan: Plan, args: argparse.Namespace, tissue: Path, out: Path) -> None:
    """Run what is missing; say how long it took, and what failed."""
    if not plan.methods:
        return
    start = time.perf_counter()
    listing = listing_of(tissue, args.cases)
    outcome = run_benchmark(plan, listing, out, Runtime(device="cpu"), jobs=args.jobs)
    names = ", ".join(m.label for m in plan.methods)
    print(f"{names}: {time.perf_counter() - start:.0f} s", flush=True)
    for failure in outcome.failures:
        print(f"failed: {failure}", flush=True)


def run_all(args: argparse.Namespace, tissue: Path) -> None:
    """Every run of the tables, fast methods first."""
    out = args.out / "runs"
    for label in args.again:
        for folder in (out, args.out / "runs_classes"):
            print(f"{label}: {Results(folder).forget(label)} runs of {folder.name} dropped")
    wanted = methods_of([*fast_methods(), *args.candidates])
    slow = methods_of(SLOW)
    if args.only:
        known = {m.label: m for m in (*wanted, *slow)}
        named = {m.label: known.get(m.label, m) for m in methods_of(args.only)}
        slow = [m for m in slow if m.label in named]
        wanted = [m for m in named.values() if m not in slow]
    check([*wanted, *slow])
    settings = {"severities": args.severity, "encoders": args.encoders, "seeds": args.seeds}
    run(plan_of(wanted, **settings), args, tissue, out)
    if args.slow_seeds:
        settings |= {"encoders": args.encoders[:1], "seeds": args.slow_seeds}
        run(plan_of(slow, **settings), args, tissue, out)
    if args.classes:
        folder = args.out / "tissue_classes"
        if not (folder / "manifest.csv").exists():
            write_folder(args.data, folder, classes=True, sites=CLASS_SITES)
        known = registry.names("refiner")
        chosen = [m for m in methods_of([*CLASS_METHODS, args.ours]) if m.name in known]
        if args.only:
            chosen = [m for m in chosen if m.label in named]
        plan = plan_of(chosen, severities=["mild"], encoders=args.encoders[:1], seeds=1)
        run(plan, args, folder, args.out / "runs_classes")


def tables_of(data: Data, classes: Data | None, args: argparse.Namespace) -> list[Table]:
    """Every table that there are runs for, the most important first."""
    labels = [m.label for m in data.plan.methods]
    ours = args.ours
    options = [m.label for m in methods_of(args.candidates)] or [ours]
    families = {
        "logistic": ["logistic"],
        "lc_mil": ["lc_mil"],
        "prototype, a variant": [name for name in labels if name.startswith("prototype")],
        "any published method": [
            name
            for name in labels
            if name in ("lc_mil", "deep_knn", "pencil") or name.startswith("prototype")
        ],
        ours: options,
    }
    held = {run.encoder: run for run in data.runs}
    found: list[Table | None] = []
    for encoder in [e for e in data.encoders if e in held]:
        groups = [*args.severity, "all"] if len(args.severity) > 1 else args.severity
        for severity in groups:
            found.append(standing_table(data, encoder, severity))
            found.append(pairs_table(data, encoder, severity, ours))
            found.append(image_table(data, encoder, severity))
            found.append(rotated_table(data, encoder, severity, families))
            if severity != "all":
                found.append(kind_table(data, encoder, severity))
    if classes is not None:
        for encoder in classes.encoders:
            sites = dict.fromkeys(site_of(run.case) for run in classes.runs)
            found += [class_table(classes, encoder, site) for site in sites]
    return [table for table in found if table is not None]


def run_parts(args: argparse.Namespace, tissue: Path) -> dict[str, str]:
    """What the other scripts print; those that there are not, or that fail, say so."""
    said = {}
    for part in PARTS:
        script = Path(__file__).with_name(f"{part}.py")
        if not script.exists():
            said[part] = f"`benchmarks/{part}.py` is not there."
            continue
        # Each is given what it takes of these.
        given = {
            "--data": args.data,
            "--folder": tissue,
            "--tissue": tissue,
            "--out": args.out / part,
            "--method": args.ours,
            "--jobs": args.jobs,
        }
        usage = script.read_text("utf-8")
        options = [str(x) for k, v in given.items() if f'"{k}"' in usage for x in (k, v)]
        print(f"{part}: {script.name} {' '.join(options)}", flush=True)
        done = subprocess.run(
            [sys.executable, str(script), *options], capture_output=True, text=True, check=False
        )
        said[part] = done.stdout if done.returncode == 0 else f"failed:\n{done.stderr[-2000:]}"
    return said


def fill(page: str, parts: dict[str, str]) -> str:
    """A page with the text between the markers of each part replaced; other text stays."""
    for name, text in parts.items():
        pattern = rf"(<!-- begin {re.escape(name)} -->\n).*?(<!-- end {re.escape(name)} -->)"
        page = re.sub(pattern, lambda m, t=text: f"{m[1]}\n{t.strip()}\n\n{m[2]}", page, flags=re.S)
    return page


def options_of(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("-o", "--out", type=Path, default=Path("benchmarks/results/default"))
    parser.add_argument("--tissue", type=Path, help="folder of tissue_folder.py; else made in OUT")
    parser.add_argument("--ours", default="em", help="label of the method that is judged")
    parser.add_argument(
        "--candidates", nargs="+", default=[], help="option sets to choose among, as em,em:x=1,as=b"
    )
    parser.add_argument("--only", nargs="+", default=[], help="run these methods and no other")
    parser.add_argument(
        "--again", nargs="+", default=[], help="drop the runs of these labels first"
    )
    parser.add_argument("--severity", nargs="+", default=["mild", "hard"])
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--slow-seeds", type=int, default=1, help="repeats of prototype; 0: none")
    parser.add_argument("--cases", nargs="+", default=[], help="some cases or sites only")
    parser.add_argument("--no-classes", dest="classes", action="store_false")
    parser.add_argument("--no-figures", dest="figures", action="store_false")
    parser.add_argument("--tables-only", action="store_true", help="run nothing")
    parser.add_argument("--all-parts", action="store_true")
    parser.add_argument("--docs", type=Path, help="page whose markers are filled")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run, then write tables, figures and pages."""
    args = options_of(argv)
    tissue = args.tissue or args.out / "tissue"
    if not (tissue / "manifest.csv").exists():
        write_folder(args.data, tissue)
    if not args.tables_only:
        run_all(args, tissue)
    results = Results(args.out / "runs")
    data = load(results)
    write_runs(data, results)
    ours = [m for m in (args.ours, "em") if m in {r.method for r in data.runs}]
    classes = None
    if (args.out / "runs_classes" / "plan.json").exists():
        classes = load(Results(args.out / "runs_classes"))
    tables = tables_of(data, classes, args)
    write_tables(tables, args.out / "tables")
    parts = {table.name: re.sub(r"^### .*\n\n", "", markdown(table)) for table in tables}
    sections = [markdown(table) for table in tables]
    if args.figures and ours:
        said = write_figures(data, results, args.ours, args.out / "figures")
        sections += [f"![{text}](figures/{name})\n\n{text}\n" for name, text in said.items()]
    if args.all_parts:
        for name, text in run_parts(args, tissue).items():
            parts[name] = text
            sections.append(f"## {name}\n\n{text}\n")
    report = args.out / "report.md"
    report.write_text("# The default refiner\n\n" + "\n".join(sections), "utf-8")
    if args.docs:
        images = args.docs.parent.parent / "images"
        parts["figures"] = publish_figures(args.out / "figures", images, args.encoders[0])
        args.docs.write_text(fill(args.docs.read_text("utf-8"), parts), "utf-8")
        print(f"filled {args.docs}")
    print(f"report: {report}")


if __name__ == "__main__":
    main()
