"""What a method answers about a case, decided, scored and put into its record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recontour.benchmark.cases import Laid
from recontour.benchmark.records import Record, Unit
from recontour.benchmark.scoring import score
from recontour.benchmark.spec import COARSE, is_drawn
from recontour.benchmark.wanted import Wanted
from recontour.errors import RecontourError
from recontour.postprocess import Rules, clean_labels, rules_for, smooth_probs
from recontour.types import PatchGrid

Probs = NDArray[np.float32]
Map = NDArray[np.int8]


def decide(grid: PatchGrid, probs: Probs, rules: Rules) -> Map:
    """The label of every cell, int8 (rows, cols): smoothed, decided, cleaned.

    Raises
    ------
    ValueError : not a probability for every cell
    """
    return clean_labels(grid, smooth_probs(grid, probs, rules), rules, raw=probs)


class Scorer:
    """Turns what a method answers about a case into its record."""

    def __init__(self, laid: Laid, encoder: str) -> None:
        self.laid = laid
        self.encoder = encoder

    def decide(self, probs: Probs, method: str) -> Map:
        """The label of every cell, int8 (rows, cols), by the recipe's post-processing.

        Parameters
        ----------
        method : the refiner that gave `probs`, or "oracle"

        Raises
        ------
        ValueError : not a probability for every cell
        """
        rules = rules_for(self.laid.opened.plan.recipe, self.laid.grid, method)
        return decide(self.laid.grid, probs, rules)

    def scored(
        self, unit: Unit, want: Wanted, found: Map, given: Map, facts: Mapping[str, Any]
    ) -> tuple[Record, Map]:
        """The record of a run that went well, and its map."""
        laid = self.laid
        figures = score(laid.truth, found, given, laid.grid, laid.opened.classes)
        if unit.method != COARSE:
            # Whether the outline is valid; of the result that says nothing.
            coarse = score(laid.truth, given, given, laid.grid, laid.opened.classes)
            figures["valid"] = coarse["valid"]
        return {
            **self._head(unit, want),
            "status": "ok",
            "drawn": not want.outline.simulated and is_drawn(want.outline.kind),
            "n_cells": len(laid.grid),
            "n_grid": int(laid.truth.size),
            "cell_px": laid.grid.stride,
            "cell_um": laid.grid.cell_um,
            **figures,
            **facts,
        }, found

    def failed(self, unit: Unit, want: Wanted, error: Exception) -> Record:
        """The record of a run that did not; it is tried again next time."""
        return failed_record(unit, want, self.laid.opened.inputs, error)

    def _head(self, unit: Unit, want: Wanted) -> Record:
        return record_head(unit, want, self.laid.opened.inputs)


def record_head(unit: Unit, want: Wanted, inputs: str) -> Record:
    """What every record begins with: which run, and what it was made of."""
    return {**unit._asdict(), "inputs": inputs, "made_of": want.made_of}


def failed_record(unit: Unit, want: Wanted, inputs: str, error: Exception) -> Record:
    """The record of a run that failed."""
    return {**record_head(unit, want, inputs), "status": "failed", "reason": reason_of(error)}


def reason_of(error: BaseException) -> str:
    """What went wrong, in one line; errors that nobody foresaw say their kind."""
    said = " ".join(str(error).split())
    return said if isinstance(error, RecontourError) else f"{type(error).__name__}: {said}"
