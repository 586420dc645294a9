"""How good a setting is, as far as that shows without the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recontour.errors import RecontourError
from recontour.metrics.cells import f1, mean
from recontour.refiners import make_refiner
from recontour.refiners.base import ZScore, table
from recontour.refiners.prototype import Prototype
from recontour.refiners.prototypes import directions, local_prototypes
from recontour.tuning.subject import Subject


@dataclass(frozen=True)
class Scores:
    """The criteria of one setting. NaN where one does not apply, or could not be computed.

    Attributes
    ----------
    stability : mean adjusted Rand index (1: the same, 0: chance) of the refined labels of a
        bootstrap and of all cells
    stability_sd : its standard deviation over the bootstraps
    prototype_stability : the same of which cell belongs to which prototype
    information : bits that a cell's prototype tells of its side of the outline, corrected for the
        number of prototypes
    consistency : F1 of refining a coarse outline made from the refined one, against that one;
        mean over the kinds
    by_kind : of each kind of outline, the F1 before and after refining
    foreground : share of the cells that the method gives to any class
    problems : why something could not be computed
    """

    stability: float = float("nan")
    stability_sd: float = float("nan")
    prototype_stability: float = float("nan")
    information: float = float("nan")
    consistency: float = float("nan")
    by_kind: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    foreground: float = float("nan")
    problems: tuple[str, ...] = ()


def score(
    subject: Subject,
    method: str,
    options: Mapping[str, Any],
    *,
    bootstraps: int,
    kinds: tuple[str, ...],
    seed: int,
    step: Callable[[], None] = lambda: None,
) -> Scores:
    """All criteria of one setting; `step` is called up to 1 + bootstraps + kinds times.

    What cannot be computed is NaN, with the reason among the problems: a setting that fails on
    this slide must not end the trial of the others.
    """
    try:
        answer = subject.refine(method, options, seed)
    except RecontourError as error:
        return Scores(problems=(str(error),))
    step()
    together, information = _of_prototypes(subject, method, options, bootstraps, seed)
    foreground = float(np.mean(answer.labels > 0))
    if len(np.unique(answer.labels)) < 2:
        # Always the same answer is perfectly stable, and perfectly useless.
        return Scores(
            prototype_stability=together,
            information=information,
            foreground=foreground,
            problems=("every cell gets the same class",),
        )
    problems: list[str] = []
    agreement = []
    for number in range(bootstraps):
        try:
            again = subject.refine(method, options, seed, subject.resample(seed, number))
            agreement.append(rand_index(answer.labels, again.labels))
        except RecontourError as error:
            problems.append(f"bootstrap {number}: {error}")
        step()
    by_kind = {}
    for kind in kinds:
        try:
            coarse = subject.outline_anew(answer, kind, seed)
            found = subject.refine(method, options, seed, coarse).labels
            by_kind[kind] = macro_f1(answer.labels, coarse), macro_f1(answer.labels, found)
        except RecontourError as error:
            problems.append(f"{kind}: {error}")
        step()
    return Scores(
        stability=mean(agreement),
        stability_sd=float(np.std(agreement)) if agreement else float("nan"),
        prototype_stability=together,
        information=information,
        # One kind less would be an easier exam: of a setting that failed one there is no mean.
        consistency=mean([after for _, after in by_kind.values()])
        if len(by_kind) == len(kinds)
        else float("nan"),
        by_kind=by_kind,
        foreground=foreground,
        problems=tuple(problems),
    )


def rand_index(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Adjusted Rand index of two partitions of the same cells (Hubert & Arabie 1985)."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(first, second))


def macro_f1(truth: NDArray[np.int8], found: NDArray[np.int8]) -> float:
    """Mean F1 of the classes that `truth` has."""
    return mean([f1(truth == k, found == k) for k in np.unique(truth[truth > 0])])


def mutual_information(sides: NDArray[Any], groups: NDArray[Any]) -> float:
    """Bits that the group of a cell tells of its side, less what chance alone would tell.

    The correction is that of Miller (1955): (sides − 1)(groups − 1) / 2n nats. It supposes
    independent cells; neighbours are not, so that too little is taken off.
    """
    _, side = np.unique(sides, return_inverse=True)
    _, group = np.unique(groups, return_inverse=True)
    joint = np.zeros((side.max() + 1, group.max() + 1))
    np.add.at(joint, (side, group), 1)
    n = joint.sum()
    expected = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True) / n
    there = joint > 0
    nats = float(np.sum(joint[there] * np.log(joint[there] / expected[there])) / n)
    nats -= (joint.shape[0] - 1) * (joint.shape[1] - 1) / (2 * n)
    return float(nats / np.log(2))


def _of_prototypes(
    subject: Subject, method: str, options: Mapping[str, Any], bootstraps: int, seed: int
) -> tuple[float, float]:
    """Stability of the prototypes, and the information in them; NaN for other methods."""
    refiner = make_refiner(method, seed=seed, **options)
    if not isinstance(refiner, Prototype) or refiner.prototypes == "none":
        return float("nan"), float("nan")
    cells = table([subject.patches], refiner.views)
    every = np.arange(len(cells))
    x = directions(cells, every, ZScore.of(cells) if refiner.standardise else None)

    def nearest(known: NDArray[np.bool_]) -> NDArray[np.intp]:
        centres = local_prototypes(x[known], refiner.k_local, seed=seed, starts=refiner.starts)
        found: NDArray[np.intp] = np.argmax(x @ centres.T, axis=1)
        return found

    known = cells.labels >= 0
    whole = nearest(known)
    drawn = [subject.resample(seed, number) >= 0 for number in range(bootstraps)]
    # A bootstrap may hold fewer different cells than prototypes are asked for.
    enough = [own for own in drawn if np.count_nonzero(own) >= (refiner.k_local or 0)]
    together = mean([rand_index(whole, nearest(own)) for own in enough])
    return together, mutual_information(cells.labels[known], whole[known])
