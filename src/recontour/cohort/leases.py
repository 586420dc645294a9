"""Who works on a slide: one process at a time, across hosts that share a folder.

A lease is a file that appears with its whole content or not at all (a hard link; it fails where the
name exists). Its owner writes a growing number into it. Clocks of different hosts are never
compared: an observer takes a lease for abandoned when its number stands still for `STALE_S` seconds
of the observer's own monotonic clock, or when its process is dead on the very same host.

An abandoned lease `a.lease` is taken over by creating `taken/a.lease.2` (then `.3`, …): of several
observers only one can, and the highest number holds. So nobody ever removes the lease of somebody
else, and an owner that only slept sees that a higher number exists and drops its work.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recontour.errors import OutputError

BEAT_S = 5.0
"""Seconds between two beats of an owner."""
STALE_S = 60.0
"""An owner that has not moved for so long is gone; twelve beats, and what NFS clients cache."""
TAKEN = "taken"
"""Folder of leases that were taken over: few, however many slides there are."""
_LEASE = re.compile(r"([^.].*\.lease)\.(\d+)")
WIDTH = 512
"""Bytes of a lease: of one size, so that a beat overwrites exactly the last one."""


class Lease:
    """A lease that is held: beats in a thread until `release`."""

    def __init__(self, base: Path, number: int, mark: Mapping[str, Any], beat_s: float) -> None:
        self.base, self.number, self._mark = base, number, mark
        self.path = _numbered(base, number)
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._beat, args=(beat_s,), name="recontour-lease", daemon=True
        )
        self._thread.start()

    @property
    def token(self) -> str:
        """Names this holding of this lease."""
        return str(self._mark["token"])

    def held(self) -> bool:
        """Whether nobody has taken over; to be asked before anything is put in its place."""
        mine = _read(self.path)
        return (
            mine is not None
            and mine.get("token") == self.token
            and not _numbered(self.base, self.number + 1).exists()
        )

    def release(self) -> None:
        """Give the lease back; one that was taken over is left to its new owner."""
        self._ended.set()
        self._thread.join()
        if not self.held():
            return
        # The lowest first: the highest holds until the end.
        for number in range(1, self.number + 1):
            with contextlib.suppress(OSError):
                _numbered(self.base, number).unlink(missing_ok=True)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _beat(self, beat_s: float) -> None:
        count = 0
        # Into the file that is open, never by renaming: a beat cannot undo a take-over.
        with contextlib.suppress(OSError), self.path.open("r+b", buffering=0) as file:
            while not self._ended.wait(beat_s):
                count += 1
                with contextlib.suppress(OSError):  # the next one may come through
                    file.seek(0)
                    file.write(_record({**self._mark, "beat": count}))
                    os.fsync(file.fileno())


class Watch:
    """Watches the leases of others, to tell sleepers from workers.

    Parameters
    ----------
    stale_s : seconds without a beat after which an owner is gone
    clock : a monotonic clock, in seconds
    """

    def __init__(
        self, stale_s: float = STALE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stale_s, self._clock = stale_s, clock
        self._seen: dict[Path, tuple[bytes, float]] = {}

    def stale(self, base: Path) -> str | None:
        """The token of the lease when its owner is gone, for `acquire`; "" when there is no lease.

        None while somebody works under it, as far as can be told yet: ask again later.
        """
        number, content = _highest(base)
        if number == 0:
            self._seen.pop(base, None)
            return ""
        last = self._seen.get(base)
        if last is None or last[0] != content:
            self._seen[base] = last = (content, self._clock())
        mark = _parse(content)
        if _is_dead(mark) or self._clock() - last[1] >= self._stale_s:
            return _token(mark, content)
        return None


def acquire(base: Path, *, stale: str | None = None, beat_s: float = BEAT_S) -> Lease | None:
    """Take the lease `base`; None when somebody else holds it.

    Parameters
    ----------
    base : `….lease`, in a folder that is there
    stale : the token that a `Watch` found abandoned; it is taken over while it still holds

    Raises
    ------
    OutputError : the folder cannot be written
    """
    number, content = _highest(base)
    held = _parse(content)
    if number and not (_is_dead(held) or _token(held, content) == stale):
        return None
    mark = {**_this_process(), "token": uuid.uuid4().hex}
    try:
        if number:
            (base.parent / TAKEN).mkdir(exist_ok=True)
        if not _create(_numbered(base, number + 1), _record({**mark, "beat": 0})):
            return None
    except OSError as error:
        raise OutputError(f"cannot write in {base.parent}: {error.strerror or error}") from error
    lease = Lease(base, number + 1, mark, beat_s)
    # What was taken over may have been given back, and the slide begun anew, in between.
    below = number == 0 or _content(_numbered(base, number)) == content
    if below and lease.held():
        return lease
    lease._ended.set()
    lease.path.unlink(missing_ok=True)
    return None


def _numbered(base: Path, number: int) -> Path:
    return base if number == 1 else base.parent / TAKEN / f"{base.name}.{number}"


def _highest(base: Path) -> tuple[int, bytes]:
    """(number, content) of the lease that holds; (0, b"") when there is none.

    Of an owner that was killed while it gave its lease back, the lower ones may be gone.
    """
    number, content = 0, b""
    if not base.exists():
        number = max(
            (number for name, number in taken_over(base.parent) if name == base), default=0
        )
        found = _content(_numbered(base, number)) if number else None
        if found is None:
            return 0, b""
        content = found
    while (found := _content(_numbered(base, number + 1))) is not None:
        number, content = number + 1, found
    return number, content


def taken_over(folder: Path) -> list[tuple[Path, int]]:
    """(base, number) of every lease in a folder that was taken over and not given back."""
    try:
        names = os.listdir(folder / TAKEN)  # noqa: PTH208  # no paths of names that do not matter
    except OSError:
        return []
    matches = (_LEASE.fullmatch(name) for name in names)
    return [(folder / match[1], int(match[2])) for match in matches if match]


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror or error}") from error


def _read(path: Path) -> dict[str, Any] | None:
    content = _content(path)
    return None if content is None else _parse(content)


def _parse(content: bytes) -> dict[str, Any]:
    try:
        data = json.loads(content)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _token(mark: Mapping[str, Any], content: bytes) -> str:
    """Names the lease; one that nobody can read is named by what it holds."""
    return str(mark.get("token") or f"unreadable {content!r}")


def _record(mark: Mapping[str, Any]) -> bytes:
    return json.dumps(mark).encode().ljust(WIDTH - 1) + b"\n"


def _create(path: Path, content: bytes) -> bool:
    """Make a file with its whole content; False where the name is taken."""
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex}-{path.name}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            try:
                with path.open("xb") as file:
                    file.write(content)
            except FileExistsError:
                return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _is_dead(mark: Mapping[str, Any]) -> bool:
    """Whether the owner was a process of this very system and is no more."""
    here = _this_process()
    if not here["boot"] or any(mark.get(name) != here[name] for name in ("host", "boot")):
        return False
    return _start_of(int(mark.get("pid") or 0)) != mark.get("started")


@functools.cache
def _boot() -> str:
    """Names the running system and its table of processes; "" where that cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    return {"host": platform.node(), "boot": _boot(), "pid": pid, "started": _start_of(pid)}


def _start_of(pid: int) -> str:
    """When a process began, in ticks of this system; "" when there is none, or it is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (OSError, ValueError):
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]
