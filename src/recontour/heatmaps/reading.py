"""Heat maps in from .npy files, and what is wrong with those that are none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recontour.errors import AnnotationError, UsageError
from recontour.grid import MAX_LATTICE, full_lattice
from recontour.types import PatchGrid

STRIDE_PX = 256
"""Side of a cell in the LC-MIL paper's maps of CAMELYON16, level-0 px."""


@dataclass(frozen=True)
class HeatMap:
    """Probabilities of one class, laid out.

    Attributes
    ----------
    values : float or bool (rows, cols) in [0, 1], NaN off tissue
    stride_px : side of a cell, level-0 px; the corner of cell [0, 0] is (0, 0)
    source : name of the file
    """

    values: NDArray[Any]
    stride_px: int = STRIDE_PX
    source: str = "the heat map"

    @property
    def tissue(self) -> NDArray[np.bool_]:
        """bool (rows, cols): the cells with a value."""
        on: NDArray[np.bool_] = np.isfinite(self.values)
        return on

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of what the cells cover, level-0 px."""
        rows, cols = self.values.shape
        return cols * self.stride_px, rows * self.stride_px

    def lattice(self, mpp: float | None = None) -> PatchGrid:
        """Every cell, on tissue or not."""
        rows, cols = self.values.shape
        return full_lattice((0, 0), (cols, rows), self.stride_px, mpp or 1.0)


def is_heatmap(path: Path) -> bool:
    """Whether a file is one of NumPy's, by its name or its first bytes."""
    if path.suffix.lower() in (".npy", ".npz"):
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(6) == b"\x93NUMPY"


def read_heatmap(path: Path, stride_px: int = STRIDE_PX) -> HeatMap:
    """Read a heat map from an .npy file.

    Raises
    ------
    AnnotationError : not an .npy file, damaged, or its content is no heat map: not two dimensions,
        neither floats nor bool, infinite or outside [0, 1], no value at all
    UsageError : `stride_px` is no side
    """
    if stride_px < 1:
        raise UsageError(f"--stride-px {stride_px} is not a side; pass 1 or more")
    try:
        # Mapped first: a damaged header must not make us ask for memory the file does not fill.
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(mapped, np.ndarray):
            mapped.close()
            raise AnnotationError(
                f"{path.name} is an archive of arrays (.npz); save the heat map alone, with "
                "numpy.save"
            )
        _check_form(mapped.shape, mapped.dtype, path.name)
        values = np.array(mapped)
    except OSError as error:
        raise AnnotationError(f"cannot read {path.name}: {error.strerror or error}") from error
    except (ValueError, EOFError, SyntaxError, MemoryError, OverflowError, TypeError) as error:
        raise AnnotationError(_why_unreadable(path, error)) from error
    _check_values(values, path.name)
    return HeatMap(values, stride_px, path.name)


def _check_form(shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> None:
    if len(shape) != 2:
        raise AnnotationError(
            f"{name} has {len(shape)} dimension(s) {shape}; a heat map has two: [row, col]"
        )
    if 0 in shape:
        raise AnnotationError(f"{name} is empty: {shape[0]} x {shape[1]} cells")
    if shape[0] * shape[1] > MAX_LATTICE:
        raise AnnotationError(
            f"{name} has {shape[0]:,} x {shape[1]:,} cells, more than any slide has "
            f"({MAX_LATTICE:,}); it must hold one value a cell"
        )
    if dtype.kind not in "fb":
        raise AnnotationError(
            f"{name} holds {dtype}; a heat map holds probabilities as floats, NaN off tissue, or "
            "bool; convert it with .astype(float)"
        )


def _check_values(values: NDArray[Any], name: str) -> None:
    if np.isinf(values).any():
        raise AnnotationError(f"{name} has infinite values; cells off tissue are NaN")
    finite = values[np.isfinite(values)]
    if not len(finite):
        raise AnnotationError(f"{name} has no value: every cell is NaN, that is, off tissue")
    low, high = float(finite.min()), float(finite.max())
    if low < 0 or high > 1:
        raise AnnotationError(
            f"{name} has values from {low:g} to {high:g}; a heat map holds probabilities from 0 to "
            "1, NaN off tissue"
        )


def _why_unreadable(path: Path, error: Exception) -> str:
    if path.stat().st_size == 0:
        return f"{path.name} is empty (0 bytes)"
    if "python objects" in str(error).lower() or "object arrays" in str(error).lower():
        return (
            f"{path.name} holds Python objects, not numbers, and was refused: reading it could run "
            "code; save the heat map as an array of floats"
        )
    if "allow_pickle" in str(error) or "pickle" in str(error).lower():
        return (
            f"{path.name} is not an .npy file (a pickle, perhaps) and was refused; save the heat "
            "map with numpy.save"
        )
    what = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
    return f"{path.name} cannot be read as .npy: cut off or damaged? ({what})"
