"""Try the values of a method's options one option after the other, and say which to use and why."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recontour import registry
from recontour.errors import UnknownNameError, UsageError
from recontour.recipe import Progress, digest, no_progress
from recontour.refiners import make_refiner
from recontour.refiners.prototypes import count_local
from recontour.simulation import KINDS
from recontour.tuning.criteria import Scores, score
from recontour.tuning.progress import Kept
from recontour.tuning.subject import Subject

RULES = ("auto", "plateau", "stability", "consistency")
COUNTS = ("k_local",)
"""Options that by default are chosen where the information stops growing."""
PLATEAU = 0.95
"""The smallest count with so much of the most information is where it stops growing."""
TIE = 0.005
"""Scores closer than this are equal: the value in use stays."""

QUICK: Mapping[str, Mapping[str, Any]] = {"prototype": {"iterations": 300}}
"""Options with which a method is tried, so that dozens of runs take a minute."""


@dataclass(frozen=True)
class Plan:
    """What is to be tried.

    Attributes
    ----------
    method, options : the method, and the options that are not tuned
    candidates : of each option its values, in the order in which the options are tuned. Empty: the
        method's own
    bootstraps : resamples for the stability
    kinds : kinds of outline for the consistency
    rule : "plateau", "stability", "consistency", or "auto": plateau for `k_local`, else consistency
    seed : same seed, same slide, same choice
    quick : try the method with fewer steps (`QUICK`)
    """

    method: str = "prototype"
    options: Mapping[str, Any] = field(default_factory=dict)
    candidates: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    bootstraps: int = 3
    kinds: tuple[str, ...] = ("generous", "missed")
    rule: str = "auto"
    seed: int = 0
    quick: bool = True


@dataclass(frozen=True)
class Candidate:
    """One value of one option; `options` are all it was tried with, what was chosen by then too."""

    option: str
    value: Any
    options: Mapping[str, Any]
    scores: Scores


@dataclass(frozen=True)
class Choice:
    """What is chosen for an option: `value` instead of `before`, by `rule`, `because` …"""

    option: str
    value: Any
    before: Any
    rule: str
    because: str


@dataclass(frozen=True)
class Tuning:
    """What was tried and what is chosen.

    Attributes
    ----------
    plan : as carried out, candidates and quick options filled in
    candidates : in the order in which they were tried
    choices : one for each option
    """

    plan: Plan
    candidates: tuple[Candidate, ...]
    choices: tuple[Choice, ...]

    @property
    def method_options(self) -> dict[str, Any]:
        """The options to refine with."""
        changed = {c.option: c.value for c in self.choices if c.value != c.before}
        return {**self.plan.options, **changed}


def tune(
    subject: Subject,
    plan: Plan | None = None,
    *,
    kept: Path | None = None,
    progress: Progress = no_progress,
) -> Tuning:
    """Score every candidate, choose a value of each option, use it from then on.

    Parameters
    ----------
    kept : file in which finished candidates are kept, so that a killed run goes on from there

    Raises
    ------
    UsageError : an option, value, rule or kind that does not exist
    """
    plan = plan or Plan()
    check_plan(plan)
    options = _to_begin_with(plan)
    wanted = {
        option: with_present(values, present(plan.method, options, option, subject))
        for option, values in (plan.candidates or default_candidates(plan)).items()
    }
    first = {option: present(plan.method, options, option, subject) for option in wanted}
    options |= first  # spelt out, so that a setting met again is known again
    memory = Kept(kept, digest([subject.digest(), plan.bootstraps, plan.kinds, plan.seed]))
    a_candidate = 1 + plan.bootstraps + len(plan.kinds)
    total = a_candidate * sum(len(values) for values in wanted.values())
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        progress("tune", done, total)

    candidates, choices = [], []
    progress("tune", 0, total)
    for option, values in wanted.items():
        group = []
        for value in values:
            setting = {**options, option: value}
            start = done
            found = memory.get(plan.method, setting)
            if found is None:
                found = score(
                    subject,
                    plan.method,
                    setting,
                    bootstraps=plan.bootstraps,
                    kinds=plan.kinds,
                    seed=plan.seed,
                    step=step,
                )
                memory.put(plan.method, setting, found)
            done = start + a_candidate
            progress("tune", done, total)
            group.append(Candidate(option, value, setting, found))
        choice = choose(group, first[option], plan.rule)
        options[option] = choice.value
        candidates += group
        choices.append(choice)
    return Tuning(plan, tuple(candidates), tuple(choices))


def check_plan(plan: Plan) -> None:
    """Refuse what cannot be carried out, before anything is embedded.

    Raises
    ------
    UsageError : an option, value, rule or kind that does not exist
    """
    if plan.rule not in RULES:
        raise UnknownNameError.of("rule", plan.rule, RULES)
    for kind in plan.kinds:
        if kind not in KINDS:
            raise UnknownNameError.of("kind of outline", kind, KINDS)
    if plan.bootstraps < 0:
        raise UsageError(f"bootstraps {plan.bootstraps} must be 0 or more")
    for option, values in (plan.candidates or default_candidates(plan)).items():
        if not values:
            raise UsageError(f"no value of {option} to try")
        for value in values:
            # Options and values the method does not have are refused by the method.
            make_refiner(plan.method, seed=plan.seed, **{**_to_begin_with(plan), option: value})


def default_candidates(plan: Plan) -> dict[str, tuple[Any, ...]]:
    """What is tried where nothing is asked for.

    Of one slide the global prototypes are the local ones, so `k_global` is not among them.
    """
    if plan.method == "prototype":
        found: dict[str, tuple[Any, ...]] = {"k_local": (4, 8, 16, 32)}
        if plan.options.get("match") == "threshold":
            found["match_threshold"] = (0.3, 0.4, 0.5, 0.6)
        if plan.options.get("major") == "coverage":
            return {**found, "coverage": (0.6, 0.7, 0.8, 0.9)}
        return {**found, "lift": (1.5, 2.0, 3.0), "min_share": (0.01, 0.02, 0.05)}
    if plan.method == "logistic":
        return {"inverse_l2": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)}
    if plan.method == "deep_knn":
        return {"k": (3, 5, 9, 15)}
    raise UsageError(
        f"{plan.method} has no default candidates: pass --candidates NAME=V1,V2,… for one of its "
        "options"
    )


def present(method: str, options: Mapping[str, Any], option: str, subject: Subject) -> Any:
    """The value an option has when nothing else is asked for, as a number where it follows n."""
    parameters = inspect.signature(registry.lookup("refiner", method)).parameters
    value = options[option] if option in options else parameters[option].default
    if method == "prototype" and option == "k_local" and value is None:
        return count_local(int(np.sum(subject.patches.labels >= 0)), None)
    return value


def with_present(values: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    """The candidates, the value in use among them; numbers in order."""
    found = list(dict.fromkeys(values))
    if value not in found:
        found.append(value)
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in found)
    return tuple(sorted(found)) if numbers else tuple(found)


def choose(group: list[Candidate], before: Any, rule: str) -> Choice:
    """The value of an option by a rule; the value in use where the rule cannot tell.

    "plateau": the smallest whose information is 95 % of the most. "stability", "consistency": the
    highest score, and of scores within 0.005 of it the value in use, else the first.
    """
    option = group[0].option
    informed = any(not math.isnan(c.scores.information) for c in group)
    if rule == "auto":
        rule = "plateau" if option in COUNTS and informed else "consistency"
    name = "information" if rule == "plateau" else rule
    scored = {
        c.value: getattr(c.scores, name) for c in group if not math.isnan(getattr(c.scores, name))
    }
    if len(scored) < 2:
        because = f"{name} could not be computed for two values or more; the value in use stays"
        return Choice(option, before, before, rule, because)
    top = max(scored.values())
    if rule == "plateau":
        value = next(v for v, bits in scored.items() if bits >= PLATEAU * top)
        because = (
            f"the smallest with {PLATEAU:.0%} of the most information "
            f"({scored[value]:.3f} of {top:.3f} bits)"
        )
        return Choice(option, value, before, rule, because)
    ties = [v for v, s in scored.items() if s >= top - TIE]
    value = before if before in ties else ties[0]
    because = f"{name} {scored[value]:.3f}"
    if len(ties) > 1:
        because += f", equal within {TIE:g} to that of {len(ties) - 1} other"
    elif value != before and before in scored:
        because += f" instead of {scored[before]:.3f}"
    return Choice(option, value, before, rule, because)


def as_data(tuning: Tuning) -> dict[str, Any]:
    """As JSON types; NaN becomes None."""
    data = asdict(tuning)
    data["method_options"] = tuning.method_options
    found: dict[str, Any] = _plain(data)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    return value


def _to_begin_with(plan: Plan) -> dict[str, Any]:
    quick = QUICK.get(plan.method, {}) if plan.quick else {}
    return {**quick, **plan.options}
