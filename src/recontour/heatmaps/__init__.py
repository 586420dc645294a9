"""Heat maps of other programs: a probability for each cell, from an .npy file, judged by a truth.

A map is its own lattice: pixel [row, col] is the cell whose corner is (col, row) times the stride,
and the cells with a value are the tissue. So the LC-MIL authors keep their results.
"""

from recontour.heatmaps.comparison import evaluate_heatmap
from recontour.heatmaps.decision import decide
from recontour.heatmaps.reading import STRIDE_PX, HeatMap, is_heatmap, read_heatmap

__all__ = ["STRIDE_PX", "HeatMap", "decide", "evaluate_heatmap", "is_heatmap", "read_heatmap"]
