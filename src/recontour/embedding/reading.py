"""Reading ahead: pixels are there when the encoder wants them, and no more of them than needed."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from recontour.embedding.blocks import Block, BlockComputer, Pixels
from recontour.types import PlanningSlide, Slide

READ_AHEAD = 3  # windows read before they are needed; bounds the memory


@dataclass(frozen=True)
class Ready:
    """A block with its pixels, and the seconds that reading them took."""

    block: Block
    pixels: Pixels
    seconds: float


def read_ahead(
    slide: Slide,
    computer: BlockComputer,
    blocks: Sequence[Block],
    *,
    threads: int,
    ahead: int = READ_AHEAD,
) -> Generator[Ready, None, None]:
    """The blocks in order, `ahead` of them read before they are asked for.

    A slide that can plan its reads is told all of them beforehand.
    """

    def read(block: Block) -> Ready:
        start = time.perf_counter()
        return Ready(block, computer.read(block), time.perf_counter() - start)

    waiting: deque[Future[Ready]] = deque()
    pool = ThreadPoolExecutor(max(1, min(threads, ahead)), "recontour-read")
    with _planned(slide, computer, blocks):
        try:
            for block in blocks:
                waiting.append(pool.submit(read, block))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # On an error or Ctrl-C the reads that have not begun are dropped.
            pool.shutdown(wait=True, cancel_futures=True)


def group(
    ready: Iterator[Ready], most: Callable[[], int], alike: Callable[[Block, Block], bool]
) -> Iterator[list[Ready]]:
    """What goes through the encoder together: up to `most()` blocks in a row that are alike."""
    together: list[Ready] = []
    for one in ready:
        if together and (len(together) >= most() or not alike(together[0].block, one.block)):
            yield together
            together = []
        together.append(one)
        if len(together) >= most():
            yield together
            together = []
    if together:
        yield together


def _planned(
    slide: Slide, computer: BlockComputer, blocks: Sequence[Block]
) -> contextlib.AbstractContextManager[None]:
    if not blocks or not isinstance(slide, PlanningSlide):
        return contextlib.nullcontext()
    return slide.plan_reads([region for block in blocks for region in computer.regions(block)])
