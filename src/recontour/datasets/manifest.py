"""A table of cases as CSV: one line for each slide, with paths relative to the table."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping
from pathlib import Path

from recontour.datasets.base import Case, Outlines
from recontour.errors import MissingFileError, UsageError

COLUMNS = ("id", "slide", "fine", "coarse", "patient", "split", "mpp", "classes")
NEEDED = ("slide", "fine")
BETWEEN_CLASSES = ";"
_COARSE = re.compile(r"coarse(?:_\S+)?")


def read_manifest(path: Path) -> list[Case]:
    """The cases of a manifest, in its order; whether their files exist is not looked at.

    Columns: `slide` and `fine`, and if wished `id` (else the slide's name), `coarse` and any number
    of `coarse_NAME`, `patient`, `split`, `mpp` (µm/px) and `classes` (several: with `;` between).

    Raises
    ------
    MissingFileError : no such file
    UsageError : not such a table; lists every problem with its line
    """
    if not path.is_file():
        raise MissingFileError(f"no such manifest: {path}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path.name} cannot be read as CSV in UTF-8: {error}") from error
    names = [name.strip().casefold() for name in lines[0]] if lines else []
    problems = _check_columns(names)
    cases: list[Case] = []
    if not problems:
        first_line: dict[str, int] = {}
        for number, values in enumerate(lines[1:], 2):
            if not any(value.strip() for value in values):
                continue
            case = _read_line(values, names, path.parent, f"line {number}", problems)
            if case is None:
                continue
            before = first_line.setdefault(case.id.casefold(), number)
            if before != number:
                problems.append(f"line {number}: id {case.id!r} is that of line {before}")
            cases.append(case)
        if not cases and not problems:
            problems.append("it has no cases")
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise UsageError(f"{path.name} has {len(problems)} problem(s):{listed}")
    return cases


def _check_columns(names: list[str]) -> list[str]:
    if not names:
        return ["it is empty; its first line names the columns"]
    known = f"known: {', '.join(COLUMNS)}, coarse_NAME"
    problems = [
        f"unknown column {name!r}; {known}"
        for name in names
        if name not in COLUMNS and not _COARSE.fullmatch(name)
    ]
    problems += [f"column {name!r} is missing" for name in NEEDED if name not in names]
    return problems + [f"column {name!r} is there twice" for name in _twice(names)]


def _twice(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _read_line(
    values: list[str], names: list[str], folder: Path, where: str, problems: list[str]
) -> Case | None:
    """The case of a line; None, and what is wrong is added to `problems`."""
    before = len(problems)
    if len(values) != len(names):
        problems.append(f"{where}: {len(values)} values in {len(names)} columns")
        return None
    row = {name: value.strip() for name, value in zip(names, values, strict=True)}
    problems += [f"{where}: no {name}" for name in NEEDED if not row[name]]
    mpp = _number(row, where, problems)
    if len(problems) > before:
        return None
    slide = folder / row["slide"]
    return Case(
        id=row.get("id") or slide.stem,
        slide=slide,
        fine=Outlines(folder / row["fine"]),
        coarse={
            name: Outlines(folder / value)
            for name, value in row.items()
            if _COARSE.fullmatch(name) and value
        },
        classes=tuple(
            name.strip() for name in row.get("classes", "").split(BETWEEN_CLASSES) if name.strip()
        ),
        patient=row.get("patient", ""),
        split=row.get("split", ""),
        mpp=mpp,
    )


def _number(row: Mapping[str, str], where: str, problems: list[str]) -> float | None:
    text = row.get("mpp", "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        problems.append(f"{where}: mpp {text!r} is no pixel size in µm/px")
        return None
    return value
