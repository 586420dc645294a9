"""Comparing a prediction, and the coarse outline it came from, with the truth, slide by slide."""

from recontour.evaluation.aggregation import AGGREGATE_SCHEMA, aggregate
from recontour.evaluation.comparison import CELL_UM, MARGIN_CELLS, evaluate
from recontour.evaluation.outlines import UNCLASSIFIED
from recontour.evaluation.result import SCHEMA, Evaluation
from recontour.evaluation.scores import (
    CELL_METRICS,
    CHANGE_METRICS,
    GRID_METRICS,
    POLYGON_METRICS,
    Scores,
    score,
)
from recontour.evaluation.table import format_table

__all__ = [
    "AGGREGATE_SCHEMA",
    "CELL_METRICS",
    "CELL_UM",
    "CHANGE_METRICS",
    "GRID_METRICS",
    "MARGIN_CELLS",
    "POLYGON_METRICS",
    "SCHEMA",
    "UNCLASSIFIED",
    "Evaluation",
    "Scores",
    "aggregate",
    "evaluate",
    "format_table",
    "score",
]
