"""A lane: the process that works on slides, `python -m recontour.cohort.lane`.

One JSON a line. In: `{"task": …, "work": folder}`. Out: `{"ready": version}` when it listens,
`{"at": [stage, done, total]}` while it works, then `{"done": facts}` or `{"failed": sentence,
"kind": class}`. It works on one slide after another, so that Python, torch and the encoder are
loaded once; whatever a slide does to its process (a crash, a hang, all the memory) it does to a
lane, and the lane is replaced. It ends when its input closes: nothing outlives who asked.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from recontour import __version__

IDLE_S = 900.0
"""A lane that nobody asked anything for so long ends, and frees what it holds."""


def main() -> None:
    """Work on what comes in until nothing comes any more."""
    # Ctrl-C at the terminal, and what a scheduler sends to a whole job, is for whoever asked: it
    # ends this process by closing the pipe. Ended before, the slide would look as if it had failed.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # What a library prints must not end up between the messages.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    say = _Messages(out)
    asked: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin, asked), daemon=True).start()
    say(ready=__version__)
    while True:
        try:
            message = asked.get(timeout=IDLE_S)
        except queue.Empty:
            return
        say(**_work(message["task"], Path(message["work"]), say))


class _Messages:
    """Writes one message a line; from several threads."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._lock = out, threading.Lock()

    def __call__(self, **message: Any) -> None:
        with self._lock:
            self._out.write(json.dumps(message) + "\n")
            self._out.flush()


def _listen(source: TextIO, asked: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in source:
        asked.put(json.loads(line))
    os._exit(0)  # also in the middle of a slide: nobody waits for it


def _work(task: dict[str, Any], work: Path, say: Callable[..., None]) -> dict[str, Any]:
    from recontour.cohort.jobs import job_of, runtime_of
    from recontour.errors import RecontourError

    def progress(stage: str, done: int, total: int) -> None:
        say(at=[stage, done, total])

    try:
        return {"done": job_of(task["kind"])(task, work, runtime_of(task, progress))}
    except RecontourError as error:
        return {"failed": str(error), "kind": type(error).__name__}
    except MemoryError:
        return {"failed": "out of memory", "kind": "MemoryError"}
    except Exception as error:
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}", "kind": type(error).__name__}


if __name__ == "__main__":
    main()
