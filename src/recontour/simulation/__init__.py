"""Coarse outlines made from fine ones, for experiments.

`published` is what the LC-MIL paper (arXiv 2109.10778) refines: keep the largest lesion, dilate,
take the convex hull. The other kinds are the ways in which quick hand-drawn outlines go wrong.
"""

from recontour.simulation.coarse import simulate_coarse
from recontour.simulation.kinds import KINDS
from recontour.simulation.severity import Severity

__all__ = ["KINDS", "Severity", "simulate_coarse"]
