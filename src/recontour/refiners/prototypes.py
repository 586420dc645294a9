"""Prototypes: typical cells of each slide, and of all slides together (arXiv 2503.19407)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recontour.errors import RefinerError
from recontour.refiners.base import CHUNK, Cells, ZScore, unit_rows
from recontour.refiners.kmeans import STARTS, kmeans

MOST_LOCAL = 16
CELLS_A_PROTOTYPE = 50
MOST_GLOBAL = 32
MOST_ROWS = 50_000
"""Of a larger slide so many cells, drawn at random, make the prototypes: 85 MB at d = 424."""


def directions(cells: Cells, index: NDArray[np.intp], scale: ZScore | None) -> NDArray[np.float32]:
    """The cells `index` (m,) as unit vectors, float32 (m, d).

    `scale` standardises first, so that a feature with a large offset does not make all cells look
    alike; None: the embedding as it is, as the paper has it.

    Raises
    ------
    RefinerError : a feature is NaN or infinite
    """
    out = np.empty((len(index), cells.dim), np.float32)
    for i in range(0, len(index), CHUNK):
        rows = cells.rows(index[i : i + CHUNK])
        out[i : i + CHUNK] = unit_rows(rows if scale is None else scale(rows))
    return out


def count_local(cells: int, k_local: int | None) -> int:
    """How many prototypes a slide of `cells` cells gets: min(16, cells / 50), at least 2.

    Raises
    ------
    RefinerError : the number asked for is larger than the number of cells
    """
    if k_local is None:
        return min(max(2, min(MOST_LOCAL, cells // CELLS_A_PROTOTYPE)), cells)
    if k_local > cells:
        raise RefinerError(
            f"k_local={k_local} prototypes of a slide with {cells} labelled cells; ask for fewer"
        )
    return k_local


def local_prototypes(
    x: NDArray[np.float32], k_local: int | None = None, *, seed: int = 0, starts: int = STARTS
) -> NDArray[np.float32]:
    """Step 1: the K-means centres of one slide's cells, as unit vectors.

    Parameters
    ----------
    x : float32 (n, d), unit rows
    k_local : how many; None: min(16, n / 50), at least 2

    Returns
    -------
    float32 (k, d), unit rows; fewer than asked for where fewer cells are distinct
    """
    k = count_local(len(x), k_local)
    if len(x) > MOST_ROWS:
        x = x[np.random.default_rng(seed).choice(len(x), MOST_ROWS, replace=False)]
    return unit_rows(kmeans(x, k, seed=seed, starts=starts))


def global_prototypes(
    local: Sequence[NDArray[np.float32]],
    k_global: int | None = None,
    *,
    seed: int = 0,
    starts: int = STARTS,
) -> NDArray[np.float32]:
    """Step 2: K-means on the local prototypes of all slides, as unit vectors.

    Every local prototype counts once, however many cells it stands for: a pattern that is rare on
    every slide is still a prototype of each, and survives. Of one slide the local ones are kept.

    Parameters
    ----------
    local : for each slide float32 (k_i, d), unit rows
    k_global : how many; None: min(32, the number of local prototypes)

    Raises
    ------
    RefinerError : more are asked for than there are local prototypes
    """
    if len(local) == 1:
        return local[0]
    stacked = np.concatenate(local)
    if k_global is not None and k_global > len(stacked):
        raise RefinerError(
            f"k_global={k_global} of {len(stacked)} local prototypes; ask for fewer, or for more "
            "with k_local"
        )
    k = min(MOST_GLOBAL, len(stacked)) if k_global is None else k_global
    return unit_rows(kmeans(stacked, k, seed=seed, starts=starts))


def cosines(
    cells: Cells, index: NDArray[np.intp], scale: ZScore | None, prototypes: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Step 3: cosine of the cells `index` (m,) to each prototype (G, d): float32 (m, G)."""
    out = np.empty((len(index), len(prototypes)), np.float32)
    for i in range(0, len(index), CHUNK):
        out[i : i + CHUNK] = directions(cells, index[i : i + CHUNK], scale) @ prototypes.T
    return out
