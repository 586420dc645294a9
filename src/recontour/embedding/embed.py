"""Features of every cell: read windows, embed them once, pool to cells and to their surroundings.

A block of cells is kept as one shard, so that a killed run resumes at the block it was in.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recontour.cache import FeatureCache, Shards
from recontour.embedding import blocks as lattice
from recontour.embedding.blocks import Float16, block_computer, plan_blocks, views_of
from recontour.embedding.effort import Effort
from recontour.embedding.passes import Passes
from recontour.embedding.reading import READ_AHEAD, Ready, group, read_ahead
from recontour.embedding.saving import Saver, not_kept
from recontour.errors import EncoderError, OutputError
from recontour.types import DenseEncoder, Encoder, PatchGrid, Progress, Slide, no_progress

FORMAT = 1  # raise when what is computed from the same pixels changes
READERS = 2  # threads that read, where the encoder computes on the same cores


@dataclass(frozen=True)
class Features:
    """Features of n cells.

    Attributes
    ----------
    cell : float16 (n, d), the patch of `grid.size` px centred on the cell
    context : float16 (n, d), the window twice as wide (of a dense encoder: what of it lies
        inside the slide); None of an encoder that says `context = False`
    effort : what it took
    notes : sentences for the user
    """

    cell: Float16
    context: Float16 | None
    effort: Effort = field(default_factory=Effort)
    notes: tuple[str, ...] = ()

    @property
    def from_cache(self) -> int:
        """Number of cells that were not computed."""
        return self.effort.from_cache


def embed_patches(
    slide: Slide,
    grid: PatchGrid,
    encoder: Encoder,
    *,
    cache: FeatureCache | None = None,
    progress: Progress = no_progress,
    threads: int | None = None,
) -> Features:
    """Features of the cells of `grid`, from the cache as far as they are there.

    A dense encoder sees windows of about 2,560 px (at `grid.mpp_embed`) with a halo; its map is
    averaged over each cell by exact overlap, so that cells need not fit its stride. Any other
    encoder sees each patch alone, resized to `grid.patch_px`. Reading and saving run beside the
    computation.

    Parameters
    ----------
    cache : None computes everything and keeps nothing
    progress : called as progress("embed", cells done, n)
    threads : threads that read the slide; None: two, or all cores where the encoder has a device
        of its own

    Raises
    ------
    SlideError : the slide cannot be read
    EncoderError : the features hold NaN or infinity, or are not as many as the encoder says; the
        memory of the device is too small
    """
    start = time.perf_counter()
    n, d = len(grid), encoder.dim
    out = {name: np.empty((n, d), np.float16) for name in views_of(encoder)}
    computer = block_computer(slide, grid, encoder)
    passes = Passes(encoder, usual=1 if isinstance(encoder, DenseEncoder) else None)
    seconds = {"read": 0.0, "embed": 0.0, "wait": 0.0}
    done = 0
    progress("embed", 0, n)
    with contextlib.ExitStack() as stack:
        shards, notes = _open_shards(stack, cache, cache_key(slide, grid, encoder))
        missing = []
        for block in plan_blocks(grid, encoder):
            shape = (len(block.cells), d)
            shard = shards and shards.load(block.index, dict.fromkeys(out, shape))
            if not shard:
                missing.append(block)
                continue
            for name, values in shard.items():
                out[name][block.cells] = values
            done += len(block.cells)
        from_cache = done
        if done:
            progress("embed", done, n)
        saver = stack.enter_context(Saver(shards))
        # Closed before the cache is: a reader that is at work when we fail is waited for.
        ready = stack.enter_context(
            contextlib.closing(
                read_ahead(
                    slide,
                    computer,
                    missing,
                    threads=threads or _readers(encoder),
                    ahead=READ_AHEAD + _together(passes, encoder) - 1,
                )
            )
        )
        groups = group(ready, lambda: _together(passes, encoder), computer.alike)
        for together in _timed(groups, seconds):
            begun = time.perf_counter()
            fresh = computer.features(
                [one.block for one in together], [one.pixels for one in together], passes
            )
            seconds["embed"] += time.perf_counter() - begun
            for one, found in zip(together, fresh, strict=True):
                _check(found, (len(one.block.cells), d), encoder)
                seconds["read"] += one.seconds
                saver.save(one.block.index, found)
                for name in out:
                    out[name][one.block.cells] = found[name]
                done += len(one.block.cells)
                progress("embed", done, n)
        saver.finish()
    effort = Effort(
        cells=n,
        from_cache=from_cache,
        seconds=time.perf_counter() - start,
        seconds_read=seconds["read"],
        seconds_embed=seconds["embed"],
        seconds_wait=seconds["wait"],
        seconds_save=saver.seconds,
        seconds_wait_save=saver.seconds_waited,
        engine=getattr(encoder, "engine", None),
        precision=getattr(encoder, "precision", None),
        batch=passes.largest,
    )
    return Features(out["cell"], out.get("context"), effort, (*notes, *saver.notes))


def cache_key(slide: Slide, grid: PatchGrid, encoder: Encoder) -> dict[str, Any]:
    """Everything the features depend on."""
    import hashlib

    cells = hashlib.sha256(np.stack([grid.rows, grid.cols]).astype("<i4").tobytes())
    return {
        "format": FORMAT,
        "slide": slide.fingerprint,
        "slide_mpp": slide.mpp,
        "reader": slide.reader,
        "encoder": encoder.identifier,
        "origin": [float(v) for v in grid.origin],
        "shape": [int(v) for v in grid.shape],
        "cells": cells.hexdigest(),
        "n_cells": len(grid),
        "stride": int(grid.stride),
        "size": int(grid.size),
        "patch_px": int(grid.patch_px),
        "mpp": float(grid.mpp),
        "mpp_embed": float(grid.mpp_embed),
        "window_px": lattice.WINDOW_PX,
    }


def estimate(grid: PatchGrid, encoder: Encoder) -> dict[str, int]:
    """What embedding `grid` takes, before anything is read.

    Returns
    -------
    cells, windows, pixels : to be read and embedded
    feature_bytes : of all views, in memory and on disk
    peak_bytes : of features and the windows in flight, without the encoder's own
    """
    blocks = plan_blocks(grid, encoder)
    computer = block_computer(None, grid, encoder)
    pixels = [computer.n_pixels(block) for block in blocks]
    feature_bytes = len(grid) * encoder.dim * 2 * len(views_of(encoder))
    return {
        "cells": len(grid),
        "windows": len(blocks),
        "pixels": sum(pixels),
        "feature_bytes": feature_bytes,
        "peak_bytes": feature_bytes + 3 * (READ_AHEAD + 1) * max(pixels, default=0),
    }


def _readers(encoder: Encoder) -> int:
    """How many threads read: more where the cores have nothing else to do."""
    if _on_device(encoder):
        return os.cpu_count() or READERS
    return READERS


def _on_device(encoder: Encoder) -> bool:
    return getattr(getattr(encoder, "device", None), "type", "cpu") != "cpu"


def _together(passes: Passes, encoder: Encoder) -> int:
    """How many windows go through the encoder together; of patches, all of a block do."""
    return (passes.at_once or 1) if isinstance(encoder, DenseEncoder) else 1


def _timed(groups: Iterator[list[Ready]], seconds: dict[str, float]) -> Iterator[list[Ready]]:
    """The groups, with the time that was waited for them counted as "wait"."""
    while True:
        start = time.perf_counter()
        together = next(groups, None)
        seconds["wait"] += time.perf_counter() - start
        if together is None:
            return
        yield together


def _check(values: dict[str, Float16], shape: tuple[int, int], encoder: Encoder) -> None:
    for array in values.values():
        if array.shape != shape:
            raise EncoderError(
                f"encoder {encoder.identifier} returned {array.shape} for {shape[0]} cells, where "
                f"{shape} is needed: its `dim` is {encoder.dim}"
            )
    if not all(np.isfinite(array).all() for array in values.values()):
        raise EncoderError(
            f"encoder {encoder.identifier} returned NaN or infinity (or beyond float16)"
        )


def _open_shards(
    stack: contextlib.ExitStack, cache: FeatureCache | None, key: dict[str, Any]
) -> tuple[Shards | None, tuple[str, ...]]:
    """The shards to use, and what to tell the user of a cache that cannot be used."""
    if cache is None:
        return None, ()
    try:
        return stack.enter_context(cache.use(key)), ()
    except OutputError as error:
        return None, (not_kept(error),)
