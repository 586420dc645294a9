"""Which prototypes stand for a class, and the labels that cells get from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recontour.types import UNLABELLED

MAJORS = ("lift", "coverage")
MATCHES = ("nearest", "threshold")
INSIDE_NONMAJOR = ("ignore", "keep", "negative")


@dataclass(frozen=True)
class Majors:
    """The major prototypes of each class.

    Attributes
    ----------
    major : bool (K, G); row 0, the background, has none
    lift : (K, G), share of the class's inside cells over share of the other cells, smoothed
    forced : classes of which no prototype passed, so that the top one was taken
    """

    major: NDArray[np.bool_]
    lift: NDArray[np.float64]
    forced: tuple[int, ...] = ()


def count_cells(
    nearest: NDArray[np.intp],
    labels: NDArray[np.int8],
    weights: NDArray[np.float64],
    classes: int,
    prototypes: int,
) -> NDArray[np.float64]:
    """(K, G) weight of the cells of each coarse label nearest to each prototype."""
    flat = labels.astype(np.intp) * prototypes + nearest
    counts = np.bincount(flat, weights, classes * prototypes).astype(np.float64, copy=False)
    return counts.reshape(classes, prototypes)


def lifts(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K, G) share of a class's cells over share of all other cells, each count plus one."""
    others = counts.sum(axis=0) - counts
    g = counts.shape[1]
    inside = (counts + 1) / (counts.sum(axis=1, keepdims=True) + g)
    outside = (others + 1) / (others.sum(axis=1, keepdims=True) + g)
    found: NDArray[np.float64] = inside / outside
    return found


def find_majors(
    counts: NDArray[np.float64],
    *,
    rule: str = "lift",
    lift: float = 2.0,
    min_share: float = 0.02,
    coverage: float = 0.8,
) -> Majors:
    """Step 4: the prototypes that stand for each class.

    "coverage": the fewest that together hold `coverage` of the class's inside cells. "lift": those
    that hold at least `min_share` of its inside cells and are at least `lift` times as common
    inside as outside; where none is, the one with the highest lift that holds an inside cell.
    With several classes "outside" is everything but the class itself. A class without a cell has
    none.

    Parameters
    ----------
    counts : (K, G), see `count_cells`
    """
    lifted = lifts(counts)
    major = np.zeros(counts.shape, bool)
    forced = []
    for k in range(1, len(counts)):
        total = counts[k].sum()
        if total <= 0:
            continue
        if rule == "coverage":
            order = np.argsort(-counts[k], kind="stable")
            covered = np.cumsum(counts[k][order])
            # The last bits of a sum must not decide whether one more is needed.
            enough = int(np.searchsorted(covered, coverage * total * (1 - 1e-9))) + 1
            major[k, order[:enough]] = True
            continue
        major[k] = (counts[k] >= min_share * total) & (counts[k] > 0) & (lifted[k] >= lift)
        if not major[k].any():
            major[k, np.argmax(np.where(counts[k] > 0, lifted[k], -np.inf))] = True
            forced.append(k)
    return Majors(major, lifted, tuple(forced))


def match_prototypes(
    cosine: NDArray[np.float32], majors: Majors, match: str, threshold: float
) -> NDArray[np.float64]:
    """(n, K) how well each cell matches a major prototype of each class; -inf: not at all.

    "nearest": its nearest prototype is one (strength: the lift). "threshold": its cosine to one
    is `threshold` or more (strength: the cosine); another reading of the paper's Eq. 4.
    """
    if match == "nearest":
        strength = np.where(majors.major, majors.lift, -np.inf)
        return strength[:, cosine.argmax(axis=1)].T
    out = np.full((len(cosine), len(majors.major)), -np.inf)
    for k, own in enumerate(majors.major):
        if own.any():
            best = cosine[:, own].max(axis=1)
            out[:, k] = np.where(best >= threshold, best, -np.inf)
    return out


def pseudo_label(
    labels: NDArray[np.int8], strength: NDArray[np.float64], inside_nonmajor: str
) -> NDArray[np.int8]:
    """Step 5: the labels to learn from, int8 (n,), -1 where a cell teaches nothing.

    | coarse label | matches a major prototype | gets |
    |---|---|---|
    | background | of a class | that class; of several the one it matches best |
    | background | no | background |
    | class k | of class k | k |
    | class k | not of class k | k ("keep"), nothing ("ignore") or background ("negative") |

    Parameters
    ----------
    labels : int8 (n,), 0 to K - 1
    strength : (n, K), see `match_prototypes`
    """
    best = np.argmax(strength, axis=1).astype(np.int8)
    outside = np.where(np.isfinite(strength.max(axis=1)), best, np.int8(0))
    if inside_nonmajor == "keep":
        rest = labels
    else:
        rest = np.full_like(labels, UNLABELLED if inside_nonmajor == "ignore" else 0)
    own = np.isfinite(strength[np.arange(len(labels)), labels])
    out: NDArray[np.int8] = np.where(labels == 0, outside, np.where(own, labels, rest))
    return out
