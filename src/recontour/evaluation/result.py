"""What a comparison finds, and its form in JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recontour.evaluation.scores import Scores, plain

SCHEMA = "recontour.evaluation/1"


@dataclass(frozen=True)
class Evaluation:
    """One slide, compared with its truth. Figures are not rounded.

    Attributes
    ----------
    slide_id : of the truth
    classes : those compared, background first
    cells : which cells take part: `tissue`, `slide` (all of it), or `geometry` (no slide at hand:
        the bounding box of all outlines and a margin)
    n_cells, n_grid : cells that take part; cells of the whole lattice
    cell_px, mpp : side of a cell in level-0 px; µm per px or None
    label_rule : `centre` or `published`
    prediction, coarse : the scores; `coarse` is None when no coarse outline was given
    truth_area_um2 : class name -> area, NaN without mpp
    cleaned, mis_modified : shares of the coarse labels, over all classes; NaN without coarse
    notes : what the reader of the figures must know
    postprocess : how a heat map became labels; None where an outline was judged
    """

    slide_id: str
    classes: tuple[str, ...]
    cells: str
    n_cells: int
    n_grid: int
    cell_px: int
    mpp: float | None
    label_rule: str
    prediction: Scores
    coarse: Scores | None
    truth_area_um2: Mapping[str, float]
    cleaned: float
    mis_modified: float
    notes: tuple[str, ...]
    postprocess: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types, with the schema's name and version; undefined values are null."""
        change = plain({"cleaned": self.cleaned, "mis_modified": self.mis_modified})
        return {
            "schema": SCHEMA,
            "slide": self.slide_id,
            "classes": list(self.classes),
            "cells": self.cells,
            "n_cells": self.n_cells,
            "n_grid": self.n_grid,
            "cell_px": self.cell_px,
            "mpp": self.mpp,
            "cell_um": None if self.mpp is None else self.cell_px * self.mpp,
            "label_rule": self.label_rule,
            "postprocess": self.postprocess,
            "truth_area_um2": plain(self.truth_area_um2),
            "prediction": {**self.prediction.to_dict(), **change},
            "coarse": None if self.coarse is None else self.coarse.to_dict(),
            **change,
            "notes": list(self.notes),
        }
