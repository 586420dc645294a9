"""The figures of a comparison as plain text."""

from __future__ import annotations

import math

from recontour.evaluation.result import Evaluation
from recontour.evaluation.scores import CELL_METRICS, GRID_METRICS, POLYGON_METRICS


def format_table(evaluation: Evaluation) -> str:
    """The figures as a plain text table: one row a metric, coarse beside prediction."""
    lines = [
        f"{evaluation.slide_id}: {', '.join(evaluation.classes[1:])}; "
        f"{evaluation.n_cells:,} cells of {evaluation.cell_px} px ({evaluation.cells}), "
        f"label rule {evaluation.label_rule}"
        + (f", post-processing {evaluation.postprocess}" if evaluation.postprocess else ""),
        "",
    ]
    several = len(evaluation.classes) > 2
    for name in ("", *(evaluation.classes[1:] if several else ())):
        coarse = evaluation.coarse
        columns = [] if coarse is None else [("coarse", coarse)]
        columns.append(("prediction", evaluation.prediction))
        title = name or ("mean over classes" if several else evaluation.classes[1])
        head = f"{title:<26}" + "".join(f"{label:>12}" for label, _ in columns)
        lines.append(head + (f"{'change':>12}" if len(columns) == 2 else ""))
        for metric in (*CELL_METRICS, *GRID_METRICS, *POLYGON_METRICS):
            values = [(s.per_class[name] if name else s.overall)[metric] for _, s in columns]
            if all(math.isnan(value) for value in values):
                continue
            row = f"  {metric:<24}" + "".join(_cell(metric, value) for value in values)
            if len(values) == 2:
                row += _cell(metric, values[1] - values[0], sign=True)
            lines.append(row)
        lines.append("")
    if evaluation.coarse is not None:
        lines.append(f"cleaned {_share(evaluation.cleaned)} of the wrong coarse labels, ")
        lines[-1] += f"mis-modified {_share(evaluation.mis_modified)} of the right ones"
        state = "valid" if evaluation.coarse.valid else "NOT valid"
        lines.append(f"the coarse outline is {state} (PPV > 0.5 and NPV > 0.5)")
    lines += [f"note: {note}" for note in evaluation.notes]
    return "\n".join(lines)


def _cell(metric: str, value: float, *, sign: bool = False) -> str:
    if math.isnan(value):
        return f"{'–':>12}"
    plus = "+" if sign else ""
    digits = 0 if metric == "area_um2" else 1 if metric.endswith("_um") else 3
    return f"{value:>{plus}12,.{digits}f}"


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1%}"
