"""What a pooled cohort learns from: which samples, how many cells of each, by which method.

The plan is a file; its digest names the fit. It depends on the samples, the method and the seed and
on nothing else: not on the order of slides, on executors or on when slides were done.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from recontour import __version__
from recontour.cohort.pool_jobs import FITS, PLANS, REFINER, SAMPLES
from recontour.cohort.rows import Row
from recontour.cohort.samples import about_sample
from recontour.cohort.states import FOLDER, State, read_state
from recontour.cohort.tasks import DISK_ERROR
from recontour.errors import RecontourError
from recontour.files import write_text
from recontour.recipe import Recipe, digest

SCHEMA = "recontour.pool/1"
STATES = Path("pool", "state")
"""Of the samples, under OUT; those of the answers are where those of any cohort are."""
ABOUT = Path("pool", "pool.json")
LEAST = 20
"""Cells of a slide: with fewer it would say little, so of very many slides only some are used."""
NAMED = 5
"""So many slides are named in a sentence."""


@dataclass(frozen=True)
class PoolSize:
    """How many cells a pool learns from, so that memory does not grow with the cohort.

    Attributes
    ----------
    cells : in all, at most
    a_slide : kept of each slide; of more slides than `cells / a_slide` fewer of each are used
    """

    cells: int = 100_000
    a_slide: int = 2_000


@dataclass(frozen=True)
class Plan:
    """What one fit learns.

    Attributes
    ----------
    digest : names it
    content : as its file has it (JSON types); `samples` are pairs of id and SHA-256
    known : SHA-256 of every slide's sample, also of those that are not used
    """

    digest: str
    content: Mapping[str, Any]
    known: Mapping[str, str]


def make_plan(
    rows: Sequence[Row],
    keys: Mapping[str, str],
    out: Path,
    recipe: Recipe,
    size: PoolSize,
    *,
    align: bool,
) -> Plan:
    """Put together what is learned, and write it to `OUT/pool/plans/`.

    Parameters
    ----------
    rows : of the whole manifest; those whose sample failed are left out
    keys : of their samples
    align : standardise each slide by its own mean and spread first

    Raises
    ------
    RecontourError : samples are missing, there is none, or they do not fit together
    """
    states = {row.id: read_state(out / STATES, row.id) for row in rows}
    missing = [id for id, state in states.items() if not is_settled(state, keys[id])]
    if missing:
        raise RecontourError(
            f"the pool needs samples of all slides, and {len(missing)} are missing yet "
            f"({_some(missing)}): run the same command again when they are there (the other parts "
            "of an array job draw them)"
        )
    ids = sorted(id for id, state in states.items() if state and state.outcome == "done")
    if not ids:
        raise RecontourError("no slide gave a sample, so there is nothing to learn from")
    samples = {id: about_sample(out / SAMPLES / id) for id in ids}
    _check_alike(samples)
    known = {id: str(about["sha256"]) for id, about in samples.items()}
    chosen, cells = choose(ids, size, recipe.seed)
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "method": recipe.method,
        "options": dict(recipe.method_options),
        "seed": recipe.seed,
        "align": align,
        "cells_a_slide": cells,
        "recontour": __version__,
        "samples": [[id, known[id]] for id in chosen],
    }
    content["digest"] = digest(content)
    name = f"{content['digest']}.json"
    write_text(out / PLANS / name, json.dumps(content, indent=1) + "\n")
    return Plan(content["digest"], content, known)


def choose(ids: Sequence[str], size: PoolSize, seed: int) -> tuple[list[str], int]:
    """Which slides are drawn from, sorted, and how many cells of each."""
    cells = min(size.a_slide, size.cells // len(ids))
    if cells >= min(LEAST, size.a_slide):
        return sorted(ids), cells
    cells = min(LEAST, size.a_slide)
    by_chance = sorted(ids, key=lambda id: sha256(f"{seed} {id}".encode()).digest())
    return sorted(by_chance[: max(1, size.cells // cells)]), cells


def is_settled(state: State | None, key: str) -> bool:
    """Whether a stage is over for a slide, well or badly."""
    if state is None or state.key != key:
        return False
    bad = state.outcome == "failed" and state.error_kind != DISK_ERROR
    return bad or state.outcome == "done"


def write_pool(out: Path, plan: Plan, rows: Sequence[Row]) -> None:
    """Write `pool.json`: what the pool learned from, and what it had to do without.

    Raises
    ------
    OutputError : it cannot be written
    """
    state = read_state(out / FITS / FOLDER, plan.digest)
    facts = state.facts if state is not None else {}
    used = {id for id, _ in plan.content["samples"]}
    without = []
    for row in rows:
        if row.id not in plan.known:
            told = read_state(out / STATES, row.id)
            without.append({"id": row.id, "error": told and told.error})
    about = {
        "schema": SCHEMA,
        "digest": plan.digest,
        "refiner": (FITS / plan.digest / REFINER).as_posix(),
        **{name: plan.content[name] for name in ("method", "options", "seed", "align")},
        "slides": len(used),
        "cells": facts.get("cells"),
        "cells_a_slide": plan.content["cells_a_slide"],
        "left_out": without,
        "not_drawn": sorted(set(plan.known) - used),
        "notes": facts.get("notes", []),
    }
    write_text(out / ABOUT, json.dumps(about, indent=2, ensure_ascii=False) + "\n")


def _check_alike(samples: Mapping[str, Mapping[str, Any]]) -> None:
    """Samples of one pool have the same classes, and numbers of the same encoder.

    Raises
    ------
    RecontourError
    """
    ways = {
        "classes": "name the classes with --class",
        "encoder": "one --encoder, --engine, --precision and kind of --device do for all",
    }
    for what, name in (("classes", "classes"), ("an encoder", "encoder")):
        by_value: dict[str, list[str]] = {}
        for id, about in samples.items():
            value = about[name]
            said = value if isinstance(value, str) else ", ".join(value)
            by_value.setdefault(said, []).append(id)
        if len(by_value) > 1:
            groups = "; ".join(f"{value}: {_some(ids)}" for value, ids in by_value.items())
            raise RecontourError(
                f"the slides of a pool must share {what}, and these differ ({groups}); "
                f"{ways[name]}, or give each group a manifest and an OUT of its own"
            )


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:NAMED]) + (", …" if len(ids) > NAMED else "")
