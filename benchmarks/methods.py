"""The methods' inner loops against the limit of the machine, and what every refiner costs.

    python benchmarks/methods.py [--cells 10000 35000] [--dim 424] [--rounds 3] [--out FILE]
                                 [--only knn mil kmeans refiners] [--threads N]

Synthetic features, as `benchmarks/refine.py` makes them. What is compared runs in turn, round by
round, in one process; a ratio is of the medians of the CPU-seconds (which hold on a busy machine,
seconds do not). The refiners run in a process each, for their peak memory.

knn       exact neighbours (k = 5, every cell against all others of its slide) against a matrix
          product of as many operations, and against scikit-learn's brute force. Twice: the cells
          of one slide among themselves, where half of the products are enough, and cells of a
          slide that was not fitted.
mil       1,000 bags of LC-MIL, one model: one bag a step and 100 bags a step against the loop one
          would write, which runs every bag through the network twice (autograd, Adam).
kmeans    `recontour.refiners.kmeans` against the faster of scikit-learn's two algorithms.
refiners  fit and predict_proba of every registered refiner but those on VGG16;
          resident memory before and at most (Linux only).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from refine import NaiveModel, make_patches
from timing import interleaved

from recontour import registry
from recontour.refiners import make_refiner
from recontour.refiners.base import Cells, ZScore, table, unit_rows
from recontour.refiners.lc_mil import LcMil, draw_bags
from recontour.refiners.neighbours import nearest

SECTIONS = ("knn", "mil", "kmeans", "refiners")
K = 5
CLUSTERS = 16


def standard(cells: int, dim: int) -> tuple[Cells, ZScore, np.ndarray]:
    """The synthetic slide as a table, its z-score, and its rows standardised."""
    made = table([make_patches(cells, dim)[0]])
    scale = ZScore.of(made)
    return made, scale, scale(made.rows(np.arange(len(made))))


def in_turn(
    tasks: dict[str, Callable[[], Any]], rounds: int
) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Median s and CPU-s of interleaved rounds of each task, and its last answer."""
    answers: dict[str, Any] = {}

    def keep(name: str) -> Callable[[], None]:
        def run() -> None:
            answers[name] = tasks[name]()

        return run

    found = interleaved({name: keep(name) for name in tasks}, rounds, warm_up=False)
    return {name: {"s": t.median, "cpu_s": t.cpu_median} for name, t in found.items()}, answers


def matrix_product(x: np.ndarray) -> None:
    """Every row times every row: 2 n² d operations, and nothing done with them."""
    rows = torch.from_numpy(x)
    out = torch.empty(1024 * len(x))
    for part in torch.split(rows, 1024):
        torch.mm(part, rows.T, out=out[: len(part) * len(x)].view(len(part), len(x)))


def measure_knn(cells: int, dim: int, rounds: int) -> dict[str, Any]:
    from sklearn.neighbors import NearestNeighbors

    x = unit_rows(standard(cells, dim)[2])
    other, itself = x.copy(), np.arange(cells)
    tasks: dict[str, Callable[[], Any]] = {
        "matrix product": lambda: matrix_product(x),
        "one slide": lambda: nearest(x, x, K, exclude=itself, device="cpu")[0],
        "another slide": lambda: nearest(other, x, K, exclude=itself, device="cpu")[0],
        "scikit-learn brute": lambda: (
            NearestNeighbors(n_neighbors=K, algorithm="brute").fit(x).kneighbors(None)[1]
        ),
    }
    times, found = in_turn(tasks, rounds)
    same = [len(np.intersect1d(a, b)) for a, b in zip(found["one slide"],
            found["scikit-learn brute"], strict=True)]  # fmt: skip
    limit = times["matrix product"]["cpu_s"]
    return {
        "times": times,
        "ratios": {
            "one slide, of the limit": limit / times["one slide"]["cpu_s"],
            "another slide, of the limit": limit / times["another slide"]["cpu_s"],
            "one slide, times scikit-learn's speed": (
                times["scikit-learn brute"]["cpu_s"] / times["one slide"]["cpu_s"]
            ),
        },
        "same neighbours as scikit-learn": float(np.mean(same)) / K,
    }


def twice_a_bag(cells: Cells, x: torch.Tensor) -> None:
    """1,000 bags, one a step: a pass for the loss's exponent, and another one to learn from."""
    torch.manual_seed(0)
    model = NaiveModel(x.shape[1])
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4)
    for block in draw_bags(np.random.default_rng(0), cells, 1000, 10, 20):
        bags = np.split(block.index, np.cumsum(block.lengths)[:-1])
        for bag, side in zip(bags, block.sides, strict=True):
            instances = x[torch.from_numpy(bag)]
            p = model(instances).item()
            gamma = 5 if (p if side else 1 - p) < 0.2 else 3
            p_t = model(instances)
            p_t = (p_t if side else 1 - p_t).clamp(1e-5, 1 - 1e-5)
            loss = -((1 - p_t) ** gamma) * p_t.log()
            adam.zero_grad()
            loss.backward()
            adam.step()
        for group in adam.param_groups:
            group["lr"] *= 0.5


def measure_mil(cells: int, dim: int, rounds: int) -> dict[str, Any]:
    made, scale, x = standard(cells, dim)
    rows = torch.from_numpy(x)

    def train(batched: bool | int) -> Callable[[], Any]:
        return lambda: LcMil(batched=batched).train(made, scale, 0)

    naive = "naive, each bag twice"
    tasks: dict[str, Callable[[], Any]] = {
        naive: lambda: twice_a_bag(made, rows),
        "one bag a step": train(False),
        "10 bags a step (default)": train(True),
        "100 bags a step": train(100),
    }
    times, _ = in_turn(tasks, rounds)
    return {
        "times": times,
        "ratios": {
            f"{name}, times naive's speed": times[naive]["cpu_s"] / times[name]["cpu_s"]
            for name in tasks
            if name != naive
        },
    }


def measure_kmeans(cells: int, dim: int, rounds: int) -> dict[str, Any]:
    from sklearn.cluster import KMeans

    try:
        from recontour.refiners.kmeans import kmeans
    except ModuleNotFoundError:
        return {"skipped": "recontour.refiners.kmeans is not there"}
    x = unit_rows(standard(cells, dim)[2])

    def inertia(centres: np.ndarray) -> float:
        return float(np.sum((x * x).sum(1) + ((centres**2).sum(1) - 2 * x @ centres.T).min(1)))

    def sklearn(algorithm: str) -> Callable[[], float]:
        model = KMeans(CLUSTERS, n_init=5, random_state=0, algorithm=algorithm)
        return lambda: inertia(model.fit(x).cluster_centers_)

    tasks: dict[str, Callable[[], Any]] = {
        "recontour": lambda: inertia(kmeans(x, CLUSTERS, starts=5)),
        "scikit-learn lloyd": sklearn("lloyd"),
        "scikit-learn elkan": sklearn("elkan"),
    }
    times, inertias = in_turn(tasks, rounds)
    best = min(times["scikit-learn lloyd"]["cpu_s"], times["scikit-learn elkan"]["cpu_s"])
    return {
        "times": times,
        "ratios": {"times scikit-learn's best speed": best / times["recontour"]["cpu_s"]},
        "inertia": inertias,
    }


def measure_refiners(cells: int, dim: int, threads: int) -> dict[str, Any]:
    names = [name for name in registry.names("refiner") if "vgg16" not in name]
    found = {}
    for name in names:
        command = [
            sys.executable, __file__, "--child", name, "--cells", str(cells), "--dim", str(dim),
            "--threads", str(threads),
        ]  # fmt: skip
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[name] = json.loads(answer.splitlines()[-1])
    return found


def memory(field: str) -> float:
    """Resident memory of this process in MB, now (VmRSS) or at most (VmHWM); Linux only."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024 / 1e6


def child(name: str, cells: int, dim: int) -> None:
    """Fit and predict in this process, and say what it took."""
    patches, truth = make_patches(cells, dim)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak of making them is not of interest
    used, start = time.process_time(), time.perf_counter()
    refiner = make_refiner(name).fit([patches])
    fitted = time.perf_counter()
    probs = refiner.predict_proba(patches)
    end = time.perf_counter()
    facts = {
        "fit_s": fitted - start,
        "predict_s": end - fitted,
        "cpu_s": time.process_time() - used,
        "peak_mb": memory("VmHWM"),
        "before_mb": before,
        "right": float(np.mean((probs[:, 1] > 0.5) == truth)),
    }
    print(json.dumps(facts))


def show(section: str, cells: int, found: dict[str, Any]) -> None:
    print(f"\n{section}, {cells:,} cells")
    if section == "refiners":
        print(
            f"{'':28}{'fit s':>8}{'pred. s':>9}{'CPU-s':>8}{'peak MB':>9}{'before':>8}{'right':>8}"
        )
        for name, facts in found.items():
            print(
                f"{name:28}{facts['fit_s']:8.2f}{facts['predict_s']:9.2f}{facts['cpu_s']:8.2f}"
                f"{facts['peak_mb']:9.0f}{facts['before_mb']:8.0f}{facts['right']:8.4f}"
            )
        return
    if "skipped" in found:
        print(f"skipped: {found['skipped']}")
        return
    print(f"{'':28}{'s':>8}{'CPU-s':>9}")
    for name, times in found["times"].items():
        print(f"{name:28}{times['s']:8.3f}{times['cpu_s']:9.3f}")
    for name, ratio in found["ratios"].items():
        print(f"{name:48}{ratio:6.2f}")
    for name in ("same neighbours as scikit-learn", "inertia"):
        if name in found:
            print(f"{name}: {found[name]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 35_000])
    parser.add_argument("--dim", type=int, default=424)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.child:
        child(arguments.child, arguments.cells[0], arguments.dim)
        return
    print(f"d = {arguments.dim}, {arguments.threads} threads, {arguments.rounds} rounds")
    figures: dict[str, Any] = {
        "command": ["benchmarks/methods.py", *sys.argv[1:]],
        "dim": arguments.dim,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
    }
    measures: dict[str, Callable[[int], dict[str, Any]]] = {
        "knn": lambda n: measure_knn(n, arguments.dim, arguments.rounds),
        "mil": lambda n: measure_mil(n, arguments.dim, arguments.rounds),
        "kmeans": lambda n: measure_kmeans(n, arguments.dim, arguments.rounds),
        "refiners": lambda n: measure_refiners(n, arguments.dim, arguments.threads),
    }
    for section in arguments.only:
        figures[section] = {}
        # The cost of a bag does not depend on how many cells there are to draw from.
        for cells in arguments.cells[:1] if section == "mil" else arguments.cells:
            found = measures[section](cells)
            figures[section][str(cells)] = found
            show(section, cells, found)
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
