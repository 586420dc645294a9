"""How much is expected to be wrong, of an outline or of a result, told without any truth.

The chance of each class is calibrated (see `recontour.calibration`); a label is wrong with what its
class lacks to certainty. Sums over cells are expected numbers of wrong cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def chance_wrong(probs: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """(n,) chance in [0, 1] that a label is wrong; 0 of cells without one.

    Parameters
    ----------
    probs : (n, K), calibrated
    labels : (n,) in 0..K - 1, negative without one
    """
    labels = np.asarray(labels, np.intp)
    chosen = np.maximum(labels, 0)[:, None]
    right = np.take_along_axis(np.asarray(probs, np.float64), chosen, axis=1)[:, 0]
    return np.where(labels < 0, 0.0, np.clip(1.0 - right, 0.0, 1.0))


def confidence_counts(
    probs: NDArray[np.floating], labels: NDArray[np.integer], bins: int = 20
) -> list[int]:
    """Cells by the chance that their label is right, in equal bins over [0, 1].

    Parameters
    ----------
    probs : (n, K), calibrated
    labels : (n,) in 0..K - 1
    """
    counts, _ = np.histogram(1.0 - chance_wrong(probs, labels), bins=bins, range=(0.0, 1.0))
    return [int(count) for count in counts]


def expected_errors(
    probs: NDArray[np.floating],
    labels: NDArray[np.integer],
    classes: Sequence[str],
    cell_um2: float,
) -> dict[str, Any]:
    """The errors to expect among labelled cells; JSON types, for `run.json`.

    Parameters
    ----------
    probs : (n, K), calibrated
    labels : (n,) in 0..K - 1, negative: takes no part
    cell_um2 : area of a cell

    Returns
    -------
    `cells` labelled, `wrong_cells`, their `wrong_share` and `wrong_um2`; `ppv` and `npv`, the share
    of the cells with a class, and of the background's, that are rightly labelled (None without
    any); and for each of `classes` its `cells`, how many are `wrong`, and how many that belong to
    it are `missed`
    """
    labels = np.asarray(labels, np.intp)
    known = labels >= 0
    probs, labels = np.asarray(probs, np.float64)[known], labels[known]
    wrong = chance_wrong(probs, labels)
    of_class = {
        name: {
            "cells": int(np.count_nonzero(labels == k)),
            "wrong": float(wrong[labels == k].sum()),
            "missed": float(np.clip(probs[labels != k, k], 0, 1).sum()),
        }
        for k, name in enumerate(classes)
    }
    return {
        "cells": len(labels),
        "wrong_cells": float(wrong.sum()),
        "wrong_share": float(wrong.mean()) if len(labels) else 0.0,
        "wrong_um2": float(wrong.sum()) * cell_um2,
        "ppv": _right(wrong[labels > 0]),
        "npv": _right(wrong[labels == 0]),
        "classes": of_class,
    }


def looks_like(unseen: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.intp]:
    """(n,) the class whose outlined tissue each cell looks like most, common or rare.

    An outline that leaves half of the tumour out makes tumour improbable outside of it. What a cell
    looks like is another question: which class is likelier here than it is on the whole slide.

    Parameters
    ----------
    unseen : (n, K), of a model that has not seen the cell's label
    labels : (n,) that the model learned from, negative: none
    """
    labels = np.asarray(labels, np.intp)
    counts = np.bincount(labels[labels >= 0], minlength=unseen.shape[1])
    found: NDArray[np.intp] = np.argmax(unseen / np.maximum(counts, 1.0), axis=1)
    return found


def why_changed(
    given: NDArray[np.integer],
    refined: NDArray[np.integer],
    alike: NDArray[np.integer] | None,
    reviewed: NDArray[np.bool_],
) -> dict[str, dict[str, int]]:
    """What speaks for the changed cells; JSON types, for `run.json`.

    Parameters
    ----------
    given, refined : (n,) labels before and after; negative: none
    alike : (n,) what each cell looks like (`looks_like`); None: not known
    reviewed : (n,) a person has said what it is

    Returns
    -------
    For `added` (background before), `removed` (background now) and `swapped` (one class for
    another): `cells`, and of these how many were `reviewed`, look `alike` what they became (None
    where not known), or are the word of the `method_alone`
    """
    changed = (given >= 0) & (given != refined)
    kinds = {
        "added": changed & (given == 0),
        "removed": changed & (refined == 0),
        "swapped": changed & (given > 0) & (refined > 0),
    }
    found: dict[str, Any] = {}
    for kind, cells in kinds.items():
        rest = cells & ~reviewed
        seconded = None if alike is None else int(np.count_nonzero(rest & (alike == refined)))
        found[kind] = {
            "cells": int(np.count_nonzero(cells)),
            "reviewed": int(np.count_nonzero(cells & reviewed)),
            "alike": seconded,
            "method_alone": int(np.count_nonzero(rest)) - (seconded or 0),
        }
    return found


def percent(share: float) -> str:
    """`8 %`, `<1 %`, `100 %`: as close as an estimate is worth."""
    if 0 < share < 0.005:
        return "<1 %"
    return f"{100 * share:.0f} %"


def _right(wrong: NDArray[np.float64]) -> float | None:
    return float(1.0 - wrong.mean()) if len(wrong) else None
