"""Do the places to look at first hold the errors, and do the estimated errors hold?

    python benchmarks/attention.py --tissue TISSUE -o OUT [--methods em,lc_mil,logistic] [--jobs 2]

For every image and valid outline: the share of wrong cells of the given outline, and of the refined
one, estimated without truth and real; and of the first five places the share of all errors that
lie in them, expected and real, beside their share of all cells (what places at random would hold).
Writes `attention.json` and fills the table of the page named by `--docs`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence

import numpy as np
import shapely
from default_refiner import fill
from quality import Cells, Outline
from strokes import by_image, judged, refine

from recontour.attention import FEW, rank_changes
from recontour.calibration import calibrate, decisions
from recontour.changes import find_changes, uncertain_cells
from recontour.expected import chance_wrong, looks_like
from recontour.geometry import union
from recontour.grid import label_patches
from recontour.postprocess import MIN_AREA_CELLS, rules_for
from recontour.reasons import Evidence
from recontour.recipe import Recipe
from recontour.review import reviewed_cells
from recontour.tracing import trace_regions
from recontour.types import Geometry, PatchGrid, PatchSet


def drawn_of(patches: PatchSet) -> list[Geometry]:
    """The given outline of each class, along its cells."""
    return [
        union(boxes_of(patches.grid)[patches.labels == k]) for k in range(1, len(patches.classes))
    ]


def boxes_of(grid: PatchGrid) -> np.ndarray:
    """The cells as polygons."""
    x = grid.origin[0] + grid.cols * float(grid.stride)
    y = grid.origin[1] + grid.rows * float(grid.stride)
    return shapely.box(x, y, x + grid.stride, y + grid.stride)


def judge(cells: Cells, outline: Outline, method: str) -> dict[str, object]:
    """Estimated and real errors of one run."""
    patches = cells.labelled(outline)
    grid = patches.grid
    truth = cells.truth[grid.rows, grid.cols]
    smooth, decided = refine(patches, method, outline.seed)
    rules = rules_for(Recipe(method=method), grid)
    laid = np.zeros(grid.shape, np.int8)
    laid[grid.rows, grid.cols] = decided
    areas = trace_regions(grid, smooth, laid, rules)
    refined = label_patches(grid, [[area] for area in areas])
    found = calibrate(patches, smooth, seed=outline.seed)
    drawn = drawn_of(patches)
    changes = find_changes(
        areas,
        drawn,
        patches,
        found.probs,
        union(boxes_of(grid)),
        key="",
        uncertain=uncertain_cells(found.probs),
        min_uncertain_cells=MIN_AREA_CELLS,
    )
    evidence = Evidence(
        classes=patches.classes,
        probs=found.probs,
        given=patches.labels,
        refined=refined,
        alike=looks_like(found.unseen, patches.labels),
        method=decided,
        second=decisions(found.unseen),
        reviewed=reviewed_cells(patches),
    )
    places = rank_changes(changes, grid, evidence, drawn).places[:FEW]
    held = np.concatenate([place.cells for place in places] or [np.zeros(0, np.intp)])
    expected, wrong = chance_wrong(found.probs, refined), refined != truth
    return {
        "image": cells.case,
        "outline": outline.label,
        "method": method,
        "given": float(np.mean(patches.labels != truth)),
        "given_estimated": float(chance_wrong(found.probs, patches.labels).mean()),
        "refined": float(wrong.mean()),
        "refined_estimated": float(expected.mean()),
        "cells_share": len(held) / len(grid),
        "settle_estimated": float(expected[held].sum() / max(expected.sum(), 1e-12)),
        "settle": float(wrong[held].sum() / max(wrong.sum(), 1)),
    }


def _judge(task: tuple[Cells, Outline, Sequence[str]]) -> list[dict[str, object]]:
    cells, outline, methods = task
    return [judge(cells, outline, method) for method in methods]


def table(rows: Sequence[dict], methods: Sequence[str]) -> Iterator[str]:
    """Means over images, and how far an estimate is off in one run."""
    yield (
        "| method | wrong as given: real | estimated | off by | wrong as refined: real | estimated "
        "| off by | cells in five places | errors in them: real | estimated |"
    )
    yield "|---" * 10 + "|"
    for method in methods:
        values = []
        for figure in ("given", "refined"):
            mine = [row for row in rows if row["method"] == method]
            off = np.mean([abs(row[figure] - row[f"{figure}_estimated"]) for row in mine])
            values += [_mean(rows, figure, method), _mean(rows, f"{figure}_estimated", method), off]
        values += [_mean(rows, f, method) for f in ("cells_share", "settle", "settle_estimated")]
        yield f"| `{method}` | {' | '.join(f'{v:.0%}' for v in values)} |"


def _mean(rows: Sequence[dict], figure: str, method: str) -> float:
    return float(np.mean(list(by_image(rows, figure, method=method).values())))


def main() -> None:
    start = time.perf_counter()
    args, methods, rows = judged(__doc__.splitlines()[0], "em,lc_mil,logistic", _judge)
    (args.out / "attention.json").write_text(json.dumps(rows, indent=1) + "\n")
    lines = "\n".join(table(rows, methods))
    print(lines)
    if args.docs:
        args.docs.write_text(fill(args.docs.read_text("utf-8"), {"attention": lines}), "utf-8")
    print(f"{len(rows)} runs, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
