"""Reading, writing and choosing outlines: QuPath GeoJSON and masks."""

from recontour.annotations.reading import read_annotation, write_annotation
from recontour.annotations.select import Selection, select_regions

__all__ = ["Selection", "read_annotation", "select_regions", "write_annotation"]
