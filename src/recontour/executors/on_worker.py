"""What the Dask executor does inside a worker: see whether it is fit, and carry out one task."""

from __future__ import annotations

import os
import pickle
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recontour import __version__
from recontour.executors.base import attempt

MESSAGE_LIMIT = 64 * 1024
"""Bytes an item or a value may have: paths and statistics travel, pixels and features never."""

PATIENCE_S = 5.0
"""How long a file just written elsewhere may take to show up on a network file system."""

_fit: set[str] = set()  # tokens of the runs this process was found fit for


@dataclass(frozen=True)
class Check:
    """What a worker must have to take part.

    Attributes
    ----------
    version : of recontour
    out : the output folder, or "" when there is none to see
    token : content of the file `token_name(token)` in it; names the run
    """

    version: str
    out: str
    token: str

    @property
    def name(self) -> str:
        """Of the file in `out` that holds the token."""
        return f".cluster-{self.token[:12]}"


class UnfitWorkerError(Exception):
    """This worker cannot take part; args: its address, and why, as a sentence."""


def inspect(check: Check, inputs: Sequence[str] = ()) -> list[str]:
    """What keeps this process from taking part, one sentence each; empty: nothing.

    Parameters
    ----------
    inputs : paths and URLs that have to be readable from here
    """
    if check.version != __version__:
        return [f"has recontour {__version__}, this is {check.version}; install the same"]
    problems = [*_look_at_folder(check)]
    paths = [p for p in inputs if "://" not in p]
    missing = [p for p in paths if not Path(p).exists()]
    if missing:
        which = f"{len(missing)} of {len(paths)} inputs it was asked for"
        problems.append(f"does not see {which}, such as {missing[0]}; mount them at the same path")
    if len(paths) < len(inputs) and not _has_fsspec():
        problems.append("cannot fetch URLs: pip install 'recontour[remote]' there")
    return problems


def here() -> str:
    """The machine's name, for people."""
    return socket.gethostname()


def call(fn: Callable[[Any], Any], item: Any, check: Check | None) -> Mapping[str, Any]:
    """`fn(item)` as `{"value", "error", "seconds"}`; never raises for what the task does.

    Raises
    ------
    UnfitWorkerError : this worker joined late and cannot take part
    """
    if check is not None and check.token not in _fit:
        if problems := inspect(check):
            raise UnfitWorkerError(_address(), "; ".join(problems))
        _fit.add(check.token)
    outcome = attempt(fn, item)
    value, error = outcome.value, outcome.error
    if error is None and (size := len(pickle.dumps(value))) > MESSAGE_LIMIT:
        value, error = None, too_large("answer", size)
    return {"value": value, "error": error, "seconds": outcome.seconds}


def too_large(what: str, size: int) -> str:
    """The sentence for a message beyond `MESSAGE_LIMIT`."""
    return (
        f"the {what} has {size:,} bytes and at most {MESSAGE_LIMIT:,} may travel through the "
        "scheduler; leave data in files and send their paths"
    )


def _look_at_folder(check: Check) -> list[str]:
    if not check.out:
        return []
    out, expected = Path(check.out), check.token
    try:
        found = _read_patiently(out / check.name, expected)
    except OSError as error:
        why = error.strerror or error
        return [f"does not see the output folder {out} ({why}); use one that all workers share"]
    if found != expected:
        return [f"has another folder at {out}; use one that all workers share"]
    own = out / f"{check.name}-{here()}-{os.getpid()}"
    try:
        own.write_text("writable")
        own.unlink()
    except OSError as error:
        return [f"cannot write in {out} ({error.strerror or error})"]
    return []


def _read_patiently(path: Path, expected: str) -> str:
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            found = path.read_text()
            if found == expected or time.monotonic() > end:
                return found
        except OSError:
            # A folder that is not there at all will not come.
            if not path.parent.is_dir() or time.monotonic() > end:
                raise
        time.sleep(0.2)


def _has_fsspec() -> bool:
    import importlib.util

    return importlib.util.find_spec("fsspec") is not None


def _address() -> str:
    import distributed

    try:
        return str(distributed.get_worker().address)
    except ValueError:  # called out of band, or not on a worker at all
        return here()
