"""Slides and outlines at URLs (`s3://…`, `https://…`): fetched once, kept, bounded in size.

A copy is fetched in pieces, so that a killed fetch goes on where it stopped; it appears under its
name only when it is whole. Several processes that want the same file fetch it once. What is kept
is bounded: copies used longest ago go first, and never one that somebody holds.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from recontour.errors import (
    MissingExtraError,
    MissingFileError,
    OutputError,
    RecontourError,
    StorageError,
    UsageError,
)
from recontour.locks import claim, hold

FOLDER = "remote"
"""Under the cache folder."""

DEFAULT_LIMIT_BYTES = 50 * 2**30  # some 40 slides
GRACE_S = 600.0
"""A copy that nobody holds is still kept for ten minutes after it was asked for."""

PIECE = 8 * 2**20
ATTEMPTS = 3
PART = ".part"
_QUERY = re.compile(r"(://[^\s'\"?]*)\?[^\s'\"]*")
_SEVERAL_FILES = (".mrxs", ".vms", ".vmu")
_MARKS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created")


def is_url(path: str | Path) -> bool:
    """Whether this is no path on this machine but `s3://…`, `https://…`."""
    scheme, mark, _ = str(path).partition("://")
    return bool(mark) and scheme.replace("+", "").isalnum()


def shown(text: str) -> str:
    """URLs for people: without what follows `?`, which may be a signature that opens the file."""
    return _QUERY.sub(r"\1", text)


def local_copy(
    path_or_url: str | Path, folder: Path, *, limit_bytes: int = DEFAULT_LIMIT_BYTES
) -> Path:
    """A file on this machine with the content of a path or URL.

    A path is given back as it is. The copy of a URL stays for ten minutes; `held_copies`
    keeps it for as long as it is needed.

    Parameters
    ----------
    folder : of copies, made where it is missing; best on a disk of this machine
    limit_bytes : copies used longest ago are deleted beyond this size

    Raises
    ------
    MissingFileError : there is nothing at the URL
    MissingExtraError : a package for this kind of URL is not installed
    UsageError : a slide of several files
    StorageError : it cannot be fetched, after some attempts
    OutputError : the disk is full
    """
    with held_copies([path_or_url], folder, limit_bytes=limit_bytes) as (copy,):
        return copy


@contextlib.contextmanager
def held_copies(
    paths_or_urls: Sequence[str | Path], folder: Path, *, limit_bytes: int = DEFAULT_LIMIT_BYTES
) -> Iterator[list[Path]]:
    """As `local_copy` for several; none of them is deleted while the block runs."""
    with contextlib.ExitStack() as stack:
        copies = []
        for one in paths_or_urls:
            if not is_url(one):
                copies.append(Path(one))
                continue
            remote = _Remote.find(str(one))
            place = folder / remote.digest
            stack.enter_context(hold(place.with_suffix(".lock")))
            copies.append(_fetch(remote, place, limit_bytes))
        yield copies


def remote_stamp(url: str) -> list[str]:
    """What changes when the file at a URL does, without reading it: size, and marks of its server.

    Raises
    ------
    MissingFileError, MissingExtraError, UsageError, StorageError : as `local_copy`
    """
    return list(_Remote.find(url).stamp)


@dataclass(frozen=True)
class _Remote:
    """A file at a URL, in the version that is there now.

    Attributes
    ----------
    size : bytes; None where the server does not say
    stamp : what changes when the file does
    """

    url: str
    system: Any
    path: str
    size: int | None
    stamp: tuple[str, ...]

    @property
    def name(self) -> str:
        """The last part of the path: the suffix names the format."""
        return self.path.rstrip("/").rpartition("/")[2].partition("?")[0] or "file"

    @classmethod
    def find(cls, url: str) -> _Remote:
        """Ask the server for what is at a URL."""
        if shown(url).casefold().endswith(_SEVERAL_FILES):
            raise UsageError(
                f"{shown(url)}: slides of several files cannot be fetched by URL; copy the slide "
                "and its folder to a disk that all workers see"
            )
        try:
            from fsspec.core import url_to_fs

            system, path = url_to_fs(url)
        except ImportError as error:
            if (error.name or "").startswith("fsspec"):
                way = "pip install 'recontour[remote]'"
            else:
                way = f"{error}, with pip"
            raise MissingExtraError(f"{shown(url)} cannot be fetched: {way}") from error
        except ValueError as error:
            raise UsageError(f"{shown(url)}: {error}") from error
        told = _with_patience(url, lambda: system.info(path))
        size = told.get("size")
        marks = [f"{mark}={told[mark]}" for mark in _MARKS if told.get(mark)]
        return cls(url, system, path, size, (str(size), *marks))

    @property
    def digest(self) -> str:
        """Names URL and version."""
        return hashlib.sha256("|".join([self.url, *self.stamp]).encode()).hexdigest()[:24]


def _fetch(remote: _Remote, place: Path, limit_bytes: int) -> Path:
    """Fetch into the folder `place`, unless it is there; somebody else's fetch is waited for."""
    whole = place / remote.name
    with _writing(whole):
        place.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(place / ".fetching"):
        if not whole.exists():
            part = place / PART
            _trim(place.parent, limit_bytes - (remote.size or 0))
            _with_patience(remote.url, lambda: _append(remote, part, whole))
            with _writing(whole):
                part.replace(whole)
        os.utime(place)
    return whole


def _append(remote: _Remote, part: Path, whole: Path) -> None:
    """Fetch what `part` lacks."""
    with _writing(whole):
        file = part.open("ab")
    with file, remote.system.open(remote.path, "rb", block_size=PIECE) as source:
        if have := file.tell():
            try:
                source.seek(have)
            except ValueError:  # of a server that gives whole files only
                file.truncate(0)
        while piece := source.read(PIECE):
            with _writing(whole):
                file.write(piece)
        with _writing(whole):
            file.flush()
            os.fsync(file.fileno())
        got = file.tell()
    if remote.size is not None and got != remote.size:
        if got > remote.size:
            part.unlink()
        raise OSError(f"{got:,} of {remote.size:,} bytes came")


def _with_patience(url: str, ask: Callable[[], Any]) -> Any:
    """Ask a server again when the network fails.

    Raises
    ------
    MissingFileError, StorageError
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return ask()
        except RecontourError:
            raise
        except Exception as error:  # each client has errors of its own, few of them OSErrors
            why = _behind(error)
            if isinstance(why, FileNotFoundError):
                raise MissingFileError(f"there is nothing at {shown(url)}") from error
            if isinstance(why, PermissionError):
                raise StorageError(
                    f"{shown(url)} may not be read ({why}); check the credentials"
                ) from error
            if attempt == ATTEMPTS:
                said = shown(str(why)) or type(why).__name__
                raise StorageError(f"{shown(url)} cannot be fetched: {said}") from error
            time.sleep(0.5 * 4 ** (attempt - 1))
    raise AssertionError


def _behind(error: Exception) -> BaseException:
    """What went wrong: fsspec calls every failure of a web server a missing file."""
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or cause is None:
        return error
    if type(cause).__module__.partition(".")[0] != "aiohttp":
        return error
    status = getattr(cause, "status", None)
    if status in (401, 403):
        return PermissionError(f"the server answers {status}")
    return error if status in (404, 410) else cause


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Tell errors of this machine's disk from those of the network."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno == errno.ENOSPC:
            why += "; free some space, and the same command goes on from there"
        raise OutputError(f"cannot keep a copy in {path.parent}: {why}") from error


def _trim(folder: Path, limit_bytes: int) -> int:
    """Delete the copies asked for longest ago until the limit is kept; bytes freed."""
    now = time.time()
    found = []
    for place in folder.iterdir():
        # Another process may delete a copy while it is being looked at.
        with contextlib.suppress(OSError):
            if place.is_dir():
                size = sum(file.stat().st_size for file in place.iterdir())
                found.append((place.stat().st_mtime, size, place))
    excess = sum(size for _, size, _ in found) - limit_bytes
    freed = 0
    for used, size, place in sorted(found):
        if freed >= excess or now - used < GRACE_S:
            break
        with claim(place.with_suffix(".lock")) as free:
            if free:
                shutil.rmtree(place, ignore_errors=True)
                freed += size
    return freed
