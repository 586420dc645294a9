"""Where a method stands between the outline it was given and what the features allow.

All figures are macro: every slide counts once, however many outlines it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from recontour.metrics.cells import mean

WORST = 5
"""Percentile of the changes that is looked at."""


class Key(NamedTuple):
    """One outline of one slide in one repeat."""

    slide: str
    outline: str
    seed: int


Scores = Mapping[Key, float]
"""A figure of one method, by outline; NaN where undefined."""


class Standing(NamedTuple):
    """A method against the outlines it was given.

    Attributes
    ----------
    slides, cases : slides, and outlines of all of them
    coarse, found, oracle : mean over the slides
    better : share of the cases that the method made better, 0 to 1; equal is not better
    worst, median : 5th percentile and median of the change, over the cases
    way : share of the way from the outline to the oracle that was gone; NaN where there is none
    """

    slides: int
    cases: int
    coarse: float
    found: float
    oracle: float
    better: float
    worst: float
    median: float
    way: float


class Pairs(NamedTuple):
    """Two methods on the slides and outlines that both have.

    Attributes
    ----------
    slides : slide -> mean of the first, mean of the second
    difference : mean over the slides of first - second
    wins : slides on which the first is better
    cases : outlines that both have
    """

    slides: Mapping[str, tuple[float, float]]
    difference: float
    wins: int
    cases: int


def macro(scores: Scores) -> float:
    """Mean over the slides of each slide's mean; NaN of nothing."""
    return mean(list(by_slide(scores).values()))


def by_slide(scores: Scores) -> dict[str, float]:
    """Mean of each slide over its outlines and repeats, in the order they come."""
    held: dict[str, list[float]] = {}
    for key, value in scores.items():
        held.setdefault(key.slide, []).append(value)
    return {slide: mean(values) for slide, values in held.items()}


def standing(found: Scores, coarse: Scores, oracle: Scores) -> Standing:
    """Compare a method with its outlines, and on the cases that it has too with the oracle."""
    keys = [
        key
        for key in found
        if key in coarse and not np.isnan(found[key]) and not np.isnan(coarse[key])
    ]
    changes = [found[key] - coarse[key] for key in keys]
    before = macro({key: coarse[key] for key in keys})
    after = macro({key: found[key] for key in keys})
    # The way is a ratio: of one set of cases, also where an oracle is missing.
    marked = [key for key in keys if key in oracle and not np.isnan(oracle[key])]
    start, end, most = (
        macro({key: scores[key] for key in marked}) for scores in (coarse, found, oracle)
    )
    low, middle = np.percentile(changes, [WORST, 50]) if changes else (np.nan, np.nan)
    return Standing(
        slides=len({key.slide for key in keys}),
        cases=len(keys),
        coarse=before,
        found=after,
        oracle=most,
        better=mean([float(change > 0) for change in changes]),
        worst=float(low),
        median=float(middle),
        way=(end - start) / (most - start) if most > start else float("nan"),
    )


def pairs(first: Scores, second: Scores) -> Pairs:
    """Compare two methods slide by slide, on the cases that both have."""
    keys = [
        key
        for key in first
        if key in second and not np.isnan(first[key]) and not np.isnan(second[key])
    ]
    one, two = (by_slide({key: scores[key] for key in keys}) for scores in (first, second))
    slides = {slide: (one[slide], two[slide]) for slide in one}
    return Pairs(
        slides=slides,
        difference=mean([a - b for a, b in slides.values()]),
        wins=sum(a > b for a, b in slides.values()),
        cases=len(keys),
    )


def chosen_on_the_rest(
    candidates: Mapping[str, Scores], groups: Mapping[str, str]
) -> dict[str, tuple[str, float]]:
    """Of each group of slides: the candidate that is best on all the others, and its figure here.

    What a user of a new hospital gets when the choice was made elsewhere. Of equals the first.

    Parameters
    ----------
    candidates : name -> scores
    groups : slide -> group, such as the hospital

    Returns
    -------
    group -> name of the candidate, its mean over the slides of the group
    """
    found = {}
    for group in dict.fromkeys(groups.values()):
        inside = {slide for slide, its in groups.items() if its == group}

        def part(name: str, held_out: bool, inside: set[str] = inside) -> float:
            scores = candidates[name]
            return macro({k: v for k, v in scores.items() if (k.slide in inside) is held_out})

        best = max(candidates, key=lambda name: np.nan_to_num(part(name, False), nan=-1.0))
        found[group] = best, part(best, True)
    return found
