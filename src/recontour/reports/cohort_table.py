"""What became of each slide of a cohort, as one table: from state files and `run.json`s."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from recontour.reports.summary import plain
from recontour.storage import is_url, shown

COLUMNS: dict[str, type] = {
    "id": str,
    "status": str,
    "error": str,
    "error_kind": str,
    "attempts": int,
    "host": str,
    "finished": str,
    "seconds": float,
    "slide": str,
    "coarse": str,
    "reader": str,
    "mpp": float,
    "cells": int,
    "cell_um": float,
    "tissue_um2": float,
    "classes": str,
    "coarse_um2": float,
    "refined_um2": float,
    "added_um2": float,
    "removed_um2": float,
    "change": float,
    "objects": int,
    "cells_changed": int,
    "cells_uncertain": int,
    "validity": str,
    "validity_score": float,
    "wrong_share_given": float,
    "wrong_share_refined": float,
    "warnings": int,
    "warning_texts": str,
    "method": str,
    "encoder": str,
    "seconds_embed": float,
    "cells_from_cache": int,
    "recontour": str,
}
"""The columns that every table has, and their types; after them come `CLASS_coarse_um2`,
`CLASS_refined_um2`, `CLASS_added_um2` and `CLASS_removed_um2` of each class, and the manifest's own
columns."""

AREAS = ("coarse_um2", "refined_um2", "added_um2", "removed_um2")
BINS = 20
"""Of the histogram of confidence."""
BETWEEN = " | "
"""Between several warnings in one cell."""


class Asked(Protocol):
    """A row of the manifest, as far as a table shows it."""

    @property
    def id(self) -> str:
        """Names the slide's folder."""

    @property
    def slide(self) -> str:
        """Its file."""

    @property
    def coarse(self) -> str:
        """The file of its outline."""

    @property
    def extra(self) -> Mapping[str, str]:
        """The manifest's own columns."""


def cohort_table(out: Path | str, rows: Sequence[Asked]) -> list[dict[str, Any]]:
    """One flat dictionary a row, in the order of `rows`, all with the same keys.

    Areas are µm², times seconds, shares in [0, 1]; nothing is rounded; None where there is nothing
    to say. `status` is `done`, `failed`, `running` (or interrupted) or `waiting`. No value holds a
    folder.

    Parameters
    ----------
    out : the cohort's folder
    """
    return table_of(read_records(Path(out), rows), rows)


class Record(NamedTuple):
    """What is known of a slide: its columns, the areas of each class, and its confidence.

    `confidence` are cells by the chance that their class is right, in `BINS` bins over [0, 1];
    empty where the run does not say.
    """

    columns: dict[str, Any]
    areas: dict[str, dict[str, float]]
    confidence: tuple[int, ...]


def read_records(out: Path, rows: Sequence[Asked]) -> list[Record]:
    """What is known of each row."""
    return [read_record(out, row) for row in rows]


def table_of(records: Sequence[Record], rows: Sequence[Asked]) -> list[dict[str, Any]]:
    """See `cohort_table`."""
    classes = sorted({name for record in records for name in record.areas}, key=str.casefold)
    by_class = {f"{name}_{area}": (name, area) for name in classes for area in AREAS}
    taken = COLUMNS.keys() | by_class.keys()
    spelled = {
        name: f"manifest_{name}" if name in taken else name
        for name in dict.fromkeys(name for row in rows for name in row.extra)
    }
    table = []
    for row, record in zip(rows, records, strict=True):
        line = {name: record.columns.get(name) for name in COLUMNS}
        line |= {key: record.areas.get(n, {}).get(area) for key, (n, area) in by_class.items()}
        line |= {spelled[name]: plain(row.extra.get(name, "")) for name in spelled}
        table.append(line)
    return table


def read_record(out: Path, row: Asked) -> Record:
    """What is known of a slide."""
    state = _read(out / "state" / f"{row.id}.json") or {}
    status = state.get("outcome")
    columns: dict[str, Any] = {
        "id": row.id,
        "status": status if status in ("done", "failed", "running") else "waiting",
        "slide": _name(row.slide),
        "coarse": _name(row.coarse),
        **_told(state, ("attempts", "host", "finished", "seconds")),
    }
    if status in ("failed", "running"):
        columns |= plain(_told(state, ("error", "error_kind")))
        return Record(columns, {}, ())
    run = _read(out / row.id / "run.json")
    if run is None:
        return Record(columns, {}, ())
    columns["status"] = "done"
    try:
        areas, counts = _areas(run), _confidence(run)
        figures = {name: _typed(name, value) for name, value in _figures(run).items()}
    except (KeyError, TypeError, ValueError, AttributeError):  # damaged, or of another version
        said = "run.json cannot be read; remove the slide's folder and run the same command again"
        return Record({**columns, "status": "failed", "error": said}, {}, ())
    return Record({**columns, **figures}, areas, counts)


def _told(state: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """What a state file says, as far as it makes sense."""
    found: dict[str, Any] = {}
    for name in names:
        try:
            found[name] = _typed(name, state.get(name))
        except (TypeError, ValueError):  # damaged, or of another version
            found[name] = None
    return found


def _typed(name: str, value: Any) -> Any:
    """`value`, if a column of this name may hold it."""
    kinds = (int, float) if COLUMNS[name] is float else COLUMNS[name]
    if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
        raise TypeError(f"{name} {value!r}")
    return _finite(value) if isinstance(value, float) else value


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} is no figure")
    return value


def _areas(run: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {
        name: {area: _finite(float(of_class[area.removesuffix("_um2")])) for area in AREAS}
        for name, of_class in run["areas_um2"].items()
    }


def _confidence(run: Mapping[str, Any]) -> tuple[int, ...]:
    counts = tuple(map(int, run["confidence"].get("cells_by_confidence") or ()))
    if len(counts) not in (0, BINS):
        raise ValueError(f"{len(counts)} bins")
    return counts


def _figures(run: Mapping[str, Any]) -> dict[str, Any]:
    areas = _areas(run)
    total = {area: sum(of_class[area] for of_class in areas.values()) for area in AREAS}
    validity = run.get("validity") or {}
    estimate = run.get("estimate") or {}
    warnings = [plain(warning) for warning in run.get("warnings", ())]
    return {
        "reader": run["slide"]["reader"],
        "mpp": run["slide"]["mpp"],
        "cells": run["grid"]["n_cells"],
        "cell_um": run["grid"]["cell_um"],
        "tissue_um2": run["tissue_um2"],
        "classes": ";".join(areas),
        **total,
        "change": total["refined_um2"] / total["coarse_um2"] - 1 if total["coarse_um2"] else None,
        "objects": len(run["objects"]),
        "cells_changed": run["cells"]["changed"],
        "cells_uncertain": run["cells"]["uncertain"],
        "validity": validity.get("verdict"),
        "validity_score": validity.get("score"),
        "wrong_share_given": (estimate.get("given") or {}).get("wrong_share"),
        "wrong_share_refined": (estimate.get("refined") or {}).get("wrong_share"),
        "warnings": len(warnings),
        "warning_texts": BETWEEN.join(warnings),
        "method": run["recipe"]["method"],
        "encoder": run["encoder"],
        "seconds_embed": run["embedding"]["seconds_embed"],
        "cells_from_cache": run["embedding"]["cells_from_cache"],
        "recontour": run["versions"]["recontour"],
    }


def _name(path: str) -> str:
    path = shown(path) if is_url(path) else path
    return path.replace("\\", "/").rpartition("/")[2]


def _read(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no file, empty where it is damaged."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
