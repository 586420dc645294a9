"""Executors: what carries out many tasks; chosen by name through the registry."""

from __future__ import annotations

from typing import cast

from recontour import registry
from recontour.executors.base import Executor, Item, Outcome, PreparingExecutor, Value, attempt

__all__ = [
    "Executor",
    "Item",
    "Outcome",
    "PreparingExecutor",
    "Value",
    "attempt",
    "make_executor",
]


def make_executor(name: str, *, jobs: int = 1, scheduler: str | None = None) -> Executor:
    """The executor registered under `name`.

    Parameters
    ----------
    jobs : tasks carried out side by side; `serial` takes one whatever is asked
    scheduler : address of a running cluster, for executors that use one; None: a local one

    Raises
    ------
    UnknownNameError : no such executor
    MissingExtraError : it needs a package that is not installed
    UsageError : these arguments do not go together
    """
    return cast(Executor, registry.lookup("executor", name)(jobs=jobs, scheduler=scheduler))
