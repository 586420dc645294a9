"""Peak memory of embedding a large slide.

    python benchmarks/memory.py [--side 60000] [--cells 35000] [--encoder efficientnet_lite0]

Writes a JPEG-tiled pyramidal TIFF of `side` x `side` px at 0.25 µm/px (a few tissue tiles, stored
again and again; glass elsewhere), then embeds its cells of 32 µm and prints the peak of the whole
process. Takes about 0.2 CPU-seconds for each 100 cells; the peak is reached after a few windows,
so that `--cells` may be small where only the slide's size is in question.
"""

from __future__ import annotations

import argparse
import io
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from recontour.embedding import embed_patches, estimate
from recontour.encoders import load_encoder
from recontour.slides import open_slide
from recontour.types import PatchGrid

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


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=60_000)
    parser.add_argument("--cells", type=int, default=35_000)
    parser.add_argument("--encoder", default="efficientnet_lite0")
    arguments = parser.parse_args()
    encoder = load_encoder(arguments.encoder, device="cpu")
    n = int(np.sqrt(arguments.cells))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.tif"
        write_slide(path, arguments.side, n * CELL)
        print(f"{path.stat().st_size / 2**20:.0f} MB on disk; so far {peak_gb():.2f} GB")
        slide = open_slide(path)
        rows, cols = np.divmod(np.arange(n * n, dtype=np.int32), np.int32(n))
        lattice = (slide.size[1] // CELL, slide.size[0] // CELL)
        grid = PatchGrid(
            (0.0, 0.0), lattice, rows, cols, CELL, CELL, encoder.patch_px, slide.mpp, encoder.mpp
        )
        print(estimate(grid, encoder))
        start = time.perf_counter()
        features = embed_patches(slide, grid, encoder)
        slide.close()
    print(
        f"{slide.size[0]} x {slide.size[1]} px, {len(grid)} cells: peak {peak_gb():.2f} GB, "
        f"{time.perf_counter() - start:.0f} s (reading {features.seconds_read:.0f} s beside)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
