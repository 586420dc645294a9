"""Refiners learn from coarse labels and answer with probabilities; they know arrays only."""

from __future__ import annotations

import inspect
from typing import Any, cast

from recontour import registry
from recontour.errors import UsageError
from recontour.types import Refiner

__all__ = ["make_refiner", "smoothing_of"]

SMOOTH_CELLS = 0.7
"""σ of the smoothing that probabilities of single cells need, in cells."""


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


def smoothing_of(name: str) -> float:
    """σ in cells of the smoothing that the probabilities of a refiner need: 0.7 unless it says.

    A refiner that has looked at the surroundings of a cell itself says so in the attribute
    `smooth_cells`.
    """
    if name not in registry.names("refiner"):
        return SMOOTH_CELLS  # what only a benchmark knows: the coarse outline, the oracle
    return float(getattr(registry.lookup("refiner", name), "smooth_cells", SMOOTH_CELLS))


def _options(factory: Any) -> list[str]:
    parameters = inspect.signature(factory).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "seed"]
