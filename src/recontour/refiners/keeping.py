"""What a fitted refiner has learned, as arrays and JSON: kept in a file, loaded without running it.

Nothing is pickled, so a file from elsewhere can hold wrong numbers but no code.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from recontour import registry
from recontour.errors import RefinerError, UsageError
from recontour.refiners import make_refiner
from recontour.refiners.base import ZScore
from recontour.types import Refiner

SCHEMA = "recontour.refiner/1"
FACTS = "facts"  # name of the JSON among the arrays

# RuntimeError: a flipped bit can make a member encrypted, or packed in a way that is not known.
_DAMAGED = (
    *(OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True)
class Learned:
    """What a fit found.

    Attributes
    ----------
    arrays : by name; no objects
    facts : JSON types
    """

    arrays: Mapping[str, NDArray[Any]]
    facts: Mapping[str, Any]


@runtime_checkable
class KeepableRefiner(Refiner, Protocol):
    """A refiner that can hand over what it has learned, and go on from it elsewhere.

    `learned` raises RefinerError before any fit. A refiner of the same options that was told to
    `recall` it answers bit for bit like the one that was fitted.
    """

    def learned(self) -> Learned:
        """What the last fit found."""
        ...

    def recall(self, learned: Learned) -> None:
        """Take the place of a fit; `learned` came from `learned()` of the same refiner."""
        ...


def scale_arrays(scale: ZScore) -> dict[str, NDArray[np.float32]]:
    """A standardisation as arrays."""
    return {"mean": scale.mean, "std": scale.std}


def scale_of(arrays: Mapping[str, NDArray[Any]]) -> ZScore:
    """From `scale_arrays`.

    Raises
    ------
    ValueError : they are none
    """
    mean, std = arrays["mean"], arrays["std"]
    if mean.ndim != 1 or mean.shape != std.shape or {mean.dtype.kind, std.dtype.kind} != {"f"}:
        raise ValueError(f"mean and spread are {mean.dtype} {mean.shape}, {std.dtype} {std.shape}")
    return ZScore(mean, std)


def check_shape(values: NDArray[Any], shape: tuple[int, ...]) -> None:
    """Refuse an array that is not what `recall` needs; torch would stretch some to fit.

    Raises
    ------
    ValueError
    """
    if values.shape != shape or values.dtype.kind != "f":
        raise ValueError(f"{values.dtype} {values.shape} where floats {shape} are needed")


def can_keep(name: str) -> bool:
    """Whether what the refiner of that name learns can be kept."""
    refiner = registry.lookup("refiner", name)
    return hasattr(refiner, "learned") and hasattr(refiner, "recall")


def learned_of(refiner: Refiner) -> Learned:
    """What a fitted refiner has learned.

    Raises
    ------
    UsageError : it cannot say
    RefinerError : it has not learned yet
    """
    if not hasattr(refiner, "learned"):
        raise UsageError(
            f"{type(refiner).__name__} cannot say what it has learned (`learned` and `recall`), so "
            "it cannot be fitted here and used elsewhere"
        )
    return cast(KeepableRefiner, refiner).learned()


def digest_of(refiner: Refiner) -> str:
    """Hex SHA-256 of everything a fitted refiner has learned.

    Raises
    ------
    UsageError : it cannot say what it has learned
    RefinerError : it has not learned yet
    """
    learned = learned_of(refiner)
    found = hashlib.sha256(type(refiner).__qualname__.encode())
    found.update(json.dumps(learned.facts, sort_keys=True).encode())
    for name, values in sorted(learned.arrays.items()):
        found.update(f"{name}{values.dtype.str}{values.shape}".encode())
        found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()


def pack(
    refiner: Refiner, name: str, seed: int, options: Mapping[str, Any], about: Mapping[str, Any]
) -> bytes:
    """A fitted refiner as the bytes of an `.npz` archive.

    Parameters
    ----------
    name, seed, options : what `make_refiner` made it from
    about : further facts (JSON types), read back by `unpack`

    Raises
    ------
    UsageError : it cannot say what it has learned
    """
    learned = learned_of(refiner)
    facts = {
        "schema": SCHEMA,
        "method": name,
        "seed": seed,
        "options": dict(options),
        "about": dict(about),
        "learned": dict(learned.facts),
    }
    text = np.frombuffer(json.dumps(facts, sort_keys=True).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{FACTS: text}, **learned.arrays)
    return buffer.getvalue()


def unpack(data: bytes) -> tuple[Refiner, dict[str, Any]]:
    """The refiner that was packed, ready to answer, and what was said about it.

    Raises
    ------
    RefinerError : not such an archive, a damaged one, or one of another version
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        facts = json.loads(arrays.pop(FACTS).tobytes())
        schema = facts["schema"]
    except _DAMAGED as error:
        raise RefinerError(
            "no fitted refiner, or a damaged one; delete the file, and the same command makes it "
            "again"
        ) from error
    if schema != SCHEMA:
        raise RefinerError(
            f"a fitted refiner of schema {schema!r}, where {SCHEMA!r} is read; delete the file, "
            "and the same command makes it again"
        )
    try:
        about = dict(facts["about"])
        refiner = make_refiner(facts["method"], seed=facts["seed"], **facts["options"])
        cast(KeepableRefiner, refiner).recall(Learned(arrays, facts["learned"]))
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise RefinerError(
            f"what {facts.get('method')} learned does not fit this version of it ({error}); delete "
            "the file, and the same command makes it again"
        ) from error
    return refiner, about
