"""What overlays are drawn from later: a thumbnail, and truth and tissue cell by cell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recontour.benchmark.cases import Laid
from recontour.benchmark.records import Results, file_name
from recontour.files import atomic_path

LONGEST_PX = 1400
"""Of a thumbnail: three side by side are sharp on a page, and fifty take 10 MB."""


@dataclass(frozen=True)
class Ground:
    """The cells of a case on one encoder.

    Attributes
    ----------
    truth : int8 (rows, cols)
    tissue : bool (rows, cols): the cells that take part
    origin, stride : of the lattice, level-0 px
    mpp : µm per level-0 px
    """

    truth: NDArray[np.int8]
    tissue: NDArray[np.bool_]
    origin: tuple[float, float]
    stride: int
    mpp: float


def keep_pictures(laid: Laid, encoder: str, results: Results) -> None:
    """Write the thumbnail of a case (once) and its cells."""
    from PIL import Image

    slide, case = laid.opened.slide, laid.opened.case.id
    grid = laid.grid
    tissue = np.zeros(grid.shape, bool)
    tissue[grid.rows, grid.cols] = True
    with atomic_path(_ground(results, case, encoder)) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            truth=laid.truth,
            tissue=tissue,
            place=np.array([*grid.origin, grid.stride, grid.mpp], np.float64),
        )
    picture = results.case_file(case, ".jpg")
    if picture.exists():
        return
    width, height = slide.size
    mpp = max(slide.mpp, slide.mpp * max(width, height) / LONGEST_PX)
    size = (max(1, round(width * slide.mpp / mpp)), max(1, round(height * slide.mpp / mpp)))
    pixels = slide.read_region(0, 0, size, mpp)
    with atomic_path(picture) as temporary:
        Image.fromarray(pixels).save(temporary, "JPEG", quality=85)


def read_ground(results: Results, case: str, encoder: str) -> Ground | None:
    """The cells of a case, or None where they were not kept."""
    try:
        with np.load(_ground(results, case, encoder), allow_pickle=False) as held:
            x, y, stride, mpp = (float(v) for v in held["place"])
            return Ground(held["truth"], held["tissue"], (x, y), int(stride), mpp)
    except FileNotFoundError:
        return None


def _ground(results: Results, case: str, encoder: str) -> Path:
    return results.case_file(case, f".{file_name(encoder)}.npz")
