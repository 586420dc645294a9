"""Reading the manifest of a cohort: a table with one line a slide.

It reads our columns and those of slide2vec and TRIDENT; see `recontour.cohort.columns`.
"""

from __future__ import annotations

import codecs
import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from recontour.cohort.checking import check_manifest as check_manifest
from recontour.cohort.columns import SETTINGS, Columns, find_columns, number, setting, several
from recontour.cohort.keys import row_key as row_key
from recontour.cohort.names import check_ids
from recontour.cohort.pairing import CoarseFolder, stem_of
from recontour.cohort.rows import Manifest as Manifest
from recontour.cohort.rows import Problem as Problem
from recontour.cohort.rows import Row as Row
from recontour.errors import MissingFileError, UsageError
from recontour.storage import is_url

DELIMITERS = ",;\t"
COMMENT = "#"
Read = TypeVar("Read")


def read_manifest(
    path: Path | str, *, coarse_dir: Path | str | None = None, base: Path | str | None = None
) -> Manifest:
    """Read a manifest; no file that it names is looked at.

    Parameters
    ----------
    path : CSV with `,`, `;` or tabs, in UTF-8 or UTF-16; the first line names the columns; blank
        lines and lines that start with `#` are passed over
    coarse_dir : where the outlines are, named as the slides; for rows without one
    base : where relative paths start; None: in the manifest's folder

    Returns
    -------
    Manifest : lines that cannot be understood are not among its rows, but its problems

    Raises
    ------
    MissingFileError : no such manifest, or no such folder
    UsageError : no such table: not text, no column of slides, no row
    """
    path = Path(path)
    if not path.is_file():
        way = f" is a folder; `recontour manifest {path} -o cohort.csv` makes one of its slides"
        raise MissingFileError(f"no such manifest: {path}{way if path.is_dir() else ''}")
    data = path.read_bytes()
    lines = _records(path.name, _decoded(path.name, data))
    first = next(lines, None)
    if first is None:
        raise UsageError(f"{path.name} is empty; its first line names the columns")
    header = first[1]
    try:
        columns = find_columns(header)
    except UsageError as error:
        raise UsageError(f"{path.name}: {error}") from error
    if "coarse" not in columns.place and coarse_dir is None:
        said = "; ".join(note for note in columns.notes if "'coarse'" in note)
        raise UsageError(
            f"{path.name} has no column 'coarse'{f' ({said})' if said else ''}; add it, or pass "
            "--coarse-dir with a folder of outlines named as the slides"
        )
    folder = Path(base) if base is not None else path.parent
    outlines = CoarseFolder(Path(coarse_dir)) if coarse_dir is not None else None
    reader = _Reader(columns, len(header), Path(os.path.abspath(folder)), outlines)  # noqa: PTH100
    rows: list[Row] = []
    faulty: list[Row] = []
    problems: list[Problem] = []
    for line, values in lines:
        row, wrong = reader.read(line, values)
        problems += (Problem(line, row.id, what) for what in wrong)
        (faulty if wrong else rows).append(row)
    if not rows and not faulty:
        raise UsageError(
            f"{path.name} has no row: after the names of the columns, one line a slide"
        )
    problems += check_ids([*rows, *faulty])
    return Manifest(
        rows=tuple(rows),
        notes=columns.notes,
        columns=tuple(name.strip() for name in header),
        problems=tuple(problems),
        faulty=tuple(faulty),
        path=path,
        digest=sha256(data).hexdigest(),
    )


class _Reader:
    """Turns the values of a line into a row."""

    def __init__(
        self, columns: Columns, width: int, base: Path, outlines: CoarseFolder | None
    ) -> None:
        self.columns, self.width, self.base, self.outlines = columns, width, base, outlines

    def read(self, line: int, values: Sequence[str]) -> tuple[Row, list[str]]:
        """The row, and what is wrong with it in sentences (then some of it is left out)."""
        if not any(value.strip() for value in values[self.width :]):
            values = values[: self.width]  # Excel ends lines with empty cells.
        if len(values) != self.width:
            said = f"{len(values)} values in {self.width} columns"
            way = "put quotes around a value that holds the separator"
            if len(values) < self.width:
                way = "empty cells need their separators too"
            return Row("", "", "", line=line), [f"{said}; {way}"]
        cells = {name: values[i].strip() for name, i in self.columns.place.items()}
        wrong: list[str] = []
        slide = self._located(cells["slide"])
        id = cells.get("id") or stem_of(slide)
        if not slide:
            wrong.append("no slide")
        settings = self._settings(cells, wrong)
        row = Row(
            id=id,
            slide=slide,
            coarse=self._coarse(cells.get("coarse", ""), slide, id, wrong),
            mpp=_attempt(_pixel_size, cells.get("mpp", ""), wrong),
            classes=several(cells.get("classes", "")),
            reviewed=self._located(cells.get("reviewed", "")) or None,
            also=tuple(self._located(one) for one in several(cells.get("also", ""))),
            settings=settings,
            extra={name: values[i].strip() for name, i in self.columns.extra.items()},
            line=line,
        )
        return row, wrong

    def _settings(self, cells: dict[str, str], wrong: list[str]) -> dict[str, Any]:
        found = {
            name: _attempt(partial(setting, name), cells.get(name, ""), wrong) for name in SETTINGS
        }
        settings = {name: value for name, value in found.items() if value is not None}
        if settings.get("reader") == "auto":  # as the option: whatever is named for all
            settings["reader"] = None
        if Path(settings.get("tissue", "")).suffix:  # a file, not a rule
            settings["tissue"] = self._located(settings["tissue"])
        return settings

    def _coarse(self, text: str, slide: str, id: str, wrong: list[str]) -> str:
        if text or not slide:
            return self._located(text)
        if self.outlines is None:
            wrong.append(
                "no coarse outline: name it in column 'coarse', or pass --coarse-dir with a "
                "folder of outlines named as the slides"
            )
            return ""
        return _attempt(partial(self.outlines.find, slide), id, wrong) or ""

    def _located(self, text: str) -> str:
        """The absolute path of a cell; URLs and empty cells as they are."""
        if not text or is_url(text):
            return text
        return os.path.normpath(self.base / Path(text).expanduser())


def _attempt(read: Callable[[str], Read], text: str, wrong: list[str]) -> Read | None:
    """What a cell says; None of an empty one, and of a wrong one, whose error is added."""
    if not text:
        return None
    try:
        return read(text)
    except UsageError as error:
        wrong.append(str(error))
        return None


def _pixel_size(text: str) -> float:
    value = number("mpp", text)
    if value <= 0:
        raise UsageError(f"mpp {text!r} is no pixel size in µm/px")
    return value


def _decoded(name: str, data: bytes) -> str:
    encoding = (
        "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else ("utf-8-sig")
    )
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UsageError(
            f"{name} is not text in UTF-8 (line {line}); save it as CSV UTF-8"
        ) from error
    before, nul, _ = text.partition("\0")
    if nul:
        line = before.count("\n") + 1
        raise UsageError(f"{name} holds a NUL byte (line {line}); save it as CSV UTF-8")
    return text


def _records(name: str, text: str) -> Iterator[tuple[int, list[str]]]:
    """Each record and the line it starts on, without blank ones and comments."""
    first = True  # of a record's lines: inside a quoted value a # starts no comment

    def physical() -> Iterator[str]:
        nonlocal first
        for line in io.StringIO(text, newline=""):
            comment = first and line.lstrip().startswith(COMMENT)
            first = False
            yield "\n" if comment else line

    reader = csv.reader(physical(), delimiter=_delimiter(text), strict=True)
    while True:
        first, start = True, reader.line_num + 1
        try:
            values = next(reader, None)
        except csv.Error as error:
            raise UsageError(f"{name} cannot be read as CSV at line {start}: {error}") from error
        if values is None:
            return
        if any(value.strip() for value in values):
            yield start, values


def _delimiter(text: str) -> str:
    """The one of `,`, `;` and tab that the first line with names has most of."""
    lines = map(str.strip, text.splitlines())
    header = next((line for line in lines if line and not line.startswith(COMMENT)), "")
    return max(DELIMITERS, key=header.count)
