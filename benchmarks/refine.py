"""Refining cached features: labels in, probabilities out, for every refiner.

    python benchmarks/refine.py [--cells 15000] [--dim 424] [--rounds 3]

Synthetic features with a tenth of the labels wrong; rounds are interleaved and medians shown.
"naive" is LC-MIL as one would write it with autograd, one bag a step and one model after another.
CPU-seconds hold on a busy machine, seconds do not.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from recontour.refiners import make_refiner
from recontour.refiners.base import ZScore, table
from recontour.refiners.lc_mil import draw_bags
from recontour.trust import check_labels
from recontour.types import PatchGrid, PatchSet


def make_patches(cells: int, dim: int, seed: int = 0) -> tuple[PatchSet, np.ndarray]:
    """A disc in a square of tissue; correlated float16 features as an encoder gives them."""
    rng = np.random.default_rng(seed)
    side = math.ceil(math.sqrt(cells))
    rows, cols = np.divmod(np.arange(cells, dtype=np.int32), np.int32(side))
    grid = PatchGrid((0.0, 0.0), (side, side), rows, cols, 64, 64, 64, 0.5, 0.5)
    truth = np.hypot(rows - side / 2, cols - side / 2) < 0.35 * side
    hidden = rng.normal(size=(cells, 48)) + truth[:, None] * rng.normal(size=48) * 0.8
    features = hidden @ rng.normal(size=(48, dim)) + rng.normal(size=(cells, dim))
    labels = truth ^ (rng.random(cells) < 0.1)
    patches = PatchSet(
        "synthetic",
        grid,
        features.astype(np.float16),
        labels.astype(np.int8),
        ("background", "Tumor"),
    )
    return patches, truth


class NaiveModel(nn.Module):
    """Attention MIL from stock layers."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(dim, 256), nn.ReLU())
        self.attention = nn.Sequential(nn.Linear(256, 64), nn.Tanh(), nn.Linear(64, 1))
        self.classify = nn.Linear(256, 1)

    def forward(self, bag: torch.Tensor) -> torch.Tensor:
        h = self.embed(bag)
        w = self.attention(h).softmax(0)
        return torch.sigmoid(self.classify((w * h).sum(0)))


def naive(patches: PatchSet) -> np.ndarray:
    """1,000 bags one a step, five models in turn, plain autograd and Adam."""
    cells = table([patches])
    scale = ZScore.of(cells)
    x = torch.from_numpy(scale(cells.rows(np.arange(len(cells)))))
    answers = []
    for seed in range(5):
        torch.manual_seed(seed)
        model = NaiveModel(x.shape[1])
        adam = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4)
        for block in draw_bags(np.random.default_rng(seed), cells, 1000, 10, 20):
            bags = np.split(block.index, np.cumsum(block.lengths)[:-1])
            for bag, side in zip(bags, block.sides, strict=True):
                p = model(x[bag])
                p = (p if side else 1 - p).clamp(1e-5, 1 - 1e-5)
                gamma = 5 if p.item() < 0.2 else 3
                loss = -((1 - p) ** gamma) * p.log()
                adam.zero_grad()
                loss.backward()
                adam.step()
            for group in adam.param_groups:
                group["lr"] *= 0.5
        with torch.no_grad():
            h = model.embed(x)
            answers.append(torch.sigmoid(model.classify(h))[:, 0])
    p = torch.stack(answers).mean(0).numpy()
    return np.stack([1 - p, p], axis=1)


def fit_predict(name: str, **options: Any) -> Callable[[PatchSet], np.ndarray]:
    return lambda patches: make_refiner(name, **options).fit([patches]).predict_proba(patches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=15_000)
    parser.add_argument("--dim", type=int, default=424)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-naive", action="store_true", help="leave the slow loop out")
    arguments = parser.parse_args()
    patches, truth = make_patches(arguments.cells, arguments.dim)
    tasks: dict[str, Callable[[PatchSet], Any]] = {
        "logistic": fit_predict("logistic"),
        "em": fit_predict("em"),
        "lc_mil": fit_predict("lc_mil"),
        "lc_mil, one bag a step": fit_predict("lc_mil", batched=False),
        "check_labels": check_labels,
    }
    if not arguments.no_naive:
        tasks["naive LC-MIL"] = naive
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    cpu: dict[str, list[float]] = {name: [] for name in tasks}
    right: dict[str, str] = dict.fromkeys(tasks, "")
    for _ in range(arguments.rounds):
        for name, task in tasks.items():
            wall, used = time.perf_counter(), time.process_time()
            answer = task(patches)
            seconds[name].append(time.perf_counter() - wall)
            cpu[name].append(time.process_time() - used)
            if isinstance(answer, np.ndarray):
                right[name] = f"{np.mean((answer[:, 1] > 0.5) == truth):.4f}"
    coarse = np.mean((patches.labels > 0) == truth)
    print(f"{arguments.cells} cells x {arguments.dim}, {torch.get_num_threads()} threads,", end=" ")
    print(f"coarse labels right {coarse:.4f}")
    print(f"{'':24}{'s':>8}{'CPU-s':>8}{'right':>8}")
    for name in tasks:
        wall, used = statistics.median(seconds[name]), statistics.median(cpu[name])
        print(f"{name:24}{wall:8.2f}{used:8.2f}{right[name]:>8}")


if __name__ == "__main__":
    main()
