"""The encoder of `benchmarks/scale.py`, in a module that worker processes can import."""

from __future__ import annotations

from synthetic import SyntheticEncoder


class NarrowEncoder(SyntheticEncoder):
    """64 numbers a cell instead of 424, so that a thousand slides fit on a small disk."""

    identifier = "synthetic-narrow-1"
    mpp = 8.0
    dim = 64
