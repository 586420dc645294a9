"""The picture: given and refined outline side by side, the probabilities, and two details."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recontour.changes import COLOURS
from recontour.files import atomic_path
from recontour.reports.summary import (
    ClassSummary,
    count,
    format_area,
    format_change,
    hex_colour,
    plain,
    summarise,
    threshold_of,
)
from recontour.reports.view import View, bar_length, details, whole_view
from recontour.types import Geometry, Refinement, Slide, iter_polygons

DPI = 150
WIDTH, EDGE, GAP = 15.0, 0.35, 0.22  # inches
INK, FAINT = "#1d1b22", "#6d6875"
PIN = "#f7c948"  # of no class that QuPath knows
DOT: dict[str, Any] = {"color": PIN, "markeredgecolor": INK, "markeredgewidth": 0.8, "zorder": 6}
ADDED_RGB, REMOVED_RGB = (tuple(v / 255 for v in COLOURS[c]) for c in ("added", "removed"))
PROBABILITY_MAP = "viridis"
PANELS = "recontour:panels"
"""In the picture's file: where its upper two panels lie, (left, top, right, bottom) px each."""
# Told apart by their pattern too: stains and eyes differ.
ADDED: dict[str, Any] = {"facecolor": (*ADDED_RGB, 0.38), "edgecolor": "none"}
REMOVED: dict[str, Any] = {"facecolor": (*REMOVED_RGB, 0.12), "edgecolor": (*REMOVED_RGB, 0.85)}
REMOVED |= {"hatch": "//", "linewidth": 0.0}


def write_overview(slide: Slide, refinement: Refinement, path: Path) -> None:
    """Write the picture as a PNG, about 2,250 px wide.

    Above, the outlines as given and as refined over the slide, each with a scale bar, the refined
    one with the numbers of the places to look at first; below, the probability that a cell belongs
    to any of the classes, and the two places where most changed. The part shown holds all tissue
    and every outline, even one that lies off the slide.

    Raises
    ------
    OutputError : the file cannot be written
    SlideError : the slide cannot be read
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    classes = summarise(refinement)
    outlines = [c.coarse for c in classes] + [c.refined for c in classes]
    view = whole_view(slide, refinement, outlines).shaped(0.45, 1.25)
    detail_aspect = float(np.clip(view.aspect, 0.62, 1.0))
    closer = details(
        refinement.patches.grid,
        refinement.patches.labels,
        [c.refined for c in classes],
        view,
        2,
        detail_aspect,
    )

    half = (WIDTH - 2 * EDGE - GAP) / 2
    third = (WIDTH - 2 * EDGE - 2 * GAP) / 3
    header = 0.75 + 0.27 * min(len(classes), 6)
    upper, lower, footer, caption = half * view.aspect, third * detail_aspect, 0.72, 0.3
    height = header + caption + upper + caption + 0.1 + lower + footer
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)

    def panel(left: float, top: float, width: float, tall: float, title: str) -> Any:
        axes = figure.add_axes(
            (left / WIDTH, 1 - (top + tall) / height, width / WIDTH, tall / height)
        )
        axes.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold", pad=5)
        axes.tick_params(left=False, bottom=False, labelleft=False, labelbottom=False)
        for spine in axes.spines.values():
            spine.set(color="#cfcbd6", linewidth=0.8)
        return axes

    write_header(figure, slide, classes, height)
    top = header + caption
    before = panel(EDGE, top, half, upper, "Given outline")
    after = panel(EDGE + half + GAP, top, half, upper, "Refined outline")
    picture = read_view(slide, view, round(half * DPI))
    for axes in (before, after):
        show_view(axes, picture, view, slide.mpp)
    for c in classes:
        draw_outline(before, c.coarse, c.colour, view, fill=0.10)
        draw_outline(after, c.refined, c.colour, view, fill=0.10)

    top += upper + caption + 0.1
    title = "Probability" if len(classes) == 1 else "Probability of any class"
    chance = panel(EDGE, top, third, lower, title)
    show_probability(chance, picture, view, refinement, classes)
    changes = [(c.refined.difference(c.coarse), c.coarse.difference(c.refined)) for c in classes]
    for number, window in enumerate(closer, start=1):
        letter = "AB"[number - 1]
        mark_window(after, window, letter)
        axes = panel(
            EDGE + number * (third + GAP), top, third, lower, f"Detail {letter}: what changed"
        )
        show_view(axes, read_view(slide, window, round(third * DPI)), window, slide.mpp)
        for added, removed in changes:
            fill_area(axes, added, **ADDED)
            fill_area(axes, removed, **REMOVED)
        for c in classes:
            draw_outline(axes, c.coarse, c.colour, window, dashed=True)
            draw_outline(axes, c.refined, c.colour, window)
    mark_places(after, places_of(refinement), view)
    write_footer(figure, refinement, classes, height)
    upper_panels = [
        tuple(round(DPI * v) for v in (x, header + caption, x + half, header + caption + upper))
        for x in (EDGE, EDGE + half + GAP)
    ]
    with atomic_path(path) as temporary:
        metadata = {PANELS: json.dumps(upper_panels)}
        # Level 3 takes a third of the time of the usual 6, for a file that is 8 % larger.
        figure.savefig(
            temporary,
            format="png",
            dpi=DPI,
            metadata=metadata,
            pil_kwargs={"compress_level": 3},
        )


def read_view(slide: Slide, view: View, width_px: int) -> NDArray[np.uint8]:
    """The pixels of a view, `width_px` wide; never finer than the slide itself."""
    mpp = max(slide.mpp, view.width * slide.mpp / width_px)
    scale = slide.mpp / mpp
    size = (max(1, round(view.width * scale)), max(1, round(view.height * scale)))
    return slide.read_region(view.x, view.y, size, mpp)


def show_view(axes: Any, picture: NDArray[np.uint8], view: View, mpp: float) -> None:
    """Lay a picture out in level-0 px and add the scale bar."""
    axes.imshow(picture, extent=view.extent, interpolation="bilinear", aspect="equal")
    left, right, bottom, top = view.extent
    axes.set(xlim=(left, right), ylim=(bottom, top))
    length = bar_length(view.width * mpp)
    text = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    box = axes.get_position()
    inch = view.width / (box.width * axes.figure.get_figwidth())  # level-0 px an inch
    x, y = left + 0.16 * inch, bottom - 0.16 * inch
    bar = length / mpp
    _rectangle(axes, x - 0.07 * inch, y - 0.33 * inch, bar + 0.14 * inch, 0.40 * inch, "white", 0.8)
    _rectangle(axes, x, y - 0.06 * inch, bar, 0.06 * inch, INK, 1.0)
    axes.text(
        x + bar / 2,
        y - 0.09 * inch,
        text,
        ha="center",
        va="bottom",
        fontsize=9,
        color=INK,
        zorder=5,
    )


def show_probability(
    axes: Any,
    picture: NDArray[np.uint8],
    view: View,
    refinement: Refinement,
    classes: Sequence[ClassSummary],
) -> None:
    """The probability of any class over the slide in grey, the given outline dashed."""
    import matplotlib as mpl

    patches = refinement.patches
    grid = patches.grid
    grey = picture.mean(axis=2)
    show_view(axes, np.repeat((grey * 0.5 + 127)[..., None], 3, 2).astype(np.uint8), view, grid.mpp)
    rows, cols = grid.shape
    x, y = grid.origin
    image = axes.imshow(
        np.ma.masked_invalid(grid.scatter(1 - refinement.probs[:, 0])),
        extent=(x, x + cols * grid.stride, y + rows * grid.stride, y),
        cmap=mpl.colormaps[PROBABILITY_MAP],
        vmin=0,
        vmax=1,
        alpha=0.85,
        interpolation="nearest",
    )
    left, right, bottom, top = view.extent
    axes.set(xlim=(left, right), ylim=(bottom, top), anchor="C")
    for c in classes:
        draw_outline(axes, c.coarse, (255, 255, 255), view, dashed=True, width=1.3, casing="#0008")
    bar = axes.inset_axes((0.66, 0.045, 0.3, 0.03))
    bar.set_zorder(5)
    axes.figure.colorbar(image, cax=bar, orientation="horizontal", ticks=[0, 0.5, 1])
    bar.xaxis.set_ticks_position("top")
    bar.tick_params(labelsize=8, colors=INK, length=2, pad=1)
    for label in bar.get_xticklabels():
        label.set_bbox({"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8})


def draw_outline(
    axes: Any,
    geometry: Geometry,
    colour: tuple[int, int, int],
    view: View,
    *,
    dashed: bool = False,
    fill: float = 0.0,
    width: float = 1.7,
    casing: str = "#fffc",
) -> None:
    """Draw the border of an area in its colour on a light casing, visible on any stain."""
    from matplotlib.patches import PathPatch

    # A tenth of a screen pixel: what cannot be seen need not be drawn.
    shape = geometry.simplify(view.width / 10_000)
    outline = as_path(shape)
    if outline is None:
        return
    rgb = tuple(v / 255 for v in colour)
    # As artists: of patches, matplotlib would search every curve for limits that the axes have.
    if fill:
        axes.add_artist(PathPatch(outline, facecolor=(*rgb, fill), edgecolor="none"))
    style: Any = (0, (4, 2.2)) if dashed else "solid"
    axes.add_artist(PathPatch(outline, fill=False, edgecolor=casing, linewidth=width + 1.6))
    axes.add_artist(PathPatch(outline, fill=False, edgecolor=rgb, linewidth=width, linestyle=style))


def fill_area(axes: Any, geometry: Geometry, **style: Any) -> None:
    """Tint or hatch an area."""
    from matplotlib.patches import PathPatch

    outline = as_path(geometry)
    if outline is not None:
        axes.add_artist(PathPatch(outline, **style))


def as_path(geometry: Any) -> Any:
    """The polygons of a geometry as one matplotlib path, holes included; None of an empty one."""
    from matplotlib.path import Path as Outline

    rings = []
    for part in getattr(geometry, "geoms", [geometry]):
        if part.geom_type == "Polygon":
            for polygon in iter_polygons(part):
                rings += [polygon.exterior, *polygon.interiors]
    if not rings:
        return None
    return Outline.make_compound_path(
        *(Outline(np.asarray(ring.coords)[:, :2], closed=True) for ring in rings)
    )


def places_of(refinement: Refinement) -> Sequence[Mapping[str, Any]]:
    """The places to look at first, as in `run.json`; none of a run without."""
    first: Mapping[str, Any] = refinement.facts.get("look_first") or {}
    places: Sequence[Mapping[str, Any]] = first.get("places") or ()
    return places


def mark_places(axes: Any, places: Sequence[Mapping[str, Any]], view: View) -> None:
    """Number the places to look at first: a dot each, and a label beside it, inside the view."""
    for place in reversed(places):  # the first one on top
        x, y = place["x_px"], place["y_px"]
        # Labels lean inwards.
        right = -1 if x > view.x + 0.9 * view.width else 1
        up = -1 if y < view.y + 0.12 * view.height else 1
        axes.plot([x], [y], "o", markersize=4.5, **DOT)
        axes.annotate(
            str(place["number"]),
            (x, y),
            xytext=(11 * right, 11 * up),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=10,
            fontweight="bold",
            color=INK,
            zorder=7,
            bbox={"boxstyle": "circle,pad=0.25", "facecolor": PIN, "edgecolor": INK},
            arrowprops={
                "arrowstyle": "-",
                "color": INK,
                "linewidth": 1.0,
                "shrinkA": 0,
                "shrinkB": 2,
            },
            annotation_clip=True,
        )


def mark_window(axes: Any, window: View, letter: str) -> None:
    """Frame a detail on the whole view and name it."""
    from matplotlib.patches import Rectangle

    corner = (window.x, window.y)
    for colour, line in (("white", 2.8), (INK, 1.1)):
        axes.add_patch(
            Rectangle(
                corner, window.width, window.height, fill=False, edgecolor=colour, linewidth=line
            )
        )
    axes.annotate(
        letter,
        corner,
        xytext=(0, 0),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=9,
        fontweight="bold",
        color="white",
        bbox={"boxstyle": "circle,pad=0.25", "facecolor": INK, "edgecolor": "white"},
    )


def write_header(figure: Any, slide: Slide, classes: Sequence[ClassSummary], height: float) -> None:
    """The slide's name, and what changed, one line a class."""
    left = EDGE / WIDTH
    figure.text(
        left, 1 - 0.3 / height, slide.id, fontsize=18, fontweight="bold", color=INK, va="top"
    )
    for line, c in enumerate(classes[:6]):
        y = 1 - (0.84 + 0.27 * line) / height
        figure.text(left, y, "■", fontsize=13, color=[v / 255 for v in c.colour], va="center")
        text = (
            f"{c.name}: {format_area(c.coarse_um2)} → {format_area(c.refined_um2)}"
            f" ({format_change(c.change)})   ·   {count(c.n_coarse, 'outline')} →"
            f" {count(c.n_refined, 'object')}   ·   {format_area(c.added_um2)} added,"
            f" {format_area(c.removed_um2)} removed"
        )
        if line == 5 and len(classes) > 6:
            text += f"   ·   and {len(classes) - 6} more classes"
        figure.text(left + 0.25 / WIDTH, y, text, fontsize=12, color=INK, va="center")


def write_footer(
    figure: Any, refinement: Refinement, classes: Sequence[ClassSummary], height: float
) -> None:
    """The legend, how it was made, and the first warning."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    colour = hex_colour(classes[0].colour) if classes else INK
    grid, recipe = refinement.patches.grid, refinement.recipe
    handles = [
        Line2D([], [], color=colour, linewidth=1.7, linestyle=(0, (4, 2.2)), label="given"),
        Line2D([], [], color=colour, linewidth=1.7, label="refined"),
        Patch(**ADDED, label="added"),
        Patch(**REMOVED, label="removed"),
    ]
    if places_of(refinement):
        pin = Line2D([], [], linestyle="none", marker="o", markersize=9, **DOT)
        pin.set_label("look here first")
        handles.append(pin)
    legend = figure.legend(
        handles=handles,
        loc="center right",
        bbox_to_anchor=(1 - EDGE / WIDTH, 0.44 / height),
        ncols=len(handles),
        frameon=False,
        fontsize=10,
        borderaxespad=0,
        borderpad=0,
        columnspacing=1.4,
        handlelength=2.2,
    )
    for text in legend.get_texts():
        text.set_color(INK)
    made = (
        f"{recipe.method} on {recipe.encoder} · {len(grid):,} cells of {grid.cell_um:g} µm"
        f" · threshold {threshold_of(refinement):g} · seed {recipe.seed}"
    )
    left = EDGE / WIDTH
    figure.text(left, 0.44 / height, made, fontsize=10, color=FAINT, va="center")
    if refinement.warnings:
        more = len(refinement.warnings) - 1
        text = f"⚠ {plain(refinement.warnings[0])}"
        text = text if len(text) < 150 else text[:149] + "…"
        text += f"  (+{more} more in the report)" if more else ""
        figure.text(left, 0.19 / height, text, fontsize=10, color="#a04a00", va="center")


def _rectangle(
    axes: Any, x: float, y: float, width: float, tall: float, colour: str, alpha: float
) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(
        Rectangle((x, y), width, tall, facecolor=colour, alpha=alpha, edgecolor="none", zorder=4)
    )
