"""What an executor is: it maps one function over many small items and never fails with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar, runtime_checkable

from recontour.errors import RecontourError

Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Outcome(Generic[Item, Value]):
    """What became of one item: `value` is set where `error` is None, and the other way round.

    Attributes
    ----------
    error : a sentence
    seconds : that the function ran, on the clock of wherever it did
    """

    item: Item
    value: Value | None
    error: str | None
    seconds: float


@runtime_checkable
class Executor(Protocol):
    """Carries out a function for many items: here, in threads, or on other machines.

    Made by the registry as `Executor(jobs=4, scheduler=None)`.
    """

    def map(
        self, fn: Callable[[Item], Value], items: Sequence[Item]
    ) -> Iterator[Outcome[Item, Value]]:
        """Call `fn` for every item and give outcomes in order of completion.

        `fn` is a function at the top of a module; items and values are small and made of JSON
        types, since they may travel. An exception in `fn` becomes an `Outcome.error` and stops
        nothing else. Leaving the loop (also by Ctrl-C) drops the items that nobody has begun.
        An executor maps one sequence at a time, and as many after one another as wanted.
        """
        ...

    def stop(self) -> None:
        """Begin no further item of the `map` under way; what runs is finished and still given."""
        ...

    def close(self) -> None:
        """Wait for what runs and give back threads and connections; may be called twice."""
        ...


@runtime_checkable
class PreparingExecutor(Executor, Protocol):
    """An executor whose workers may be elsewhere, and not fit to take part."""

    def prepare(self, out: Path, inputs: Sequence[str] = (), *, device: str = "auto") -> None:
        """See that all workers share the folder `out`, see `inputs` and have this version.

        Raises
        ------
        ClusterError : some do not; names each
        """
        ...


def attempt(fn: Callable[[Item], Value], item: Item) -> Outcome[Item, Value]:
    """Call `fn(item)`; an exception becomes a sentence. Ctrl-C and the like pass through."""
    start = time.perf_counter()
    try:
        value = fn(item)
    except RecontourError as error:
        return Outcome(item, None, str(error), time.perf_counter() - start)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        return Outcome(item, None, what, time.perf_counter() - start)
    return Outcome(item, value, None, time.perf_counter() - start)
