"""What a run would take (`--dry-run`), and embedding ahead of one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recontour.cache import FeatureCache
from recontour.devices import limit_threads
from recontour.embedding import Features, cache_key, estimate
from recontour.files import atomic_path
from recontour.grid import GridChoice
from recontour.postprocess import rules_for
from recontour.preparation import (
    describe_grid,
    describe_slide,
    embed_cells,
    lay_out,
    open_cache,
    prepare,
)
from recontour.recipe import Recipe, Runtime, digest
from recontour.refiners import make_refiner
from recontour.slides import open_slide
from recontour.types import DenseEncoder, Encoder, PatchGrid, Refiner

SCHEMA = "recontour.plan/1"
SECONDS_A_CELL = 1.2e-4
"""Learning, checking and tracing with the default refiner on two cores; `benchmarks/refine.py`."""
SECONDS_TO_WRITE = 2.0
"""Files, pictures and report of a slide of 20,000 cells; `benchmarks/scale.py`."""
BASE_BYTES = 700 * 2**20
"""Python with torch and the encoder, before the first window."""


def plan(
    slide: Path,
    coarse: Path,
    recipe: Recipe,
    *,
    reviewed: Path | None = None,
    also: Sequence[Path] = (),
    runtime: Runtime | None = None,
) -> dict[str, Any]:
    """Grid, cells, labels, expected time and memory of a run; nothing is written.

    Raises
    ------
    RecontourError : whatever would stop the run before its first pixel is embedded
    """
    runtime = runtime or Runtime()
    refiner = make_refiner(recipe.method, seed=recipe.seed, **recipe.method_options)
    with contextlib.closing(open_slide(slide, recipe.mpp, recipe.reader)) as opened:
        work = prepare(opened, coarse, recipe, runtime, reviewed=reviewed, also=also)
        rules_for(recipe, work.grid)
        cost = estimate(work.lattice, work.encoder)
        key = cache_key(opened, work.lattice, work.encoder)
        missing = 1 - cached_windows(open_cache(runtime), key) / cost["windows"]
        learning, learning_bytes = expected_learning(refiner, len(work.grid))
        embedding = missing * cost["pixels"] / pixels_per_second(work.encoder)
        return {
            "schema": SCHEMA,
            "slide": describe_slide(opened),
            "grid": describe_grid(work.choice, work.grid),
            "labels": work.label_counts,
            "expected": {
                "seconds": embedding + learning + SECONDS_TO_WRITE,
                "seconds_embed": embedding,
                "cached_share": 1 - missing,
                "windows": cost["windows"],
                "pixels": cost["pixels"],
                "bytes": BASE_BYTES + cost["peak_bytes"] + learning_bytes,
            },
            "notes": list(work.selection.notes),
            "warnings": list(work.warnings),
        }


def expected_learning(refiner: Refiner, cells: int) -> tuple[float, int]:
    """(seconds, bytes) that learning from `cells` cells takes: as the refiner says, if it does."""
    if hasattr(refiner, "expect"):
        seconds, size = refiner.expect(cells)
        return float(seconds), int(size)
    return SECONDS_A_CELL * cells, 0


def cached_windows(cache: FeatureCache | None, key: dict[str, Any]) -> int:
    """How many windows of an embedding are cached already."""
    entries = () if cache is None else cache.entries()
    return sum(entry.n_shards for entry in entries if entry.name == digest(key))


def pixels_per_second(encoder: Encoder) -> float:
    """Speed of an encoder on this machine, from one small trial."""
    side = 512 if isinstance(encoder, DenseEncoder) else encoder.patch_px
    count = 1 if isinstance(encoder, DenseEncoder) else max(1, min(16, 512**2 // side**2))
    pixels = np.full((count, side, side, 3), 200, np.uint8)
    encode = encoder.dense if isinstance(encoder, DenseEncoder) else encoder
    encode(pixels)
    start = time.perf_counter()
    encode(pixels)
    return pixels.size / 3 / (time.perf_counter() - start)


def embed_slide(
    slide: Path, recipe: Recipe, *, runtime: Runtime | None = None
) -> tuple[PatchGrid, Features, GridChoice]:
    """Embed all tissue of a slide into the cache, with the cells that `refine` would choose."""
    runtime = runtime or Runtime()
    with (
        limit_threads(runtime.threads),
        contextlib.closing(open_slide(slide, recipe.mpp, recipe.reader)) as opened,
    ):
        _, encoder, choice, grid = lay_out(opened, recipe, runtime)
        features = embed_cells(opened, grid, encoder, runtime)
    return grid, features, choice


def export_features(path: Path, grid: PatchGrid, features: Features) -> None:
    """Write an .npz: `centres` (n, 2) level-0 px, `rows`, `cols`, `cell` and `context` (n, d).

    Without `context` where the encoder gives none.
    """
    views = {"cell": features.cell}
    if features.context is not None:
        views["context"] = features.context
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            centres=grid.centres,
            rows=grid.rows,
            cols=grid.cols,
            stride_px=grid.stride,
            mpp=grid.mpp,
            mpp_embed=grid.mpp_embed,
            **views,  # type: ignore[arg-type]  # numpy's stub takes it for allow_pickle
        )
