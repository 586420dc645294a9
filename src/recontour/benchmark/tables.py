"""Tables as data: unrounded for programs (CSV), rounded for people (Markdown, the page)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from recontour.benchmark.loading import write_csv
from recontour.benchmark.statistics import Spread
from recontour.files import write_text

OWN, PUBLISHED, REFERENCE, MEAN = "own", "published", "reference", "mean"
"""Kinds of row: ours, a paper's, what others are compared with, and means of the rows above."""

DASH = "–"


class Column(NamedTuple):
    """A column.

    Attributes
    ----------
    name : its head
    form : `text`, `whole`, `share` (three digits), `signed`, `percent`, `spread` (mean ± s.d.),
        `p`, `seconds`
    """

    name: str
    form: str = "text"

    @property
    def numeric(self) -> bool:
        """Whether it is set flush right."""
        return self.form != "text"


class Row(NamedTuple):
    """The values of a row, one a column, unrounded; None or NaN where there is none."""

    values: tuple[Any, ...]
    kind: str = OWN


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes
    ----------
    name : of its files
    title : for people
    notes : what must be known to read it
    folded : shown only when asked for
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())
    folded: bool = False

    def cells(self) -> list[list[str]]:
        """Every value as people read it."""
        return [
            [
                say(value, column.form)
                for value, column in zip(row.values, self.columns, strict=True)
            ]
            for row in self.rows
        ]


def say(value: Any, form: str) -> str:
    """A value as people read it; a dash where there is none."""
    if isinstance(value, Spread):
        if math.isnan(value.mean):
            return DASH
        if form == "seconds":
            return say(value.mean, form)
        return f"{value.mean:.3f}" + ("" if math.isnan(value.sd) else f" ± {value.sd:.3f}")
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return DASH
    if form == "whole":
        return f"{value:,}"
    if form in ("share", "spread"):
        return f"{value:.3f}"
    if form == "signed":
        return f"{value:+.3f}".replace("-", "−")
    if form == "percent":
        return f"{value:.0%}"
    if form == "p":
        return f"{value:.1e}" if value < 0.001 else f"{value:.3f}"
    if form == "seconds":
        return f"{value:.2f}" if value < 10 else f"{value:.0f}"
    return str(value)


def write_tables(tables: Sequence[Table], folder: Path) -> None:
    """Write each table as CSV (unrounded) and as Markdown; tables of another report go."""
    for old in (*folder.glob("*.csv"), *folder.glob("*.md")):
        old.unlink()
    for table in tables:
        head, rows = _flat(table)
        write_csv(folder / f"{table.name}.csv", head, rows)
        write_text(folder / f"{table.name}.md", markdown(table))


def markdown(table: Table) -> str:
    """A table as Markdown, with its title above and its notes below."""
    lines = [f"### {table.title}", ""]
    lines.append("| " + " | ".join(c.name for c in table.columns) + " |")
    lines.append("|" + "|".join("---:" if c.numeric else "---" for c in table.columns) + "|")
    for row, cells in zip(table.rows, table.cells(), strict=True):
        shown = [cell.replace("|", "\\|") for cell in cells]
        if row.kind == PUBLISHED:
            shown = [f"*{cell}*" for cell in shown]
        lines.append("| " + " | ".join(shown) + " |")
    lines += ["", *(f"- {note}" for note in table.notes)]
    return "\n".join(lines).rstrip() + "\n"


def _flat(table: Table) -> tuple[list[str], list[list[Any]]]:
    """Spreads as three columns, and the kind of each row."""
    wide = [
        any(isinstance(row.values[i], Spread) for row in table.rows)
        for i in range(len(table.columns))
    ]
    head = ["row"]
    for column, spreads in zip(table.columns, wide, strict=True):
        name = column.name
        head += [f"{name} mean", f"{name} sd", f"{name} n"] if spreads else [name]
    rows = []
    for row in table.rows:
        flat: list[Any] = [row.kind]
        for value, spreads in zip(row.values, wide, strict=True):
            if not spreads:
                flat.append(value)
            elif isinstance(value, Spread):
                flat += [value.mean, value.sd, value.n or None]
            else:
                flat += [None, None, None]
        rows.append(flat)
    return head, rows
