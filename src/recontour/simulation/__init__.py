"""Coarse outlines made from fine ones, for experiments.

`published` is what the LC-MIL paper (arXiv 2109.10778) refines: keep the largest lesion, dilate,
take the convex hull. The other kinds are the ways in which quick hand-drawn outlines go wrong.
`simulate_bad` makes outlines that are wrong as a whole.
"""

from recontour.simulation.bad import (
    BAD_KINDS,
    BAD_OUTLINES,
    BAD_SEEDS,
    BadOutline,
    Other,
    is_valid,
    other_case,
    simulate_bad,
)
from recontour.simulation.coarse import simulate_coarse
from recontour.simulation.kinds import KINDS
from recontour.simulation.severity import SEVERITIES, Severity, named_severity

__all__ = [
    "BAD_KINDS",
    "BAD_OUTLINES",
    "BAD_SEEDS",
    "KINDS",
    "SEVERITIES",
    "BadOutline",
    "Other",
    "Severity",
    "is_valid",
    "named_severity",
    "other_case",
    "simulate_bad",
    "simulate_coarse",
]
