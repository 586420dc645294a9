"""The table of a cohort for spreadsheets and data frames: `summary.csv`, `summary.parquet`."""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recontour.files import atomic_path, write_text
from recontour.reports.cohort_table import COLUMNS

CSV, PARQUET = "summary.csv", "summary.parquet"
NO_PARQUET = f"no {PARQUET}: pyarrow is not installed (pip install 'recontour[parquet]')"


def write_tables(out: Path, table: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Write both files; gives a sentence where one could not be, for want of a package.

    Raises
    ------
    OutputError : a file cannot be written
    """
    write_text(out / CSV, as_csv(table))
    if importlib.util.find_spec("pyarrow") is None:
        (out / PARQUET).unlink(missing_ok=True)  # of an earlier run: it would be out of date
        return (NO_PARQUET,)
    _write_parquet(out / PARQUET, table)
    return ()


def as_csv(table: Sequence[Mapping[str, Any]]) -> str:
    """A line a slide, unrounded; what is not known is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(table[0]) if table else list(COLUMNS)
    writer.writerow(names)
    writer.writerows(["" if line[n] is None else line[n] for n in names] for line in table)
    return text.getvalue()


def _write_parquet(path: Path, table: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    names = list(table[0]) if table else list(COLUMNS)
    fields = [pa.field(name, types[_type(name, table)]) for name in names]
    columns = [
        pa.array([line[field.name] for line in table], field.type, from_pandas=False)
        for field in fields
    ]
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_arrays(columns, schema=pa.schema(fields)), temporary)


def _type(name: str, table: Sequence[Mapping[str, Any]]) -> type:
    """Of a class's areas a number, of the manifest's own columns text."""
    if name in COLUMNS:
        return COLUMNS[name]
    return str if any(isinstance(line[name], str) for line in table) else float
