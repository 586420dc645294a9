"""What the two papers report, as they report it (`published.csv`)."""

from __future__ import annotations

import csv
from importlib import resources
from typing import NamedTuple

from recontour.benchmark.spec import ABLATION

DATASETS = {"camelyon16": "CAMELYON16", "paip2019": "PAIP2019", "paip2020": "PAIP2020"}
SOURCES = {
    "lcmil-table1": "LC-MIL paper, table I",
    "lcmil-table2": "LC-MIL paper, table II",
    "prototype-table1": "prototype paper, table 1",
    "prototype-table2": "prototype paper, table 2",
}
PAPERS = {"lcmil": "arXiv 2109.10778", "prototype": "arXiv 2503.19407"}
# Theirs -> ours: Dice and IoU fit the whole grid only, F1 the tissue cells.
METRICS = {
    "accuracy": ("accuracy", 1.0),
    "tpr": ("tpr", 1.0),
    "tnr": ("tnr", 1.0),
    "ppv": ("ppv", 1.0),
    "npv": ("npv", 1.0),
    "f1": ("f1", 1.0),
    "dice": ("dice_grid", 1.0),
    "iou": ("iou_grid", 1.0),
    "cleaned_percent": ("cleaned", 0.01),
    "mis_modified_percent": ("mis_modified", 0.01),
}
# The rows of the ablation table have only ticks; each has one more than the row above.
ROWS = {
    f"ablation row {n} ({n} ticks)": f"prototype {'+' if n > 1 else ''}{part}"
    for n, part in enumerate(ABLATION, 1)
}
_PARTS = "ticks are cumulative over CA LP GP DDS RF"


class Figure(NamedTuple):
    """One published value under our name for the metric; shares, not percent."""

    source: str
    dataset: str
    noise: str
    method: str
    metric: str
    mean: float
    sd: float
    note: str


def figures() -> list[Figure]:
    """Every published value, in the order of the tables."""
    text = (resources.files("recontour.benchmark") / "published.csv").read_text("utf-8")
    found = []
    for row in csv.DictReader(text.splitlines()):
        metric, factor = METRICS[row["metric"]]
        found.append(
            Figure(
                row["source"],
                row["dataset"],
                row["noise"],
                ROWS.get(row["method"], row["method"]),
                metric,
                float(row["mean"]) * factor,
                float(row["sd"]) * factor,
                _note(row["note"]),
            )
        )
    return found


def _note(text: str) -> str:
    """The remark of a row, in words that stand alone."""
    if text == _PARTS:
        return "each row adds one part"
    if text.endswith("%"):
        return f"{text} of the outlines"
    return text.replace("% of outlines", "% of the outlines").replace("sd over", "s.d. over")
