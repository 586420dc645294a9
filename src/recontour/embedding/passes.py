"""How much goes through the encoder at once: as much as fits, found by trying."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

from recontour.errors import EncoderError
from recontour.types import Encoder

Result = TypeVar("Result")


class Passes:
    """Sends windows or patches through an encoder, fewer at a time when memory runs out.

    An encoder on a device with memory of its own says `at_once`, how many it thinks fit. What is
    found to fit is written there, so that the next slide does not try again.

    Parameters
    ----------
    usual : how many at once where the encoder does not say; None: as many as there are

    Attributes
    ----------
    at_once : how many now; None: as many as there are
    largest : the most that went through so far
    """

    def __init__(self, encoder: Encoder, usual: int | None) -> None:
        self._encoder = encoder
        self.at_once: int | None = getattr(encoder, "at_once", None) or usual
        self.largest = 0

    def run(self, function: Callable[[slice], list[Result]], count: int) -> list[Result]:
        """All that `function` gives for consecutive parts of `count` items.

        Raises
        ------
        EncoderError : a single one does not fit into the memory of the device
        """
        results: list[Result] = []
        start = 0
        while start < count:
            size = min(self.at_once or count, count - start)
            if (fresh := self._try(function, slice(start, start + size))) is None:
                # Only here is the failed attempt, with all that it held, forgotten.
                self._shrink(size)
                continue
            results += fresh
            start += size
            self.largest = max(self.largest, size)
        return results

    def _try(self, function: Callable[[slice], list[Result]], part: slice) -> list[Result] | None:
        """What `function` gives, or None when it ran out of memory and fewer may still fit."""
        try:
            return function(part)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if part.stop - part.start > 1:
                return None
            if isinstance(error, MemoryError):
                raise
            raise EncoderError(
                f"encoder {self._encoder.identifier}: the device has not the memory for a single "
                "pass; free some, or pass --device cpu or a larger --mpp-embed"
            ) from error

    def _shrink(self, size: int) -> None:
        self.at_once = size // 2
        if hasattr(self._encoder, "at_once"):
            self._encoder.at_once = self.at_once
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, of the machine or of a device.

    CUDA has a type of error for this; MPS and torch's allocator for the CPU only say so.
    """
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError):
        return True
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in said or "can't allocate memory" in said
    )
