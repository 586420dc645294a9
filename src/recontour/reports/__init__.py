"""What a person looks at after a run: a picture, a probability map, a page."""

from __future__ import annotations

from recontour.reports.heatmap import write_probability
from recontour.reports.overview import write_overview
from recontour.reports.page import write_report

__all__ = ["write_overview", "write_probability", "write_report"]
