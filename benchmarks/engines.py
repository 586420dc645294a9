"""What engines and precisions change: features and labels, against torch in fp32.

    python benchmarks/engines.py FOLDER [openvino-fp32 eager-bf16 …]

FOLDER holds regions `NAME.jpg` at 0.25 µm/px with masks `NAME_tumor.png` (BCSS); the mask is the
outline. Prints the lowest and the median cosine of the features of a cell, and how many cells got
another label from the method, and in the outline in the end. bf16 is slow where it is emulated.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recontour.grid import label_patches
from recontour.pipeline import refine_slide
from recontour.recipe import Recipe, Runtime
from recontour.types import Refinement

CELL_UM = 16.0


def run(folder: Path, name: str, engine: str, precision: str, threads: int) -> Refinement:
    """One region with one engine."""
    runtime = Runtime("cpu", threads, use_cache=False, engine=engine, precision=precision)
    recipe = Recipe(mpp=0.25, cell_um=CELL_UM)
    return refine_slide(
        folder / f"{name}.jpg", folder / f"{name}_tumor.png", recipe, runtime=runtime
    )


def outlined(found: Refinement) -> NDArray[np.int8]:
    """The label of every cell in the new outline."""
    regions = [region.geometry for region in found.annotation.regions]
    return label_patches(found.patches.grid, [regions])


def cosines(a: NDArray[np.float16], b: NDArray[np.float16]) -> NDArray[np.float64]:
    """Of each row."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return np.asarray((x * y).sum(axis=1) / lengths)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("which", nargs="*", default=["openvino-fp32"], metavar="ENGINE-PRECISION")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    names = sorted(path.stem for path in arguments.folder.glob("*.jpg"))
    totals: dict[str, list[int]] = {which: [0, 0, 0] for which in arguments.which}
    for name in names:
        before = run(arguments.folder, name, "eager", "fp32", arguments.threads)
        for which in arguments.which:
            after = run(arguments.folder, name, *which.split("-"), arguments.threads)
            alike = cosines(before.patches.features, after.patches.features)
            told = int((before.probs.argmax(axis=1) != after.probs.argmax(axis=1)).sum())
            ended = int((outlined(before) != outlined(after)).sum())
            for i, count in enumerate((len(alike), told, ended)):
                totals[which][i] += count
            print(
                f"{name} {which:15} cosine {alike.min():.6f} at least, {np.median(alike):.6f} "
                f"median; other labels: {told} by the method, {ended} in the end, of {len(alike)}",
                flush=True,
            )
    for which, (cells, told, ended) in totals.items():
        print(f"all  {which:15} {told / cells:.3%} by the method, {ended / cells:.3%} in the end")
    return 0


if __name__ == "__main__":
    sys.exit(main())
