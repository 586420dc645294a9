"""Which part of a slide a picture shows, and where to look closer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from recontour.types import Geometry, PatchGrid, Refinement, Slide

MARGIN = 0.04  # of the longer side, so that outlines do not touch the frame
DETAIL_CELLS = 40  # side of a detail: wide enough for context, close enough to see a border


@dataclass(frozen=True)
class View:
    """A rectangle of a slide, level-0 px."""

    x: float
    y: float
    width: float
    height: float

    @property
    def aspect(self) -> float:
        """Height over width."""
        return self.height / self.width

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """(left, right, bottom, top), as images are placed with y down."""
        return (self.x, self.x + self.width, self.y + self.height, self.y)

    def shaped(self, lowest: float, highest: float) -> View:
        """Grown about its centre until its aspect lies in the range."""
        width = max(self.width, self.height / highest)
        height = max(self.height, self.width * lowest)
        return View(
            self.x - (width - self.width) / 2,
            self.y - (height - self.height) / 2,
            width,
            height,
        )


def whole_view(slide: Slide, refinement: Refinement, outlines: Sequence[Geometry]) -> View:
    """What is worth showing: tissue and every outline, not the glass around them.

    Outlines off the slide stay in sight, up to half a slide away: a wrong origin must be visible.
    """
    shapes: list[Geometry] = [refinement.tissue, *outlines]
    boxes = [s.bounds for s in shapes if not s.is_empty]
    w, h = slide.size
    if boxes:
        x0, y0 = min(b[0] for b in boxes), min(b[1] for b in boxes)
        x1, y1 = max(b[2] for b in boxes), max(b[3] for b in boxes)
    else:
        x0, y0, x1, y1 = 0.0, 0.0, float(w), float(h)
    margin = MARGIN * max(x1 - x0, y1 - y0)
    # The margin may not leave the slide unless an outline does.
    x0, y0 = max(x0 - margin, min(x0, 0), -w / 2), max(y0 - margin, min(y0, 0), -h / 2)
    x1, y1 = min(x1 + margin, max(x1, w), 1.5 * w), min(y1 + margin, max(y1, h), 1.5 * h)
    if x1 <= x0 or y1 <= y0:
        x0, y0, x1, y1 = 0.0, 0.0, float(w), float(h)
    return View(x0, y0, x1 - x0, y1 - y0)


def details(
    grid: PatchGrid,
    labels: NDArray[np.int8],
    refined: Sequence[Geometry],
    view: View,
    n: int,
    aspect: float,
) -> list[View]:
    """Up to `n` windows in which much changed and much did not: there a border moved.

    Parameters
    ----------
    labels : (n,) coarse labels
    refined : refined area of each class k >= 1
    aspect : height over width of a window
    """
    if not len(grid):
        return []
    width = min(DETAIL_CELLS * grid.stride, max(view.width, view.height) / 3, view.width)
    width = min(width, view.height / aspect)
    rows, cols = (max(3, round(s / grid.stride)) for s in (width * aspect, width))
    now = np.zeros(len(grid), np.int8)
    for k, area in enumerate(refined, start=1):
        if not area.is_empty:
            shapely.prepare(area)
            now[shapely.contains_xy(area, *grid.centres.T)] = k
    changed = _window_sums(grid, (now != labels) & (labels >= 0), rows, cols)
    cells = _window_sums(grid, np.ones(len(grid), bool), rows, cols)
    inside = _window_sums(grid, now > 0, rows, cols)
    score = changed * (cells - changed) * 4.0 + inside * (cells - inside) + 1e-3 * cells
    found = []
    for _ in range(n):
        row, col = np.unravel_index(int(np.argmax(score)), score.shape)
        if score[row, col] <= 0:
            break
        x = grid.origin[0] + (float(col) + 0.5) * grid.stride - width / 2
        y = grid.origin[1] + (float(row) + 0.5) * grid.stride - width * aspect / 2
        x = min(max(x, view.x), view.x + view.width - width)
        y = min(max(y, view.y), view.y + view.height - width * aspect)
        found.append(View(x, y, width, width * aspect))
        # The next window may share up to a third with this one.
        dr, dc = rows * 2 // 3, cols * 2 // 3
        score[max(0, row - dr) : row + dr + 1, max(0, col - dc) : col + dc + 1] = 0
    return found


def _window_sums(
    grid: PatchGrid, chosen: NDArray[np.bool_], rows: int, cols: int
) -> NDArray[np.float64]:
    """(rows, cols) of the lattice: how many chosen cells lie in the window centred on each."""
    image = np.zeros(grid.shape)
    image[grid.rows, grid.cols] = chosen
    top, left = rows // 2, cols // 2
    padded = np.pad(image, ((top + 1, rows - top), (left + 1, cols - left)))
    sums = padded.cumsum(0).cumsum(1)
    height, width = grid.shape
    total = (
        sums[rows : rows + height, cols : cols + width]
        - sums[:height, cols : cols + width]
        - sums[rows : rows + height, :width]
        + sums[:height, :width]
    )
    return np.asarray(total)


def bar_length(width_um: float) -> float:
    """A round length (1, 2 or 5 times a power of ten), µm, about a fifth of a width."""
    wanted = width_um / 5
    power = 10.0 ** np.floor(np.log10(wanted))
    return float(max(step * power for step in (1, 2, 5) if step * power <= wanted * 1.0001))
