"""The report: one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from recontour import __version__
from recontour.changes import COLOURS
from recontour.embedding import in_words
from recontour.expected import percent
from recontour.files import write_text
from recontour.reports.outlook import NONE, brief, judged, sentences, verdict, where, where_px
from recontour.reports.overview import places_of
from recontour.reports.plots import histogram_svg, probability_histogram, share_bar
from recontour.reports.summary import (
    ClassSummary,
    count,
    format_area,
    format_change,
    hex_colour,
    of_class,
    plain,
    summarise,
    text_colour,
    threshold_of,
)
from recontour.reports.template import template
from recontour.reports.thumbnails import close_ups
from recontour.types import Recipe, Refinement, Slide

MOST_OBJECTS = 200  # rows: more make a page nobody reads; refined.geojson has them all

FILES = (
    ("refined.geojson", "the new objects: drop it onto the image in QuPath (0.5 or newer)"),
    ("complete.geojson", "everything that was in the given file, and the new objects"),
    ("changes.geojson", "what was added, what was removed, and where it is uncertain"),
    ("probability.tif", "the probability of each class, an OME-TIFF that lies on the slide"),
    ("overview.png", "the picture below"),
    ("run.json", "every figure and setting, unrounded, for scripts"),
)


def write_report(slide: Slide, refinement: Refinement, path: Path, overview_png: Path) -> None:
    """Write the report as a self-contained HTML page.

    Warnings come first, then what changed, the picture, the new objects, how it was done and what
    it was done with. File names are shown without their folders, and nothing is loaded from
    elsewhere, so that the page can be sent to a colleague as it is.

    Raises
    ------
    OutputError : the file cannot be written
    """
    page = template("report.html.j2").render(content(slide, refinement, overview_png))
    write_text(path, page)


def content(slide: Slide, refinement: Refinement, overview_png: Path) -> dict[str, Any]:
    """What the template shows, as plain text and numbers."""
    facts = plain(refinement.facts)
    classes = summarise(refinement)
    rows = object_rows(refinement, classes)
    return {
        "title": slide.id,
        "version": __version__,
        "created": (facts.get("versions") or {}).get("created") or facts.get("created") or "",
        "coarse_file": plain(refinement.coarse.source).replace("\\", "/").rpartition("/")[2],
        "warnings": [plain(w) for w in refinement.warnings],
        "notes": [*(facts.get("notes") or ()), *map(plain, refinement.coarse.notes)],
        "classes": [class_card(refinement, c) for c in classes],
        "outlook": sentences(facts, refinement.recipe.to_dict()),
        "places": place_cards(slide, refinement),
        "no_places": NONE,
        "picture": as_data(overview_png),
        "objects": rows[:MOST_OBJECTS],
        "n_objects": len(rows),
        "labels": label_rows(facts),
        "reasons": [str(r) for r in (facts.get("grid") or {}).get("reasons") or ()],
        "noise": noise_rows(facts),
        "trust": trust_rows(facts),
        "settings": settings(refinement.recipe),
        "digest": refinement.recipe.digest(),
        "slide": slide_rows(slide, facts),
        "grid": grid_rows(refinement),
        "versions": list(pairs(facts.get("versions") or {"recontour": __version__})),
        "timings": [
            *((stage, f"{seconds:.1f} s") for stage, seconds in refinement.timings.items()),
            *((("embedding", said),) if (said := in_words(facts.get("embedding") or {})) else ()),
        ],
        "files": FILES,
        "added_colour": hex_colour(COLOURS["added"]),
        "removed_colour": hex_colour(COLOURS["removed"]),
    }


def as_data(png: Path) -> str:
    """A picture as a data URL: a JPEG, since tissue as PNG would make a page of ten megabytes."""
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(png) as picture:
        # Full colour resolution: thin coloured lines bleed otherwise.
        picture.convert("RGB").save(buffer, "JPEG", quality=88, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def place_cards(slide: Slide, refinement: Refinement) -> list[dict[str, Any]]:
    """The places to look at first, with a close-up each."""
    places = places_of(refinement)
    return [
        {
            "number": place["number"],
            "what": brief(place),
            "reason": place["reason"],
            "where": where(place),
            "where_px": where_px(place),
            "share": percent(place["share_of_errors"]),
            "picture": "data:image/jpeg;base64," + base64.b64encode(picture).decode("ascii"),
        }
        for place, picture in zip(places, close_ups(slide, refinement, places), strict=True)
    ]


def class_card(refinement: Refinement, c: ClassSummary) -> dict[str, Any]:
    """The figures of one class, formatted, and its charts."""
    patches = refinement.patches
    known = patches.labels >= 0
    histogram = probability_histogram(refinement.probs[known, c.k], patches.labels[known] == c.k)
    kept = max(c.coarse_um2 - c.removed_um2, 0.0)
    return {
        "name": c.name,
        "colour": hex_colour(c.colour),
        "ink": text_colour(c.colour),
        "change": format_change(c.change),
        "coarse": format_area(c.coarse_um2),
        "refined": format_area(c.refined_um2),
        "added": format_area(c.added_um2),
        "removed": format_area(c.removed_um2),
        "outlines": count(c.n_coarse, "outline"),
        "objects": count(c.n_refined, "object"),
        "share": share_bar(
            [
                ("kept", kept, hex_colour(c.colour)),
                ("added", c.added_um2, hex_colour(COLOURS["added"])),
                ("removed", c.removed_um2, hex_colour(COLOURS["removed"])),
            ]
        ),
        "histogram": histogram_svg(histogram, threshold_of(refinement), hex_colour(c.colour)),
    }


def object_rows(refinement: Refinement, classes: Sequence[ClassSummary]) -> list[dict[str, Any]]:
    """The new objects, largest first within each class."""
    mpp2 = refinement.patches.grid.mpp**2
    rows = []
    for c in classes:
        regions = of_class(refinement.annotation.regions, c.name)
        for region in sorted(regions, key=lambda r: -r.geometry.area):
            metadata = region.properties.get("metadata")
            parent = metadata.get("parent", "") if isinstance(metadata, Mapping) else ""
            rows.append(
                {
                    "class": c.name,
                    "colour": hex_colour(c.colour),
                    "area": format_area(region.geometry.area * mpp2),
                    "score": region.score,
                    "id": region.id,
                    "parent": str(parent),
                }
            )
    return rows


def label_rows(facts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(class, cells, share) of the labels that the given outline led to."""
    labels = facts.get("labels") or {}
    total = sum(labels.values())
    return [(str(c), f"{n:,}", f"{n / total:.1%}" if total else "") for c, n in labels.items()]


def noise_rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How many labels of the given outline the result contradicts."""
    noise = dict(facts.get("noise") or {})
    rows = []
    if "changed" in noise and "cells" in noise:
        share = noise["changed"] / max(noise["cells"], 1)
        rows.append(("cells put on another side", f"{noise['changed']:,} ({share:.1%})"))
        for name, n in (noise.get("classes") or {}).items():
            left, joined = n.get("left", 0), n.get("joined", 0)
            rows.append((str(name), f"{left:,} left, {joined:,} joined"))
        return rows
    return list(pairs(noise))


def trust_rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Signs of how far the given outline can be relied on."""
    agreement = (facts.get("trust") or {}).get("agreement")
    uncertain = (facts.get("cells") or {}).get("uncertain")
    rows = []
    if validity := facts.get("validity"):
        looks = " looks" if judged(validity) else ""
        rows.append((f"the given outline{looks}", verdict(validity)))
    if agreement is not None:
        rows.append(("a simple model agrees with the given outline in", f"{agreement:.0%}"))
    if uncertain is not None:
        rows.append(("uncertain cells", f"{uncertain:,}"))
    return rows


def settings(recipe: Recipe) -> list[tuple[str, str, bool]]:
    """(name, value, whether it differs from the default) of every setting."""
    default = Recipe()
    return [
        (
            f.name.replace("_", " "),
            say(plain(getattr(recipe, f.name))),
            _differs(recipe, default, f),
        )
        for f in fields(Recipe)
    ]


def slide_rows(slide: Slide, facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What identifies the slide and its scale."""
    stated = facts.get("slide") or {}
    width, height = slide.size
    rows = [
        ("file", say(stated.get("file", slide.id)).replace("\\", "/").rpartition("/")[2]),
        ("size", f"{width:,} × {height:,} px"),
        ("pixel size", f"{slide.mpp:g} µm/px ({plain(slide.mpp_source)})"),
        ("reader", slide.reader),
        ("fingerprint", slide.fingerprint),
    ]
    if slide.bounds != (0, 0, width, height):
        rows.append(("bounds", ", ".join(f"{v:g}" for v in slide.bounds) + " (x, y, w, h)"))
    return rows


def grid_rows(refinement: Refinement) -> list[tuple[str, str]]:
    """What the slide was cut into."""
    grid = refinement.patches.grid
    return [
        ("cells", f"{len(grid):,}"),
        ("side of a cell", f"{grid.cell_um:g} µm ({grid.stride} px)"),
        ("lattice", f"{grid.shape[0]:,} rows × {grid.shape[1]:,} columns"),
        ("read at", f"{grid.mpp_embed:g} µm/px"),
    ]


def pairs(data: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Nested figures as flat (name, value) rows."""
    for key, value in data.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from pairs(value, f"{name}: ")
        else:
            yield name, say(value)


def say(value: Any) -> str:
    """A value as a person writes it."""
    if value is None or value in ("", (), [], {}):
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {say(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(say(item) for item in value)
    return str(value)


def _differs(recipe: Recipe, default: Recipe, field: Any) -> bool:
    return bool(getattr(recipe, field.name) != getattr(default, field.name))
