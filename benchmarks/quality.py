"""What the default refiner is judged on: eleven regions, four sites, ten kinds of outline.

Used by `default_refiner.py` (every method, all tables) and `quick.py` (some methods, one minute).
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recontour.benchmark.cases import coarse_map, lay_out_case, open_case
from recontour.benchmark.records import Results
from recontour.benchmark.spec import MethodSpec, Plan, parse_outlines
from recontour.benchmark.wanted import wanted_outlines
from recontour.datasets import open_dataset
from recontour.datasets.base import Listing
from recontour.files import atomic_path
from recontour.recipe import Recipe, Runtime
from recontour.refiners.oracle import oracle_probs
from recontour.simulation import SEVERITIES
from recontour.types import PatchSet

KINDS = ("missed", "generous", "tight", "shifted", "wobbly")
ENCODERS = ("efficientnet_lite0", "colour")
SEEDS = 3


def outline_names(severities: Sequence[str]) -> list[str]:
    """`missed`, …, `missed@hard`, …: every kind at every severity."""
    return [kind if s == "mild" else f"{kind}@{s}" for s in severities for kind in KINDS]


def severity_of(outline: str) -> str:
    """`missed@hard` -> `hard`."""
    return outline.partition("@")[2] or "mild"


def site_of(case: str) -> str:
    """`prostate_102` -> `prostate`: where the tissue comes from."""
    return case.partition("_")[0]


def plan_of(
    methods: Sequence[MethodSpec],
    *,
    severities: Sequence[str] = tuple(SEVERITIES),
    encoders: Sequence[str] = ENCODERS,
    seeds: int = SEEDS,
) -> Plan:
    """What `recontour benchmark folder --all` would run with the same settings."""
    outlines, _ = parse_outlines(outline_names(severities))
    return Plan("folder", Recipe(), tuple(methods), outlines, tuple(encoders), seeds, keep_all=True)


def listing_of(tissue: Path, only: Sequence[str] = ()) -> Listing:
    """The cases of a folder that `tissue_folder.py` wrote; `only` some, by name or site."""
    listing = open_dataset("folder").list_cases(tissue)
    if not only:
        return listing
    cases = [c for c in listing.cases if c.id in only or site_of(c.id) in only]
    return replace(listing, cases=tuple(cases))


class Outline(NamedTuple):
    """A coarse outline of a case, cell by cell: int8 (rows, cols)."""

    label: str
    seed: int
    given: NDArray[np.int8]


@dataclass(frozen=True)
class Cells:
    """A case at cell level: all that learning and scoring need, without the slide.

    Attributes
    ----------
    patches : labels are those of no outline
    truth : int8 (rows, cols)
    oracle : float32 (n, K), by repeat
    """

    case: str
    patches: PatchSet
    truth: NDArray[np.int8]
    outlines: tuple[Outline, ...]
    oracle: tuple[NDArray[np.float32], ...]

    def labelled(self, outline: Outline) -> PatchSet:
        """The cells as a refiner gets them."""
        grid = self.patches.grid
        return replace(self.patches, labels=outline.given[grid.rows, grid.cols])


def cells_of(
    tissue: Path, folder: Path, encoder: str, plan: Plan, only: Sequence[str] = ()
) -> Iterator[Cells]:
    """Every case at cell level; computed once, then read from `folder`.

    Features come from the cache, outlines are drawn into `folder/coarse` as the benchmark draws
    them: point `folder` at its results and both use the same.
    """
    for case in listing_of(tissue, only).cases:
        wanted = wanted_outlines(plan, case)
        made_of = [(w.outline.label, w.seed, w.made_of) for w in wanted]
        path = folder.parent / f"{folder.name}_cells" / f"{case.id}.{encoder}.pickle"
        if path.exists():
            held_of, cells = pickle.loads(path.read_bytes())
            if held_of == made_of:
                yield cells
                continue
        results = Results(folder)
        with results.claim(plan), open_case(case, plan) as opened:
            laid = lay_out_case(opened, encoder, Runtime(device="cpu"))
            patches = laid.patch_set(Runtime(device="cpu"))
            outlines = tuple(
                Outline(w.outline.label, w.seed, coarse_map(laid, w.outline, w.seed, results))
                for w in wanted
            )
            oracle = tuple(
                oracle_probs(patches, laid.true_labels, seed=seed) for seed in range(plan.seeds)
            )
            cells = Cells(case.id, patches, laid.truth, outlines, oracle)
        with atomic_path(path) as temporary:
            temporary.write_bytes(pickle.dumps((made_of, cells), protocol=5))
        print(f"prepared {case.id} on {encoder}", flush=True)
        yield cells
