"""Run what a plan asks for and is not on record yet; whatever fails is listed, the rest goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from recontour.benchmark.cases import Laid, Opened, coarse_map, lay_out_case, open_case
from recontour.benchmark.pictures import keep_pictures
from recontour.benchmark.recording import Map, Probs, Scorer, reason_of
from recontour.benchmark.records import Record, Results, Unit
from recontour.benchmark.spec import COARSE, ORACLE, MethodSpec, Plan
from recontour.benchmark.wanted import Wanted, methods_on, wanted_outlines
from recontour.datasets import Case
from recontour.datasets.inclusion import LEAST_SHARE, MOST_SHARE, is_included, lesion_share
from recontour.errors import OutputError, RefinerError
from recontour.recipe import Runtime
from recontour.refiners import make_refiner
from recontour.types import PatchSet

Count = Callable[[int], None]
"""Told how many runs are done."""

MOST_FEATURES, FEWER_FEATURES = 4096, 1024
ROWS = 1024  # at a time: 100 MB of float32


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
                    name = ORACLE if label == ORACLE else by_label[label].name
                    found = scorer.decide(probs, name)
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
