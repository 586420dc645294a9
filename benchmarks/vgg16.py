"""LC-MIL on VGG16: the loop as the paper's code runs it, against ours, first run and rerun.

    python benchmarks/vgg16.py [--cells 10000] [--bags 1000] [--steps 3] [--rounds 3] [--threads N]

The original was written anew from its description: each bag's patches are resized, normalised and
sent through all of VGG16 twice (once for the error that is logged, once for the loss), the gradient
goes through the fully connected layers (the convolutions are frozen), Adam is torch's default; then
every patch goes through the network alone. Ours: the convolutions once a patch (encoder `vgg16`),
then `lc_mil_vgg16` on what they gave; a rerun reads that from the cache. Weights are random, which
changes no time. Reading the slide is left out of both.

Only a few steps of each part are run, in interleaved rounds; medians are multiplied by how often a
run takes the step. CPU-seconds hold on a busy machine, seconds do not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timing import Timing, interleaved
from torch import Tensor, nn

from recontour.cache import Shards
from recontour.encoders.vgg16 import IMAGENET_MEAN, IMAGENET_STD, Vgg16
from recontour.refiners.fully_connected import ROWS, AdamSettings
from recontour.refiners.lc_mil_vgg16 import BagModel
from recontour.vgg import STAGES, Vgg16Weights, load_vgg16

SHARD = 121  # patches that are embedded together and kept in one file
TARGETS = {"first run": 5.0, "rerun": 15.0}


class Original(nn.Module):
    """VGG16 with attention on its logits, from stock layers."""

    def __init__(self, weights: Vgg16Weights) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        pairs = iter(weights.convolutions())
        for _, count in STAGES:
            for _ in range(count):
                weight, bias = next(pairs)
                layers += [convolution(weight, bias), nn.ReLU(inplace=True)]
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(7), nn.Flatten())
        self.features.requires_grad_(False)
        first, second, third = (linear(*pair) for pair in weights.fully_connected())
        between = (nn.ReLU(inplace=True), nn.Dropout())
        self.classifier = nn.Sequential(first, *between, second, *between, third)
        self.attention = nn.Sequential(
            nn.Linear(third.out_features, 64), nn.Tanh(), nn.Linear(64, 1)
        )
        self.score = nn.Linear(third.out_features, 1)

    def forward(self, bag: Tensor) -> Tensor:
        h = self.classifier(self.features(bag))
        w = self.attention(h).softmax(0)
        return torch.sigmoid(self.score((w * h).sum(0)))


def convolution(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
    layer.weight, layer.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
    return layer


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
    return layer


class OriginalLoop:
    """Training and inference as published."""

    def __init__(self, weights: Vgg16Weights, patches: NDArray[np.uint8]) -> None:
        self.model, self.patches = Original(weights), patches
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.adam = torch.optim.Adam(trained, lr=5e-5, weight_decay=1e-4)

    def images(self, index: NDArray[np.intp]) -> Tensor:
        """Resized and normalised, one after another."""
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        found = []
        for patch in self.patches[index]:
            resized = np.asarray(Image.fromarray(patch).resize((224, 224)))
            found.append((torch.from_numpy(resized.copy()).permute(2, 0, 1) / 255 - mean) / std)
        return torch.stack(found)

    def bag(self, index: NDArray[np.intp], side: int) -> None:
        images = self.images(index)
        self.model.train()
        self.adam.zero_grad()
        for is_loss in (False, True):
            p = self.model(images)
            p = (p if side else 1 - p).clamp(1e-5, 1 - 1e-5)
            gamma = 5 if p.item() < 0.2 else 3
            loss = (-((1 - p) ** gamma) * p.log()).sum()
            if is_loss:
                loss.backward()
        self.adam.step()

    def patch(self, i: int) -> None:
        with torch.no_grad():
            self.model(self.images(np.array([i])))


PARTS = {
    "original": ("original, a bag", "original, a patch"),
    "first run": ("ours, a bag", "ours, convolutions, a patch", "ours, a patch"),
    "rerun": ("ours, a bag", "ours, a patch from the cache", "ours, a patch"),
}
"""What a run consists of: one part for each bag, the others for each patch."""


class Measured(NamedTuple):
    """What one bag or patch of each part takes, (s, CPU-s)."""

    timings: dict[str, Timing]

    def minutes(self, run: str, cells: int, bags: int) -> tuple[float, float]:
        """(minutes, CPU-minutes) of a whole run."""
        per_bag, *per_patch = PARTS[run]
        totals = [
            bags * of(self.timings[per_bag])
            + cells * sum(of(self.timings[part]) for part in per_patch)
            for of in (lambda t: t.median, lambda t: t.cpu_median)
        ]
        return totals[0] / 60, totals[1] / 60


def measure(
    steps: int, rounds: int, weights_name: str = "random:0", threads: int | None = None
) -> Measured:
    """Time `steps` steps of each part, in interleaved rounds."""
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 256, (32, 256, 256, 3), np.uint8)
    weights = load_vgg16(weights_name)
    encoder = Vgg16(device="cpu", threads=threads, weights=weights_name)
    original = OriginalLoop(weights, patches)
    ours = BagModel(rng, weights, 64, 2, AdamSettings(5e-5, 1e-4), torch.device("cpu"))
    resized = np.stack([np.asarray(Image.fromarray(p).resize((224, 224))) for p in patches])
    features = torch.from_numpy(np.resize(encoder(resized[:16]), (ROWS, encoder.dim)))
    shard = {"cell": np.resize(features.numpy(), (SHARD, encoder.dim)).astype(np.float16)}
    shape = {"cell": shard["cell"].shape}
    # As bags are drawn: Binomial(20, 1/2) patches, the same for both.
    bags = [rng.integers(0, len(patches), max(rng.binomial(20, 0.5), 1)) for _ in range(steps)]
    answer = ours.answer(torch.float32, None)

    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        shards = Shards(Path(folder))
        shards.save(0, shard)

        def original_bags() -> None:
            with torch.enable_grad():
                for i, bag in enumerate(bags):
                    original.bag(bag, i % 2)

        def our_bags() -> None:
            for i, bag in enumerate(bags):
                ours.learn(features[bag], torch.tensor([i % 2]), "code")

        # What is timed, and how many bags or patches that is.
        parts: dict[str, tuple[Callable[[], object], int]] = {
            "original, a bag": (original_bags, steps),
            "original, a patch": (lambda: [original.patch(i) for i in range(steps)], steps),
            "ours, convolutions, a patch": (lambda: encoder(resized[:16]), 16),
            "ours, a patch from the cache": (lambda: shards.load(0, shape), SHARD),
            "ours, a bag": (our_bags, steps),
            "ours, a patch": (lambda: answer(features), ROWS),
        }
        found = interleaved({name: run for name, (run, _) in parts.items()}, rounds)
    return Measured(
        {
            name: Timing(
                tuple(s / parts[name][1] for s in timing.seconds),
                tuple(s / parts[name][1] for s in timing.cpu),
            )
            for name, timing in found.items()
        }
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--bags", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=3, help="of each part in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--weights", default="random:0", help="random:SEED[:NARROW] or a file")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    found = measure(arguments.steps, arguments.rounds, arguments.weights, arguments.threads)
    print(f"{torch.get_num_threads()} threads, {arguments.weights}")
    print(f"{'measured':32}{'s':>10}{'CPU-s':>10}")
    for name, timing in found.timings.items():
        print(f"{name:32}{timing.median:10.4f}{timing.cpu_median:10.4f}")
    print(f"\nextrapolated to {arguments.bags:,} bags and {arguments.cells:,} patches")
    print(f"{'':12}{'min':>10}{'CPU-min':>10}{'ratio':>8}{'CPU':>8}{'target':>8}")
    original = found.minutes("original", arguments.cells, arguments.bags)
    for name in PARTS:
        minutes, used = found.minutes(name, arguments.cells, arguments.bags)
        target = f"{TARGETS[name]:g}" if name in TARGETS else ""
        print(
            f"{name:12}{minutes:10.1f}{used:10.1f}"
            f"{original[0] / minutes:8.1f}{original[1] / used:8.1f}{target:>8}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
