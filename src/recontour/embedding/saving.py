"""Saving features beside the computation, so that a slow disk does not hold it up."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from recontour.cache import Shards
from recontour.errors import OutputError

logger = logging.getLogger(__name__)

SAVE_BEHIND = 2  # shards not on disk yet; bounds what a kill costs


class Saver:
    """Writes shards in a thread of its own, in order.

    A cache that cannot be written costs a resume, not the run: what went wrong becomes a note.

    Parameters
    ----------
    shards : None keeps nothing

    Attributes
    ----------
    notes : sentences for the user
    seconds : spent writing
    seconds_waited : the computation waited for the disk
    """

    def __init__(self, shards: Shards | None) -> None:
        self._shards = shards
        self._pool = ThreadPoolExecutor(1, "recontour-save")
        self._pending: deque[Future[float]] = deque()
        self.notes: list[str] = []
        self.seconds = 0.0
        self.seconds_waited = 0.0

    def save(self, index: int, values: Mapping[str, NDArray[Any]]) -> None:
        """Write shard `index` soon; `values` must not change any more."""
        if self._shards is None:
            return
        self._pending.append(self._pool.submit(_write, self._shards, index, values))
        while len(self._pending) > SAVE_BEHIND:
            self._wait()

    def finish(self) -> None:
        """Wait until all is on disk."""
        while self._pending:
            self._wait()

    def _wait(self) -> None:
        start = time.perf_counter()
        try:
            self.seconds += self._pending.popleft().result()
        except OutputError as error:
            if not self.notes:
                self.notes.append(not_kept(error))
            self._shards = None
        self.seconds_waited += time.perf_counter() - start

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # What is computed is kept, even of a run that ends here.
        try:
            self.finish()
        finally:
            self._pool.shutdown(wait=True)


def not_kept(error: OutputError) -> str:
    """What a user is told of a cache that cannot be written."""
    logger.warning("features are not kept: %s", error)
    return f"features are not kept: {error}"


def _write(shards: Shards, index: int, values: Mapping[str, NDArray[Any]]) -> float:
    """Seconds it took."""
    start = time.perf_counter()
    shards.save(index, values)
    return time.perf_counter() - start
