"""The figures of `default_refiner.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from quality import site_of
from quality_tables import prototype_variants, scores_of

from recontour.benchmark.loading import Data
from recontour.benchmark.records import Results
from recontour.benchmark.spec import COARSE, ORACLE
from recontour.benchmark.standing import by_slide
from recontour.files import atomic_path
from recontour.reports.benchmark_figures import BLUE, DPI, FAINT, GRID, INK, ORANGE, sorted_curves
from recontour.reports.benchmark_overlays import write_overlays


def write_figures(data: Data, results: Results, ours: str, folder: Path) -> dict[str, str]:
    """Draw everything; file name -> what it shows, in words."""
    said: dict[str, str | None] = {}
    for encoder in data.encoders:
        name = f"pairs_{encoder}.png"
        said[name] = pairs_figure(data, encoder, ours, folder / name)
        shown = [COARSE, "lc_mil", "prototype_literal", ours, ORACLE]
        part = replace(data, runs=tuple(r for r in data.runs if r.method in shown))
        name = f"sorted_{encoder}.png"
        said[name] = sorted_curves(part, encoder, part.groups()[0], "f1", folder / name)
    encoder = data.encoders[0]
    for site in dict.fromkeys(site_of(run.case) for run in data.runs):
        part = replace(data, runs=tuple(r for r in data.runs if site_of(r.case) == site))
        name = f"overlays_{site}.png"
        said[name] = write_overlays(part, results, encoder, ours, folder / name)
    return {name: text for name, text in said.items() if text}


def pairs_figure(
    data: Data, encoder: str, ours: str, path: Path, others: Sequence[str] = ("lc_mil",)
) -> str | None:
    """A line an image: from the outline to the oracle, and where the methods stand between."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = scores_of(data.runs, encoder=encoder)
    if ours not in found or ORACLE not in found:
        return None
    others = [m for m in (*others, *prototype_variants(found)[:1]) if m in found]
    columns = {m: by_slide(found[m]) for m in (COARSE, *others, ours, ORACLE)}
    images = sorted(columns[COARSE], key=lambda image: columns[COARSE][image])
    height = 1.3 + 0.36 * len(images)
    figure = Figure(figsize=(9.4, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.16, 0.75 / height, 0.81, (height - 1.35) / height))
    marks = [
        (COARSE, "|", FAINT, 14),
        (ORACLE, "|", INK, 14),
        *((m, s, FAINT, 6) for m, s in zip(others, ("s", "^", "v"), strict=False)),
        (ours, "o", BLUE, 8),
    ]
    for row, image in enumerate(images):
        ends = columns[COARSE][image], columns[ORACLE][image]
        axes.plot(ends, (row, row), color=GRID, linewidth=5, solid_capstyle="butt", zorder=1)
    for method, shape, colour, size in marks:
        rows = [i for i, image in enumerate(images) if image in columns[method]]
        x = [columns[method][images[i]] for i in rows]
        worse = [columns[ours].get(images[i], 0) < columns[COARSE][images[i]] for i in rows]
        name = "coarse outline" if method == COARSE else method
        axes.plot(
            x, rows, linestyle="none", marker=shape, color=colour, markersize=size,
            markeredgewidth=2.2 if shape == "|" else 1, label=name, zorder=3,
            markerfacecolor=colour if method == ours else "white",
        )  # fmt: skip
        if method == ours:
            lost = [(a, b) for a, b, bad in zip(x, rows, worse, strict=True) if bad]
            for a, b in lost:
                axes.plot(a, b, marker="o", color=ORANGE, markersize=size, zorder=4)
    axes.set_ylim(-0.6, len(images) - 0.4)
    axes.set_yticks(range(len(images)), images, color=INK)
    axes.set_xlabel("F1, mean over the image's valid outlines", color=INK)
    axes.grid(axis="x", color=GRID, zorder=0)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0, colors=INK)
    figure.legend(
        loc="upper left", bbox_to_anchor=(0.15, 1.0), ncols=len(marks), frameon=False, fontsize=9
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
    return (
        f"{encoder}: each bar reaches from the F1 of the outlines of an image to that of the "
        f"oracle. {ours} in blue, orange where it is below the outline."
    )


PUBLISHED = (
    (
        "pairs_{encoder}.png",
        "default_pairs.png",
        "F1 of each image, from its outlines to the oracle, and where the methods stand between",
    ),
    ("sorted_{encoder}.png", "default_sorted.png", "F1 over outlines sorted by their own F1"),
    (
        "overlays_bcss.png",
        "default_bcss.jpg",
        "Best, median and worst result on the breast cancer regions (BCSS, CC0)",
    ),
)


def publish_figures(folder: Path, images: Path, encoder: str) -> str:
    """Copy what the documentation shows, small: figures without tissue, and that of BCSS (CC0).

    Returns
    -------
    Markdown that shows them
    """
    from PIL import Image

    lines = []
    for pattern, target, text in PUBLISHED:
        source = folder / pattern.format(encoder=encoder)
        if not source.exists():
            continue
        images.mkdir(exist_ok=True)
        with Image.open(source) as image:
            picture = image.convert("RGB")
        if target.endswith(".jpg"):
            picture.save(images / target, quality=85, optimize=True)
        else:
            picture.quantize(128).save(images / target, optimize=True)
        lines.append(f"![{text}](../{images.name}/{target})")
    return "\n\n".join(lines)
