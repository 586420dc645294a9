"""Means as the papers take them, and paired comparisons between methods.

What is undefined (NaN: the PPV of an empty prediction) is left out of every mean, and every mean
says over how many values it was taken. F1, IoU and Dice of an empty prediction are defined: 0, as
long as there was something to find.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

EXACT_N = 50
"""Up to so many pairs without ties the p-value is exact."""
EXACT_TIED_N = 13
"""Up to so many pairs with ties every assignment of signs is counted (2^13)."""
RESAMPLES = 2000
FEWEST = 6
"""Pairs below which no two-sided p-value can reach 0.05."""
STARS = ((1e-4, "****"), (1e-3, "***"), (1e-2, "**"), (5e-2, "*"))


class Spread(NamedTuple):
    """Mean and sample s.d. (n - 1) of the `n` values that are defined; NaN where there are none."""

    mean: float
    sd: float
    n: int


class Comparison(NamedTuple):
    """Method `a` against method `b` over the slides that both have.

    Attributes
    ----------
    n : pairs where both are defined
    n_zero : pairs with equal values, which the test leaves out
    mean_a, mean_b : over those pairs
    difference : mean of a - b
    low, high : its 95 % interval, by bootstrap over the slides; NaN below two pairs
    hodges_lehmann : median of the means of all pairs of differences
    rank_biserial : effect size in [-1, 1]; 1: a is better on every slide. NaN without a difference
    p : two-sided, raw; NaN without any pair
    p_holm : adjusted for all comparisons made together
    how : which distribution p comes from
    """

    a: str
    b: str
    n: int
    n_zero: int
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    hodges_lehmann: float
    rank_biserial: float
    p: float
    p_holm: float
    how: str


def spread(values: Sequence[float]) -> Spread:
    """Mean, sample s.d. and number of the values that are not NaN; the s.d. of one value is NaN."""
    defined = np.asarray([v for v in values if not np.isnan(v)], np.float64)
    if not len(defined):
        return Spread(float("nan"), float("nan"), 0)
    sd = float(defined.std(ddof=1)) if len(defined) > 1 else float("nan")
    return Spread(float(defined.mean()), sd, len(defined))


def over_slides(values: Mapping[tuple[str, int], float]) -> Spread:
    """As the LC-MIL paper: over slides, of each slide's mean over the repeats.

    Parameters
    ----------
    values : (slide, repeat) -> value
    """
    return spread(list(slide_means(values).values()))


def over_repeats(values: Mapping[tuple[str, int], float]) -> Spread:
    """As the prototype paper: over repeats, of each repeat's mean over the slides."""
    by_repeat: dict[int, list[float]] = {}
    for (_, repeat), value in values.items():
        by_repeat.setdefault(repeat, []).append(value)
    return spread([spread(found).mean for found in by_repeat.values()])


def slide_means(values: Mapping[tuple[str, int], float]) -> dict[str, float]:
    """Mean over the repeats of each slide, in the order of the slides; NaN where undefined."""
    by_slide: dict[str, list[float]] = {}
    for (slide, _), value in values.items():
        by_slide.setdefault(slide, []).append(value)
    return {slide: spread(found).mean for slide, found in by_slide.items()}


def stars(p: float) -> str:
    """`*` for p in (0.01, 0.05], `**` (1e-3, 1e-2], `***` (1e-4, 1e-3], `****` below; else `ns`.

    "" where there is no p.
    """
    if np.isnan(p):
        return ""
    return next((mark for limit, mark in STARS if p <= limit), "ns")


def wilcoxon(differences: NDArray[np.float64]) -> tuple[float, str]:
    """Two-sided Wilcoxon signed-rank test of paired differences: p, and how it was found.

    Differences of exactly 0 are left out (`zero_method="wilcox"`, Wilcoxon's own way and scipy's
    default). Exact up to 50 pairs without ties; with ties by counting every assignment of signs up
    to 13 pairs; else by the normal approximation with its correction for ties and none for
    continuity. Nothing but zeros: p = 1.
    """
    from scipy import stats

    d = differences[differences != 0]
    n = len(d)
    if not len(differences):
        return float("nan"), "no pairs"
    if not n:
        return 1.0, "all equal"
    tied = len(np.unique(np.abs(d))) < n
    if not tied and n <= EXACT_N:
        method, how = "exact", "exact"
    elif n <= EXACT_TIED_N:
        method, how = stats.PermutationMethod(n_resamples=np.inf), "exact, with ties"
    else:
        method, how = "approx", "normal approximation"
    found = stats.wilcoxon(d, zero_method="wilcox", correction=False, method=method)
    if n < FEWEST:
        how += f"; {n} pairs: p cannot fall below {2.0 ** (1 - n):.2g}"
    return min(1.0, float(found.pvalue)), how


def rank_biserial(differences: NDArray[np.float64]) -> float:
    """Matched-pairs rank-biserial correlation: (W+ - W-) / (W+ + W-), zeros left out."""
    from scipy.stats import rankdata

    d = differences[differences != 0]
    if not len(d):
        return float("nan")
    ranks = rankdata(np.abs(d))
    return float(np.sum(np.sign(d) * ranks) / ranks.sum())


def hodges_lehmann(differences: NDArray[np.float64]) -> float:
    """Median of the Walsh averages, (d_i + d_j) / 2 for i <= j; NaN without a pair."""
    if not len(differences):
        return float("nan")
    i, j = np.triu_indices(len(differences))
    return float(np.median((differences[i] + differences[j]) / 2))


def mean_interval(differences: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean, by 2,000 bootstrap samples of the slides."""
    n = len(differences)
    if n < 2:
        return float("nan"), float("nan")
    draws = np.random.default_rng(seed).integers(0, n, (RESAMPLES, n))
    low, high = np.percentile(differences[draws].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment; NaN stays NaN and is not counted."""
    values = np.asarray(p, np.float64)
    adjusted = np.full(len(values), np.nan)
    order = [i for i in np.argsort(values, kind="stable") if not np.isnan(values[i])]
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * float(values[i])))
        adjusted[i] = highest
    return [float(v) for v in adjusted]


def compare(values: Mapping[str, Mapping[str, float]], seed: int = 0) -> list[Comparison]:
    """Every method against every other, later ones against earlier ones; Holm over all of them.

    Parameters
    ----------
    values : method -> slide -> mean over its repeats; pairs with a NaN or without a partner are
        left out
    seed : of the bootstrap
    """
    names = list(values)
    found: list[Comparison] = []
    for second, a in enumerate(names):
        for b in names[:second]:
            shared = [s for s in values[a] if s in values[b]]
            x = np.asarray([values[a][s] for s in shared], np.float64)
            y = np.asarray([values[b][s] for s in shared], np.float64)
            known = ~(np.isnan(x) | np.isnan(y))
            found.append(_compare(a, b, x[known], y[known], seed))
    adjusted = holm([c.p for c in found])
    return [c._replace(p_holm=q) for c, q in zip(found, adjusted, strict=True)]


def _compare(
    a: str, b: str, x: NDArray[np.float64], y: NDArray[np.float64], seed: int
) -> Comparison:
    d = x - y
    p, how = wilcoxon(d)
    low, high = mean_interval(d, seed)
    return Comparison(
        a=a,
        b=b,
        n=len(d),
        n_zero=int(np.count_nonzero(d == 0)),
        mean_a=float(x.mean()) if len(d) else float("nan"),
        mean_b=float(y.mean()) if len(d) else float("nan"),
        difference=float(d.mean()) if len(d) else float("nan"),
        low=low,
        high=high,
        hodges_lehmann=hodges_lehmann(d),
        rank_biserial=rank_biserial(d),
        p=p,
        p_holm=float("nan"),
        how=how,
    )


def moving_average(
    values: NDArray[np.float64], k: int = 15
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Centred moving average of (n,) values in order, and its 95 % band.

    The band is mean ± 1.96 s.d. / √m over the m values of each window. Windows have k values; fewer
    near the ends, where they are cut off, and NaN is left out.

    Returns
    -------
    mean, low, high : (n,)
    """
    n, half = len(values), k // 2
    mean, low, high = (np.full(n, np.nan) for _ in range(3))
    for i in range(n):
        window = spread(list(values[max(0, i - half) : i + half + 1]))
        reach = 1.96 * window.sd / np.sqrt(window.n) if window.n > 1 else np.nan
        mean[i], low[i], high[i] = window.mean, window.mean - reach, window.mean + reach
    return mean, low, high
