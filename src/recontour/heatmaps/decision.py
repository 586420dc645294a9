"""From the probabilities of a heat map to a decision for every cell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recontour.errors import UnknownNameError
from recontour.heatmaps.reading import HeatMap
from recontour.postprocess import PRESETS, clean_labels, rules_for, small_parts, smooth_probs
from recontour.recipe import Recipe

SIGMA_CELLS, THRESHOLD, MIN_CELLS = 1.0, 0.6, 100
"""The published post-processing."""


def decide(heatmap: HeatMap, postprocess: str = "default") -> NDArray[np.bool_]:
    """From probabilities to a decision for every cell of the lattice.

    `published` is what the LC-MIL code does: 0 off tissue, scikit-image's Gaussian of σ = 1 (in the
    map's own precision, edges repeated, four σ), > 0.6, objects and then holes of fewer than 100
    cells removed; all on the whole lattice. A map of only 0 and 1 goes straight to the morphology.
    `default` and `none` are recontour's own rules, as `refine` applies them.

    Returns
    -------
    bool (rows, cols)

    Raises
    ------
    UnknownNameError : no such post-processing
    """
    if postprocess not in PRESETS:
        raise UnknownNameError.of("post-processing", postprocess, PRESETS)
    if postprocess == "published":
        return _decide_published(heatmap.values)
    lattice, tissue = heatmap.lattice(), heatmap.tissue
    rows, cols = (index.astype(np.int32) for index in np.nonzero(tissue))
    grid = replace(lattice, rows=rows, cols=cols)
    p = heatmap.values[tissue].astype(np.float32)
    rules = rules_for(Recipe(postprocess=postprocess), grid)
    smooth = smooth_probs(grid, np.stack([1 - p, p], axis=1), rules)
    decided: NDArray[np.bool_] = clean_labels(grid, smooth, rules) == 1
    return decided


def _decide_published(values: NDArray[Any]) -> NDArray[np.bool_]:
    filled = np.nan_to_num(values, nan=0.0)
    if bool(np.isin(values[np.isfinite(values)], (0, 1)).all()):
        mask = filled == 1
    else:
        from scipy.ndimage import gaussian_filter

        # As scikit-image: halves in single precision, what is longer than doubles in double.
        filled = filled.astype(np.float32 if filled.dtype.itemsize <= 4 else np.float64)
        mask = gaussian_filter(filled, SIGMA_CELLS, mode="nearest", truncate=4.0) > THRESHOLD
    mask = np.asarray(mask, bool)
    mask[small_parts(mask, MIN_CELLS)] = False
    mask[small_parts(~mask, MIN_CELLS)] = True
    return mask
