"""What the features can tell at best: a discriminant on the true labels, judged on other blocks."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from recontour.errors import RefinerError
from recontour.refiners.base import table
from recontour.refiners.discriminant import Projection, cross_fitted, softmax
from recontour.types import PatchGrid, PatchSet

BLOCKS = 50  # of tissue, about: ten a fold, so that folds are alike, and blocks as large as can be


def oracle_probs(
    patches: PatchSet,
    truth: NDArray[np.int8],
    *,
    seed: int = 0,
    folds: int = 5,
    block_cells: int | None = None,
) -> NDArray[np.float32]:
    """Probabilities from a discriminant that was trained on the truth of other parts of the slide.

    Not a refiner: it needs the answer. It marks what a refiner could reach with these features if
    every label it learned from were right. The slide is cut into square blocks of cells, the
    blocks are dealt into folds with about as many cells of each class, and each fold is predicted
    by a discriminant trained on the others, because neighbouring cells look alike and a cell
    beside a known one would be no test. Only the components (PCA, which sees no label) come from
    all cells. Cell and context, where there is one, have a discriminant each; their scores are
    averaged.

    A class that no training cell of a fold has gets probability 0 there; this happens where all
    of its cells lie in one block.

    Parameters
    ----------
    truth : int8 (n,), true classes; -1 where unknown, which trains nothing but is predicted
    seed : deals the blocks
    folds : at least 2; fewer are made where there are fewer blocks
    block_cells : side of a block in cells; None: so that the tissue fills about 50 blocks

    Returns
    -------
    float32 (n, K), rows sum to 1

    Raises
    ------
    RefinerError : the truth does not fit the cells, knows one class only or fills one block only
    """
    truth = np.asarray(truth).astype(np.intp)
    if truth.shape != (len(patches),):
        raise RefinerError(f"truth of shape {truth.shape} for {len(patches)} cells")
    classes = len(patches.classes)
    if folds < 2:
        raise RefinerError(f"folds={folds}: the oracle needs at least 2")
    if ((truth < -1) | (truth >= classes)).any():
        raise RefinerError(f"the truth must lie between -1 and {classes - 1}")
    if len(np.unique(truth[truth >= 0])) < 2:
        raise RefinerError(f"the truth of {patches.slide_id} has one class only; no oracle for it")
    fold = deal_blocks(patches.grid, truth, classes, folds, block_cells, seed)
    views = []
    for view in ("cell", "context"):
        if view == "context" and patches.context is None:
            continue
        cells = table([dataclasses.replace(patches, trust=None)], view)
        views.append(Projection.of(cells)(cells))
    return softmax(cross_fitted(views, truth, fold, classes)).astype(np.float32)


def deal_blocks(
    grid: PatchGrid,
    truth: NDArray[np.integer],
    classes: int,
    folds: int,
    block_cells: int | None,
    seed: int,
) -> NDArray[np.intp]:
    """(n,) which fold each cell is in, from 0; a block is never divided.

    The blocks are dealt in the order of the largest share they hold of any class, each to the fold
    that has least of what it holds.

    Raises
    ------
    RefinerError : all known cells lie in one block, or a block has no cells to a side
    """
    side = block_cells or max(1, round(math.sqrt(len(grid) / BLOCKS)))
    if side < 1:
        raise RefinerError(f"block_cells={side}: a block has at least one cell to a side")
    columns = grid.shape[1] // side + 1
    _, block = np.unique((grid.rows // side) * columns + grid.cols // side, return_inverse=True)
    # One column a class, one for the cells of unknown class: these are to be spread as well.
    counts = np.zeros((block.max() + 1, classes + 1))
    np.add.at(counts, (block, truth), 1)  # -1 is the last column
    if np.count_nonzero(counts[:, :classes].sum(axis=1)) < 2:
        raise RefinerError(
            f"all cells of known class lie in one block of {side} x {side} cells, so none is left "
            "to train on; use smaller blocks"
        )
    share = counts / np.maximum(counts.sum(axis=0), 1)
    known = share[:, :classes]
    # Equal blocks in random order.
    order = np.random.default_rng(seed).permutation(len(share))
    order = order[np.argsort(-known[order].max(axis=1), kind="stable")]
    load = np.zeros((min(folds, len(share)), classes + 1))
    fold_of = np.empty(len(share), np.intp)
    for b in order:
        # Of folds with equal loads of the block's classes, that with the least of everything.
        cost = load[:, :classes] @ known[b]
        equal = np.flatnonzero(cost <= cost.min() + 1e-12)
        fold_of[b] = equal[load[equal].sum(axis=1).argmin()]
        load[fold_of[b]] += share[b]
    return fold_of[block]
