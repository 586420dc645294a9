"""Close-ups of the places to look at first."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from shapely import box

from recontour.changes import COLOURS
from recontour.reports.overview import (
    ADDED,
    DOT,
    REMOVED,
    draw_outline,
    fill_area,
    read_view,
    show_view,
)
from recontour.reports.summary import summarise
from recontour.reports.view import View
from recontour.types import Geometry, Refinement, Slide

DPI, WIDTH, ASPECT = 120, 3.2, 0.75
WIDE_CELLS, NARROW_CELLS = 32, 14
"""Widest and narrowest view."""
AROUND = 1.7  # of what a place needs: some of its surroundings


def close_ups(
    slide: Slide, refinement: Refinement, places: Sequence[Mapping[str, Any]]
) -> list[bytes]:
    """A JPEG for each place: given (dashed) and refined outline, what changed, and the place.

    Parameters
    ----------
    places : as in `run.json`, under `look_first`
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    classes = summarise(refinement)
    regions = {region.id: region.geometry for region in refinement.changes.regions}
    pictures = []
    for place in places:
        region = regions.get(place["id"])
        view = view_of(place, region, refinement.patches.grid.stride, slide.size)
        figure = Figure(figsize=(WIDTH, WIDTH * ASPECT), dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        show_view(axes, read_view(slide, view, round(WIDTH * DPI)), view, slide.mpp)
        # Beyond the view, so that no border of the cut is seen.
        near = box(
            view.x - view.width,
            view.y - view.height,
            view.x + 2 * view.width,
            view.y + 2 * view.height,
        )
        here = [
            (c.colour, c.coarse.intersection(near), c.refined.intersection(near)) for c in classes
        ]
        for _, coarse, refined in here:
            fill_area(axes, refined.difference(coarse), **ADDED)
            fill_area(axes, coarse.difference(refined), **REMOVED)
        if region is not None:
            draw_outline(axes, region.intersection(near), COLOURS["uncertain"], view, width=1.4)
        for colour, coarse, refined in here:
            draw_outline(axes, coarse, colour, view, dashed=True, width=1.2)
            draw_outline(axes, refined, colour, view, width=1.2)
        axes.plot([place["x_px"]], [place["y_px"]], "o", markersize=4, **DOT)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="jpeg", dpi=DPI, pil_kwargs={"quality": 85})
        pictures.append(buffer.getvalue())
    return pictures


def view_of(
    place: Mapping[str, Any], region: Geometry | None, cell_px: float, size: tuple[int, int]
) -> View:
    """The place and what is around it: all of a change where that fits, else its spot.

    It stays on the slide of `size` (width, height) px, where that is large enough.
    """
    x, y, width = place["x_px"], place["y_px"], WIDE_CELLS * cell_px
    if place["whole"] and region is not None:
        x0, y0, x1, y1 = region.bounds
        needed = AROUND * max(x1 - x0, (y1 - y0) / ASPECT)
        if needed <= width:
            x, y, width = (x0 + x1) / 2, (y0 + y1) / 2, max(needed, NARROW_CELLS * cell_px)
    height = width * ASPECT
    return View(_inside(x, width, size[0]), _inside(y, height, size[1]), width, height)


def _inside(middle: float, length: float, most: float) -> float:
    """Where a stretch begins that lies in 0..`most`, about `middle` if it can; else about it."""
    if length > most:
        return middle - length / 2
    return min(max(middle - length / 2, 0.0), most - length)
