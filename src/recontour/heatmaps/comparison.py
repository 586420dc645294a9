"""Compare a heat map with the truth, on its own cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recontour.errors import AnnotationError, UsageError
from recontour.evaluation.outlines import TRUTH, Outlines, sort_outlines
from recontour.evaluation.result import Evaluation
from recontour.evaluation.scores import score
from recontour.grid import label_patches
from recontour.heatmaps.decision import decide
from recontour.heatmaps.reading import HeatMap
from recontour.metrics.cells import cleaned, mis_modified
from recontour.recipe import Recipe
from recontour.types import BACKGROUND, Annotation


def evaluate_heatmap(
    truth: Annotation,
    heatmap: HeatMap,
    *,
    coarse: Annotation | None = None,
    mpp: float | None = None,
    label_rule: str = "centre",
    masks: Sequence[str] = (),
    postprocess: str = "default",
    classes: Sequence[str] = (),
    exclude: Sequence[str] = Recipe().exclude_classes,
    subtract: Sequence[str] = (),
) -> Evaluation:
    """Every cell metric of the two papers, of one heat map; no slide is needed.

    `accuracy` to `dice` count the cells where the map has a value, `iou_grid` and `dice_grid` the
    whole lattice. Polygon metrics are NaN.

    Parameters
    ----------
    truth, coarse : level-0 px
    mpp : µm/px, for areas
    label_rule : how outlines become cell labels, see `recontour.labelling.label_outlines`
    masks : which of `truth` and `coarse` are masks, which need no rule: a cell has the value at its
        centre
    postprocess : see `decide`
    classes : the one to compare; empty: the only one of the truth
    exclude, subtract : as `recontour.evaluation.evaluate`

    Raises
    ------
    UsageError : several classes; the truth does not lie on the map
    AnnotationError : nothing to compare with
    """
    given = {} if coarse is None else {"coarse": coarse}
    outlines = sort_outlines(
        truth, given, classes=classes, exclude=exclude, subtract=subtract, label_rule=label_rule
    )
    if len(outlines.names) > 1:
        raise UsageError(
            f"a heat map is of one class, and the truth has {', '.join(outlines.names)}; choose "
            f'with --class "{outlines.names[0]}"'
        )
    notes = [*outlines.notes, *_check_place(outlines, heatmap)]
    grid = heatmap.lattice(mpp)
    on = heatmap.tissue.ravel()
    if outlines.left_out:
        on = on & (label_patches(grid, [outlines.left_out], rule="centre") != 1)
        notes.append(
            f"cells in {len(outlines.left_out)} excluded regions of the truth take no part"
        )
        if not on.any():
            raise AnnotationError("the excluded regions of the truth cover every cell of the map")
    labels = {
        role: outlines.label(grid, role, "centre" if role in masks else label_rule)
        for role in (TRUTH, *given)
    }
    labels["prediction"] = decide(heatmap, postprocess).ravel().astype(np.int8)
    t, p = labels[TRUTH][on], labels["prediction"][on]
    if not t.any():
        notes.append(
            "no cell of the map lies in the truth: are they of the same slide, and is --stride-px "
            f"{heatmap.stride_px} right?"
        )
    before = labels["coarse"][on] if coarse is not None else None
    return Evaluation(
        slide_id=truth.slide_id,
        classes=(BACKGROUND, *outlines.names),
        cells="tissue",
        n_cells=int(on.sum()),
        n_grid=len(grid),
        cell_px=heatmap.stride_px,
        mpp=mpp,
        label_rule=label_rule,
        prediction=score(outlines.names, labels[TRUTH], labels["prediction"], on),
        coarse=(
            None if coarse is None else score(outlines.names, labels[TRUTH], labels["coarse"], on)
        ),
        truth_area_um2={
            name: float("nan") if mpp is None else area.area * mpp**2
            for name, area in outlines.areas(TRUTH).items()
        },
        cleaned=float("nan") if before is None else cleaned(t, before, p),
        mis_modified=float("nan") if before is None else mis_modified(t, before, p),
        notes=tuple(notes),
        postprocess=postprocess,
    )


def _check_place(outlines: Outlines, heatmap: HeatMap) -> list[str]:
    """Refuse a truth that is not of this map, and say it of a coarse outline."""
    width, height = heatmap.size
    notes = []
    for role in outlines.groups:
        shapes = outlines.shapes(role)
        if not shapes:
            continue
        bounds = np.array([shape.bounds for shape in shapes])
        x0, y0 = bounds[:, :2].min(axis=0)
        x1, y1 = bounds[:, 2:].max(axis=0)
        # The last, incomplete cells of a slide may be missing from a map: two a side where patches
        # overlap by half.
        spare = 2 * heatmap.stride_px
        if x0 >= -spare and y0 >= -spare and x1 <= width + spare and y1 <= height + spare:
            continue
        rows, cols = heatmap.values.shape
        said = (
            f"the {role} (x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f}) reaches beyond the heat "
            f"map ({rows} x {cols} cells of {heatmap.stride_px} px: {width} x {height} px)"
        )
        if role == TRUTH or x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
            raise UsageError(
                f"{said}: are they of the same slide, is the map [row, col], and is --stride-px "
                "right?"
            )
        notes.append(said)
    return notes
