"""Run what a plan asks for and is not on record yet; whatever fails is listed, the rest goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recontour.benchmark.cases import (
    Laid,
    Opened,
    coarse_map,
    lay_out_case,
    open_case,
    outline_digest,
    outlines_of,
)
from recontour.benchmark.pictures import keep_pictures
from recontour.benchmark.records import Record, Results, Unit
from recontour.benchmark.scoring import score
from recontour.benchmark.spec import COARSE, ORACLE, MethodSpec, OutlineSpec, Plan, is_drawn
from recontour.datasets import Case
from recontour.datasets.inclusion import LEAST_SHARE, MOST_SHARE, is_included, lesion_share
from recontour.errors import OutputError, RecontourError, RefinerError
from recontour.postprocess import clean_labels, rules_for, smooth_probs
from recontour.recipe import Runtime, digest
from recontour.refiners import make_refiner
from recontour.types import PatchGrid, PatchSet

Count = Callable[[int], None]
"""Told how many runs are done."""

MOST_FEATURES, FEWER_FEATURES = 4096, 1024
ROWS = 1024  # at a time: 100 MB of float32

Probs = NDArray[np.float32]
Map = NDArray[np.int8]


@dataclass(frozen=True)
class Wanted:
    """An outline of a case in one repeat."""

    outline: OutlineSpec
    seed: int
    made_of: str


def wanted_outlines(plan: Plan, case: Case) -> list[Wanted]:
    """Every outline of a case, repeat by repeat."""
    drawn = [name for name in case.coarse if is_drawn(name)]
    specs: dict[str, OutlineSpec] = {}
    for kind in plan.outlines:
        for spec in outlines_of(kind, case, drawn):
            specs.setdefault(spec.label, spec)
    return [
        Wanted(spec, seed, outline_digest(spec, case, seed))
        for spec in specs.values()
        for seed in range(plan.seeds)
    ]


def methods_on(plan: Plan, encoder: str, *, pooled: bool = False) -> list[MethodSpec]:
    """The methods that run on an encoder: those fitted on each slide alone, or pooled."""
    return [m for m in plan.methods if m.runs_on(encoder) and m.pooled is pooled]


def count_units(plan: Plan, case: Case) -> int:
    """Runs of a case that are fitted on it alone; the outline itself and the oracle count too."""
    outlines = len(wanted_outlines(plan, case))
    return outlines * sum(2 + len(methods_on(plan, encoder)) for encoder in plan.encoders)


def run_case(plan: Plan, case: Case, results: Results, runtime: Runtime, count: Count) -> None:
    """Run what is missing of a case, and write down how it went.

    Errors of the case end up in its state, errors of one outline or method in its record.

    Raises
    ------
    OutputError : the results cannot be written
    """
    try:
        with open_case(case, plan) as opened:
            _run_opened(opened, results, runtime, count)
    except OutputError:
        raise
    except Exception as error:  # a cohort goes on, and lists what failed
        results.write_state(case.id, {"state": "failed", "reason": reason_of(error)})


def _run_opened(opened: Opened, results: Results, runtime: Runtime, count: Count) -> None:
    plan, case = opened.plan, opened.case
    done = {
        unit: record["made_of"]
        for unit, record in results.records(case.id).items()
        if record["status"] == "ok" and record["inputs"] == opened.inputs
    }
    wanted = wanted_outlines(plan, case)
    state: Record = {
        "inputs": opened.inputs,
        "patient": case.patient,
        "split": case.split,
        "classes": list(opened.classes),
        "encoders": {},
    }
    held = results.state(case.id)
    if held.get("inputs") == opened.inputs:
        if held.get("state") == "left_out":
            return
        state["encoders"] = dict(held.get("encoders", {}))
    for encoder in plan.encoders:
        missing = [
            (want, names) for want in wanted if (names := _missing(plan, case, encoder, want, done))
        ]
        if not missing and encoder in state["encoders"]:
            count(len(wanted) * (2 + len(methods_on(plan, encoder))))
            continue
        laid = lay_out_case(opened, encoder, runtime)
        share = lesion_share(laid.true_labels)
        state |= {"share": share, "notes": list(opened.notes[:20])}
        state["encoders"][encoder] = laid.facts
        if not plan.keep_all and not is_included(share):
            said = (
                f"the lesion covers {share:.1%} of the tissue cells, not {LEAST_SHARE:.0%} to "
                f"{MOST_SHARE:.0%}"
            )
            results.write_state(case.id, {**state, "state": "left_out", "reason": said})
            return
        _check_classes(laid)
        keep_pictures(laid, encoder, results)
        count(len(wanted) * (2 + len(methods_on(plan, encoder))) - sum(len(n) for _, n in missing))
        if missing:
            _run_encoder(laid, encoder, missing, results, runtime, count)
    results.write_state(case.id, {**state, "state": "done", "reason": ""})


def _missing(
    plan: Plan, case: Case, encoder: str, want: Wanted, done: Mapping[Unit, str]
) -> list[str]:
    labels = [COARSE, ORACLE, *(m.label for m in methods_on(plan, encoder))]
    return [
        label
        for label in labels
        if done.get(Unit(case.id, encoder, want.outline.label, want.seed, label)) != want.made_of
    ]


def _check_classes(laid: Laid) -> None:
    counts = np.bincount(laid.true_labels, minlength=len(laid.opened.classes))
    for name, n in zip(laid.opened.classes, counts, strict=True):
        if not n:
            raise RefinerError(
                f"{laid.opened.case.id}: no tissue cell is {name} by the truth: nothing to compare"
            )


def _run_encoder(
    laid: Laid,
    encoder: str,
    missing: Sequence[tuple[Wanted, list[str]]],
    results: Results,
    runtime: Runtime,
    count: Count,
) -> None:
    """All that is missing of a case on one encoder: embedded once, each outline drawn once."""
    plan = laid.opened.plan
    patches = laid.patch_set(runtime)
    by_label = {m.label: m for m in methods_on(plan, encoder)}
    scorer = Scorer(laid, encoder)
    maps: dict[str, Map] = {}
    oracles: dict[int, tuple[Probs, float]] = {}
    for want, labels in missing:
        unit = Unit(laid.opened.case.id, encoder, want.outline.label, want.seed, COARSE)
        try:
            if want.made_of not in maps:
                maps = {want.made_of: coarse_map(laid, want.outline, want.seed, results)}
        except Exception as error:  # one outline; the others go on
            if isinstance(error, OutputError):
                raise
            results.append(scorer.failed(unit, want, error))
            count(len(labels))
            continue
        given = maps[want.made_of]
        labelled = replace(patches, labels=given[laid.grid.rows, laid.grid.cols])
        for label in labels:
            this = unit._replace(method=label)
            try:
                if label == COARSE:
                    record, found = scorer.scored(this, want, given, given, {})
                else:
                    if label == ORACLE:
                        probs, facts = _oracle(laid, labelled, want.seed, oracles)
                    else:
                        probs, facts = _fit(by_label[label], want.seed, labelled)
                    found = scorer.decide(probs)
                    record, found = scorer.scored(this, want, found, given, facts)
            except Exception as error:  # one method; the others go on
                results.append(scorer.failed(this, want, error))
            else:
                results.append(record, found)
            count(1)


def _fit(method: MethodSpec, seed: int, patches: PatchSet) -> tuple[Probs, dict[str, Any]]:
    refiner = make_refiner(method.name, seed=seed, **method.options)
    start = time.perf_counter()
    refiner.fit([patches])
    fitted = time.perf_counter()
    probs = refiner.predict_proba(patches)
    seconds = {"fit": fitted - start, "predict": time.perf_counter() - fitted}
    return probs, {"seconds": seconds, "notes": list(getattr(refiner, "notes", ()))}


def _oracle(
    laid: Laid, patches: PatchSet, seed: int, known: dict[int, tuple[Probs, float]]
) -> tuple[Probs, dict[str, Any]]:
    """It never looks at the outline: once a repeat is enough."""
    if seed not in known:
        from recontour.refiners.oracle import oracle_probs

        start = time.perf_counter()
        probs = oracle_probs(narrowed(patches), laid.true_labels, seed=seed)
        known[seed] = probs, time.perf_counter() - start
    probs, seconds = known[seed]
    return probs, {"seconds": {"fit": seconds, "predict": 0.0}}


def narrowed(patches: PatchSet) -> PatchSet:
    """The same cells with at most 1,024 features: wider ones are projected at random.

    The oracle looks at principal components; of the 25,088 numbers of VGG16's convolutions their
    matrix alone would take 5 GB. A random projection keeps distances, and so the large components.
    """
    d = patches.features.shape[1]
    if d <= MOST_FEATURES:
        return patches
    random = np.random.default_rng(0)
    matrix = random.standard_normal((d, FEWER_FEATURES), np.float32) / np.float32(d**0.5)
    narrow = np.empty((len(patches), FEWER_FEATURES), np.float32)
    for i in range(0, len(patches), ROWS):
        narrow[i : i + ROWS] = patches.features[i : i + ROWS].astype(np.float32) @ matrix
    return replace(patches, features=narrow, context=None)


class Scorer:
    """Turns what a method answers about a case into its record."""

    def __init__(self, laid: Laid, encoder: str) -> None:
        self.laid = laid
        self.encoder = encoder
        self.rules = rules_for(laid.opened.plan.recipe, laid.grid)

    def decide(self, probs: Probs) -> Map:
        """The label of every cell, int8 (rows, cols), by the recipe's post-processing.

        Raises
        ------
        ValueError : not a probability for every cell
        """
        grid: PatchGrid = self.laid.grid
        smooth = smooth_probs(grid, probs, self.rules)
        return clean_labels(grid, smooth, self.rules, raw=probs)

    def scored(
        self, unit: Unit, want: Wanted, found: Map, given: Map, facts: Mapping[str, Any]
    ) -> tuple[Record, Map]:
        """The record of a run that went well, and its map."""
        laid = self.laid
        figures = score(laid.truth, found, given, laid.grid, laid.opened.classes)
        if unit.method != COARSE:
            # Whether the outline is valid; of the result that says nothing.
            coarse = score(laid.truth, given, given, laid.grid, laid.opened.classes)
            figures["valid"] = coarse["valid"]
        return {
            **self._head(unit, want),
            "status": "ok",
            "drawn": not want.outline.simulated and is_drawn(want.outline.kind),
            "n_cells": len(laid.grid),
            "n_grid": int(laid.truth.size),
            "cell_px": laid.grid.stride,
            "cell_um": laid.grid.cell_um,
            **figures,
            **facts,
        }, found

    def failed(self, unit: Unit, want: Wanted, error: Exception) -> Record:
        """The record of a run that did not; it is tried again next time."""
        return failed_record(unit, want, self.laid.opened.inputs, error)

    def _head(self, unit: Unit, want: Wanted) -> Record:
        return record_head(unit, want, self.laid.opened.inputs)


def record_head(unit: Unit, want: Wanted, inputs: str) -> Record:
    """What every record begins with: which run, and what it was made of."""
    return {**unit._asdict(), "inputs": inputs, "made_of": want.made_of}


def failed_record(unit: Unit, want: Wanted, inputs: str, error: Exception) -> Record:
    """The record of a run that failed."""
    return {**record_head(unit, want, inputs), "status": "failed", "reason": reason_of(error)}


def reason_of(error: BaseException) -> str:
    """What went wrong, in one line; errors that nobody foresaw say their kind."""
    said = " ".join(str(error).split())
    return said if isinstance(error, RecontourError) else f"{type(error).__name__}: {said}"


def run_pooled(
    plan: Plan, cases: Sequence[Case], results: Results, runtime: Runtime, count: Count
) -> None:
    """Fit the pooled methods on all slides together, outline by outline and repeat by repeat.

    Cases that were left out or failed take no part; of an outline that a case does not have, the
    other cases are the pool.
    """
    for encoder in plan.encoders:
        methods = methods_on(plan, encoder, pooled=True)
        if methods:
            _run_pool(plan, methods, encoder, cases, results, runtime, count)


def _run_pool(
    plan: Plan,
    methods: Sequence[MethodSpec],
    encoder: str,
    cases: Sequence[Case],
    results: Results,
    runtime: Runtime,
    count: Count,
) -> None:
    members = [c for c in cases if results.state(c.id).get("state") == "done"]
    wanted = {c.id: wanted_outlines(plan, c) for c in members}
    steps = dict.fromkeys((w.outline.label, w.seed) for ws in wanted.values() for w in ws)
    done = {
        unit: record
        for case in members
        for unit, record in results.records(case.id).items()
        if record["status"] == "ok" and record["inputs"] == results.state(case.id)["inputs"]
    }
    todo = []
    for label, seed in steps:
        pool = [
            (case, want)
            for case in members
            for want in wanted[case.id]
            if (want.outline.label, want.seed) == (label, seed)
        ]
        signature = digest([[c.id, results.state(c.id)["inputs"], w.made_of] for c, w in pool])
        for method in methods:
            units = [Unit(c.id, encoder, label, seed, method.label) for c, _ in pool]
            if all(done.get(u, {}).get("pool") == signature for u in units):
                count(len(units))
            else:
                todo.append((method, pool, signature))
    if not todo:
        return
    try:
        ready = _Pool(plan, members, encoder, results, runtime)
    except Exception as error:  # too much for the memory, say: what was fitted alone stays
        if isinstance(error, OutputError):
            raise
        for method, pool, _ in todo:
            for case, want in pool:
                unit = Unit(case.id, encoder, want.outline.label, want.seed, method.label)
                inputs = results.state(case.id)["inputs"]
                results.append(failed_record(unit, want, inputs, error))
            count(len(pool))
        return
    for method, pool, signature in todo:
        ready.run(method, pool, signature)
        count(len(pool))


class _Pool:
    """Every slide embedded and kept in memory, to be learnt from together."""

    def __init__(
        self,
        plan: Plan,
        cases: Sequence[Case],
        encoder: str,
        results: Results,
        runtime: Runtime,
    ) -> None:
        self.results, self.encoder = results, encoder
        self.laid: dict[str, Laid] = {}
        self.patches: dict[str, PatchSet] = {}
        for case in cases:
            with open_case(case, plan) as opened:
                laid = lay_out_case(opened, encoder, runtime)
                self.laid[case.id] = laid
                self.patches[case.id] = laid.patch_set(runtime)

    def run(self, method: MethodSpec, pool: Sequence[tuple[Case, Wanted]], signature: str) -> None:
        """Fit on all, then one record for each."""
        given: dict[str, Map] = {}
        labelled: dict[str, PatchSet] = {}
        scorers = {case.id: Scorer(self.laid[case.id], self.encoder) for case, _ in pool}
        units = {
            case.id: Unit(case.id, self.encoder, want.outline.label, want.seed, method.label)
            for case, want in pool
        }
        for case, want in pool:
            try:
                laid = self.laid[case.id]
                given[case.id] = coarse_map(laid, want.outline, want.seed, self.results)
            except Exception as error:  # that case stays out of the pool
                if isinstance(error, OutputError):
                    raise
                self.results.append(scorers[case.id].failed(units[case.id], want, error))
                continue
            labels = given[case.id][laid.grid.rows, laid.grid.cols]
            labelled[case.id] = replace(self.patches[case.id], labels=labels)
        if not labelled:
            return
        start = time.perf_counter()
        failure: Exception | None = None
        try:
            refiner = make_refiner(method.name, seed=pool[0][1].seed, **method.options)
            refiner.fit(list(labelled.values()))
        except Exception as error:  # this method; the others go on
            failure = error
        fitted = (time.perf_counter() - start) / len(labelled)
        for case, want in pool:
            if case.id not in labelled:
                continue
            unit, scorer = units[case.id], scorers[case.id]
            try:
                if failure is not None:
                    raise failure
                start = time.perf_counter()
                probs = refiner.predict_proba(labelled[case.id])
                facts = {
                    "seconds": {"fit": fitted, "predict": time.perf_counter() - start},
                    "notes": list(getattr(refiner, "notes", ())),
                    "pool": signature,
                }
                found = scorer.decide(probs)
                record, found = scorer.scored(unit, want, found, given[case.id], facts)
            except Exception as error:  # one slide of this method
                self.results.append({**scorer.failed(unit, want, error), "pool": signature})
            else:
                self.results.append(record, found)


def failures(plan: Plan, cases: Sequence[Case], results: Results) -> Iterator[str]:
    """One sentence for each case and run that failed."""
    for case in cases:
        state = results.state(case.id)
        if state.get("state") == "failed":
            yield f"{case.id}: {state['reason']}"
        if state.get("state") != "done":
            continue
        for unit, record in results.records(case.id).items():
            if record["status"] == "failed" and record["inputs"] == state["inputs"]:
                yield (
                    f"{unit.case}, {unit.encoder}, {unit.outline}, repeat {unit.seed}, "
                    f"{unit.method}: {record['reason']}"
                )
