"""The lanes of this process: started when needed, kept for many slides, replaced when they die."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from recontour.cohort.gpus import environment, least_used
from recontour.cohort.lane import IDLE_S
from recontour.errors import LaneError

COMMAND = (sys.executable, "-m", "recontour.cohort.lane")
STALL_S = 3600.0
"""A slide from which nothing was heard for an hour hangs: the longest silent step is learning."""
START_S = 900.0
"""Python starts slowly where hundreds start at once from one network folder."""
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
FRESH_S = IDLE_S / 2
"""A lane that was idle for longer is not asked again: it might be about to end."""
_POLL_S = 0.5
_PATIENCE_S = 30.0
_TAIL = 2000

Heard = Callable[[str, int, int], None]


class LaneStopped(Exception):  # noqa: N818  # no failure of the slide: the whole run is ending
    """The lanes of this process are being ended."""


class JobFailedError(LaneError):
    """A job ended with an error of its own; `kind` is the name of its class."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class Lane:
    """One child process; works on one task at a time.

    Parameters
    ----------
    threads : for its arithmetic; None: the libraries' choice
    gpu : the only one it sees; None: all
    """

    def __init__(self, threads: int | None = None, gpu: str | None = None) -> None:
        self.gpu = gpu
        env = {**os.environ, **environment(gpu)}
        if threads is not None:
            env.update(dict.fromkeys(_THREADS, str(threads)))
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the lane
        try:
            self._process = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=env,
            )
        except OSError as error:
            self._errors.close()
            raise LaneError(f"no process for it can be started: {error.strerror}") from error
        self.idle_since = 0.0
        self._ready = False
        self._heard: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._stopped = False
        self._reader = threading.Thread(target=self._read, name="recontour-lane", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the child can take a task."""
        return self._process.poll() is None and not self._stopped

    def run(
        self, task: Mapping[str, Any], work: Path, heard: Heard, timeout_s: float | None
    ) -> dict[str, Any]:
        """Work on a task until it is done; the child is ended when it takes too long.

        Raises
        ------
        JobFailedError : the job failed; the lane goes on
        LaneError : the child died, or was ended because it took too long
        LaneStopped : `stop` was called
        """
        begun = spoke = time.monotonic()
        self._send({"task": dict(task), "work": str(work)})
        while True:
            try:
                line = self._heard.get(timeout=_POLL_S)
            except queue.Empty:
                self._check_time(begun, spoke, timeout_s)
                continue
            if line is None:
                raise self._died()
            message = json.loads(line)
            spoke = time.monotonic()
            if "ready" in message:
                self._ready, begun = True, spoke
            elif "done" in message:
                return dict(message["done"])
            elif "failed" in message:
                raise JobFailedError(message["failed"], message["kind"])
            else:
                heard(*message["at"])
            self._check_time(begun, spoke, timeout_s)

    def stop(self) -> None:
        """End the child at once; whoever waits for it gets `LaneStopped`."""
        self._stopped = True
        self.close()

    def close(self) -> None:
        """End the child and wait for its end."""
        with contextlib.suppress(OSError):
            self._process.kill()
        # A process that waits for a dead disk cannot be ended; nobody waits for it.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE_S)
        self._reader.join(_PATIENCE_S)
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except (OSError, ValueError):
            raise self._died() from None

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._heard.put(line)
        self._heard.put(None)

    def _check_time(self, begun: float, spoke: float, timeout_s: float | None) -> None:
        now = time.monotonic()
        if not self._ready:  # no fault of the slide, and not of its time
            if now - begun > START_S:
                self.close()
                raise LaneError(f"its process did not start within {START_S / 60:g} min")
            return
        if timeout_s is not None and now - begun > timeout_s:
            what = f"not done within {timeout_s / 60:g} min (--timeout)"
        elif now - spoke > STALL_S:
            what = f"hangs: nothing was heard of it for {STALL_S / 60:g} min"
        else:
            return
        self.close()
        raise LaneError(f"{what}; its process was ended")

    def _died(self) -> Exception:
        if self._stopped:
            return LaneStopped()
        code = self._process.wait()
        last = self._last_words()
        self.close()
        how = f"ended with exit code {code}"
        if code < 0:
            with contextlib.suppress(ValueError):
                how = f"was ended by {signal.Signals(-code).name}"
        if code == -9:
            how += " (often the system's answer to too little memory)"
        return LaneError(f"the process working on it {how}" + (f": {last}" if last else ""))

    def _last_words(self) -> str:
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - _TAIL))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else ""


class Lanes:
    """All lanes of this process; a task borrows one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[tuple[int | None, str], list[Lane]] = {}
        self._busy: set[Lane] = set()
        self._stopping = False

    @contextlib.contextmanager
    def borrow(self, threads: int | None = None, device: str = "auto") -> Iterator[Lane]:
        """A lane of its own for a while: one that is idle, else a new one.

        Where there are several GPUs, lanes for `auto` and `cuda` are spread over them.

        Raises
        ------
        LaneStopped : `stop` was called
        """
        with self._lock:
            if self._stopping:
                raise LaneStopped
            idle = self._idle.setdefault((threads, device), [])
            lane = None
            while idle and lane is None:
                lane = _alive(idle.pop())
            lane = lane or Lane(threads, least_used(device, self._gpus_used()))
            self._busy.add(lane)
        try:
            yield lane
        except JobFailedError:
            raise
        except BaseException:  # also Ctrl-C: what it is at is no longer wanted
            lane.stop()
            raise
        finally:
            with self._lock:
                self._busy.discard(lane)
                if lane.alive:
                    lane.idle_since = time.monotonic()
                    self._idle.setdefault((threads, device), []).append(lane)

    def stop(self) -> None:
        """End every lane at once; nothing is begun until `close`."""
        with self._lock:
            self._stopping = True
            for lane in self._busy:
                lane.stop()

    def close(self) -> None:
        """End the idle lanes; from now on new ones may be started again."""
        with self._lock:
            for lane in (lane for idle in self._idle.values() for lane in idle):
                lane.close()
            self._idle.clear()
            self._stopping = False

    def _gpus_used(self) -> list[str | None]:
        idle = (lane for lanes in self._idle.values() for lane in lanes)
        return [lane.gpu for lane in (*self._busy, *idle)]

    def pids(self) -> list[int]:
        """Of the children that are at work."""
        with self._lock:
            return [lane.pid for lane in self._busy]


def _alive(lane: Lane) -> Lane | None:
    """The lane, unless its process ended while it was idle, or is about to."""
    if lane.alive and time.monotonic() - lane.idle_since < FRESH_S:
        return lane
    lane.close()
    return None


LANES = Lanes()
"""Of this process: they outlive a task, so that the next one finds everything loaded."""
