"""The report of a benchmark: one page, its tables and figures as files beside it."""

from __future__ import annotations

import base64
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from recontour import __version__
from recontour.benchmark import summaries as tables_of
from recontour.benchmark.loading import Data, load, write_runs
from recontour.benchmark.papers import other_tables, paper_tables
from recontour.benchmark.published import DATASETS, PAPERS
from recontour.benchmark.records import Results
from recontour.benchmark.spec import COARSE, ORACLE
from recontour.benchmark.tables import Table, write_tables
from recontour.errors import RecontourError
from recontour.files import write_text
from recontour.postprocess import rules_for
from recontour.reports.benchmark_figures import REFERENCES, box_plot, sorted_curves
from recontour.reports.benchmark_overlays import write_overlays
from recontour.reports.page import say
from recontour.reports.summary import count, plain
from recontour.reports.template import template
from recontour.types import PatchGrid

PAGE = "report.html"
MOST_FAILURES = 50


@dataclass(frozen=True)
class Figure:
    """A picture on the page: `name` of its file, and what it shows."""

    name: str
    text: str


@dataclass
class Section:
    """A part of the page: what it says, tables and figures."""

    title: str
    text: str = ""
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)


def write_benchmark_report(results: Results, out: Path | None = None) -> Path:
    """Write `report.html`, `tables/` and `figures/` from what a benchmark left; gives the page.

    Parameters
    ----------
    results : the folder of the benchmark; it may be unfinished
    out : where to write; None: into the same folder, and the figures of every run beside it

    Raises
    ------
    MissingFileError : the folder holds no benchmark
    RecontourError : nothing has been run yet
    OutputError : a file cannot be written
    """
    data = load(results)
    folder = results.folder if out is None else out
    if not data.runs:
        raise RecontourError(
            f"{results.folder} has no finished run; {_why_nothing(data)}".rstrip("; ")
        )
    if out is None:
        write_runs(data, results)
    figures = folder / "figures"
    shutil.rmtree(figures, ignore_errors=True)
    sections = _sections(data, results, figures)
    write_tables([table for section in sections for table in section.tables], folder / "tables")
    write_text(folder / PAGE, _page(data, sections, figures))
    return folder / PAGE


def _sections(data: Data, results: Results, figures: Path) -> list[Section]:
    found = [_means(data), _papers(data), _tests(data)]
    found += [_boxes(data, figures), _curves(data, figures), _ablation(data), _images(data)]
    found += [_overlays(data, results, figures), _seconds(data)]
    return [section for section in found if section.tables or section.figures]


def _means(data: Data) -> Section:
    section = Section(
        "Means",
        "Over slides: mean and s.d. over the slides of each slide's mean over the repeats, as in "
        "the LC-MIL paper. Over repeats: mean and s.d. over the repeats of each repeat's mean over "
        "the slides, as in the prototype paper. Of outlines drawn by several people, each counts "
        "as a slide. An outline is valid where the PPV and the NPV of its labels exceed 0.5; those "
        "that are not stand apart. F1 to TNR count tissue cells, “grid” counts every cell, glass "
        "included. Micro: all cells of all runs in one count. Undefined values (the PPV of an "
        "empty result) are left out of means; F1, IoU and Dice of an empty result are 0.",
    )
    for encoder in data.encoders:
        for i, group in enumerate(data.groups()):
            for repeats in (False, True):
                for validity in tables_of.VALIDITY:
                    table = tables_of.mean_table(data, encoder, group, validity, repeats=repeats)
                    if table is not None:
                        shown = i == 0 and not repeats
                        section.tables.append(replace(table, folded=not shown))
            change = tables_of.change_table(data, encoder, group)
            if change is not None:
                section.tables.append(replace(change, folded=i > 0))
        by_class = tables_of.class_table(data, encoder)
        if by_class is not None:
            section.tables.append(by_class)
    return section


def _papers(data: Data) -> Section:
    others = other_tables(data)
    dataset = DATASETS.get(data.plan.dataset)
    if dataset is None:
        return Section(
            "Published, other data",
            "What the two papers report. Their data are not these data: no row here can be "
            f"compared with a row above. (LC-MIL: {PAPERS['lcmil']}; prototype: "
            f"{PAPERS['prototype']}.)",
            others,
        )
    mine = [t for encoder in data.encoders for t in paper_tables(data, encoder)]
    text = f"Rows in italics are the papers' own figures on {dataset}; the others are ours."
    if not mine:
        text = (
            "No outline of the papers' kind was run (`published`, or drawn by hand), so that there "
            "is nothing of ours to stand beside theirs."
        )
    return Section("Beside the papers", text, [*mine, *others])


def _tests(data: Data) -> Section:
    section = Section(
        "Paired tests",
        "Wilcoxon signed-rank tests on the means of the slides, two-sided; slides where both are "
        "equal are left out (zero_method “wilcox”). Rank-biserial correlation: 1 means better on "
        "every slide, −1 worse. Differences are method minus the other.",
    )
    for encoder in data.encoders:
        for i, group in enumerate(data.groups()):
            for metric in tables_of.TESTED:
                for validity in tables_of.VALIDITY:
                    table = tables_of.wilcoxon_table(data, encoder, group, metric, validity)
                    if table is None:
                        continue
                    section.tables.append(replace(table, folded=True))
                    if i == 0 and validity[1]:
                        section.tables.insert(len(section.tables) - 1, _against_references(table))
    return section


def _against_references(table: Table) -> Table:
    """The rows that most readers want; the whole table is there too."""
    rows = tuple(row for row in table.rows if row.values[1] in REFERENCES)
    return replace(
        table,
        name=f"{table.name}_references",
        title=f"{table.title}: against {', '.join(REFERENCES[:-1])} and {REFERENCES[-1]}",
        rows=rows,
    )


def _boxes(data: Data, figures: Path) -> Section:
    section = Section("Spread over slides")
    for encoder in data.encoders:
        for metric in tables_of.TESTED:
            name = f"boxes_{metric}_{tables_of.file_part(encoder)}.png"
            text = box_plot(data, encoder, tables_of.main_group(data), metric, figures / name)
            if text:
                section.figures.append(Figure(name, text))
    return section


def _curves(data: Data, figures: Path) -> Section:
    section = Section("Better and worse outlines")
    for encoder in data.encoders:
        for metric in tables_of.TESTED:
            name = f"sorted_{metric}_{tables_of.file_part(encoder)}.png"
            text = sorted_curves(data, encoder, tables_of.main_group(data), metric, figures / name)
            if text:
                section.figures.append(Figure(name, text))
    return section


def _ablation(data: Data) -> Section:
    found = [tables_of.ablation_table(data, encoder) for encoder in data.encoders]
    return Section("Ablation", tables=[table for table in found if table])


def _images(data: Data) -> Section:
    found = [
        tables_of.image_table(data, encoder, metric)
        for encoder in data.encoders
        for metric in tables_of.TESTED
    ]
    tables = [table for table in found if table]
    return Section(
        "Slide by slide", tables=[replace(t, folded=i > 0) for i, t in enumerate(tables)]
    )


def _overlays(data: Data, results: Results, figures: Path) -> Section:
    section = Section("Best, median, worst")
    for encoder in data.encoders:
        method = tables_of.best_method(data, encoder)
        name = f"overlays_{tables_of.file_part(encoder)}.png"
        text = method and write_overlays(data, results, encoder, method, figures / name)
        if text:
            section.figures.append(Figure(name, text))
    return section


def _seconds(data: Data) -> Section:
    table = tables_of.seconds_table(data)
    return Section("Time", tables=[table] if table else [])


def _page(data: Data, sections: Sequence[Section], figures: Path) -> str:
    return template("benchmark.html.j2").render(
        version=__version__,
        title=f"Benchmark: {data.plan.dataset}",
        subtitle=_subtitle(data),
        warnings=_warnings(data),
        reading=_reading(data),
        sections=[
            {
                "title": s.title,
                "text": s.text,
                "figures": [
                    {"src": _embedded(figures / f.name), "text": f.text, "name": f.name}
                    for f in s.figures
                ],
                "tables": [
                    {
                        "title": t.title,
                        "columns": t.columns,
                        "rows": [
                            {"kind": row.kind, "cells": cells}
                            for row, cells in zip(t.rows, t.cells(), strict=True)
                        ],
                        "notes": t.notes,
                        "folded": t.folded,
                    }
                    for t in s.tables
                ],
            }
            for s in sections
        ],
        failures=_failures(data),
        left_out=_left_out(data),
        notes=_notes(data),
        settings=_settings(data),
        methods=[(m.label, m.name, say(dict(m.options)), m.pooled) for m in data.plan.methods],
        versions=list((data.about.get("versions") or {"recontour": __version__}).items()),
    )


def _subtitle(data: Data) -> str:
    slides = len({run.case for run in data.runs})
    outlines = len({(run.case, run.outline, run.seed) for run in data.runs})
    return (
        f"{count(slides, 'slide')}, {count(outlines, 'outline')}, {count(len(data.runs), 'run')}; "
        f"repeats {data.plan.seeds} (seeds 0 to {data.plan.seeds - 1}); encoders "
        f"{', '.join(data.encoders)}"
    )


def _reading(data: Data) -> str:
    """Label rule, grid and post-processing, in words."""
    sides = sorted({(run.cell_um, run.cell_px) for run in data.runs})
    cells = ", ".join(f"{um:.4g} µm ({px} px)" for um, px in sides[:4])
    if len(sides) > 4:
        cells += f" and {len(sides) - 4} more"
    recipe = data.plan.recipe
    rule = {
        "centre": "a cell belongs to the outline its centre is in",
        "published": "outlines are drawn as by the LC-MIL code, which loses about half a cell",
    }[recipe.label_rule]
    none = np.zeros(0, np.int32)
    rules = rules_for(recipe, PatchGrid((0, 0), (0, 0), none, none, 1, 1, 1, 1.0, 1.0))
    smooth = f"a Gaussian of {rules.sigma_cells:g} cells" if rules.sigma_cells else "no smoothing"
    if rules.by_evidence:
        least = "objects and holes weighed by their evidence"
    elif recipe.min_area_um2 is None or recipe.postprocess == "published":
        least = f"nothing below {rules.min_area_cells:g} cells"
    else:
        least = f"nothing below {recipe.min_area_um2:g} µm²"
    return (
        f"Cells of {cells}. Label rule “{recipe.label_rule}”: {rule}; the same for truth and "
        f"coarse outline. Results are decided by “{recipe.postprocess}” post-processing ({smooth}, "
        f"threshold {rules.threshold:g}, {least}) and scored cell by cell, on tissue "
        "cells outside excluded regions, without tracing. “coarse” is the outline itself; “oracle” "
        "learned from the truth and was asked about parts of the slide that it had not seen: what "
        "these features allow."
    )


def _warnings(data: Data) -> list[str]:
    found = []
    if data.failed:
        found.append(f"{count(len(data.failed), 'run')} failed: means lack them; see the end")
    broken = [s for s in data.states if s.get("state") == "failed"]
    if broken:
        found.append(f"{count(len(broken), 'slide')} failed and took no part; see the end")
    short = _incomplete(data)
    if short:
        found.append(f"not finished: {count(short, 'run')} still to come; the same command goes on")
    slides = len({run.case for run in data.runs})
    if slides < 6:
        found.append(
            f"{count(slides, 'slide')}: with fewer than six, no test can reach p = 0.05, and a "
            "mean says little of other slides"
        )
    return found


def _incomplete(data: Data) -> int:
    """Runs that other outlines of the same benchmark have and these lack."""
    done = {(r.case, r.encoder, r.outline, r.seed, r.method) for r in data.runs}
    done |= {(r["case"], r["encoder"], r["outline"], r["seed"], r["method"]) for r in data.failed}
    dead = {
        (r["case"], r["encoder"], r["outline"], r["seed"])
        for r in data.failed
        if r["method"] == COARSE
    }
    lacking = 0
    for case in {r.case for r in data.runs}:
        outlines = {r.outline for r in data.runs if r.case == case}
        for encoder in data.plan.encoders:
            methods = [COARSE, ORACLE, *(m.label for m in data.plan.methods if m.runs_on(encoder))]
            lacking += sum(
                (case, encoder, outline, seed, method) not in done
                for outline in outlines
                for seed in range(data.plan.seeds)
                if (case, encoder, outline, seed) not in dead
                for method in methods
            )
    return lacking


def _failures(data: Data) -> list[str]:
    """Failed slides, then failed runs by method and reason."""
    found = [
        f"{s['case']}: {plain(s['reason'])}" for s in data.states if s.get("state") == "failed"
    ]
    grouped = Counter((r["method"], r["encoder"], plain(r["reason"])) for r in data.failed)
    where = {
        key: next(r for r in data.failed if (r["method"], r["encoder"], plain(r["reason"])) == key)
        for key in grouped
    }
    for (method, encoder, reason), n in grouped.items():
        first = where[method, encoder, reason]
        at = f"{first['case']}, {first['outline']}, repeat {first['seed']}"
        found.append(f"{method}, {encoder}: {reason} ({count(n, 'run')}, first: {at})")
    if len(found) > MOST_FAILURES:
        rest = len(found) - MOST_FAILURES
        found = [*found[:MOST_FAILURES], f"{rest} more: see cases/ and runs/"]
    return found


def _left_out(data: Data) -> list[str]:
    found = [
        f"{s['case']}: {plain(s['reason'])}" for s in data.states if s.get("state") == "left_out"
    ]
    about = data.about
    return [
        *found,
        *map(plain, about.get("left_out") or ()),
        *(f"missing: {plain(m)}" for m in about.get("missing") or ()),
    ]


def _notes(data: Data) -> list[str]:
    """What methods and readers noted, each once."""
    found = [*map(plain, data.about.get("notes") or ())]
    said = Counter((run.method, note) for run in data.runs for note in dict.fromkeys(run.notes))
    found += [f"{method}: {plain(note)} ({count(n, 'run')})" for (method, note), n in said.items()]
    for state in data.states:
        found += [f"{state['case']}: {plain(note)}" for note in (state.get("notes") or ())[:3]]
    return found[:MOST_FAILURES]


def _settings(data: Data) -> list[tuple[str, str]]:
    plan = data.plan.to_dict()
    settings = plan.pop("recipe")
    rows = [
        ("data set", plan["dataset"]),
        ("preset", say(plan["preset"])),
        ("outlines", ", ".join(o["label"] for o in plan["outlines"])),
        ("encoders", ", ".join(plan["encoders"])),
        ("repeats", say(plan["seeds"])),
        ("slides with little or much lesion", "kept" if plan["keep_all"] else "left out"),
    ]
    return rows + [(k.replace("_", " "), plain(say(v))) for k, v in settings.items()]


def _embedded(png: Path) -> str:
    """A picture as a data URL; overlays hold tissue, which is ten times smaller as a JPEG."""
    if png.name.startswith("overlays"):
        from recontour.reports.page import as_data

        return as_data(png)
    return "data:image/png;base64," + base64.b64encode(png.read_bytes()).decode("ascii")


def _why_nothing(data: Data) -> str:
    reasons = [*_failures(data), *_left_out(data)]
    return "; ".join(reasons[:5])
