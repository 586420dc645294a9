"""Several items at once in threads of this process."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from recontour.errors import UsageError
from recontour.executors.base import Item, Outcome, Value, attempt


class Threads:
    """See `recontour.executors.base.Executor`. `fn` should wait for something outside of Python.

    Parameters
    ----------
    jobs : threads
    scheduler : none is used; given, it is refused
    """

    def __init__(self, *, jobs: int = 2, scheduler: str | None = None) -> None:
        if scheduler is not None:
            raise UsageError("--scheduler is for --executor dask; threads run in this process")
        self._jobs = jobs
        self._stopped = False
        self._pool = ThreadPoolExecutor(jobs, "recontour-job")

    def map(
        self, fn: Callable[[Item], Value], items: Sequence[Item]
    ) -> Iterator[Outcome[Item, Value]]:
        """Call `fn` for `jobs` items at a time; the next begins when one is done."""
        self._stopped = False
        waiting = deque(items)
        finished: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        running = 0
        while waiting or running:
            # No more are handed out than run, so that a stop leaves nothing half begun.
            while waiting and running < self._jobs and not self._stopped:
                self._pool.submit(attempt, fn, waiting.popleft()).add_done_callback(finished.put)
                running += 1
            if not running:
                return
            # With a timeout Ctrl-C is noticed on every system.
            try:
                future = finished.get(timeout=0.5)
            except queue.Empty:
                continue
            running -= 1
            yield future.result()

    def stop(self) -> None:
        """Begin no further item."""
        self._stopped = True

    def close(self) -> None:
        """Wait for what runs."""
        self._pool.shutdown(wait=True, cancel_futures=True)
