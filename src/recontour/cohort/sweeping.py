"""Removing what killed processes left among the states of a cohort."""

from __future__ import annotations

import contextlib
from pathlib import Path

from recontour.cohort.leases import acquire, taken_over

OLD_S = 3600.0
"""A temporary file so much older than the newest of the folder is nobody's: both have the times of
one file server, so that no two clocks are compared."""


def sweep(states: Path) -> None:
    """Remove leases of dead processes, and old temporary files; what others hold stays.

    Parameters
    ----------
    states : the folder of states and leases; it may be missing
    """
    if not states.is_dir():
        return
    for base in sorted({*states.glob("*.lease"), *(base for base, _ in taken_over(states))}):
        lease = acquire(base)
        if lease is not None:
            lease.release()
    sweep_temporary(states)
    with contextlib.suppress(OSError):  # not empty: of somebody who works
        (states / "work").rmdir()


def sweep_temporary(folder: Path) -> None:
    """Remove old temporary files from a folder, which may be missing."""
    times = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(OSError):  # gone meanwhile: of somebody who works
            times[path] = path.stat().st_mtime
    newest = max(times.values(), default=0.0)
    for path, time in times.items():
        if path.name.startswith(".tmp-") and newest - time >= OLD_S:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
