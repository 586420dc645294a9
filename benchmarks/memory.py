"""Peak memory of refining a large slide, from the command line.

    python benchmarks/memory.py [--side 100000] [--cells 35000] [--method em]

Writes a JPEG-tiled pyramidal TIFF of `side` x `side` px at 0.25 µm/px (a few tissue tiles, stored
again and again; glass elsewhere) and an outline of half of its tissue, runs `recontour refine` on
them as a user would, and prints the peak of that process. Takes about 0.7 CPU-seconds for each
100 cells.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

TILE = 512
CELL = 128  # px: 32 µm at 0.25 µm/px


def tissue_tile(rng: np.random.Generator) -> bytes:
    total = np.zeros((TILE, TILE, 3))
    for size, strength in ((64, 40), (16, 40), (4, 20)):
        noise = rng.normal(0, strength, (TILE // size, TILE // size, 3))
        total += np.kron(noise, np.ones((size, size, 1)))
    return encode(np.clip(total + np.array([190, 130, 170]), 0, 255).astype(np.uint8))


def encode(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=80, subsampling=0)
    return buffer.getvalue()


def write_slide(path: Path, side: int, tissue_side: int) -> None:
    """A pyramid whose top left `tissue_side` px are tissue."""
    import tifffile

    rng = np.random.default_rng(0)
    tissue = [tissue_tile(rng) for _ in range(16)]
    glass = encode(np.full((TILE, TILE, 3), 245, np.uint8))

    def tiles(length: int, covered: int) -> Iterator[bytes]:
        n = -(-length // TILE)
        for i in range(n * n):
            row, col = divmod(i, n)
            inside = max(row, col) * TILE < covered
            yield tissue[(row * 7 + col * 3) % 16] if inside else glass

    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        downsample = 1
        while downsample == 1 or side // downsample >= TILE:
            length = side // downsample
            writer.write(
                tiles(length, tissue_side // downsample),
                shape=(length, length, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                compression="jpeg",
                photometric="ycbcr",
                subsampling=(1, 1),
                subfiletype=0 if downsample == 1 else 1,
                resolution=(40000 / downsample, 40000 / downsample),
                resolutionunit="CENTIMETER",
            )
            downsample *= 2


def write_outline(path: Path, tissue_side: int) -> None:
    """The left half of the tissue, as QuPath would write it."""
    half = [[0, 0], [tissue_side / 2, 0], [tissue_side / 2, tissue_side], [0, tissue_side], [0, 0]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [half]},
        "properties": {"objectType": "annotation", "classification": {"name": "Tumor"}},
    }
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))


BETWEEN = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


class Peak(NamedTuple):
    """What a command took: GiB at most, wall seconds, and its `run.json`."""

    gib: float
    seconds: float
    run: dict[str, Any]


def refine(slide: Path, outline: Path, out: Path, cache: Path, *more: str) -> Peak:
    """Run `recontour refine` as a user would."""
    command = [
        sys.executable, "-m", "recontour", "refine", slide, outline, "-o", out,
        "--cache-dir", cache, "-q", *more,
    ]  # fmt: skip
    start = time.perf_counter()
    # From a small process: Linux counts the memory of whoever starts a process as its own.
    between = [sys.executable, "-c", BETWEEN, *map(str, command)]
    ended = subprocess.run(between, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - start
    if ended.returncode != 0:
        raise SystemExit(f"recontour refine ended with {ended.returncode}")
    # Linux counts in KiB, macOS in bytes.
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return Peak(
        int(ended.stdout.split()[-1]) / unit, seconds, json.loads((out / "run.json").read_text())
    )


def measure(side: int, cells: int, method: str = "em", encoder: str | None = None) -> Peak:
    """Peak memory of refining a slide of `side` x `side` px with about so many tissue cells.

    Parameters
    ----------
    encoder : None: the default one
    """
    tissue_side = round(np.sqrt(cells)) * CELL
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_slide(folder / "large.tif", side, tissue_side)
        write_outline(folder / "coarse.geojson", tissue_side)
        more = ["--method", method, *(["--encoder", encoder] if encoder else [])]
        return refine(
            folder / "large.tif", folder / "coarse.geojson", folder / "out", folder / "cache", *more
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=100_000)
    parser.add_argument("--cells", type=int, default=35_000)
    parser.add_argument("--method", default="em")
    parser.add_argument("--encoder")
    arguments = parser.parse_args()
    found = measure(arguments.side, arguments.cells, arguments.method, arguments.encoder)
    timings = ", ".join(f"{stage} {s:.1f}" for stage, s in found.run["timings_s"].items())
    print(
        f"{arguments.side} x {arguments.side} px, {found.run['grid']['n_cells']:,} cells, "
        f"{arguments.method}: peak {found.gib:.2f} GiB, {found.seconds:.0f} s ({timings})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
