"""Find a data set by its name."""

from __future__ import annotations

from recontour.datasets.base import DataSet
from recontour.registry import lookup


def open_dataset(name: str) -> DataSet:
    """The data set registered under `name`.

    Raises
    ------
    UnknownNameError : no such data set; lists the known ones
    """
    found: DataSet = lookup("dataset", name)()
    return found
