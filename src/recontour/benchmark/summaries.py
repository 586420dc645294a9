"""The tables of a benchmark: means, changes, tests, single images, seconds."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from recontour.benchmark.loading import DRAWN, Data, Group, Run, micro, values
from recontour.benchmark.scoring import METRICS
from recontour.benchmark.spec import ABLATION, BASELINE, COARSE, ORACLE
from recontour.benchmark.statistics import (
    Comparison,
    Spread,
    compare,
    over_repeats,
    over_slides,
    slide_means,
    spread,
    stars,
)
from recontour.benchmark.tables import MEAN, OWN, REFERENCE, Column, Row, Table

VALIDITY = (("valid", True), ("not_valid", False))
MAIN = ("f1", "accuracy", "iou", "dice_grid", "iou_grid", "ppv", "npv", "tpr", "tnr")
TESTED = ("f1", "accuracy")
HEADS = {
    "f1": "F1",
    "accuracy": "accuracy",
    "iou": "IoU",
    "dice": "Dice",
    "iou_grid": "IoU, grid",
    "dice_grid": "Dice, grid",
    "ppv": "PPV",
    "npv": "NPV",
    "tpr": "TPR",
    "tnr": "TNR",
    "cleaned": "cleaned",
    "mis_modified": "mis-modified",
    "f1_foreground": "F1, any class",
}
WORST = 5
"""Percentile of the changes that is shown."""


def of(data: Data, encoder: str, group: Group, valid: bool | None = None) -> list[Run]:
    """The runs on an encoder, of a group of outlines; valid ones, those that are not, or all."""
    return [
        run
        for run in data.runs
        if run.encoder == encoder and group.holds(run) and (valid is None or run.valid is valid)
    ]


def kind_of(method: str) -> str:
    """What stands in every table to be compared with, or a method."""
    return REFERENCE if method in (COARSE, ORACLE, BASELINE) else OWN


def count_outlines(runs: Iterable[Run]) -> int:
    """Outlines of all slides and repeats."""
    return len({(run.case, run.outline, run.seed) for run in runs})


def mean_table(
    data: Data, encoder: str, group: Group, validity: tuple[str, bool], *, repeats: bool
) -> Table | None:
    """Every figure of every method, averaged over slides or over repeats; None without a run."""
    name, valid = validity
    runs = of(data, encoder, group, valid)
    if not runs:
        return None
    average = over_repeats if repeats else over_slides
    how = "repeats" if repeats else "slides"
    per_metric = {m: values(runs, m, by_outline=group.name == DRAWN) for m in METRICS}
    rows = []
    for method in data.methods(encoder):
        own = [run for run in runs if run.method == method]
        if not own:
            continue
        found = [average(per_metric[m][method]) for m in (*MAIN, "cleaned", "mis_modified")]
        if method == COARSE:
            found[-2:] = [None, None]  # type: ignore[list-item]
        rows.append(
            Row(
                (method, count_outlines(own), found[0].n, *found, micro(own)["f1"]), kind_of(method)
            )
        )
    columns = [
        Column("method"),
        Column("outlines", "whole"),
        Column(how, "whole"),
        *(Column(HEADS[m], "spread") for m in (*MAIN, "cleaned", "mis_modified")),
        Column("F1, micro", "share"),
    ]
    said = "valid" if valid else "NOT valid"
    return Table(
        f"means_{how}_{file_part(encoder)}_{file_part(group.name)}_{name}",
        f"{encoder}, {group.title}, {said}: mean ± s.d. over {how}",
        tuple(columns),
        tuple(rows),
    )


def class_table(data: Data, encoder: str) -> Table | None:
    """F1 of each class, for truths of several; None where there is one class only."""
    runs = [run for run in data.runs if run.encoder == encoder and run.valid]
    names = list(dict.fromkeys(name for run in runs for name in run.per_class))
    if len(names) < 2:
        return None
    rows = []
    for method in data.methods(encoder):
        own = [run for run in runs if run.method == method]
        of_class = [spread([r.per_class[n]["f1"] for r in own if n in r.per_class]) for n in names]
        foreground = over_slides(values(own, "f1_foreground").get(method, {}))
        rows.append(Row((method, *of_class, foreground), kind_of(method)))
    return Table(
        f"classes_{file_part(encoder)}",
        f"{encoder}: F1 of each class, valid outlines, mean ± s.d. over runs",
        (
            Column("method"),
            *(Column(name, "spread") for name in names),
            Column("any class", "spread"),
        ),
        tuple(rows),
    )


def change_table(data: Data, encoder: str, group: Group) -> Table | None:
    """What each method made of the outlines it was given: how often better, how bad at worst."""
    rows = []
    for name, valid in VALIDITY:
        runs = of(data, encoder, group, valid)
        before = {(r.case, r.outline, r.seed): r.metrics["f1"] for r in runs if r.method == COARSE}
        for method in data.methods(encoder):
            if method == COARSE:
                continue
            own = [r for r in runs if r.method == method]
            gains = [
                r.metrics["f1"] - before[key]
                for r in own
                if (key := (r.case, r.outline, r.seed)) in before
            ]
            gains = [g for g in gains if not math.isnan(g)]
            if not gains:
                continue
            low, middle = np.percentile(gains, [WORST, 50])
            rows.append(
                Row(
                    (
                        method,
                        name.replace("_", " "),
                        len(gains),
                        float(np.mean(np.asarray(gains) > 0)),
                        float(low),
                        float(middle),
                        float(np.mean(gains)),
                        spread([r.metrics["cleaned"] for r in own]),
                        spread([r.metrics["mis_modified"] for r in own]),
                    ),
                    kind_of(method),
                )
            )
    if not rows:
        return None
    return Table(
        f"changes_{file_part(encoder)}_{file_part(group.name)}",
        f"{encoder}, {group.title}: change of F1 from the coarse outline to the result",
        (
            Column("method"),
            Column("outlines"),
            Column("runs", "whole"),
            Column("better", "percent"),
            Column("5th percentile", "signed"),
            Column("median", "signed"),
            Column("mean", "signed"),
            Column("cleaned", "spread"),
            Column("mis-modified", "spread"),
        ),
        tuple(rows),
        (
            "Cleaned: share of the wrong coarse labels that were put right; mis-modified: share of "
            "the right ones that were made wrong. Means ± s.d. over runs.",
        ),
    )


def comparisons(
    data: Data, encoder: str, group: Group, metric: str, valid: bool = True
) -> list[Comparison]:
    """Every method against every other on one metric, slide by slide."""
    runs = of(data, encoder, group, valid)
    found = values(runs, metric)
    return compare({m: slide_means(found[m]) for m in data.methods(encoder) if m in found})


def wilcoxon_table(
    data: Data, encoder: str, group: Group, metric: str, validity: tuple[str, bool]
) -> Table | None:
    """Paired tests; None with fewer than two methods or no pair."""
    name, valid = validity
    found = [c for c in comparisons(data, encoder, group, metric, valid) if c.n]
    if not found:
        return None
    rows = [
        Row(
            (
                c.a,
                c.b,
                c.n,
                c.difference,
                c.low,
                c.high,
                c.hodges_lehmann,
                c.rank_biserial,
                c.p,
                stars(c.p),
                c.p_holm,
                stars(c.p_holm),
                c.how,
            )
        )
        for c in found
    ]
    return Table(
        f"wilcoxon_{metric}_{file_part(encoder)}_{file_part(group.name)}_{name}",
        f"{encoder}, {group.title}, {name.replace('_', ' ')}: {HEADS[metric]}, slide by slide",
        (
            Column("method"),
            Column("against"),
            Column("slides", "whole"),
            Column("mean difference", "signed"),
            Column("95 % from", "signed"),
            Column("to", "signed"),
            Column("Hodges–Lehmann", "signed"),
            Column("rank-biserial", "signed"),
            Column("p", "p"),
            Column("stars"),
            Column("p, Holm", "p"),
            Column("stars, Holm"),
            Column("how p was found"),
        ),
        tuple(rows),
        (
            f"Holm's correction is over the {len(found)} comparisons of this table.",
            "Interval of the mean difference: bootstrap over the slides, 2,000 samples.",
        ),
    )


def image_table(data: Data, encoder: str, metric: str = "f1") -> Table | None:
    """Slide by slide: the coarse outlines, and what each method made of them."""
    runs = [run for run in data.runs if run.encoder == encoder and run.valid]
    if not runs:
        return None
    methods = data.methods(encoder)
    found = {m: slide_means(v) for m, v in values(runs, metric).items()}
    cases = list(dict.fromkeys(run.case for run in runs))
    rows = []
    for case in cases:
        own = [run for run in runs if run.case == case]
        figures = [found.get(m, {}).get(case, math.nan) for m in methods]
        rows.append(Row((case, own[0].n_cells, own[0].cell_um, count_outlines(own), *figures)))
    means: list[Spread] = [spread([r.values[4 + i] for r in rows]) for i in range(len(methods))]
    rows.append(
        Row(
            ("mean of the slides", None, None, count_outlines(runs), *(m.mean for m in means)),
            MEAN,
        )
    )
    return Table(
        f"images_{metric}_{file_part(encoder)}",
        f"{encoder}: {HEADS[metric]} of each slide, mean over its valid outlines",
        (
            Column("slide"),
            Column("cells", "whole"),
            Column("µm a cell", "share"),
            Column("outlines", "whole"),
            *(Column(m, "share") for m in methods),
        ),
        tuple(rows),
    )


def seconds_table(data: Data) -> Table | None:
    """Seconds a run, without reading and embedding the slide."""
    rows = []
    for encoder in data.encoders:
        for method in data.methods(encoder):
            own = [r for r in data.runs if r.encoder == encoder and r.method == method]
            fit = [r.seconds_fit for r in own if not math.isnan(r.seconds_fit)]
            if not fit:
                continue
            predict = [r.seconds_predict for r in own if not math.isnan(r.seconds_predict)]
            both = [a + b for a, b in zip(fit, predict, strict=True)]
            cells = float(np.mean([r.n_cells for r in own]))
            rows.append(
                Row(
                    (
                        method,
                        encoder,
                        len(both),
                        cells,
                        float(np.median(fit)),
                        float(np.median(predict)),
                        float(np.median(both)),
                        float(np.max(both)),
                    ),
                    kind_of(method),
                )
            )
    if not rows:
        return None
    return Table(
        "seconds",
        "Seconds a run, slides embedded already",
        (
            Column("method"),
            Column("encoder"),
            Column("runs", "whole"),
            Column("cells, mean", "seconds"),
            Column("learning, median", "seconds"),
            Column("predicting, median", "seconds"),
            Column("both, median", "seconds"),
            Column("both, longest", "seconds"),
        ),
        tuple(rows),
        (
            "Wall-clock seconds on the machine of that day, other processes included: compare "
            "within this table only. Of a method fitted on all slides at once, each run has its "
            "share.",
        ),
    )


def ablation_table(data: Data, encoder: str) -> Table | None:
    """The rows of the prototype paper's ablation that were run; None without one."""
    by_row = {
        m.options["ablation"]: m.label
        for m in data.plan.methods
        if m.name == "prototype" and set(m.options) == {"ablation"}
    }
    runs = [run for run in data.runs if run.encoder == encoder and run.valid]
    rows = []
    for i, part in enumerate(ABLATION):
        own = [run for run in runs if run.method == by_row.get(part)]
        if not own:
            continue
        ticks = ["✓" if j <= i else "" for j in range(len(ABLATION))]
        figures = [
            over_repeats(values(own, m)[own[0].method])
            for m in ("dice_grid", "iou_grid", "f1", "accuracy")
        ]
        rows.append(Row((*ticks, *figures)))
    if not rows:
        return None
    return Table(
        f"ablation_{file_part(encoder)}",
        f"{encoder}: the parts of `prototype`, valid outlines, mean ± s.d. over repeats",
        (
            *(Column(part) for part in ABLATION),
            *(Column(HEADS[m], "spread") for m in ("dice_grid", "iou_grid", "f1", "accuracy")),
        ),
        tuple(rows),
        (
            "CA coarse labels only; LP local prototypes; GP global prototypes; DDS dynamic data "
            "sampling; RF re-finetuning. Each row adds one part.",
        ),
    )


def best_method(data: Data, encoder: str) -> str | None:
    """The method with the highest mean F1 on valid outlines, the oracle and the outline aside."""
    runs = [run for run in data.runs if run.encoder == encoder and run.valid]
    found = values(runs, "f1")
    means = {
        m: over_slides(found[m]).mean
        for m in data.methods(encoder)
        if m not in (COARSE, ORACLE) and m in found
    }
    means = {m: v for m, v in means.items() if not math.isnan(v)}
    return max(means, key=lambda m: means[m]) if means else None


def main_group(data: Data) -> Group:
    """All outlines, or the only kind."""
    return data.groups()[0]


def file_part(name: str) -> str:
    """A name as part of a file's name."""
    return "".join(c if c.isalnum() else "-" for c in name).strip("-")
