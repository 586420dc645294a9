"""Which runs a plan asks for."""

from __future__ import annotations

from dataclasses import dataclass

from recontour.benchmark.cases import outline_digest, outlines_of
from recontour.benchmark.spec import MethodSpec, OutlineSpec, Plan, is_drawn
from recontour.datasets import Case


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
