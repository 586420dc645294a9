"""Several outlines of one slide: the label most of them give a cell, and how far to trust it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recontour.types import COARSE_TRUST, UNLABELLED

MOST_TRUST = 0.98
"""People misread the same tissue: agreement alone never makes a label certain."""


def agree(
    outlines: Sequence[NDArray[np.integer]], classes: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Join the labels of several annotators.

    Each is taken to be right with probability `COARSE_TRUST`, independently of the others, and to
    err evenly between the other classes. The label is then the majority's, and its trust the
    posterior probability of that class, p_c ∝ t^v_c ((1 - t) / (K - 1))^(N - v_c) for v_c votes of
    N (Dawid and Skene 1979, with errors known beforehand); one annotator alone gives
    `COARSE_TRUST`. Annotators are not quite independent: trust stays at or below 0.98. Where
    classes tie, the cell is not labelled and its trust is 0.

    Parameters
    ----------
    outlines : at least one int (n,), -1 where an annotator says nothing
    classes : K

    Returns
    -------
    int8 (n,) labels, float32 (n,) trust in [0, 0.98]
    """
    given = np.stack([np.asarray(labels) for labels in outlines])
    votes = np.stack([(given == k).sum(axis=0) for k in range(classes)], axis=1)
    ordered = np.sort(votes, axis=1)
    tie = ordered[:, -1] == ordered[:, -2]
    right, wrong = np.log(COARSE_TRUST), np.log((1 - COARSE_TRUST) / (classes - 1))
    chance = votes * (right - wrong)
    chance = np.exp(chance - chance.max(axis=1, keepdims=True))
    trust = 1 / chance.sum(axis=1)
    labels = np.where(tie, UNLABELLED, votes.argmax(axis=1)).astype(np.int8)
    return labels, np.where(tie, 0.0, np.minimum(trust, MOST_TRUST)).astype(np.float32)
