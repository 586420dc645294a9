"""A bounded sample of a slide's cells, for refiners that learn from many slides at once.

The sample is an order of cells, so that a smaller sample is the beginning of a larger one: when
slides join a pool, those that are in it give fewer cells and need not be read again.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from recontour.types import PatchSet


def sample_order(patches: PatchSet, most: int, *, seed: int = 0) -> NDArray[np.intp]:
    """Labelled cells of a slide in the order in which they are drawn, `most` at most.

    Every beginning is stratified by label: each class has about the share of the cells that it
    has on the slide, but at least a third of what an even split would give it, as long as it has
    cells; otherwise a small lesion would be lost among the background. Within a class the order
    is random and depends on the seed, the slide's name and its labels only. Cells without label
    or without trust are not drawn.

    Parameters
    ----------
    most : cells drawn at most

    Returns
    -------
    (m,) rows of `patches`, each once, m = min(most, number of labelled cells)
    """
    name = hashlib.blake2b(patches.slide_id.encode(), digest_size=8).digest()
    rng = np.random.default_rng([seed, int.from_bytes(name, "little")])
    known = patches.labels >= 0
    if patches.trust is not None:
        known &= patches.trust > 0
    key = rng.random(len(patches))
    present = np.unique(patches.labels[known])
    rows, places = [], []
    for label in present:
        members = np.flatnonzero(known & (patches.labels == label))
        members = members[np.argsort(key[members], kind="stable")]
        share = max(len(members) / known.sum(), 0.5 / len(present))
        rows.append(members)
        # A class of twice the share is drawn twice as often.
        places.append((np.arange(len(members)) + key[members[0]]) / share)
    if not rows:
        return np.empty(0, np.intp)
    row, place = np.concatenate(rows), np.concatenate(places)
    order: NDArray[np.intp] = row[np.lexsort((row, place))][:most]
    return order


def take_cells(patches: PatchSet, rows: NDArray[np.intp]) -> PatchSet:
    """Some cells of a slide, in the order given."""
    grid = patches.grid
    return replace(
        patches,
        grid=replace(grid, rows=grid.rows[rows], cols=grid.cols[rows]),
        features=np.ascontiguousarray(patches.features[rows]),
        labels=patches.labels[rows],
        context=None if patches.context is None else np.ascontiguousarray(patches.context[rows]),
        trust=None if patches.trust is None else patches.trust[rows],
    )
