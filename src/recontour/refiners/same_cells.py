"""Which cells to predict are the very cells that a refiner was fitted on."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from recontour.refiners.base import table
from recontour.types import PatchSet


def cell_keys(patches: PatchSet, views: str) -> NDArray[np.uint64]:
    """uint64 (n,), alike for a cell of the same slide, place and features, else different.

    Features count as float32, so their stored type does not matter. Two copies of one patch in
    different places are different cells; a cell is the same cell in a subset of its slide. (Two
    different cells share a key with a chance of less than one in a billion.)
    """
    name = hashlib.blake2b(patches.slide_id.encode(), digest_size=8).digest()
    slide = np.frombuffer(name, np.uint64)
    place = np.stack([patches.grid.rows, patches.grid.cols], axis=1).astype(np.uint64)
    cells = table([patches], views)
    factors = np.random.default_rng(0).integers(0, 2**64, cells.dim + 2, np.uint64) | np.uint64(1)
    keys = place @ factors[:2] + slide  # wraps around, as it should
    for rows, x in cells.chunks():
        keys[rows] += x.view(np.uint32).astype(np.uint64) @ factors[2:]
    return keys


def find_keys(wanted: NDArray[np.uint64], keys: NDArray[np.uint64]) -> NDArray[np.intp]:
    """(m,) where in `keys` each of `wanted` is (the first), -1 where it is not."""
    order = np.argsort(keys, kind="stable")
    place = np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)
    found = order[place]
    return np.where(keys[found] == wanted, found, -1)
