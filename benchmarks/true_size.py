"""Real annotations of CAMELYON16 at their true size, on slides of 100,000 x 100,000 px.

    python benchmarks/true_size.py ../shared/data/camelyon16 [--slides tumor_076 tumor_089]

The two with most annotated area. The fine outlines say where the made-up tissue looks like tumour,
tissue reaches a millimetre further, and the first hand-drawn coarse outline is what is refined, by
`recontour refine`, as a user would. Embedding slides of this size takes half an hour each: the
features, too, are made up and put into the cache, all but those of a few windows, so that the
command embeds as it always does, with the default encoder, and the peak of its memory is the true
one. Accuracy means nothing here.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import shapely
from memory import encode, refine, tissue_tile
from numpy.typing import NDArray
from shapely import affinity

from recontour import Recipe, Runtime, open_slide, read_annotation, write_annotation
from recontour.cache import FeatureCache
from recontour.embedding import cache_key, plan_blocks, views_of
from recontour.geometry import union
from recontour.grid import centres_inside
from recontour.preparation import lay_out
from recontour.slides import frame_of
from recontour.types import Annotation, Geometry

SIDE, TILE, MPP = 100_000, 512, 0.243
LEVELS = (1, 16, 64)  # whole tiles of one texture at first, drawn cell by cell where they shrink
MARGIN_PX = 2000
LEFT_TO_EMBED = 3  # windows
GLASS, TISSUE, TUMOR = range(3)
COLOURS = np.array([(245, 245, 245), (205, 150, 190), (150, 90, 165)], np.float64)


def classes_of_tiles(tissue: Geometry, tumor: Geometry, step: float) -> NDArray[np.int8]:
    """int8 (n, n), what lies at the middle of each square of `step` level-0 px."""
    n = math.ceil(SIDE / step)
    x, y = np.meshgrid((np.arange(n) + 0.5) * step, (np.arange(n) + 0.5) * step)
    found = np.zeros((n, n), np.int8)
    for kind, area in ((TISSUE, tissue), (TUMOR, tumor)):
        shapely.prepare(area)
        found[shapely.contains_xy(area, x, y)] = kind
    return found


def write_slide(path: Path, tissue: Geometry, tumor: Geometry) -> None:
    """A JPEG-tiled pyramid."""
    import tifffile

    rng = np.random.default_rng(0)
    textures = [
        [encode(np.full((TILE, TILE, 3), 245, np.uint8))],
        [tissue_tile(rng) for _ in range(8)],
        [encode(noisy(np.full((TILE, TILE), TUMOR), rng)) for _ in range(8)],
    ]
    whole = classes_of_tiles(tissue, tumor, TILE)

    def tiles(downsample: int) -> Iterator[bytes]:
        if downsample == 1:
            for i, kind in enumerate(whole.ravel()):
                yield textures[kind][i % len(textures[kind])]
            return
        each = math.ceil(SIDE / downsample / TILE)
        drawn = np.zeros((each * TILE, each * TILE), np.int8)
        at = np.minimum(np.arange(each * TILE) * downsample // TILE, len(whole) - 1)
        drawn[:] = whole[np.ix_(at, at)]
        for i in range(each * each):
            row, col = (v * TILE for v in divmod(i, each))
            yield encode(noisy(drawn[row : row + TILE, col : col + TILE], rng))

    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for downsample in LEVELS:
            length = SIDE // downsample
            writer.write(
                tiles(downsample),
                shape=(length, length, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                compression="jpeg",
                photometric="ycbcr",
                subsampling=(1, 1),
                subfiletype=0 if downsample == 1 else 1,
                resolution=(10_000 / MPP / downsample, 10_000 / MPP / downsample),
                resolutionunit="CENTIMETER",
            )


def noisy(kinds: NDArray[np.integer], rng: np.random.Generator) -> NDArray[np.uint8]:
    """uint8 (h, w, 3) of what lies where."""
    noise = rng.normal(0, 12, (*kinds.shape, 3)) * (kinds > 0)[..., None]
    return np.asarray((COLOURS[kinds] + noise).clip(0, 255), np.uint8)


def fill_cache(slide_path: Path, folder: Path, tumor: Geometry) -> int:
    """Keep made-up features of all windows but a few; how many cells there are."""
    with_cache = Runtime(cache_dir=folder)
    slide = open_slide(slide_path)
    layout = lay_out(slide, Recipe(), with_cache)
    lattice, encoder = layout.lattice, layout.encoder
    rng = np.random.default_rng(1)
    looks = np.zeros(len(lattice))
    looks[centres_inside(lattice, tumor)] = 1.0
    direction = rng.normal(size=encoder.dim) / 4
    with FeatureCache(folder).use(cache_key(slide, lattice, encoder)) as shards:
        for block in plan_blocks(lattice, encoder)[LEFT_TO_EMBED:]:
            shape = (len(block.cells), encoder.dim)
            base = looks[block.cells, None] * direction
            shards.save(
                block.index,
                {
                    view: (base + rng.normal(0, 0.5, shape)).astype(np.float16)
                    for view in views_of(encoder)
                },
            )
    slide.close()
    return len(lattice)


def moved(annotation: Annotation, dx: float, dy: float) -> Annotation:
    """The annotation, moved."""
    regions = tuple(
        replace(r, geometry=affinity.translate(r.geometry, dx, dy)) for r in annotation.regions
    )
    return replace(annotation, regions=regions)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slides", nargs="+", default=["tumor_076", "tumor_089"])
    arguments = parser.parse_args()
    for name in arguments.slides:
        fine, coarse = (
            read_annotation(arguments.folder / f"{name}.{what}.geojson.gz")
            for what in ("fine", "coarse_drawn_1")
        )
        everything = union(r.geometry for a in (fine, coarse) for r in a.regions)
        x0, y0, x1, y1 = everything.bounds
        if max(x1 - x0, y1 - y0) > SIDE:
            parser.error(f"{name} is larger than {SIDE:,} px")
        shift = (SIDE - x1 - x0) / 2, (SIDE - y1 - y0) / 2
        fine, coarse = moved(fine, *shift), moved(coarse, *shift)
        tumor = union(r.geometry for r in fine.regions if r.label == fine.regions[0].label)
        tissue = union(r.geometry for a in (fine, coarse) for r in a.regions)
        tissue = tissue.simplify(100).buffer(MARGIN_PX, quad_segs=4)
        with tempfile.TemporaryDirectory() as temporary:
            work = Path(temporary)
            write_slide(work / "slide.tif", tissue, tumor)
            fill_cache(work / "slide.tif", work / "cache", tumor)
            slide = open_slide(work / "slide.tif")
            write_annotation(coarse, work / "coarse.geojson", frame_of(slide, "auto"))
            slide.close()
            chosen = sorted({r.label for r in coarse.regions if r.label})[:1]
            peak = refine(
                work / "slide.tif", work / "coarse.geojson", work / "out", work / "cache",
                *(f"--class={label}" for label in chosen),
            )  # fmt: skip
        run = peak.run
        timings = ", ".join(f"{stage} {s:.1f}" for stage, s in run["timings_s"].items())
        vertices = shapely.get_num_coordinates(everything)
        print(
            f"{name}: {x1 - x0:,.0f} x {y1 - y0:,.0f} px annotated, {vertices:,} vertices, "
            f"{run['grid']['n_cells']:,} cells of {run['grid']['cell_um']:.0f} µm, "
            f"{len(run['objects'])} objects: peak {peak.gib:.2f} GiB, {peak.seconds:.0f} s "
            f"({timings}; {run['grid']['n_cells'] - run['embedding']['cells_from_cache']:,} cells "
            "embedded)",
            flush=True,
        )


if __name__ == "__main__":
    main()
