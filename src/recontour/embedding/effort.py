"""What embedding took, what it waited for, and how near it came to the encoder's own speed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ALL_CACHED = "none: all from cache"


@dataclass(frozen=True)
class Effort:
    """Where the time of one embedding went.

    Attributes
    ----------
    cells : all of them
    from_cache : those that were not computed
    seconds : from the first to the last, of wall clock
    seconds_read : spent reading the slide, in threads beside the computation
    seconds_embed : spent in the encoder and in pooling
    seconds_wait : the computation waited for pixels
    seconds_save : spent writing features, in a thread beside the computation
    seconds_wait_save : the computation waited for that
    engine, precision : of the encoder; None where it has only one
    batch : the most windows (of a dense encoder) or patches in one pass
    """

    cells: int = 0
    from_cache: int = 0
    seconds: float = 0.0
    seconds_read: float = 0.0
    seconds_embed: float = 0.0
    seconds_wait: float = 0.0
    seconds_save: float = 0.0
    seconds_wait_save: float = 0.0
    engine: str | None = None
    precision: str | None = None
    batch: int = 0

    @property
    def cells_per_s(self) -> float | None:
        """Computed cells per second of wall clock; None where none was computed."""
        computed = self.cells - self.from_cache
        return computed / self.seconds if computed and self.seconds > 0 else None

    @property
    def share_of_limit(self) -> float | None:
        """Share of the time that the encoder was at work; 1: all else was hidden behind it."""
        if self.cells_per_s is None:
            return None
        return min(1.0, self.seconds_embed / self.seconds)

    @property
    def bottleneck(self) -> str:
        """What took most of the time that was not hidden: computing, reading or writing."""
        if self.cells_per_s is None:
            return ALL_CACHED
        took = {
            "computing": self.seconds_embed,
            "reading": self.seconds_wait,
            "writing": self.seconds_wait_save,
        }
        return max(took, key=lambda name: took[name])

    def facts(self) -> dict[str, Any]:
        """For `run.json`: JSON types, unrounded."""
        return {
            "cells_from_cache": self.from_cache,
            "seconds": self.seconds,
            "seconds_read": self.seconds_read,
            "seconds_embed": self.seconds_embed,
            "seconds_wait": self.seconds_wait,
            "seconds_save": self.seconds_save,
            "cells_per_s": self.cells_per_s,
            "share_of_limit": self.share_of_limit,
            "bottleneck": self.bottleneck,
            "engine": self.engine,
            "precision": self.precision,
            "batch": self.batch,
        }


def in_words(facts: Mapping[str, Any]) -> str:
    """One sentence of `Effort.facts`; also of those of older versions, which say less.

    >>> in_words({"cells_per_s": None, "bottleneck": "none: all from cache"})
    'all cells from the cache'
    """
    rate = facts.get("cells_per_s")
    if rate is None:
        return "all cells from the cache" if facts.get("bottleneck") == ALL_CACHED else ""
    speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
    how = " ".join(str(facts[name]) for name in ("engine", "precision") if facts.get(name))
    return (
        f"{speed} cells/s{f' ({how})' if how else ''}, {facts['share_of_limit']:.0%} of the "
        f"encoder's own speed; {facts['bottleneck']} was the bottleneck"
    )
