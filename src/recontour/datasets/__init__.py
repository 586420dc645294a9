"""Data sets with a known truth, as their makers distribute them, and folders of your own."""

from recontour.datasets.base import Case, DataSet, Listing, Outlines
from recontour.datasets.opening import open_dataset

__all__ = ["Case", "DataSet", "Listing", "Outlines", "open_dataset"]
