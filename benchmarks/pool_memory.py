"""Memory and time of the fit of a pooled cohort, on synthetic samples.

    python benchmarks/pool_memory.py --slides 200 --method logistic

The cells that a fit reads are bounded, so the peak is the same however many slides there are.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from recontour.cohort import pool_jobs
from recontour.cohort.pool_plan import PoolSize, choose
from recontour.cohort.samples import about_sample, write_sample
from recontour.recipe import Runtime, digest
from recontour.types import PatchGrid, PatchSet

SIDE = 50  # cells: a slide has 2,500, of which 2,000 are kept


def make_sample(folder: Path, name: str, dim: int, rng: np.random.Generator) -> None:
    """A sample of a slide whose left part is outlined."""
    rows, cols = np.divmod(np.arange(SIDE * SIDE, dtype=np.int32), np.int32(SIDE))
    labels = (cols < 0.4 * SIDE).astype(np.int8)
    x = (rng.normal(size=(len(labels), dim)) + 0.2 * labels[:, None]).astype(np.float16)
    grid = PatchGrid((0.0, 0.0), (SIDE, SIDE), rows, cols, 64, 64, 64, 0.5, 0.5)
    folder.mkdir(parents=True)
    patches = PatchSet(name, grid, x, labels, ("background", "Tumor"), x)
    write_sample(folder, patches, PoolSize().a_slide, seed=0, about={"encoder": "synthetic"})


def main() -> None:
    """Make samples, fit on them, say what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slides", type=int, default=50)
    parser.add_argument("--dim", type=int, default=424)
    parser.add_argument("--method", default="logistic")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        out = Path(place)
        ids = [f"s{i:05d}" for i in range(args.slides)]
        for id in ids:
            make_sample(out / pool_jobs.SAMPLES / id, id, args.dim, rng)
        chosen, cells = choose(ids, PoolSize(), 0)
        shas = [[id, about_sample(out / pool_jobs.SAMPLES / id)["sha256"]] for id in chosen]
        plan = {"method": args.method, "options": {}, "seed": 0, "align": True}
        plan |= {"cells_a_slide": cells, "samples": shas}
        plan["digest"] = digest(plan)
        (out / pool_jobs.PLANS).mkdir()
        (out / pool_jobs.PLANS / f"{plan['digest']}.json").write_text(json.dumps(plan))
        work = out / "work"
        work.mkdir()
        start = time.process_time()
        task = {"out": str(out), "plan": plan["digest"]}
        facts = pool_jobs.fit(task, work, Runtime())
        seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{args.method}: {facts['slides']} slides, {facts['cells']} cells: {seconds:.0f} CPU-s, "
        f"peak {peak:.2f} GB"
    )


if __name__ == "__main__":
    main()
