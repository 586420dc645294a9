"""Slides at URLs: fetched once, whole or not at all, within a limit."""

from __future__ import annotations

import errno
import multiprocessing
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fsspec", reason="needs recontour[remote]")

import fsspec

from recontour import storage
from recontour.errors import (
    MissingExtraError,
    MissingFileError,
    OutputError,
    StorageError,
    UsageError,
)
from recontour.storage import held_copies, local_copy, remote_stamp

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def bucket() -> Iterator[Any]:
    """An object store in memory."""
    system = fsspec.filesystem("memory")
    system.pipe("/bucket/a.svs", CONTENT)
    yield system
    system.store.clear()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.time, "sleep", lambda s: None)


def test_a_path_is_itself(tmp_path: Path) -> None:
    assert local_copy("slides/a.svs", tmp_path) == Path("slides/a.svs")
    assert list(tmp_path.iterdir()) == []


def test_a_url_becomes_a_file_of_that_name(bucket: Any, tmp_path: Path) -> None:
    copy = local_copy("memory://bucket/a.svs", tmp_path / "remote")
    assert copy.name == "a.svs"
    assert copy.read_bytes() == CONTENT
    bucket.open = None  # a second time nothing is fetched
    try:
        assert local_copy("memory://bucket/a.svs", tmp_path / "remote") == copy
    finally:
        del bucket.open


def test_another_version_is_another_copy(bucket: Any, tmp_path: Path) -> None:
    before, stamp = (
        local_copy("memory://bucket/a.svs", tmp_path),
        remote_stamp("memory://bucket/a.svs"),
    )
    assert remote_stamp("memory://bucket/a.svs") == stamp
    bucket.pipe("/bucket/a.svs", b"new")
    after = local_copy("memory://bucket/a.svs", tmp_path)
    assert (before.read_bytes(), after.read_bytes()) == (CONTENT, b"new")
    assert remote_stamp("memory://bucket/a.svs") != stamp


def test_nothing_there_is_said(bucket: Any, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="nothing at memory://bucket/b.svs"):
        local_copy("memory://bucket/b.svs", tmp_path)


def test_unknown_and_missing_kinds_of_url_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="nosuch://x/y: Protocol not known"):
        local_copy("nosuch://x/y", tmp_path)
    with pytest.raises(UsageError, match="slides of several files"):
        local_copy("s3://bucket/a.MRXS", tmp_path)

    def refuse(url: str) -> None:
        raise ImportError("Install oddfs to access odd")

    monkeypatch.setattr("fsspec.core.url_to_fs", refuse)
    with pytest.raises(MissingExtraError, match="Install oddfs to access odd, with pip"):
        local_copy("odd://bucket/a.svs", tmp_path)


class Flaky:
    """A file that breaks off after some bytes, each time a little later."""

    def __init__(self, store: Any, breaks: list[int], seen: list[int]) -> None:
        self.file = store
        self.breaks = breaks
        self.seen = seen
        self.left = breaks.pop(0) if breaks else 1 << 30

    def __enter__(self) -> Flaky:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def seek(self, place: int) -> int:
        self.seen.append(place)
        return int(self.file.seek(place))

    def read(self, n: int) -> bytes:
        if self.left <= 0:
            raise ConnectionResetError("connection reset by peer")
        data: bytes = self.file.read(min(n, self.left))
        self.left -= len(data)
        return data


@pytest.fixture
def flaky(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], list[int]]:
    """(where reads break off, from where they go on)."""
    breaks: list[int] = []
    seen: list[int] = []
    # The class: fsspec makes an instance a thread.
    whole = type(bucket).open

    def opened(system: Any, path: str, *_: Any, **__: Any) -> Flaky:
        return Flaky(whole(system, path, "rb"), breaks, seen)

    monkeypatch.setattr(type(bucket), "open", opened)
    return breaks, seen


def test_a_broken_fetch_goes_on_where_it_stopped(
    flaky: tuple[list[int], list[int]], tmp_path: Path
) -> None:
    breaks, seen = flaky
    breaks += [1000, 2000]
    copy = local_copy("memory://bucket/a.svs", tmp_path)
    assert copy.read_bytes() == CONTENT
    assert seen == [1000, 3000]


def test_a_fetch_that_keeps_breaking_leaves_no_file_but_is_resumed(
    flaky: tuple[list[int], list[int]], tmp_path: Path
) -> None:
    breaks, seen = flaky
    breaks += [500, 500, 500]
    with pytest.raises(StorageError, match=r"a\.svs cannot be fetched: connection reset"):
        local_copy("memory://bucket/a.svs", tmp_path)
    assert not list(tmp_path.rglob("a.svs"))
    assert local_copy("memory://bucket/a.svs", tmp_path).read_bytes() == CONTENT
    assert seen[-1] == 1500


def _web(status: int | None) -> FileNotFoundError:
    """What fsspec makes of a web server's answer; None: it hung up."""
    kind = type("ClientError", (Exception,), {"__module__": "aiohttp.client_exceptions"})
    error = FileNotFoundError("http://…")
    error.__cause__ = kind("server disconnected" if status is None else f"{status}, no")
    if status is not None:
        error.__cause__.status = status  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("status", "kind", "said", "attempts"),
    [
        (404, MissingFileError, "there is nothing", 1),
        (403, StorageError, "the server answers 403.; check the credentials", 1),
        (503, StorageError, "cannot be fetched: 503", 3),
        (None, StorageError, "cannot be fetched: server disconnected", 3),
    ],
)
def test_a_web_server_in_trouble_is_no_missing_file(
    bucket: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int | None,
    kind: type[Exception],
    said: str,
    attempts: int,
) -> None:
    asked: list[str] = []

    def refuse(_: Any, path: str) -> None:
        asked.append(path)
        raise _web(status)

    monkeypatch.setattr(type(bucket), "info", refuse)
    with pytest.raises(kind, match=said):
        local_copy("memory://bucket/a.svs", tmp_path)
    assert len(asked) == attempts


def test_the_signature_of_a_url_is_not_told(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors end up in files that people share."""
    url = "memory://bucket/a.svs?signature=secret/half"

    def refuse(*_: Any) -> None:
        raise OSError(f"503 of {url}")

    monkeypatch.setattr(type(bucket), "info", refuse)
    with pytest.raises(StorageError) as caught:
        local_copy(url, tmp_path)
    assert "bucket/a.svs" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_error_of_the_client_is_tried_again_and_told(
    flaky: tuple[list[int], list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few of them are OSErrors."""

    class PayloadError(Exception):
        pass

    def broken(*_: Any) -> bytes:
        asked.append(1)
        raise PayloadError("not enough data")

    asked: list[int] = []
    monkeypatch.setattr(Flaky, "read", broken)
    with pytest.raises(StorageError, match="cannot be fetched: not enough data"):
        local_copy("memory://bucket/a.svs", tmp_path)
    assert len(asked) == 3


def test_of_a_server_that_gives_whole_files_only_it_begins_anew(
    flaky: tuple[list[int], list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seek(*_: Any) -> int:
        raise ValueError("Cannot seek streaming HTTP file")

    monkeypatch.setattr(Flaky, "seek", seek)
    flaky[0].append(1000)
    assert local_copy("memory://bucket/a.svs", tmp_path).read_bytes() == CONTENT


def test_what_is_left_of_something_longer_is_no_start(bucket: Any, tmp_path: Path) -> None:
    copy = local_copy("memory://bucket/a.svs", tmp_path)
    copy.rename(copy.with_name(storage.PART))
    with copy.with_name(storage.PART).open("ab") as file:
        file.write(b"more")
    assert local_copy("memory://bucket/a.svs", tmp_path).read_bytes() == CONTENT


def test_a_full_disk_is_told_from_the_network(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(storage.os, "fsync", full)
        with pytest.raises(OutputError, match="free some space"):
            local_copy("memory://bucket/a.svs", tmp_path)
    assert not list(tmp_path.rglob("a.svs"))
    assert local_copy("memory://bucket/a.svs", tmp_path).read_bytes() == CONTENT


def test_old_copies_make_room_but_never_those_in_use(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "GRACE_S", 0.0)
    for i in range(4):
        bucket.pipe(f"/bucket/{i}.svs", CONTENT)
    limit = 2 * len(CONTENT)
    with held_copies(["memory://bucket/0.svs", "slide.svs"], tmp_path, limit_bytes=limit) as held:
        for i in (1, 2, 3):
            copy = local_copy(f"memory://bucket/{i}.svs", tmp_path, limit_bytes=limit)
            os.utime(copy.parent, (i, i))
        assert sorted(p.name for p in tmp_path.rglob("*.svs")) == ["0.svs", "3.svs"]
        assert held[1] == Path("slide.svs")
    local_copy("memory://bucket/1.svs", tmp_path, limit_bytes=len(CONTENT))
    assert sorted(p.name for p in tmp_path.rglob("*.svs")) == ["1.svs"]


def test_a_copy_just_asked_for_is_not_taken_away(bucket: Any, tmp_path: Path) -> None:
    first = local_copy("memory://bucket/a.svs", tmp_path)
    bucket.pipe("/bucket/b.svs", CONTENT)
    local_copy("memory://bucket/b.svs", tmp_path, limit_bytes=1)
    assert first.exists()


def test_threads_fetch_a_file_once(
    flaky: tuple[list[int], list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    read = Flaky.read
    monkeypatch.setattr(Flaky, "read", lambda f, n: reads.append(n) or read(f, n))
    copies: list[Path] = []
    threads = [
        threading.Thread(
            target=lambda: copies.append(local_copy("memory://bucket/a.svs", tmp_path))
        )
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(copies) == 6
    assert {c.read_bytes() for c in copies} == {CONTENT}
    assert len(reads) == 2  # the content, and that there is no more


def _fetch_in_process(url: str, folder: Path) -> None:
    assert local_copy(url, folder).read_bytes() == CONTENT * 50


def test_processes_fetch_at_the_same_time(tmp_path: Path) -> None:
    source = tmp_path / "a.svs"
    source.write_bytes(CONTENT * 50)
    spawn = multiprocessing.get_context("spawn")
    args = (f"file://{source}", tmp_path / "remote")
    processes = [spawn.Process(target=_fetch_in_process, args=args) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(list((tmp_path / "remote").rglob("a.svs"))) == 1
