"""Our rows beside those of the papers; theirs are marked, and never mixed with ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recontour.benchmark.loading import Data, Run, values
from recontour.benchmark.published import DATASETS, SOURCES, Figure, figures
from recontour.benchmark.spec import COARSE, OutlineSpec
from recontour.benchmark.statistics import Spread, over_repeats, over_slides
from recontour.benchmark.summaries import HEADS, file_part, kind_of
from recontour.benchmark.tables import PUBLISHED, Column, Row, Table

ORDER = (
    "f1",
    "accuracy",
    "dice_grid",
    "iou_grid",
    "tpr",
    "tnr",
    "ppv",
    "npv",
    "cleaned",
    "mis_modified",
)
# Which of our runs a published table is about: (source, noise) -> outlines, validity, mean over.
TABLES: tuple[tuple[str, str, bool, bool | None, bool], ...] = (
    ("lcmil-table1", "simulated", False, None, False),
    ("lcmil-table2", "hand-drawn valid", True, True, False),
    ("lcmil-table2", "hand-drawn not_valid", True, False, False),
    ("prototype-table1", "simulated", False, None, True),
    ("prototype-table2", "simulated", False, None, True),
)
CARE = (
    "Read published rows with care: other hardware, other random draws, and where a paper leaves "
    "something open, other choices. On PAIP2020 two cells of the prototype paper's table do not "
    "fit their own PPV and TPR."
)


def paper_tables(data: Data, encoder: str) -> list[Table]:
    """For each published table on this data set, our rows and theirs; none for other data."""
    dataset = DATASETS.get(data.plan.dataset)
    if dataset is None:
        return []
    found = []
    for source, noise, drawn, valid, repeats in TABLES:
        runs = [
            run
            for run in data.runs
            if run.encoder == encoder
            and run.drawn is drawn
            and (drawn or _as_published(data.plan.outlines, run))
            and (valid is None or run.valid is valid)
        ]
        theirs = [
            f for f in figures() if (f.source, f.dataset, f.noise) == (source, dataset, noise)
        ]
        if runs and theirs:
            found.append(_beside(data, encoder, runs, theirs, source, noise, repeats))
    return found


def other_tables(data: Data) -> list[Table]:
    """Published tables on data sets that this benchmark did not run."""
    mine = DATASETS.get(data.plan.dataset)
    found = []
    for source, noise, *_ in TABLES:
        for dataset in DATASETS.values():
            theirs = [
                f for f in figures() if (f.source, f.dataset, f.noise) == (source, dataset, noise)
            ]
            if dataset == mine or not theirs:
                continue
            metrics = [m for m in ORDER if any(f.metric == m for f in theirs)]
            found.append(
                Table(
                    f"published_{file_part(source)}_{file_part(dataset)}_{file_part(noise)}",
                    f"{SOURCES[source]}: {dataset}, {noise.replace('_', ' ')} outlines",
                    (Column("method"), *(Column(HEADS[m], "spread") for m in metrics)),
                    tuple(_published_rows(theirs, metrics)),
                    tuple(dict.fromkeys(f.note for f in theirs if f.note)),
                    folded=True,
                )
            )
    return found


def _beside(
    data: Data,
    encoder: str,
    runs: Sequence[Run],
    theirs: Sequence[Figure],
    source: str,
    noise: str,
    repeats: bool,
) -> Table:
    metrics = [m for m in ORDER if any(f.metric == m for f in theirs)]
    average = over_repeats if repeats else over_slides
    per_metric = {m: values(runs, m, by_outline=runs[0].drawn) for m in metrics}
    rows = []
    for method in data.methods(encoder):
        if method not in per_metric[metrics[0]]:
            continue
        ours: list[Spread | None] = [average(per_metric[m][method]) for m in metrics]
        if method == COARSE:
            ours = [
                None if m in ("cleaned", "mis_modified") else v
                for m, v in zip(metrics, ours, strict=True)
            ]
        rows.append(Row(("this benchmark", method, *ours), kind_of(method)))
    rows += [
        Row((SOURCES[source], *row.values), PUBLISHED) for row in _published_rows(theirs, metrics)
    ]
    how = "repeats" if repeats else "outlines" if runs[0].drawn else "slides"
    slides = len({run.case for run in runs})
    return Table(
        f"paper_{file_part(source)}_{file_part(noise)}_{file_part(encoder)}",
        f"{SOURCES[source]}: {theirs[0].dataset}, {noise.replace('_', ' ')} outlines ({encoder})",
        (
            Column("source"),
            Column("method"),
            *(Column(HEADS[m], "spread") for m in metrics),
        ),
        tuple(rows),
        (
            f"Mean ± s.d. over {how}. Ours: {slides} slide{'' if slides == 1 else 's'}. "
            + " ".join(dict.fromkeys(f"Theirs: {f.note}." for f in theirs if f.note)),
            CARE,
        ),
    )


def _published_rows(theirs: Sequence[Figure], metrics: Sequence[str]) -> list[Row]:
    by_method: dict[str, dict[str, Figure]] = {}
    for figure in theirs:
        by_method.setdefault(figure.method, {})[figure.metric] = figure
    return [
        Row((method, *(_spread(held, m) for m in metrics)), PUBLISHED)
        for method, held in by_method.items()
    ]


def _spread(held: Mapping[str, Figure], metric: str) -> Spread | None:
    figure = held.get(metric)
    return None if figure is None else Spread(figure.mean, figure.sd, 0)


def _as_published(specs: Sequence[OutlineSpec], run: Run) -> bool:
    """Whether a simulated outline is of the papers' kind: made so here, or released by them."""
    if run.drawn:
        return False
    spec = next((s for s in specs if s.label == run.outline), None)
    return spec is None or not spec.simulated or spec.kind == "published"
