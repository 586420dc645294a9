"""Methods that are fitted on all slides together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from recontour.benchmark.cases import Laid, coarse_map, lay_out_case, open_case
from recontour.benchmark.recording import Map, Scorer, failed_record
from recontour.benchmark.records import Results, Unit
from recontour.benchmark.spec import MethodSpec, Plan
from recontour.benchmark.wanted import Wanted, methods_on, wanted_outlines
from recontour.datasets import Case
from recontour.errors import OutputError
from recontour.recipe import Runtime, digest
from recontour.refiners import make_refiner
from recontour.types import PatchSet

Count = Callable[[int], None]
"""Told how many runs are done."""


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
                found = scorer.decide(probs, method.name)
                record, found = scorer.scored(unit, want, found, given[case.id], facts)
            except Exception as error:  # one slide of this method
                self.results.append({**scorer.failed(unit, want, error), "pool": signature})
            else:
                self.results.append(record, found)
