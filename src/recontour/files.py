"""Writing files so that a killed run leaves either the old file or the new one."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from recontour.errors import OutputError

_TEMPORARY = re.compile(r"\.tmp-[a-z0-9_]+-(.+)", re.DOTALL)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success flush it and rename it to `path`.

    The temporary name keeps the suffixes of `path`, since writers look at them.

    Raises
    ------
    OutputError : the folder cannot be written, or the disk is full
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".tmp-", suffix="-" + path.name, dir=path.parent)
    except OSError as error:
        raise OutputError(f"cannot write {path.name} in {path.parent}: {_why(error)}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("r+b") as file:  # Windows flushes only what may be written
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path.name} in {path.parent}: {_why(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    """Remove what killed processes left of files of these names, which nobody may be writing."""
    wanted = set(names)
    for path in folder.iterdir() if folder.is_dir() else ():
        # Whole names: what ends in `b.json` may be the `a-b.json` that somebody writes.
        if (match := _TEMPORARY.fullmatch(path.name)) and match[1] in wanted:
            path.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, all or nothing."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, all or nothing."""
    write_bytes(path, text.encode())


def _why(error: OSError) -> str:
    what = error.strerror or str(error)
    if error.errno == errno.ENOSPC:
        what += "; free some space, and the same command goes on from there"
    return what
