"""Leases: one owner at a time, whatever the clocks say and whoever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from recontour.cohort import leases
from recontour.cohort.leases import Watch, acquire
from recontour.errors import OutputError

OWNER = """
import sys, time
from pathlib import Path
from recontour.cohort.leases import acquire
lease = acquire(Path(sys.argv[1]), beat_s=0.05)
print("held" if lease else "busy", flush=True)
time.sleep(600)
"""
COUNTER = """
import sys, time
from pathlib import Path
from recontour.cohort.leases import acquire
base, count = Path(sys.argv[1]), Path(sys.argv[2])
done = 0
while done < 15:
    lease = acquire(base)
    if lease is None:
        time.sleep(0.001)
        continue
    value = int(count.read_text())
    time.sleep(0.001)
    count.write_text(str(value + 1))
    done += 1
    lease.release()
"""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "a.lease"


@pytest.fixture
def other(base):
    """A process that holds the lease."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, base], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def left(base: Path) -> list[Path]:
    return [path for path in base.parent.rglob("*") if path.is_file()]


def elsewhere(base: Path, beat: int = 0, **more: object) -> None:
    """A lease of another host, whose clock may show anything."""
    mark = {"host": "far", "boot": "x", "pid": 1, "started": "1", "token": "t", **more}
    base.write_bytes(leases._record({**mark, "beat": beat}))


def test_the_second_has_to_wait(base):
    with acquire(base) as first:
        assert first.held()
        assert acquire(base) is None
    second = acquire(base)
    assert second is not None
    second.release()
    assert left(base) == []


def test_of_many_at_once_one_gets_it(base):
    found = []
    start = threading.Barrier(8, timeout=60)

    def race() -> None:
        start.wait()
        found.append(acquire(base))

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (owner,) = [lease for lease in found if lease]
    owner.release()


def test_nothing_is_lost_under_it_among_processes(base, tmp_path):
    count = tmp_path / "count"
    count.write_text("0")
    command = [sys.executable, "-c", COUNTER, base, count]
    workers = [subprocess.Popen(command) for _ in range(3)]
    assert [worker.wait(120) for worker in workers] == [0, 0, 0]
    assert count.read_text() == "45"


def test_a_living_owner_is_never_stale_however_the_clock_jumps(base, other):
    clock = Clock()
    watch = Watch(stale_s=10, clock=clock)
    for _ in range(4):
        assert watch.stale(base) is None
        before = base.read_bytes()
        deadline = time.monotonic() + 60
        while base.read_bytes() == before and time.monotonic() < deadline:
            time.sleep(0.01)
        clock.now += 1e6
    assert acquire(base) is None


@pytest.mark.skipif(not leases._boot(), reason="this system does not tell its processes apart")
def test_a_beat_that_fails_is_not_the_last(base, monkeypatch):
    """A file server may stutter; an owner that fell silent for it would lose its slide."""
    real, calls = os.fsync, []

    def stutter(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            raise OSError(5, "Input/output error")
        real(fd)

    with acquire(base, beat_s=0.01) as lease:
        monkeypatch.setattr(leases.os, "fsync", stutter)
        deadline = time.monotonic() + 60
        while len(calls) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        monkeypatch.undo()
        assert lease.held()
    assert len(calls) >= 3


def test_the_lease_of_a_dead_process_is_taken_over_at_once(base, other):
    other.send_signal(signal.SIGKILL)
    other.wait()
    with acquire(base) as lease:
        assert lease.held()
        assert acquire(base) is None
    assert left(base) == []


@pytest.mark.skipif(not leases._boot(), reason="this system does not tell its processes apart")
def test_a_recycled_process_number_is_no_owner(base):
    here = leases._this_process()
    elsewhere(base, **{**here, "started": "12"})
    lease = acquire(base)
    assert lease is not None
    lease.release()


@pytest.mark.parametrize("written", [0.0, 4e9, -1e12])
def test_of_another_host_only_our_own_watch_counts(base, written):
    elsewhere(base, time=written)
    os.utime(base, (abs(written), abs(written)))
    clock = Clock()
    watch = Watch(stale_s=60, clock=clock)
    assert watch.stale(base) is None
    clock.now = 59
    assert watch.stale(base) is None
    elsewhere(base, beat=1)
    clock.now = 118
    assert watch.stale(base) is None  # it moved: the watch starts again
    clock.now = 177
    assert watch.stale(base) is None
    assert acquire(base, stale=None) is None
    clock.now = 179
    token = watch.stale(base)
    assert token == "t"
    lease = acquire(base, stale=token)
    assert lease is not None
    lease.release()


def test_an_owner_that_slept_sees_that_it_was_taken_over(base):
    sleeper = acquire(base)
    taker = acquire(base, stale=sleeper.token)
    assert taker is not None
    assert taker.held()
    assert not sleeper.held()
    sleeper.release()
    assert taker.held()
    assert acquire(base) is None
    taker.release()
    assert left(base) == []


def test_of_two_who_find_it_stale_one_takes_it(base):
    elsewhere(base)
    first = acquire(base, stale="t")
    assert first is not None
    assert acquire(base, stale="t") is None
    first.release()
    # What the second saw is gone altogether.
    assert Watch().stale(base) == ""


def test_a_view_from_before_the_slide_was_done_takes_nothing(base, monkeypatch):
    """It found the lease stale; before it acts another took over, finished and gave back."""
    elsewhere(base)
    real = leases._create

    def late(path, content):
        base.unlink()
        return real(path, content)

    monkeypatch.setattr(leases, "_create", late)
    assert acquire(base, stale="t") is None
    assert left(base) == []


@pytest.mark.skipif(not leases._boot(), reason="this system does not tell its processes apart")
def test_an_owner_killed_while_it_gave_its_lease_back_locks_nobody_out(base, other):
    other.send_signal(signal.SIGKILL)
    other.wait()
    taken = base.parent / leases.TAKEN
    taken.mkdir()
    base.rename(taken / "a.lease.3")  # 1 and 2 are gone already
    assert Watch().stale(base)
    lease = acquire(base)
    assert lease is not None
    assert lease.held()
    assert acquire(base) is None
    lease.release()
    assert left(base) == []


def test_a_lease_without_content_goes_stale_too(base):
    base.write_bytes(b"")
    clock = Clock()
    watch = Watch(stale_s=60, clock=clock)
    assert acquire(base) is None
    assert watch.stale(base) is None
    clock.now = 61
    lease = acquire(base, stale=watch.stale(base))
    assert lease is not None
    lease.release()


def test_file_systems_without_hard_links(base, monkeypatch):
    def unsupported(*_: object) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(leases.os, "link", unsupported)
    lease = acquire(base)
    assert lease is not None
    assert json.loads(base.read_bytes())["token"] == lease.token
    assert acquire(base) is None
    lease.release()
    assert left(base) == []


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        acquire(tmp_path / "none" / "a.lease")
