"""One item after another, in the thread that asks: the executor to debug with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from recontour.errors import UsageError
from recontour.executors.base import Item, Outcome, Value, attempt


class Serial:
    """See `recontour.executors.base.Executor`; `jobs` changes nothing."""

    def __init__(self, *, jobs: int = 1, scheduler: str | None = None) -> None:
        if scheduler is not None:
            raise UsageError("--scheduler is for --executor dask; serial runs in this process")
        self._stopped = False

    def map(
        self, fn: Callable[[Item], Value], items: Sequence[Item]
    ) -> Iterator[Outcome[Item, Value]]:
        """Call `fn` for each item in turn."""
        self._stopped = False
        for item in items:
            if self._stopped:
                return
            yield attempt(fn, item)

    def stop(self) -> None:
        """Begin no further item."""
        self._stopped = True

    def close(self) -> None:
        """There is nothing to give back."""
