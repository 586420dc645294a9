"""Which slides take part: those whose lesion is neither nearly nothing nor nearly everything."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEAST_SHARE, MOST_SHARE = 0.1, 0.9
"""Of the tissue cells, both included (LC-MIL paper: 10 % to 90 %)."""


def lesion_share(labels: NDArray[np.integer]) -> float:
    """Share of the tissue cells that are lesion, of any class.

    Parameters
    ----------
    labels : (n,) the true label of every tissue cell, 0 background, -1 not known

    Returns
    -------
    In [0, 1]; 0 where no cell's label is known
    """
    known = labels >= 0
    return float((labels[known] > 0).mean()) if known.any() else 0.0


def is_included(share: float) -> bool:
    """Whether a slide with that share of lesion takes part."""
    return LEAST_SHARE <= share <= MOST_SHARE
