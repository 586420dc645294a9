"""What tuning found, as files: everything as JSON, the scores as a table, and a picture."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recontour.files import atomic_path, write_text
from recontour.reports.overview import DPI, FAINT, INK
from recontour.tuning.search import Candidate, Choice, Tuning, as_data

SCHEMA = "recontour.tune/1"
FILES = ("tune.json", "tune.csv", "tune.png")
CURVES = (
    ("stability", "stability of the result", "#6a3fb5"),
    ("prototype_stability", "stability of the prototypes", "#b08ae0"),
    ("consistency", "self-consistency (F1)", "#0a7f6f"),
    ("information", "information (bits)", "#d0701a"),
)


def describe_tuning(tuning: Tuning, command: str) -> dict[str, Any]:
    """Everything as JSON types; undefined figures are None."""
    return {"schema": SCHEMA, **as_data(tuning), "command": command}


def write_tuning(folder: Path, tuning: Tuning, command: str) -> None:
    """Write `tune.csv`, `tune.png` and, last, `tune.json`.

    Raises
    ------
    OutputError : a file cannot be written
    """
    write_text(folder / "tune.csv", tuning_csv(tuning))
    plot_tuning(tuning, folder / "tune.png")
    data = json.dumps(describe_tuning(tuning, command), indent=2, ensure_ascii=False)
    write_text(folder / "tune.json", data + "\n")


def tuning_csv(tuning: Tuning) -> str:
    """One row a candidate; undefined figures are empty."""
    chosen = {choice.option: choice.value for choice in tuning.choices}
    kinds = tuning.plan.kinds
    head = ["option", "value", "chosen", *(name for name, _, _ in CURVES), "stability_sd"]
    head += [f"{kind}_{when}" for kind in kinds for when in ("before", "after")]
    head += ["foreground", "problems"]
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(head)
    for c in tuning.candidates:
        figures = [getattr(c.scores, name) for name, _, _ in CURVES]
        figures.append(c.scores.stability_sd)
        for kind in kinds:
            figures += c.scores.by_kind.get(kind, (math.nan, math.nan))
        figures.append(c.scores.foreground)
        rows.writerow(
            [
                c.option,
                c.value,
                int(chosen[c.option] == c.value),
                *("" if math.isnan(f) else repr(float(f)) for f in figures),
                "; ".join(c.scores.problems),
            ]
        )
    return text.getvalue()


def plot_tuning(tuning: Tuning, path: Path) -> None:
    """One panel an option: every criterion over the candidates, the chosen value marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(tuning.choices)
    figure = Figure(figsize=(4.6 * count + 0.4, 4.4), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    handles: dict[str, Any] = {}
    for number, choice in enumerate(tuning.choices):
        axes = figure.add_axes(((number + 0.14) / count, 0.24, (1 - 0.2) / count, 0.6))
        own = [c for c in tuning.candidates if c.option == choice.option]
        handles |= _panel(axes, own, choice)
    figure.legend(
        handles.values(), handles.keys(), loc="lower center", ncols=4, frameon=False, fontsize=9
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)


def _panel(axes: Any, own: Sequence[Candidate], choice: Choice) -> dict[str, Any]:
    places = range(len(own))
    handles = {}
    for name, label, colour in CURVES:
        values = [getattr(c.scores, name) for c in own]
        if all(math.isnan(v) for v in values):
            continue
        spread = [c.scores.stability_sd if name == "stability" else 0.0 for c in own]
        drawn = axes.errorbar(
            places, values, yerr=spread, color=colour, marker="o", markersize=4, linewidth=1.5
        )
        handles[label] = drawn.lines[0]
    where = [c.value for c in own].index(choice.value)
    axes.axvline(where, color=INK, linewidth=1, linestyle=(0, (4, 2.2)), zorder=0)
    axes.set_xticks(places, [f"{c.value}" for c in own])
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), max(1.02, axes.get_ylim()[1]))
    axes.set_title(
        f"{choice.option} = {choice.value}", loc="left", fontsize=11, color=INK, fontweight="bold"
    )
    axes.set_xlabel(f"by {choice.rule}", fontsize=9, color=FAINT)
    axes.tick_params(colors=INK, labelsize=9)
    for side, spine in axes.spines.items():
        spine.set(color="#cfcbd6", linewidth=0.8, visible=side in ("left", "bottom"))
    return handles
