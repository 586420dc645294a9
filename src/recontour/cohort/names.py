"""Ids of slides: they become names of folders, on any file system."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from recontour.cohort.rows import Problem, Row

RESERVED = (
    *("state", "pool", "thumbs", "cohort.json"),
    *("summary.html", "summary.csv", "summary.parquet"),
)
"""What a cohort's folder holds besides the slides."""

MAX_BYTES = 120
"""Of a name: state files and temporary names add to it, and file systems take 255."""

_UNSAFE = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f]')
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def check_ids(rows: Iterable[Row]) -> list[Problem]:
    """What is wrong with the ids: those no folder can have, and those that are there twice."""
    first: dict[str, Row] = {}
    problems = []
    for row in sorted(rows, key=lambda row: row.line):
        if not row.id:
            continue
        wrong = why_unsafe(row.id)
        if wrong:
            problems.append(Problem(row.line, row.id, f"id {row.id!r} {wrong}"))
        before = first.setdefault(same_name(row.id), row)
        if before is row:
            continue
        if before.id == row.id and before.slide == row.slide:
            said = f"is the slide of line {before.line} again; give each an id in a column 'id'"
        elif before.id == row.id:
            said = (
                f"id {row.id!r} is that of line {before.line}; give each its own in a column 'id'"
            )
        else:
            said = (
                f"id {row.id!r} is {before.id!r} of line {before.line} where file systems "
                "do not tell upper from lower case; give it another"
            )
        problems.append(Problem(row.line, row.id, said))
    return problems


def why_unsafe(id: str) -> str:
    """Why no folder should have this name; "" where it may."""
    if unsafe := _UNSAFE.search(id):
        return f"holds {unsafe.group()!r}, which no name of a folder may"
    if id.startswith("."):
        return "starts with a dot: its folder would be hidden"
    if id.endswith((".", " ")) or id.startswith(" "):
        return "starts or ends with a blank or a dot"
    if same_name(id) in RESERVED:
        return "is the name of a file or folder of the cohort itself"
    if _DEVICE.fullmatch(id):
        return "is the name of a device on Windows"
    if len(id.encode()) > MAX_BYTES:
        return f"is longer than {MAX_BYTES} bytes"
    return ""


def same_name(id: str) -> str:
    """Two ids for which this is equal are one folder on some file systems."""
    return unicodedata.normalize("NFC", id).casefold()
