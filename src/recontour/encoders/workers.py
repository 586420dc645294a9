"""Threads that compute strips of a map, each on one core."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

MAX_WORKERS = 16  # beyond, they wait for the interpreter more than they compute

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """Runs functions of tensors in threads of its own, without gradients.

    torch's own threads meet after every operation and wait by spinning: on a machine that is busy
    with other things this costs many times what it gains. Ours meet after every block, and sleep.

    Parameters
    ----------
    count : number of threads; None: as many as torch would use; 0: compute in the caller, where
        the device runs things side by side itself
    """

    def __init__(self, count: int | None = None) -> None:
        self._pool: ThreadPoolExecutor | None = None
        if count == 0:
            return
        before = torch.get_num_threads()
        count = max(1, min(before if count is None else count, MAX_WORKERS))
        ready = threading.Barrier(count + 1)

        def start() -> None:
            torch.set_num_threads(1)
            ready.wait()

        self._pool = ThreadPoolExecutor(count, "recontour-embed", initializer=start)
        for _ in range(count):
            self._pool.submit(int)  # a thread starts only when there is work
        ready.wait()
        torch.set_num_threads(before)  # holds for the caller; the workers keep theirs

    def run(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """`function` of each item, in order."""

        def guarded(item: Item) -> Result:
            with torch.inference_mode():
                return function(item)

        return list(map(guarded, items) if self._pool is None else self._pool.map(guarded, items))

    def fill_rows(
        self, out: torch.Tensor, rows: Callable[[int, int], torch.Tensor], strip: int
    ) -> torch.Tensor:
        """Fill `out` (B, C, H, W) from `rows(start, stop)`, `strip` rows at a time; gives `out`.

        The strips do not depend on the number of threads, so the result does not either.
        """
        height = out.shape[2]
        strip = height if self._pool is None else strip

        def fill(start: int) -> None:
            stop = min(start + strip, height)
            out[:, :, start:stop] = rows(start, stop)

        self.run(fill, range(0, height, strip))
        return out
