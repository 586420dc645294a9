"""The runs of a benchmark, read back for tables and figures."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recontour.benchmark.records import Record, Results
from recontour.benchmark.scoring import METRICS
from recontour.benchmark.spec import COARSE, ORACLE, Plan
from recontour.files import write_text
from recontour.metrics.cells import Confusion, mean

ALL, DRAWN = "all", "drawn"


@dataclass(frozen=True)
class Run:
    """One method on one outline of one slide.

    Attributes
    ----------
    drawn : the outline was drawn by hand
    valid : PPV and NPV of the coarse labels are above 0.5
    metrics : by name, NaN where undefined
    counts, counts_grid : tp, fp, fn, tn summed over the classes, on tissue and on the whole grid
    per_class : class -> metric -> value
    seconds_fit, seconds_predict : NaN for the outline itself; of a pooled method its share
    """

    case: str
    encoder: str
    outline: str
    seed: int
    method: str
    drawn: bool
    valid: bool
    metrics: Mapping[str, float]
    counts: Confusion
    counts_grid: Confusion
    per_class: Mapping[str, Mapping[str, float]]
    n_cells: int
    cell_px: int
    cell_um: float
    seconds_fit: float
    seconds_predict: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """Outlines that are tabled together.

    Attributes
    ----------
    name : a kind of outline, `drawn` (all drawn by hand) or `all`
    title : for people
    """

    name: str
    title: str
    holds: Callable[[Run], bool] = field(compare=False)


@dataclass(frozen=True)
class Data:
    """All that a benchmark found.

    Attributes
    ----------
    runs : in the order of case, encoder, outline, repeat and method
    failed : records of runs that failed
    states : what is known of each case
    about : what the data set itself misses or leaves out, notes, versions
    """

    plan: Plan
    runs: tuple[Run, ...]
    failed: tuple[Record, ...]
    states: tuple[Record, ...]
    about: Mapping[str, Any]

    @property
    def encoders(self) -> list[str]:
        """Those with runs, in the order of the plan."""
        present = {run.encoder for run in self.runs}
        return [name for name in self.plan.encoders if name in present]

    def methods(self, encoder: str) -> list[str]:
        """Labels of the methods with runs: the outline first, the oracle last."""
        present = {run.method for run in self.runs if run.encoder == encoder}
        order = [COARSE, *(m.label for m in self.plan.methods), ORACLE]
        return [name for name in order if name in present]

    def groups(self) -> list[Group]:
        """Outlines by kind; all of them first, where there are several kinds."""
        kinds = list(dict.fromkeys(run.outline for run in self.runs if not run.drawn))
        order = [o.label for o in self.plan.outlines]
        kinds.sort(key=lambda name: order.index(name) if name in order else len(order))
        found = [Group(kind, f"{kind} outlines", _of_kind(kind)) for kind in kinds]
        if any(run.drawn for run in self.runs):
            found.append(Group(DRAWN, "outlines drawn by hand", lambda run: run.drawn))
        if len(found) > 1:
            found.insert(0, Group(ALL, "all outlines", lambda run: True))
        return found


def load(results: Results) -> Data:
    """Read what a folder holds; runs of inputs that have since changed are left out.

    Raises
    ------
    MissingFileError : the folder holds no benchmark
    """
    plan = results.plan()
    states = results.states()
    runs: list[Run] = []
    failed: list[Record] = []
    for state in states:
        if state.get("state") != "done":
            continue
        for record in results.records(state["case"]).values():
            if record["inputs"] != state["inputs"]:
                continue
            if record["status"] == "ok":
                runs.append(_run(record))
            else:
                failed.append(record)
    rank = _ranks(plan)
    runs.sort(key=lambda r: rank(r.case, r.encoder, r.outline, r.seed, r.method))
    failed.sort(key=lambda r: rank(r["case"], r["encoder"], r["outline"], r["seed"], r["method"]))
    return Data(plan, tuple(runs), tuple(failed), tuple(states), results.about())


def values(
    runs: Iterable[Run], metric: str, *, by_outline: bool = False
) -> dict[str, dict[tuple[str, int], float]]:
    """method -> (slide, repeat) -> value; of several outlines of a slide the mean.

    Parameters
    ----------
    metric : one of `METRICS`
    by_outline : each outline of a slide counts for itself, as where several people drew
    """
    found: dict[str, dict[tuple[str, int], list[float]]] = {}
    for run in runs:
        slide = f"{run.case}/{run.outline}" if by_outline else run.case
        held = found.setdefault(run.method, {}).setdefault((slide, run.seed), [])
        held.append(run.metrics[metric])
    return {
        method: {key: mean(several) for key, several in by_key.items()}
        for method, by_key in found.items()
    }


def micro(runs: Iterable[Run]) -> dict[str, float]:
    """All cells of all runs in one count."""
    total = grid = Confusion(0, 0, 0, 0)
    for run in runs:
        total, grid = total.plus(run.counts), grid.plus(run.counts_grid)
    whole = grid.ratios()
    return {**total.ratios(), "iou_grid": whole["iou"], "dice_grid": whole["dice"]}


def write_runs(data: Data, results: Results) -> None:
    """Write `runs.csv`, `per_class.csv` and `seconds.csv`: every figure, not rounded.

    The same settings give the same `runs.csv` and `per_class.csv`, byte for byte, however often
    the benchmark was interrupted. An empty field is undefined.
    """
    head = ["case", "encoder", "outline", "seed", "method"]

    def key(run: Run) -> list[Any]:
        return [run.case, run.encoder, run.outline, run.seed, run.method]

    facts = ["drawn", "valid", "n_cells", "cell_px", "cell_um"]
    counts = [*Confusion._fields, *(f"{name}_grid" for name in Confusion._fields)]
    write_csv(
        results.folder / "runs.csv",
        [*head, *facts, *METRICS, *counts],
        [
            [*key(r), int(r.drawn), int(r.valid), r.n_cells, r.cell_px, r.cell_um]
            + [r.metrics[name] for name in METRICS]
            + [*r.counts, *r.counts_grid]
            for r in data.runs
        ],
    )
    names = list(dict.fromkeys(n for r in data.runs for v in r.per_class.values() for n in v))
    write_csv(
        results.folder / "per_class.csv",
        [*head, "class", *names],
        [
            [*key(r), name, *(figures[n] for n in names)]
            for r in data.runs
            for name, figures in r.per_class.items()
        ],
    )
    write_csv(
        results.folder / "seconds.csv",
        [*head, "fit", "predict"],
        [
            [*key(r), r.seconds_fit, r.seconds_predict]
            for r in data.runs
            if not math.isnan(r.seconds_fit)
        ],
    )


def write_csv(path: Any, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table with its head, all or nothing; NaN and None become empty fields."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    for row in rows:
        writer.writerow(
            ["" if v is None or (isinstance(v, float) and math.isnan(v)) else v for v in row]
        )
    write_text(path, text.getvalue())


def _run(record: Record) -> Run:
    seconds = record.get("seconds", {})
    return Run(
        case=record["case"],
        encoder=record["encoder"],
        outline=record["outline"],
        seed=record["seed"],
        method=record["method"],
        drawn=record["drawn"],
        valid=record["valid"],
        metrics=_numbers(record["metrics"]),
        counts=_sum(record["counts"]),
        counts_grid=_sum(record["counts_grid"]),
        per_class={name: _numbers(v) for name, v in record["per_class"].items()},
        n_cells=record["n_cells"],
        cell_px=record["cell_px"],
        cell_um=record["cell_um"],
        seconds_fit=float(seconds.get("fit", math.nan)),
        seconds_predict=float(seconds.get("predict", math.nan)),
        notes=tuple(record.get("notes", ())),
    )


def _numbers(figures: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if v is None else float(v) for name, v in figures.items()}


def _sum(counts: Mapping[str, Mapping[str, int]]) -> Confusion:
    total = Confusion(0, 0, 0, 0)
    for of_class in counts.values():
        total = total.plus(Confusion(**of_class))
    return total


def _ranks(plan: Plan) -> Callable[[str, str, str, int, str], tuple[Any, ...]]:
    def order(names: Sequence[str]) -> dict[str, int]:
        return {name: i for i, name in enumerate(names)}

    encoders, outlines = order(plan.encoders), order([o.label for o in plan.outlines])
    methods = order([COARSE, *(m.label for m in plan.methods), ORACLE])

    def rank(case: str, encoder: str, outline: str, seed: int, method: str) -> tuple[Any, ...]:
        return (
            case,
            encoders.get(encoder, len(encoders)),
            (outlines.get(outline, len(outlines)), outline),
            seed,
            methods.get(method, len(methods)),
        )

    return rank


def _of_kind(kind: str) -> Callable[[Run], bool]:
    return lambda run: run.outline == kind and not run.drawn
