"""Refiners learn from coarse labels and answer with probabilities; they know arrays only."""

from __future__ import annotations

import inspect
from typing import Any, cast

from recontour import registry
from recontour.errors import UsageError
from recontour.types import Refiner

__all__ = ["make_refiner"]


def make_refiner(name: str, seed: int = 0, **options: Any) -> Refiner:
    """The refiner registered under `name`, with its hyper-parameters.

    Parameters
    ----------
    name : one of `registry.names("refiner")`
    seed : same seed, same data, same answer
    options : keyword-only hyper-parameters of the refiner

    Raises
    ------
    UnknownNameError : no such refiner; lists the known ones
    UsageError : the refiner has no such option (lists those it has), or the value makes no sense
    """
    factory = registry.lookup("refiner", name)
    known = _options(factory)
    unknown = sorted(set(options) - set(known))
    if unknown:
        has = ", ".join(known) if known else "none"
        raise UsageError(
            f"method {name!r} has no option {', '.join(map(repr, unknown))}; its options: {has}"
        )
    return cast(Refiner, factory(seed=seed, **options))


def _options(factory: Any) -> list[str]:
    parameters = inspect.signature(factory).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "seed"]
