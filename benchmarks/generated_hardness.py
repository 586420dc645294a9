"""How hard the generated slides are: colour statistics against the default encoder.

    python benchmarks/generated_hardness.py [--side 4096] [--seeds 2 5]

For each slide and encoder: F1 of a balanced linear model on the true labels, cross-validated over
blocks of cells (what the features could tell at best), then F1 of coarse outlines and of what each
refiner makes of them (no smoothing).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from recontour.embedding import embed_patches
from recontour.encoders import load_encoder
from recontour.generated import generate_slide
from recontour.grid import choose_cells, label_patches, make_grid
from recontour.refiners import make_refiner
from recontour.simulation import simulate_coarse
from recontour.slides import open_slide
from recontour.types import BACKGROUND, PatchGrid, PatchSet

ENCODERS = ("colour", "efficientnet_lite0")
METHODS = ("logistic", "lc_mil")
KINDS = ("generous", "missed", "tight")
BLOCK_CELLS = 12  # 0.4 mm: neighbours do not tell each other's label


def f1(truth: NDArray[np.bool_], found: NDArray[np.bool_]) -> float:
    return float(2 * (truth & found).sum() / max(truth.sum() + found.sum(), 1))


def blocked_cv(grid: PatchGrid, x: NDArray[np.float32], y: NDArray[np.bool_]) -> float:
    block = (grid.rows // BLOCK_CELLS) * 10_000 + grid.cols // BLOCK_CELLS
    _, block = np.unique(block, return_inverse=True)
    fold = np.random.default_rng(0).permutation(block.max() + 1)[block] % 5
    found = np.zeros(len(y), bool)
    for held in range(5):
        train = fold != held
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=500)
        )
        found[~train] = model.fit(x[train], y[train]).predict(x[~train])
    return f1(y, found)


def measure(folder: Path, side: int, seed: int) -> None:
    made = generate_slide(folder / f"seed_{seed}.tif", size=(side, side), seed=seed)
    slide = open_slide(made.path)
    coarse = {
        kind: simulate_coarse(made.truth, kind=kind, seed=seed, mpp=made.mpp, tissue=made.tissue)
        for kind in KINDS
    }
    for name in ENCODERS:
        encoder = load_encoder(name)
        choice = choose_cells(
            made.mpp, made.size, made.tissue, encoder_mpp=encoder.mpp, cell_um=32.0
        )
        grid = make_grid(made.size, made.mpp, made.tissue, choice, patch_px=encoder.patch_px)
        features = embed_patches(slide, grid, encoder)
        truth = label_patches(grid, [made.truth.regions]) == 1
        both = np.concatenate([features.cell, features.context], axis=1).astype(np.float32)
        print(
            f"seed {seed} {name:18s} cells {len(grid)} tumour {truth.mean():.2f} "
            f"true labels, blocked CV {blocked_cv(grid, both, truth):.3f}",
            flush=True,
        )
        for kind, outline in coarse.items():
            labels = label_patches(grid, [outline.regions])
            patches = PatchSet(
                slide.id,
                grid,
                features.cell,
                labels,
                (BACKGROUND, "Tumor"),
                context=features.context,
            )
            row = [f"{kind} {f1(truth, labels == 1):.3f}"]
            for method in METHODS:
                probs = make_refiner(method, seed=0).fit([patches]).predict_proba(patches)
                row.append(f"{method} {f1(truth, probs[:, 1] > 0.5):.3f}")
            print("    ", "  ".join(row), flush=True)
    slide.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=4096, help="px at 0.5 µm/px")
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 5])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for seed in asked.seeds:
            measure(Path(folder), asked.side, seed)


if __name__ == "__main__":
    main()
