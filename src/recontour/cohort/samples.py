"""A bounded sample of one slide's cells, on disk: what a pool learns from.

`OUT/pool/samples/<id>/` holds `sample.npz` (arrays in the order of drawing: fewer cells are a
beginning of them) and `run.json` (what it is of).
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recontour.claim import read_json
from recontour.errors import RecontourError
from recontour.files import atomic_path, write_text
from recontour.refiners.aligning import Level, levels_of
from recontour.refiners.sampling import sample_order, take_cells
from recontour.types import PatchGrid, PatchSet

SCHEMA = "recontour.sample/1"
FILE = "sample.npz"
ABOUT = "run.json"
_GRID = ("stride", "size", "patch_px", "mpp", "mpp_embed")


def write_sample(
    folder: Path, patches: PatchSet, most: int, *, seed: int, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Draw `most` labelled cells of a slide and write them, with the levels of its features.

    Returns
    -------
    what `run.json` holds
    """
    rows = sample_order(patches, most, seed=seed)
    arrays: dict[str, NDArray[Any]] = {
        "features": patches.features[rows],
        "labels": patches.labels[rows],
        "rows": patches.grid.rows[rows],
        "cols": patches.grid.cols[rows],
    }
    if patches.context is not None:
        arrays["context"] = patches.context[rows]
    if patches.trust is not None:
        arrays["trust"] = patches.trust[rows]
    for name, level in levels_of(patches).items():
        arrays |= {f"{name}_mean": level.mean, f"{name}_spread": level.spread}
    with atomic_path(folder / FILE) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    grid = patches.grid
    summary = {
        "schema": SCHEMA,
        "slide": patches.slide_id,
        "classes": list(patches.classes),
        "dim": int(patches.features.shape[1]),
        "cells": len(patches),
        "drawn": len(rows),
        "labels": [int(n) for n in np.bincount(patches.labels[rows], minlength=2)],
        "grid": {
            "origin": [float(v) for v in grid.origin],
            "shape": [int(v) for v in grid.shape],
            **{name: getattr(grid, name) for name in _GRID},
        },
        "sha256": sha256((folder / FILE).read_bytes()).hexdigest(),
        **about,
    }
    write_text(folder / ABOUT, json.dumps(summary, indent=2) + "\n")
    return summary


def about_sample(folder: Path) -> dict[str, Any]:
    """What `run.json` of a sample holds.

    Raises
    ------
    RecontourError : there is no sample
    """
    found = read_json(folder / ABOUT)
    if found.get("schema") != SCHEMA:
        raise RecontourError(f"{folder} holds no sample; delete it, and run the same command again")
    return found


def read_sample(folder: Path, most: int, sha: str | None = None) -> PatchSet:
    """The first `most` cells of a sample, in the order of the grid.

    Parameters
    ----------
    sha : what the file must be, hex SHA-256

    Raises
    ------
    RecontourError : there is no such sample
    """
    arrays, about = _read(folder, sha)
    grid = about["grid"]
    patches = PatchSet(
        about["slide"],
        PatchGrid(
            tuple(grid["origin"]),
            tuple(grid["shape"]),
            arrays["rows"],
            arrays["cols"],
            **{name: grid[name] for name in _GRID},
        ),
        arrays["features"],
        arrays["labels"],
        tuple(about["classes"]),
        arrays.get("context"),
        arrays.get("trust"),
    )
    first = np.arange(min(most, len(patches)))
    place = np.lexsort((patches.grid.cols[first], patches.grid.rows[first]))
    return take_cells(patches, first[place])


def read_levels(folder: Path, sha: str | None = None) -> dict[str, Level]:
    """The levels of the features of the slide that a sample is of."""
    arrays, _ = _read(folder, sha)
    names = [name.removesuffix("_mean") for name in arrays if name.endswith("_mean")]
    return {n: Level(arrays[f"{n}_mean"], arrays[f"{n}_spread"]) for n in names}


def _read(folder: Path, sha: str | None) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    about = about_sample(folder)
    data = (folder / FILE).read_bytes()
    if sha256(data).hexdigest() != (sha or about["sha256"]):
        raise RecontourError(
            f"the sample {folder.name} changed since the pool was put together: another process "
            "works on a changed manifest; run the same command again"
        )
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}, about
