"""Reading patches: the fast reader beside OpenSlide, a DataLoader, and decoding alone.

    python benchmarks/reading.py [--rounds 5] [--side 4096] [--tissue FILE]

Slides are generated (or the picture FILE, mirrored to the size), stored as JPEG tiles of quality 80
and 4:2:0. Every case reads all of it as patches of 256 px, with two threads or worker processes:

R1  tiles of 256 px, patches fit tiles: against decoding the tiles from memory (the limit), against
    OpenSlide + PIL with a shared handle, against torch's DataLoader that gives normalised floats
R2  tiles of 240 px, patches fit none, planned: against the same limit per pixel, and OpenSlide
R3  patches at twice the µm/px: against OpenSlide + PIL's bilinear filter; PSNR to the exact mean

Cases run in turn in one process, round by round. On a machine that is busy with other things the
CPU-seconds, which both kinds of ratio are given in, hold better than the seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openslide
import tifffile
from imagecodecs import jpeg8_decode
from numpy.typing import NDArray
from PIL import Image
from timing import Ratio, Timing, interleaved, ratio

from recontour.generated import generate_slide
from recontour.slides import open_slide
from recontour.slides.jpeg_tiff import JpegTiffReader

PATCH, MPP, WORKERS = 256, 0.25, 2
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Pixels = NDArray[np.uint8]


class Reading(NamedTuple):
    """Ratios of speed (seconds, CPU-seconds), and the fidelity of shrinking while decoding."""

    seconds: dict[str, Ratio]
    cpu: dict[str, Ratio]
    psnr: dict[int, float]
    per_second: dict[str, float]


class Files(NamedTuple):
    """The same picture in tiles of 256 and of 240 px."""

    aligned: Path
    misaligned: Path
    side: int


def make_files(folder: Path, side: int = 4096, tissue: Path | None = None) -> Files:
    """Write the two slides; `side` a multiple of 512."""
    if tissue is None:
        made = generate_slide(folder / "made.tif", size=(side, side), mpp=MPP, seed=5)
        with contextlib.closing(open_slide(made.path)) as slide:
            pixels = slide.read_region(0, 0, (side, side), slide.mpp)
    else:
        one = np.asarray(Image.open(tissue).convert("RGB"))
        one = np.concatenate([one, one[::-1]], 0)
        one = np.concatenate([one, one[:, ::-1]], 1)
        repeats = [-(-side // length) for length in one.shape[:2]]
        pixels = np.tile(one, (*repeats, 1))[:side, :side]
    paths = []
    for tile in (256, 240):
        paths.append(folder / f"tiles_{tile}.tif")
        tifffile.imwrite(
            paths[-1], pixels, tile=(tile, tile), compression="jpeg", photometric="rgb",
            compressionargs={"level": 80}, subsampling=(2, 2), metadata=None,
            resolution=(1e4 / MPP, 1e4 / MPP), resolutionunit="CENTIMETER",
        )  # fmt: skip
    return Files(paths[0], paths[1], side)


def corners(side: int, step: int) -> list[tuple[int, int]]:
    return [(x, y) for y in range(0, side, step) for x in range(0, side, step)]


def in_threads(read: Callable[[Any], object], items: Sequence[Any]) -> None:
    with ThreadPoolExecutor(WORKERS) as pool:
        for _ in pool.map(read, items):
            pass


class Patches:
    """The data set one writes for a DataLoader: a handle per worker, float, normalised."""

    def __init__(self, path: Path, at: list[tuple[int, int]]) -> None:
        self.path, self.at = path, at
        self.slide: Any = None

    def __len__(self) -> int:
        return len(self.at)

    def __getitem__(self, index: int) -> Any:
        import torch

        if self.slide is None:
            self.slide = openslide.OpenSlide(self.path)
        image = self.slide.read_region(self.at[index], 0, (PATCH, PATCH)).convert("RGB")
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def data_loader(path: Path, at: list[tuple[int, int]]) -> None:
    from torch.utils.data import DataLoader

    for _ in DataLoader(Patches(path, at), batch_size=64, num_workers=WORKERS):  # type: ignore[arg-type]
        pass


def stored_tiles(path: Path) -> list[bytes]:
    """The bytes of every tile of level 0."""
    with tifffile.TiffFile(path) as file, path.open("rb") as data:
        page = file.pages[0].aspage()
        assert page.jpegtables is None
        found = []
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            data.seek(offset)
            found.append(data.read(count))
    return found


def decode(tile: bytes) -> Pixels:
    pixels: Pixels = jpeg8_decode(tile, colorspace="YCBCR", outcolorspace="RGB")
    return pixels


@contextlib.contextmanager
def cases(files: Files) -> Iterator[dict[str, Callable[[], object]]]:
    """Everything that is compared; each case reads the whole slide."""
    tiles = stored_tiles(files.aligned)
    at = corners(files.side, PATCH)
    half = [(x, y, (PATCH, PATCH), 2 * MPP) for x, y in corners(files.side, 2 * PATCH)]
    full = [(x, y, (PATCH, PATCH), MPP) for x, y in at]

    def rgb(slide: openslide.OpenSlide, corner: tuple[int, int]) -> Pixels:
        return np.asarray(slide.read_region(corner, 0, (PATCH, PATCH)).convert("RGB"))

    def shrunk(slide: openslide.OpenSlide, corner: tuple[int, int]) -> Pixels:
        image = slide.read_region(corner, 0, (2 * PATCH, 2 * PATCH)).convert("RGB")
        return np.asarray(image.resize((PATCH, PATCH), Image.Resampling.BILINEAR))

    with contextlib.ExitStack() as stack:
        aligned, misaligned = (JpegTiffReader(path) for path in files[:2])
        theirs, theirs_240 = (openslide.OpenSlide(path) for path in files[:2])
        for slide in (aligned, misaligned, theirs, theirs_240):
            stack.callback(slide.close)
            if isinstance(slide, openslide.OpenSlide):
                slide.set_cache(openslide.OpenSlideCache(1 << 25))  # as by default: 32 MB

        def fast(slide: JpegTiffReader, regions: list[Any], planned: bool) -> None:
            plan = slide.plan_reads(regions) if planned else contextlib.nullcontext()
            with plan:
                in_threads(lambda region: slide.read_region(*region), regions)

        yield {
            "limit": lambda: in_threads(decode, tiles),
            "fast": lambda: fast(aligned, full, False),
            "openslide": lambda: in_threads(functools.partial(rgb, theirs), at),
            "DataLoader": lambda: data_loader(files.aligned, at),
            "fast 240": lambda: fast(misaligned, full, True),
            "openslide 240": lambda: in_threads(functools.partial(rgb, theirs_240), at),
            "fast half": lambda: fast(aligned, half, False),
            "openslide half": lambda: in_threads(
                functools.partial(shrunk, theirs), corners(files.side, 2 * PATCH)
            ),
        }


def fidelity(files: Files) -> dict[int, float]:
    """PSNR in dB of the whole picture at 2, 4 and 8 times the µm/px to the exact mean."""
    side = files.side
    found = {}
    with contextlib.closing(JpegTiffReader(files.aligned)) as slide:
        stored = slide.read_region(0, 0, (side, side), MPP)
        for factor in (2, 4, 8):
            n = side // factor
            exact = stored.reshape(n, factor, n, factor, 3).mean((1, 3), dtype=np.float32)
            error = slide.read_region(0, 0, (n, n), MPP * factor) - exact
            found[factor] = float(10 * np.log10(255**2 / np.mean(np.square(error))))
    return found


def measure(rounds: int = 5, side: int = 4096, tissue: Path | None = None) -> Reading:
    """R1, R2 and R3: how many times as fast as what each is named after ("of the limit": share)."""
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(Path(folder), side, tissue)
        with cases(files) as compared:
            found = interleaved(compared, rounds)
        quality = fidelity(files)

    def ratios(cpu: bool) -> dict[str, Ratio]:
        def of(slow: str, fast: str) -> Ratio:
            return ratio(found[slow], found[fast], cpu=cpu)

        return {
            "R1 of the limit": of("limit", "fast"),
            "R1 openslide": of("openslide", "fast"),
            "R1 DataLoader": of("DataLoader", "fast"),
            "R2 of the limit": of("limit", "fast 240"),
            "R2 openslide": of("openslide 240", "fast 240"),
            "R3 openslide": of("openslide half", "fast half"),
        }

    def rate(name: str, timing: Timing) -> float:
        patches = (side // PATCH) ** 2 / (4 if name.endswith("half") else 1)
        return patches / timing.median

    return Reading(
        ratios(False), ratios(True), quality, {name: rate(name, t) for name, t in found.items()}
    )


TARGETS = {
    "R1 of the limit": 0.85,
    "R1 openslide": 5.0,
    "R1 DataLoader": 12.0,
    "R2 of the limit": 0.5,
    "R2 openslide": 3.0,
    "R3 openslide": 8.0,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--tissue", type=Path, help="a picture to read instead of a generated one")
    given = parser.parse_args()
    found = measure(given.rounds, given.side, given.tissue)
    for name, rate in found.per_second.items():
        print(f"{name:16} {rate:8,.0f} patches/s")
    print(f"{'':18}{'target':>8} {'seconds':>24} {'CPU-seconds':>24}")
    for name, target in TARGETS.items():
        print(f"{name:18}{target:>7g}x {found.seconds[name]!s:>24} {found.cpu[name]!s:>24}")
    for factor, decibel in found.psnr.items():
        print(f"R3 PSNR at {factor}x    ≥ 41 dB {decibel:.1f} dB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
