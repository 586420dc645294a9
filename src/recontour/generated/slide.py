"""Generate a slide: lay it out, paint it tile by tile, write it as a pyramid."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recontour.errors import UsageError
from recontour.files import atomic_path
from recontour.generated.layout import PAD, Layout
from recontour.generated.noise import Field
from recontour.generated.paint import Painter
from recontour.generated.planning import plan_layout
from recontour.generated.population import place_nuclei
from recontour.types import Annotation, Geometry, Region

TILE = 512  # px
SHRINK = 4  # each level of the pyramid is this much smaller than the one before
SMALLEST = 600  # px; no level below this


@dataclass(frozen=True)
class GeneratedSlide:
    """A synthetic slide and what is known about it.

    Attributes
    ----------
    path : pyramidal TIFF
    size : (width, height), level-0 px
    mpp : µm per level-0 px
    truth : the tumour, exactly as painted; one region of class "Tumor" for each nest
    tissue : everything that is not glass, level-0 px
    """

    path: Path
    size: tuple[int, int]
    mpp: float
    truth: Annotation
    tissue: Geometry


def generate_slide(
    path: Path | str,
    *,
    size: tuple[int, int] = (8192, 8192),
    mpp: float = 0.5,
    seed: int = 0,
    tumor_share: float = 0.35,
    artefacts: bool = True,
    threads: int | None = None,
) -> GeneratedSlide:
    """Paint an H&E-like slide and write it as a tiled, pyramidal TIFF that OpenSlide opens.

    Tumour lies in nests of all sizes between strands of stroma, beside benign glands and
    aggregates of lymphocytes of about the same colour, fibroblasts, fat, and (`artefacts`) folds
    and pen marks. The same arguments give the same file. It resembles tissue enough to exercise
    software; it is no evidence of how well anything works on patients' slides.

    Parameters
    ----------
    path : the TIFF to write
    size : (width, height), level-0 px, at least 256 each
    mpp : µm/px, 0.1 to 4
    seed : another seed, another slide
    tumor_share : share of the tissue that is tumour, in (0, 1)
    artefacts : with folds and pen marks
    threads : None: as many as there are cores

    Raises
    ------
    UsageError : an argument out of its range
    OutputError : the file cannot be written
    """
    path = Path(path)
    if min(size) < 256 or not 0.1 <= mpp <= 4 or not 0 < tumor_share < 1:
        raise UsageError(
            f"cannot generate a slide of size={size}, mpp={mpp}, tumor_share={tumor_share}; "
            "sides from 256 px, mpp from 0.1 to 4, tumor_share between 0 and 1"
        )
    layout = plan_layout(size, mpp, seed, tumor_share, artefacts)
    painter = Painter(layout, place_nuclei(layout, seed), seed)
    with atomic_path(path) as temporary:
        _write_pyramid(temporary, painter, threads or os.cpu_count() or 1)
    nests = _polygons(layout, layout.tumor)
    regions = tuple(
        Region(str(uuid.uuid5(uuid.NAMESPACE_OID, f"{seed}-{i}-{nest.wkt}")), nest, "Tumor")
        for i, nest in enumerate(nests)
    )
    truth = Annotation(path.stem, regions, f"generated, seed {seed}")
    return GeneratedSlide(path, size, mpp, truth, _joined(_polygons(layout, layout.tissue)))


def _polygons(layout: Layout, field: Field) -> list[Any]:
    """Where a map is positive, as polygons with holes, level-0 px, clipped to the slide."""
    import shapely
    from contourpy import FillType, contour_generator

    ys = (np.arange(field.shape[0]) - PAD + 0.5) * layout.pitch
    xs = (np.arange(field.shape[1]) - PAD + 0.5) * layout.pitch
    lines = contour_generator(xs, ys, field, fill_type=FillType.OuterOffset)
    polygons = []
    for points, offsets in zip(*lines.filled(0, 1e9), strict=True):
        rings = [points[a:b] for a, b in pairwise(offsets)]
        polygon = shapely.Polygon(rings[0], rings[1:])
        polygon = shapely.clip_by_rect(polygon, 0, 0, *layout.size)
        # A hundredth of a px is the grid on which annotations are exchanged.
        polygon = shapely.set_precision(shapely.make_valid(polygon), 0.01)
        parts = polygon.geoms if hasattr(polygon, "geoms") else [polygon]
        polygons += [p for p in parts if p.geom_type == "Polygon" and p.area > 0]
    return polygons


def _joined(polygons: list[Any]) -> Geometry:
    import shapely

    return polygons[0] if len(polygons) == 1 else shapely.MultiPolygon(polygons)


def _write_pyramid(path: Path, painter: Painter, threads: int) -> None:
    """Write level 0 as it is painted; the smaller levels from what was kept of it."""
    import tifffile

    width, height = painter.layout.size
    mpp = painter.layout.mpp
    shrunk = np.full((-(-height // SHRINK), -(-width // SHRINK), 3), 255, np.uint8)

    def paint(corner: tuple[int, int]) -> NDArray[np.uint8]:
        x, y = corner
        tile = painter.paint(x, y, TILE, TILE)
        small = tile.reshape(TILE // SHRINK, SHRINK, TILE // SHRINK, SHRINK, 3).mean((1, 3))
        view = shrunk[y // SHRINK : (y + TILE) // SHRINK, x // SHRINK : (x + TILE) // SHRINK]
        view[:] = small[: view.shape[0], : view.shape[1]].round()
        return tile

    def tiles() -> Iterator[NDArray[np.uint8]]:
        with ThreadPoolExecutor(threads) as pool:
            for y in range(0, height, TILE):
                yield from pool.map(paint, [(x, y) for x in range(0, width, TILE)])

    def options(level: int) -> dict[str, Any]:
        scale = 1e4 / (mpp * SHRINK**level)  # px/cm
        return {
            "photometric": "rgb",
            "compression": "jpeg",
            "compressionargs": {"level": 88},
            "tile": (TILE, TILE),
            "resolution": (scale, scale),
            "resolutionunit": "CENTIMETER",
            "subfiletype": int(level > 0),
            "metadata": None,
            "software": "recontour (generated; not a patient's tissue)",
        }

    big = width * height * 3 > 2**32
    with tifffile.TiffWriter(path, bigtiff=big) as file:
        file.write(tiles(), shape=(height, width, 3), dtype=np.uint8, **options(0))
        level, image = 1, shrunk
        while max(image.shape[:2]) >= SMALLEST or level == 1:
            file.write(image, **options(level))
            image = _shrink(image)
            level += 1


def _shrink(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = (-(-side // SHRINK) * SHRINK for side in image.shape[:2])
    padded = np.pad(
        image, ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)), mode="edge"
    )
    blocks = padded.reshape(height // SHRINK, SHRINK, width // SHRINK, SHRINK, 3)
    return np.asarray(blocks.mean((1, 3)).round(), np.uint8)
