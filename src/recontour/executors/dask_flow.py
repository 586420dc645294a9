"""The tasks of one `map` on their way through a Dask cluster: waiting, running, suspected."""

from __future__ import annotations

import pickle
import queue
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import distributed

from recontour.executors.on_worker import MESSAGE_LIMIT, Check, UnfitWorkerError, call, too_large

FETCH_S = 30.0
"""How long fetching a small answer may take before the scheduler is asked whether it is there."""


@dataclass(frozen=True)
class Sent:
    """A task on its way: its item, since when, and whether nothing else was running."""

    item: Any
    since: float
    alone: bool


class Flow:
    """Hands out no more tasks than there is room for; takes back what dying workers leave.

    Attributes
    ----------
    done : items that have their outcome
    total : all items
    """

    def __init__(self, fn: Callable[[Any], Any], items: Sequence[Any], check: Check | None) -> None:
        self.done = 0
        self.total = len(items)
        self._fn = fn
        self._check = check
        self._waiting = deque(items)
        self._suspects: deque[Any] = deque()
        self._running: dict[Any, Sent] = {}
        self._finished: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def __bool__(self) -> bool:
        """Whether anything is left to do."""
        return bool(self._waiting or self._suspects or self._running)

    @property
    def running(self) -> list[Any]:
        """The futures on their way."""
        return list(self._running)

    def refuse_large(self) -> Iterator[tuple[Any, str]]:
        """Take out the items that are too large to travel: (item, sentence)."""
        fitting: deque[Any] = deque()
        for item in self._waiting:
            if (size := len(pickle.dumps(item))) > MESSAGE_LIMIT:
                self.done += 1
                yield item, too_large("task", size)
            else:
                fitting.append(item)
        self._waiting = fitting

    def hand_out(self, client: Any, room: int, resources: dict[str, float] | None) -> None:
        """Submit tasks until `room` are on their way; a suspect only when nothing else is."""
        alone = not self._waiting
        source = self._waiting or self._suspects
        while source and len(self._running) < (1 if alone else room):
            item = source.popleft()
            key = f"recontour-{uuid.uuid4().hex}"
            future = client.submit(
                call, self._fn, item, self._check, key=key, resources=resources, pure=False
            )
            self._await(future, Sent(item, time.perf_counter(), alone))

    def take_back(self, timeout: float) -> tuple[Sent, Any] | None:
        """The next task that came to an end, with its answer or exception; None: not yet.

        Raises
        ------
        FutureCancelledError, OSError : the scheduler was lost
        """
        try:
            future = self._finished.get(timeout=timeout)
        except queue.Empty:
            return None
        sent = self._running.pop(future)
        if future.status == "cancelled":
            raise distributed.client.FutureCancelledError(future.key, "scheduler-connection-lost")
        try:
            answer = future.result(timeout=FETCH_S)
        except (distributed.client.FutureCancelledError, OSError) as error:
            if not isinstance(error, TimeoutError):
                raise
            # Its worker died with the answer: it is being worked out again, for as long as it
            # takes. Whether the scheduler is there at all is looked at elsewhere.
            self._await(future, sent)
            return None
        except Exception as error:
            answer = error
        if isinstance(answer, UnfitWorkerError):
            self._waiting.appendleft(sent.item)
        elif isinstance(answer, distributed.KilledWorker) and not sent.alone:
            # Whoever shared a worker with the culprit is suspected too: each is tried alone.
            self._suspects.append(sent.item)
            return None
        else:
            self.done += 1
        return sent, answer

    def _await(self, future: Any, sent: Sent) -> None:
        self._running[future] = sent
        future.add_done_callback(self._finished.put)
