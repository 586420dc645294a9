"""Best, median and worst result of a method over the tissue, from what the runs left."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from recontour.annotations.raster import outline
from recontour.benchmark.loading import Data, Run
from recontour.benchmark.pictures import Ground, read_ground
from recontour.benchmark.records import Results, Unit
from recontour.benchmark.spec import COARSE
from recontour.files import atomic_path
from recontour.reports.benchmark_figures import DPI, INK, short

TRUTH, GIVEN, FOUND = "#000000", "#E69F00", "#0072B2"
LINES: tuple[tuple[str, str, Any, float], ...] = (
    ("truth", TRUTH, "-", 2.6),
    ("coarse outline", GIVEN, (0, (4, 1.6)), 2.0),
    ("result", FOUND, "-", 1.4),
)
WIDTH, EDGE, GAP = 13.0, 0.2, 0.18


def write_overlays(
    data: Data, results: Results, encoder: str, method: str, path: Path
) -> str | None:
    """Draw the runs with the best, the median and the worst F1 of a method, valid outlines only.

    Returns
    -------
    What the picture shows, in words; None where the maps were not kept
    """
    runs = [
        run
        for run in data.runs
        if (run.encoder, run.method) == (encoder, method)
        and run.valid
        and not math.isnan(run.metrics["f1"])
    ]
    if not runs:
        return None
    runs.sort(key=lambda run: (run.metrics["f1"], run.case, run.outline, run.seed))
    picked = [("best", runs[-1]), ("median", runs[len(runs) // 2]), ("worst", runs[0])]
    if len(runs) < 3:  # no two pictures of one run
        picked = [picked[0], picked[2]][: len(runs)]
    panels = [(what, run, _Panel.of(data, results, run)) for what, run in picked]
    drawn = [(what, run, panel) for what, run, panel in panels if panel is not None]
    if not drawn:
        return None
    _draw(data, drawn, path)
    return (
        f"{method}, {encoder}: the runs with the best, the median and the worst F1 on a valid "
        "outline. Outlines run along the cells that were scored."
    )


class _Panel:
    """One slide: its picture, and three maps of labels."""

    def __init__(
        self,
        picture: NDArray[np.uint8],
        ground: Ground,
        maps: list[NDArray[np.int8]],
        width: int,
    ) -> None:
        self.picture, self.ground, self.maps = picture, ground, maps
        self.scale = picture.shape[1] / width  # of level-0 px
        rows, cols = np.nonzero(ground.tissue | (ground.truth > 0))
        x, y = ground.origin
        box = np.array([cols.min() - 1, rows.min() - 1, cols.max() + 2, rows.max() + 2])
        left, top, right, bottom = (box * ground.stride + [x, y, x, y]) * self.scale
        high, wide = picture.shape[:2]
        self.view = (max(left, 0), min(right, wide), min(bottom, high), max(top, 0))

    @property
    def aspect(self) -> float:
        left, right, bottom, top = self.view
        return float((bottom - top) / (right - left))

    @classmethod
    def of(cls, data: Data, results: Results, run: Run) -> _Panel | None:
        from PIL import Image

        ground = read_ground(results, run.case, run.encoder)
        path = results.case_file(run.case, ".jpg")
        state = next(s for s in data.states if s["case"] == run.case)
        if ground is None or not path.exists():
            return None
        unit = Unit(run.case, run.encoder, run.outline, run.seed, run.method)
        held = results.maps(run.case)
        given, found = held.get(unit._replace(method=COARSE)), held.get(unit)
        if given is None or found is None:
            return None
        with Image.open(path) as image:
            picture = np.asarray(image.convert("RGB"))
        width = state["encoders"][run.encoder]["slide"]["size"][0]
        return cls(picture, ground, [ground.truth, given, found], width)

    def borders(self, labels: NDArray[np.int8]) -> list[NDArray[np.float64]]:
        """(m, 2) points of every border of every class, px of the picture."""
        place = np.asarray(self.ground.origin)
        found = []
        for k in range(1, int(labels.max(initial=0)) + 1):
            rings = shapely.get_rings(np.asarray(outline(labels == k), dtype=object))
            for ring in rings:
                points = shapely.get_coordinates(ring)
                found.append((points * self.ground.stride + place) * self.scale)
        return found


def _draw(data: Data, drawn: list[tuple[str, Run, _Panel]], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patheffects import withStroke

    n = len(drawn)
    width = EDGE * 2 + (WIDTH - 2 * EDGE) / 3 * n
    wide = (width - 2 * EDGE - (n - 1) * GAP) / n
    tall = wide * float(np.clip(max(panel.aspect for _, _, panel in drawn), 0.5, 1.15))
    height = tall + 0.95
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    coarse = {
        (r.case, r.outline, r.seed, r.encoder): r.metrics["f1"]
        for r in data.runs
        if r.method == COARSE
    }
    for i, (what, run, panel) in enumerate(drawn):
        axes = figure.add_axes(
            ((EDGE + i * (wide + GAP)) / width, 0.38 / height, wide / width, tall / height)
        )
        axes.imshow(panel.picture, interpolation="antialiased")
        left, right, bottom, top = panel.view
        axes.set_xlim(left, right)
        axes.set_ylim(bottom, top)
        axes.set_anchor("N")
        axes.set_axis_off()
        for (_, colour, style, thick), labels in zip(LINES, panel.maps, strict=True):
            lines = LineCollection(
                panel.borders(labels), colors=colour, linestyles=[style], linewidths=thick
            )
            lines.set_path_effects([withStroke(linewidth=thick + 1.4, foreground="white")])
            axes.add_collection(lines)
        before = coarse[run.case, run.outline, run.seed, run.encoder]
        axes.set_title(
            f"{what}: {short(run.case)}\n{short(run.outline)}, repeat {run.seed}: "
            f"F1 {before:.3f} → {run.metrics['f1']:.3f}",
            loc="left", fontsize=9.5, color=INK,
        )  # fmt: skip
    handles: list[Any] = [
        Line2D([], [], color=colour, linestyle=style, linewidth=thick, label=name)
        for name, colour, style, thick in LINES
    ]
    handles[-1].set_label(f"result of {short(drawn[0][1].method)}")
    figure.legend(handles=handles, loc="lower left", ncols=3, frameon=False, fontsize=10)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
