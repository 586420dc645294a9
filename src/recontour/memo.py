"""What was found out from arrays that do not change, kept with them for the next question."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

MOST_KEPT = 24
"""A run asks about a dozen things; what an older outline alone asked for is let go."""


class Memo:
    """Answers that hang on the features of a slide alone, not on its outline.

    A later outline of the same slide asks the same again: the answer is then at hand. Each is kept
    under a name and under the arrays it was made from, by identity: about other arrays than its
    own a memo keeps nothing, so that a copy of a `PatchSet` with other features is never
    answered with these. Safe to use from several threads; two that ask at once may both compute.

    Parameters
    ----------
    arrays : what answers are kept about; nobody changes them
    most : answers kept; the one used longest ago goes first
    """

    def __init__(self, *arrays: NDArray[Any] | None, most: int = MOST_KEPT) -> None:
        self._arrays = {id(array): array for array in arrays if array is not None}
        self._most = most
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def __reduce__(self) -> tuple[type[Memo], tuple[()]]:
        """A copy in another process has other arrays, so nothing is kept about them."""
        return Memo, ()

    def get(self, name: Hashable, of: Sequence[NDArray[Any]], compute: Callable[[], T]) -> T:
        """The answer `name` about the arrays `of`; computed where it is not at hand.

        An answer that is an array cannot be written on.
        """
        if not all(id(array) in self._arrays for array in of):
            return compute()
        key = (name, *(id(array) for array in of))
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                found: T = self._kept[key]
                return found
        found = compute()
        if isinstance(found, np.ndarray):
            found.setflags(write=False)
        with self._lock:
            self._kept[key] = found
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return found


def recall(
    memo: Memo | None, name: Hashable, of: Sequence[NDArray[Any]], compute: Callable[[], T]
) -> T:
    """`memo.get`, or without a memo just the answer."""
    return compute() if memo is None else memo.get(name, of, compute)


def content(*arrays: NDArray[Any]) -> bytes:
    """A digest of what arrays hold, to name an answer that depends on more than the features."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()
