"""The figures of a benchmark: boxes with significance marks, and quality over sorted outlines.

Methods are told apart by their place and name, not by colour; grey stands for what they are
compared with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recontour.benchmark.loading import Data, Group, values
from recontour.benchmark.spec import BASELINE, COARSE, ORACLE
from recontour.benchmark.statistics import moving_average, slide_means, stars
from recontour.benchmark.summaries import HEADS, comparisons, of
from recontour.files import atomic_path

DPI = 130
INK, FAINT, GRID = "#1d1b22", "#6d6875", "#e4e1ea"
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#8d8896"
REFERENCES = (COARSE, BASELINE, "lc_mil")
WINDOW = 15
MOST_NAME = 34  # characters of a method's name beside an axis


def box_plot(data: Data, encoder: str, group: Group, metric: str, path: Path) -> str | None:
    """One box a method over the slides' means, and stars against what it is compared with.

    Returns
    -------
    What the picture shows, in words; None where no outline is valid
    """
    found = values(of(data, encoder, group, True), metric)
    methods = [m for m in data.methods(encoder) if m in found]
    points = {m: [v for v in slide_means(found[m]).values() if not math.isnan(v)] for m in methods}
    methods = [m for m in methods if points[m]]
    if not methods:
        return None
    against = [m for m in REFERENCES if m in methods and len(methods) > 1]
    marks = _marks(data, encoder, group, metric)
    height = 1.15 + 0.42 * len(methods)
    figure, axes = _figure(9.4, height)
    _place(
        figure,
        axes,
        9.4,
        height,
        left=0.45 + 0.076 * max(len(short(m)) for m in methods),
        right=0.35 + 0.85 * len(against),
        top=0.62,
    )
    rng = np.random.default_rng(0)
    for row, method in enumerate(methods):
        _box(axes, row, points[method], method in (COARSE, ORACLE), rng)
    axes.set_ylim(len(methods) - 0.4, -0.6)
    axes.set_yticks(range(len(methods)), [short(m) for m in methods], color=INK)
    axes.set_xlabel(f"{HEADS[metric]}, mean of each slide", color=INK)
    axes.set_xlim(*_limits([v for m in methods for v in points[m]]))
    for i, reference in enumerate(against):
        x = 1.0 + (0.42 + 0.85 * i) / _inches(axes, figure)
        axes.text(
            x, -0.75, f"against\n{reference}", transform=_row_transform(axes), ha="center",
            va="bottom", fontsize=8.5, color=FAINT, linespacing=1.1,
        )  # fmt: skip
        for row, method in enumerate(methods):
            mark = "" if method == reference else marks.get((method, reference), "")
            axes.text(
                x, row, mark, transform=_row_transform(axes), ha="center",
                va="center", fontsize=10, color=FAINT if mark == "ns" else INK,
            )  # fmt: skip
    slides = max(len(p) for p in points.values())
    axes.set_title(
        f"{HEADS[metric]}, {encoder}, {group.title}, valid", loc="left", fontsize=11, color=INK,
        fontweight="bold", pad=32 if against else 8, x=0.0,
    )  # fmt: skip
    _save(figure, path)
    return (
        f"Each dot is the mean of one slide over its valid outlines ({_slides(slides)}); boxes are "
        "quartiles with the median, whiskers reach to the last slide within 1.5 box lengths. "
        "Marks: paired Wilcoxon test, raw p, * ≤ 0.05, ** ≤ 0.01, *** ≤ 0.001, **** ≤ 0.0001, ns "
        "above; with Holm's correction in the tables."
    )


def sorted_curves(data: Data, encoder: str, group: Group, metric: str, path: Path) -> str | None:
    """A panel a method: its figure over all outlines, worst coarse outline first.

    Returns
    -------
    What the picture shows, in words; None with fewer than two outlines
    """
    runs = of(data, encoder, group)
    table: dict[str, dict[tuple[str, str, int], float]] = {}
    for run in runs:
        table.setdefault(run.method, {})[run.case, run.outline, run.seed] = run.metrics[metric]
    before = table.pop(COARSE, {})
    order = sorted(
        (k for k, v in before.items() if not math.isnan(v)), key=lambda k: (before[k], k)
    )
    methods = [m for m in data.methods(encoder) if m in table]
    if len(order) < 2 or not methods:
        return None
    columns = min(3, len(methods))
    lines = math.ceil(len(methods) / columns)
    width, panel = 11.0, 2.35
    height = lines * panel + 0.72
    figure = _canvas(width, height)
    coarse = np.asarray([before[k] for k in order])
    everything = [v for m in methods for v in table[m].values() if not math.isnan(v)]
    limits = _limits([*everything, *coarse])
    x = np.arange(1, len(order) + 1)
    for i, method in enumerate(methods):
        line, column = divmod(i, columns)
        wide = (width - 0.75 - 0.2) / columns
        axes = figure.add_axes(
            (
                (0.75 + column * wide) / width,
                1 - (0.62 + line * panel + panel - 0.62) / height,
                (wide - 0.22) / width,
                (panel - 0.62) / height,
            )
        )
        _style(axes)
        found = np.asarray([table[method].get(k, math.nan) for k in order])
        mean, low, high = moving_average(found, WINDOW)
        axes.plot(x, coarse, color=GREY, linewidth=1.8, label="coarse outline")
        axes.fill_between(x, low, high, color=BLUE, alpha=0.18, linewidth=0)
        axes.plot(x, found, ".", color=BLUE, markersize=3, alpha=0.55)
        axes.plot(x, mean, color=BLUE, linewidth=1.8, label="method, moving average")
        axes.set_ylim(*limits)
        axes.set_xlim(0.5, len(order) + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_title(short(method), loc="left", fontsize=9.5, color=INK, pad=4)
        if column:
            axes.tick_params(labelleft=False)
        if i + columns < len(methods):
            axes.tick_params(labelbottom=False)
        if i == 0:
            handles, labels = axes.get_legend_handles_labels()
    figure.text(
        0.75 / width, 1 - 0.16 / height,
        f"{HEADS[metric]}, {encoder}, {group.title}, sorted by the coarse {HEADS[metric]}",
        fontsize=11, color=INK, fontweight="bold", va="top",
    )  # fmt: skip
    figure.text(0.14 / width, 0.5, HEADS[metric], rotation=90, va="center", fontsize=9.5, color=INK)
    figure.text(0.5, 0.1 / height, "outline, worst first", ha="center", fontsize=9.5, color=INK)
    figure.legend(
        handles, labels, loc="lower right", ncols=2, frameon=False, fontsize=9,
        bbox_to_anchor=(1 - 0.2 / width, 0.0),
    )  # fmt: skip
    _save(figure, path)
    return (
        f"Every outline, valid or not ({len(order)}), in the order of the coarse {HEADS[metric]}. "
        f"Dots: one run each; line and band: moving average over {WINDOW} outlines (fewer at the "
        "ends) and its 95 % interval, mean ± 1.96 s.d. / √n."
    )


def short(name: str) -> str:
    """A name that fits beside an axis."""
    return name if len(name) <= MOST_NAME else name[: MOST_NAME - 1] + "…"


def _marks(data: Data, encoder: str, group: Group, metric: str) -> Mapping[tuple[str, str], str]:
    found = {}
    for c in comparisons(data, encoder, group, metric):
        found[c.a, c.b] = found[c.b, c.a] = stars(c.p)
    return found


def _box(
    axes: Any, row: int, points: Sequence[float], reference: bool, rng: np.random.Generator
) -> None:
    """Quartiles, median and whiskers of a row; dots alone where there are fewer than three."""
    colour, half = (GREY if reference else BLUE), 0.28
    if len(points) > 2:
        low, middle, high = np.percentile(points, [25, 50, 75])
        reach = 1.5 * (high - low)
        first = min(p for p in points if p >= low - reach)
        last = max(p for p in points if p <= high + reach)
        axes.fill_between(
            [low, high], row - half, row + half, color=colour, alpha=0.28, linewidth=0
        )
        axes.hlines(row, first, low, color=colour, linewidth=1.2)
        axes.hlines(row, high, last, color=colour, linewidth=1.2)
        axes.vlines([first, last], row - half / 2, row + half / 2, color=colour, linewidth=1.2)
        axes.vlines(middle, row - half, row + half, color=INK, linewidth=2.2, zorder=4)
    y = row + (rng.random(len(points)) - 0.5) * 0.3 * (len(points) > 1)
    axes.plot(points, y, "o", color=colour, markersize=3.6, alpha=0.6, markeredgewidth=0)


def _limits(found: Sequence[float]) -> tuple[float, float]:
    low, high = min(found), max(found)
    margin = max(0.02, 0.05 * (high - low))
    return max(-0.02, low - margin), min(1.02, high + margin)


def _canvas(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _figure(width: float, height: float) -> tuple[Any, Any]:
    figure = _canvas(width, height)
    axes = figure.add_axes((0, 0, 1, 1))
    _style(axes)
    return figure, axes


def _style(axes: Any) -> None:
    axes.set_axisbelow(True)
    axes.grid(axis="both", color=GRID, linewidth=0.7)
    axes.tick_params(length=0, labelsize=9, labelcolor=INK)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set(color=FAINT, linewidth=0.8)


def _place(
    figure: Any, axes: Any, width: float, height: float, *, left: float, right: float, top: float
) -> None:
    bottom = 0.52
    axes.set_position(
        (
            left / width,
            bottom / height,
            (width - left - right) / width,
            (height - bottom - top) / height,
        )
    )


def _inches(axes: Any, figure: Any) -> float:
    return float(axes.get_position().width * figure.get_size_inches()[0])


def _row_transform(axes: Any) -> Any:
    """x as a share of the axes, y as data: texts beside rows."""
    return axes.get_yaxis_transform()


def _slides(n: int) -> str:
    return f"{n} slide{'' if n == 1 else 's'}"


def _save(figure: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
