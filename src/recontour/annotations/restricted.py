"""Pickles of plain data: dictionaries, lists, text and numbers come in, code never does.

A pickle is a little program that can call anything its reader lets it find. This one finds only
what a NumPy number needs, and not NumPy's own functions but stand-ins that make a Python number.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from recontour.errors import AnnotationError

LARGEST_BYTES = 2**30
"""A file of every outline of CAMELYON16 has a hundredth of that."""


def load_plain_pickle(path: Path) -> Any:
    """The data in a pickle, NumPy numbers as Python numbers.

    Raises
    ------
    AnnotationError : empty, damaged, too large; or it asks for anything but data: then nothing of
        it has been run, and the message names what it asked for
    """
    size = path.stat().st_size
    if size == 0:
        raise AnnotationError(f"{path.name} is empty (0 bytes); copy it again")
    if size > LARGEST_BYTES:
        raise AnnotationError(
            f"{path.name} has {size / 2**30:.1f} GiB, more than outlines need "
            f"({LARGEST_BYTES / 2**30:.0f} GiB at most); is it the right file?"
        )
    data = path.read_bytes()
    if data[:3] == b"$FL":
        raise AnnotationError(f"{path.name} is a file of SPSS, not one of outlines")
    try:
        return _DataUnpickler(io.BytesIO(data), path.name).load()
    except AnnotationError:
        raise
    except Exception as error:  # damaged pickles raise whatever they come across
        what = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise AnnotationError(
            f"{path.name} is not a pickle, or cut off or damaged: {what}; copy it again"
        ) from error


class _DataUnpickler(pickle.Unpickler):
    """Finds stand-ins for the parts of a NumPy number; refuses all else."""

    def __init__(self, file: io.BytesIO, name: str) -> None:
        super().__init__(file, encoding="latin1")  # as NumPy asks for pickles of Python 2
        self.name = name

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle gets that asks for `module.name`."""
        found = _STAND_INS.get((module, name))
        if found is None:
            raise AnnotationError(
                f"{self.name} asks for {module}.{name}, which is not data; nothing of it was run. "
                "Files of outlines hold dictionaries, lists and numbers only: do not open this one "
                "elsewhere, or ask its author for GeoJSON"
            )
        return found


class _Dtype:
    """Stands in for `numpy.dtype` of one plain number."""

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, …); the rest says nothing of a plain number.
        order = state[1]
        order = order.decode("ascii") if isinstance(order, bytes) else order
        if order in ("<", ">"):
            self.kind = order + self.kind.lstrip("<>|=")


class _MakeDtype:
    """`numpy.dtype(code, align, copy)`. Has no attributes, so that no pickle can change it."""

    __slots__ = ()

    def __call__(self, code: Any, *_: Any) -> _Dtype:
        text = code.decode("ascii") if isinstance(code, bytes) else code
        if not isinstance(text, str) or text.lstrip("<>|=") not in _NUMBERS:
            raise ValueError(f"a NumPy value of type {str(text)[:20]} is no number")
        return _Dtype(text)


class _MakeScalar:
    """`numpy.core.multiarray.scalar(dtype, bytes)`."""

    __slots__ = ()

    def __call__(self, dtype: _Dtype, raw: Any) -> Any:
        data = raw.encode("latin1") if isinstance(raw, str) else raw
        return np.frombuffer(data, np.dtype(dtype.kind), count=1)[0].item()


class _Latin1:
    """`_codecs.encode`, by which pickles up to protocol 2 write the bytes of a number."""

    __slots__ = ()

    def __call__(self, text: Any, *_: Any) -> bytes:
        return str(text).encode("latin1")


_NUMBERS = frozenset(
    (*(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f2", "f4", "f8", "b1")
)
_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "scalar"): _MakeScalar(),
    ("numpy._core.multiarray", "scalar"): _MakeScalar(),
    ("numpy", "dtype"): _MakeDtype(),
    ("_codecs", "encode"): _Latin1(),
}
