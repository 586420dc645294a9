"""Compare outlines with the truth on the cells of one slide."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import shapely

from recontour.errors import AnnotationError, UsageError
from recontour.evaluation.outlines import TRUTH, Outlines, sort_outlines
from recontour.evaluation.result import Evaluation
from recontour.evaluation.scores import Scores, Shapes, score
from recontour.grid import full_lattice, label_patches
from recontour.metrics.cells import cleaned, mis_modified
from recontour.recipe import Recipe
from recontour.types import BACKGROUND, Annotation, Geometry, PatchGrid

CELL_UM = 32.0
MARGIN_CELLS = 10


def evaluate(
    truth: Annotation,
    prediction: Annotation,
    *,
    coarse: Annotation | None = None,
    tissue: Geometry | None = None,
    slide_size: tuple[int, int] | None = None,
    mpp: float | None = None,
    cell_px: int | None = None,
    label_rule: str = "centre",
    classes: Sequence[str] = (),
    exclude: Sequence[str] = Recipe().exclude_classes,
    subtract: Sequence[str] = (),
) -> Evaluation:
    """Every metric of the two papers, and polygon metrics, of one slide.

    Cells are laid from the slide's corner. With `tissue`, the metrics `accuracy` to `dice` count
    the cells whose centre is on tissue; `iou_grid` and `dice_grid` count the whole lattice, as the
    papers do for IoU and Dice. Without `slide_size` the lattice covers the bounding box of all
    outlines (and of the tissue) and 10 cells around it; without tissue too there is only geometry,
    and metrics that count true negatives (accuracy, TNR, NPV) hang on that margin.

    Parameters
    ----------
    truth, prediction, coarse : level-0 px
    tissue : level-0 px; None: every cell takes part
    slide_size : (width, height) px; None: geometry only
    mpp : µm/px; without it areas and distances are NaN
    cell_px : side of a cell; None: 32 µm
    label_rule : how outlines become cell labels, see `recontour.labelling.label_outlines`
    classes : those to compare; empty: every class of the truth that is not excluded
    exclude : shell patterns, any case: cells in these regions of the truth take no part
    subtract : shell patterns, any case, looked at first: these regions are cut out of the truth
        and count as background (`Region*` in CAMELYON16)

    Raises
    ------
    UnknownNameError : a class that the truth does not have
    AnnotationError : the truth holds nothing to compare with
    UsageError : neither `cell_px` nor `mpp`
    """
    if cell_px is None:
        if mpp is None:
            raise UsageError("cells have no size; pass the cell side in px or --mpp (µm/px)")
        cell_px = max(1, round(CELL_UM / mpp))
    given = (
        {"prediction": prediction}
        if coarse is None
        else {"prediction": prediction, "coarse": coarse}
    )
    outlines = sort_outlines(
        truth, given, classes=classes, exclude=exclude, subtract=subtract, label_rule=label_rule
    )
    grid = _lattice(outlines, slide_size, tissue, cell_px, mpp)
    on = np.ones(len(grid), bool)
    if tissue is not None:
        on &= label_patches(grid, [[tissue]], rule="centre") == 1
    notes = [*outlines.notes, *_said_of_cells(outlines, slide_size, tissue)]
    if outlines.left_out:
        on &= label_patches(grid, [outlines.left_out], rule="centre") != 1
    labels = {role: outlines.label(grid, role, label_rule) for role in (TRUTH, *given)}
    if not on.any():
        raise AnnotationError("no cell takes part: the tissue and the slide do not overlap")
    areas = {role: outlines.areas(role) for role in labels}

    def scores(role: str) -> Scores:
        shapes = Shapes(areas[TRUTH], areas[role], mpp)
        return score(outlines.names, labels[TRUTH], labels[role], on, shapes)

    area = float("nan") if mpp is None else mpp**2
    t, p = labels[TRUTH][on], labels["prediction"][on]
    before = labels["coarse"][on] if coarse is not None else None
    return Evaluation(
        slide_id=truth.slide_id,
        classes=(BACKGROUND, *outlines.names),
        cells="tissue" if tissue is not None else "geometry" if slide_size is None else "slide",
        n_cells=int(on.sum()),
        n_grid=len(grid),
        cell_px=cell_px,
        mpp=mpp,
        label_rule=label_rule,
        prediction=scores("prediction"),
        coarse=None if coarse is None else scores("coarse"),
        truth_area_um2={n: g.area * area for n, g in areas[TRUTH].items()},
        cleaned=float("nan") if before is None else cleaned(t, before, p),
        mis_modified=float("nan") if before is None else mis_modified(t, before, p),
        notes=tuple(notes),
    )


def _said_of_cells(
    outlines: Outlines, slide_size: tuple[int, int] | None, tissue: Geometry | None
) -> list[str]:
    notes = []
    if outlines.left_out:
        notes.append(
            f"cells in {len(outlines.left_out)} excluded regions of the truth take no part"
        )
    if slide_size is not None:
        whole = shapely.box(0, 0, *slide_size)
        for role in outlines.groups:
            shapes = outlines.shapes(role)
            if shapes and not any(shape.intersects(whole) for shape in shapes):
                notes.append(f"the {role} lies off the slide: is --origin right?")
    elif tissue is None:
        notes.append(
            f"no slide: cells cover the outlines' bounding box and {MARGIN_CELLS} cells around it, "
            "tissue or not; accuracy, TNR and NPV depend on that margin"
        )
    return notes


def _lattice(
    outlines: Outlines,
    slide_size: tuple[int, int] | None,
    tissue: Geometry | None,
    cell_px: int,
    mpp: float | None,
) -> PatchGrid:
    """Every cell of the slide, or around the shapes; always in step with (0, 0)."""
    if slide_size is not None:
        first = (0, 0)
        last = (math.ceil(slide_size[0] / cell_px), math.ceil(slide_size[1] / cell_px))
    else:
        shapes = [shape for role in outlines.groups for shape in outlines.shapes(role)]
        if tissue is not None:
            shapes.append(tissue)
        bounds = np.array([shape.bounds for shape in shapes if not shape.is_empty])
        low = np.floor(bounds[:, :2].min(axis=0) / cell_px).astype(int) - MARGIN_CELLS
        high = np.ceil(bounds[:, 2:].max(axis=0) / cell_px).astype(int) + MARGIN_CELLS
        # Nothing lies left of or above a slide's corner.
        low = np.minimum(np.maximum(low, 0), np.floor(bounds[:, :2].min(axis=0) / cell_px))
        first, last = (int(low[0]), int(low[1])), (int(high[0]), int(high[1]))
    return full_lattice(first, last, cell_px, mpp or 1.0)
