"""The summary of a cohort: one page with a sortable table, and the same table as files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean, median
from typing import Any
from urllib.parse import quote

from recontour import __version__
from recontour.expected import percent
from recontour.files import write_text
from recontour.locks import in_turn
from recontour.recipe import Progress, no_progress
from recontour.reports.cohort_files import write_tables
from recontour.reports.cohort_table import (
    AREAS,
    BETWEEN,
    COLUMNS,
    Asked,
    Record,
    read_records,
    table_of,
)
from recontour.reports.cohort_thumbs import FOLDER, write_thumbnails
from recontour.reports.plots import counts_svg
from recontour.reports.summary import (
    class_colour,
    count,
    format_area,
    format_change,
    hex_colour,
)
from recontour.reports.template import template

PAGE = "summary.html"
LOCK = ".summary.lock"
MOST_LISTED = 20
"""Kinds of failures above the table, and slides named of each; the table has them all."""

NAMED = 5
ANY = "ID"
"""Instead of a slide's name, where many failed alike."""

DOUBTED = ("doubtful", "invalid")
"""Verdicts on a coarse outline that put its slide among the first to look at."""

MOST_EXTRAS = 3
"""Of the manifest's own columns, on the page; the files have them all."""

KINDS = {
    "failed": "failed",
    "look": "to look at first",
    "waiting": "waiting",
    "running": "running or interrupted",
    "done": "done",
}
"""Kinds of rows, in the order of the table."""


def write_cohort_summary(
    out: Path | str, rows: Sequence[Asked], *, threads: int = 2, progress: Progress = no_progress
) -> tuple[str, ...]:
    """Write `summary.html`, `summary.csv` and `summary.parquet` from what is in a cohort's folder.

    The cohort may be unfinished. Pictures are small files in `thumbs/`, loaded as they come into
    view; nothing is loaded from elsewhere.

    Parameters
    ----------
    out : the cohort's folder
    rows : of the manifest
    threads : to draw thumbnails with
    progress : of the stage "thumbnails"; only new ones are drawn

    Returns
    -------
    Sentences for the user: which file could not be written, for want of a package

    Raises
    ------
    OutputError : a file cannot be written
    """
    out = Path(out)
    page = template("cohort.html.j2")
    title = out.resolve().name
    # Of several processes that end at once, the one that looked last writes last.
    with in_turn(out / LOCK):
        records = read_records(out, rows)
        table = table_of(records, rows)
        notes = write_tables(out, table)
        done = [line["id"] for line in table if line["status"] == "done"]
        thumbs = write_thumbnails(out, done, threads, progress)
        write_text(out / PAGE, page.render(content(title, records, table, thumbs, notes)))
    return notes


def content(
    title: str,
    records: Sequence[Record],
    table: Sequence[Mapping[str, Any]],
    thumbs: Mapping[str, tuple[int, int]],
    notes: Sequence[str],
) -> dict[str, Any]:
    """What the template shows, as plain text and numbers."""
    extras = list(table[0])[len(COLUMNS) :] if table else []
    extras = [name for name in extras if not name.endswith(tuple(f"_{area}" for area in AREAS))]
    lines = [
        _line(line, record, thumbs, extras) for line, record in zip(table, records, strict=True)
    ]
    kinds = Counter(line["kind"] for line in lines)
    order = list(KINDS)
    lines.sort(key=lambda line: order.index(line["kind"]))
    counts = [
        sum(bins) for bins in zip(*(r.confidence for r in records if r.confidence), strict=True)
    ]
    untold = sum(1 for r in records if r.columns["status"] == "done" and not r.confidence)
    return {
        "version": __version__,
        "title": title,
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "total": len(lines),
        "kinds": [(kind, name, kinds[kind]) for kind, name in KINDS.items() if kinds[kind]],
        "failed": _failures(table),
        "warnings": _warnings(table),
        "totals": _totals(table),
        "classes": _classes(records),
        "histogram": counts_svg(counts, "Cells by the chance that their class is right")
        if counts
        else "",
        "histogram_cells": sum(counts),
        "untold": untold,
        "extras": extras[:MOST_EXTRAS],
        "more_extras": extras[MOST_EXTRAS:],
        "lines": lines,
        "notes": list(notes),
        "has_parquet": not notes,
    }


def kind_of(line: Mapping[str, Any]) -> str:
    """Which of `KINDS` a row is: done ones with a doubt are to be looked at first."""
    if line["status"] != "done":
        return str(line["status"])
    doubted = line["validity"] in DOUBTED or line["warnings"]
    return "look" if doubted or _worse(line) else "done"


def _worse(line: Mapping[str, Any]) -> bool:
    given, refined = line["wrong_share_given"], line["wrong_share_refined"]
    return (
        given is not None
        and refined is not None
        and percent(refined) != percent(given)
        and (refined > given)
    )


def _texts(line: Mapping[str, Any]) -> list[str]:
    return line["warning_texts"].split(BETWEEN) if line["warning_texts"] else []


def _looks(line: Mapping[str, Any]) -> str:
    return f"the coarse outline looks {line['validity']}"


def _own_warnings(line: Mapping[str, Any]) -> list[str]:
    """The warnings of a slide but for the verdict on its coarse outline."""
    return [text for text in _texts(line) if not text.startswith(_looks(line))]


def _line(
    line: Mapping[str, Any],
    record: Record,
    thumbs: Mapping[str, tuple[int, int]],
    extras: Sequence[str],
) -> dict[str, Any]:
    id = line["id"]
    said = [line["error"]] if line["error"] else []
    warnings = _texts(line)
    if line["validity"] in DOUBTED and len(_own_warnings(line)) == len(warnings):
        said.append(_looks(line))
    if _worse(line):
        said.append("by the estimate, more is wrong after refining than before")
    said += warnings
    return {
        "id": id,
        "kind": kind_of(line),
        "link": f"{quote(id)}/report.html" if line["status"] == "done" else "",
        "thumb": f"{FOLDER}/{quote(id)}.jpg" if id in thumbs else "",
        "size": thumbs.get(id, (0, 0)),
        "said": said,
        "attempts": line["attempts"],
        "cells": line["cells"],
        "areas": [
            {
                "name": name,
                "colour": hex_colour(class_colour(name)),
                "text": f"{format_area(area['coarse_um2'])} → {format_area(area['refined_um2'])}",
            }
            for name, area in record.areas.items()
        ],
        "refined_um2": line["refined_um2"],
        "change": line["change"],
        "changed": "" if line["coarse_um2"] is None else format_change(line["change"]),
        "given": line["wrong_share_given"],
        "refined": line["wrong_share_refined"],
        "wrong": ""
        if line["wrong_share_refined"] is None
        else f"{percent(line['wrong_share_given'])} → {percent(line['wrong_share_refined'])}",
        "seconds": line["seconds"],
        "time": "" if line["seconds"] is None else duration(line["seconds"]),
        "extras": [line[name] for name in extras[:MOST_EXTRAS]],
    }


def _failures(table: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Failed slides by what went wrong, the most frequent first: one cause often fails many."""
    kinds: dict[str, list[str]] = {}
    for line in table:
        if line["status"] == "failed":
            said = line["error"] or line["error_kind"] or "no reason is known"
            kinds.setdefault(said.replace(line["id"], ANY), []).append(line["id"])
    listed = []
    for said, ids in sorted(kinds.items(), key=lambda kind: -len(kind[1])):
        if len(ids) == 1:
            listed.append((ids[0], said.replace(ANY, ids[0])))
            continue
        more = f" and {len(ids) - NAMED:,} more" if len(ids) > NAMED else ""
        listed.append((count(len(ids), "slide"), f"{said} ({', '.join(ids[:NAMED])}{more})"))
    return {
        "count": sum(map(len, kinds.values())),
        "listed": listed[:MOST_LISTED],
        "more": max(len(listed) - MOST_LISTED, 0),
    }


def _warnings(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """What several slides warn of, most slides first; a slide's own figures do not set it apart."""
    doubts = Counter(_looks(line) for line in table if line["validity"] in DOUBTED)
    worse = sum(1 for line in table if line["status"] == "done" and _worse(line))
    if worse:
        doubts["by the estimate, more is wrong after refining than before"] = worse
    said = [f"{count(n, 'slide')}: {what}" for what, n in doubts.most_common()]
    warned = sum(1 for line in table if _own_warnings(line))
    if warned:
        said.append(f"{count(warned, 'slide')} with other warnings: see the table")
    return said


def _totals(table: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    done = [line for line in table if line["status"] == "done" and line["cells"] is not None]
    if not done:
        return []
    tiles = [
        ("cells", f"{sum(line['cells'] for line in done):,}"),
        ("tissue", format_area(sum(line["tissue_um2"] for line in done))),
        ("added", format_area(sum(line["added_um2"] for line in done))),
        ("removed", format_area(sum(line["removed_um2"] for line in done))),
    ]
    judged = [line for line in done if line["wrong_share_refined"] is not None]
    cells = sum(line["cells"] for line in judged)
    if cells:
        given, refined = (
            sum(line[f"wrong_share_{side}"] * line["cells"] for line in judged) / cells
            for side in ("given", "refined")
        )
        tiles.append(("expected wrong", f"{percent(given)} → {percent(refined)}"))
    seconds = [line["seconds"] for line in done if line["seconds"] is not None]
    if seconds:
        tiles.append(("time a slide", f"{duration(median(seconds))} (median)"))
        tiles.append(("time of all", duration(sum(seconds))))
    return tiles


def _classes(records: Sequence[Record]) -> list[dict[str, Any]]:
    names = dict.fromkeys(name for record in records for name in record.areas)
    found = []
    for name in sorted(names, key=str.casefold):
        of_class = [record.areas[name] for record in records if name in record.areas]
        total = {area: sum(areas[area] for areas in of_class) for area in AREAS}
        changes = [a["refined_um2"] / a["coarse_um2"] - 1 for a in of_class if a["coarse_um2"]]
        overall = total["refined_um2"] / total["coarse_um2"] - 1 if total["coarse_um2"] else None
        found.append(
            {
                "name": name,
                "colour": hex_colour(class_colour(name)),
                "slides": len(of_class),
                "areas": [format_area(total[area]) for area in AREAS],
                "change": format_change(overall),
                "median": format_change(median(changes)) if changes else "",
                "mean": format_change(fmean(changes)) if changes else "",
                "least": format_change(min(changes)) if changes else "",
                "most": format_change(max(changes)) if changes else "",
            }
        )
    return found


def duration(seconds: float) -> str:
    """`8.2 s`, `3 min 20 s`, `7 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"
