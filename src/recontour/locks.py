"""Locks on files: many may use a thing while none may delete it; a dead process holds nothing."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from recontour.errors import OutputError


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold a lock that others may hold too; the system drops it when the process dies."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _open_locked(path, wait=True, shared=True)
    except OSError as error:
        raise OutputError(
            f"cannot use the cache folder {path.parent}: {error.strerror or error}; "
            "set RECONTOUR_CACHE_DIR to a folder that can be written"
        ) from error
    try:
        yield
    finally:
        if file is not None:
            file.close()


@contextlib.contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Try to be the only holder of a lock; removes the lock file afterwards."""
    try:
        file = _open_locked(path, wait=False, shared=False)
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        # Unlinked while still locked: whoever waits for it sees that it is gone and starts anew.
        path.unlink(missing_ok=True)
        if file is not None:
            file.close()


@contextlib.contextmanager
def in_turn(path: Path, patience_s: float = 60.0) -> Iterator[None]:
    """One after another, for what each does from start to end; removes the lock file afterwards.

    Who waited for `patience_s` goes on regardless, as does everybody where files cannot be locked:
    nothing that would be lost may hang on it.
    """
    deadline = time.monotonic() + patience_s
    file = None
    while True:
        try:
            file = _open_locked(path, wait=False, shared=False)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
        except OSError:
            pass
        break
    try:
        yield
    finally:
        if file is not None:
            path.unlink(missing_ok=True)
            file.close()


def _open_locked(path: Path, *, wait: bool, shared: bool) -> IO[bytes] | None:
    """Open and lock `path`; None on systems without file locks (there, deletion is not guarded)."""
    try:
        import fcntl
    except ImportError:
        return None
    mode = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while True:
        file = path.open("ab")
        try:
            fcntl.flock(file, mode)
            same = path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino
        except FileNotFoundError:
            same = False
        except OSError:
            file.close()
            raise
        if same:
            return file
        file.close()
