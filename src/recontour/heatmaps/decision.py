"""From the probabilities of a heat map to a decision for every cell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from recontour.errors import UnknownNameError
from recontour.heatmaps.reading import HeatMap
from recontour.postprocess import (
    PRESETS,
    clean_labels,
    decide_published,
    rules_for,
    smooth_probs,
)
from recontour.recipe import Recipe


def decide(heatmap: HeatMap, postprocess: str = "default") -> NDArray[np.bool_]:
    """From probabilities to a decision for every cell of the lattice.

    `published` is what the LC-MIL code does (`postprocess.decide_published`): σ = 1, > 0.6, nothing
    of fewer than 100 cells. `default` and `none` are recontour's own rules, as `refine` applies
    them.

    Returns
    -------
    bool (rows, cols)

    Raises
    ------
    UnknownNameError : no such post-processing
    """
    if postprocess not in PRESETS:
        raise UnknownNameError.of("post-processing", postprocess, PRESETS)
    lattice, tissue = heatmap.lattice(), heatmap.tissue
    rows, cols = (index.astype(np.int32) for index in np.nonzero(tissue))
    grid = replace(lattice, rows=rows, cols=cols)
    rules = rules_for(Recipe(postprocess=postprocess), grid)
    if not rules.over_tissue:
        return decide_published(heatmap.values, rules)
    p = heatmap.values[tissue].astype(np.float32)
    probs = np.stack([1 - p, p], axis=1)
    smooth = smooth_probs(grid, probs, rules)
    decided: NDArray[np.bool_] = clean_labels(grid, smooth, rules, raw=probs) == 1
    return decided
