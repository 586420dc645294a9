"""Statistics of the benchmark, against counting by hand and other people's code."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recontour.benchmark.statistics import (
    compare,
    hodges_lehmann,
    holm,
    mean_interval,
    moving_average,
    over_repeats,
    over_slides,
    rank_biserial,
    spread,
    stars,
    wilcoxon,
)


def signed_ranks(d: np.ndarray) -> list[tuple[float, float]]:
    """(rank of |d|, sign) with mean ranks for ties, counted pair by pair."""
    size = np.abs(d)
    return [
        (1 + np.sum(size < s) + (np.sum(size == s) - 1) / 2, np.sign(x))
        for x, s in zip(d, size, strict=True)
    ]


def p_by_counting(differences: np.ndarray) -> float:
    """Two-sided p: the share of all 2^n assignments of signs at least as far from the middle."""
    d = differences[differences != 0]
    ranks = [rank for rank, _ in signed_ranks(d)]
    middle = sum(ranks) / 2
    found = sum(rank for rank, sign in signed_ranks(d) if sign > 0)
    far = [
        abs(sum(r for r, up in zip(ranks, signs, strict=True) if up) - middle)
        >= abs(found - middle) - 1e-9
        for signs in itertools.product((True, False), repeat=len(ranks))
    ]
    return float(np.mean(far))


@pytest.mark.parametrize(
    "d",
    [
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        [0.1, -0.2, 0.3, 0.4, -0.05, 0.6, 0.7, -0.8],
        [1, 1, 2, -1, 3, 3, 3],
        [0, 0, 1, 2, -3, 4, 0],
        [-5],
    ],
)
def test_p_is_what_counting_every_sign_gives(d: list[float]) -> None:
    differences = np.asarray(d, float)
    assert wilcoxon(differences)[0] == pytest.approx(p_by_counting(differences))


def test_p_of_many_tied_pairs_is_the_normal_approximation() -> None:
    d = np.random.default_rng(0).integers(-3, 6, 60).astype(float)
    p, how = wilcoxon(d)
    kept = d[d != 0]
    ranks = np.array([rank for rank, _ in signed_ranks(kept)])
    w, n = ranks[kept > 0].sum(), len(kept)
    ties = np.unique(np.abs(kept), return_counts=True)[1]
    variance = n * (n + 1) * (2 * n + 1) / 24 - np.sum(ties**3 - ties) / 48
    z = (w - n * (n + 1) / 4) / math.sqrt(variance)
    assert p == pytest.approx(math.erfc(abs(z) / math.sqrt(2)))
    assert how == "normal approximation"


def test_few_or_equal_pairs_say_what_they_cannot_show() -> None:
    p, how = wilcoxon(np.array([0.1, 0.2, 0.3]))
    assert p == 0.25
    assert how.endswith("3 pairs: p cannot fall below 0.25")
    assert wilcoxon(np.zeros(4)) == (1.0, "all equal")
    assert math.isnan(wilcoxon(np.array([]))[0])


@pytest.mark.parametrize(
    ("p", "mark"),
    [(0.2, "ns"), (0.0501, "ns"), (0.05, "*"), (0.0101, "*"), (0.01, "**"), (0.0011, "**"),
     (1e-3, "***"), (1.1e-4, "***"), (1e-4, "****"), (1e-9, "****"), (math.nan, "")],
)  # fmt: skip
def test_stars_change_where_the_papers_say(p: float, mark: str) -> None:
    assert stars(p) == mark


def test_rank_biserial_counts_ranks_for_and_against() -> None:
    assert rank_biserial(np.array([0.1, 0.2, 0.3])) == 1
    assert rank_biserial(np.array([-0.1, 0.0, -0.3])) == -1
    assert rank_biserial(np.array([1.0, -2, 3])) == pytest.approx((1 + 3 - 2) / 6)
    assert math.isnan(rank_biserial(np.zeros(3)))


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=12))
def test_hodges_lehmann_is_the_median_of_all_pair_means(d: list[float]) -> None:
    pairs = [(a + b) / 2 for a, b in itertools.combinations_with_replacement(d, 2)]
    assert hodges_lehmann(np.array(d)) == pytest.approx(float(np.median(pairs)))


def test_holm_is_the_textbook_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    with_gap = holm([0.01, math.nan, 0.02])
    assert with_gap[0] == pytest.approx(0.02)
    assert math.isnan(with_gap[1])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_the_interval_of_the_mean_covers_it_and_is_repeatable() -> None:
    rng = np.random.default_rng(1)
    d = rng.normal(0.05, 0.1, 40)
    low, high = mean_interval(d, seed=3)
    assert (low, high) == mean_interval(d, seed=3)
    # Against the normal interval of a mean.
    reach = 1.96 * d.std(ddof=1) / math.sqrt(len(d))
    assert low == pytest.approx(d.mean() - reach, abs=0.01)
    assert high == pytest.approx(d.mean() + reach, abs=0.01)
    assert math.isnan(mean_interval(np.array([0.3]))[0])


def test_over_slides_and_over_repeats_are_two_things() -> None:
    values = {("a", 0): 0.2, ("a", 1): 0.4, ("b", 0): 0.8, ("b", 1): 1.0}
    assert over_slides(values) == pytest.approx((0.6, np.std([0.3, 0.9], ddof=1), 2))
    assert over_repeats(values) == pytest.approx((0.6, np.std([0.5, 0.7], ddof=1), 2))


def test_undefined_values_are_left_out_and_counted() -> None:
    assert spread([0.5, math.nan, 1.0]) == pytest.approx((0.75, math.sqrt(0.125), 2))
    assert spread([math.nan]).n == 0
    assert math.isnan(spread([0.5]).sd)


def test_comparing_takes_pairs_that_both_have() -> None:
    values = {
        "coarse": {"a": 0.5, "b": 0.6, "c": 0.7, "d": math.nan},
        "ours": {"a": 0.6, "b": 0.8, "c": 0.9, "d": 0.9, "e": 1.0},
        "other": {"a": 0.6, "b": 0.8, "c": 0.8},
    }
    found = {(c.a, c.b): c for c in compare(values)}
    assert list(found) == [("ours", "coarse"), ("other", "coarse"), ("other", "ours")]
    first = found["ours", "coarse"]
    assert (first.n, first.n_zero) == (3, 0)
    assert first.difference == pytest.approx(0.5 / 3)
    assert first.p == 0.25
    assert first.p_holm == pytest.approx(0.75)
    assert found["other", "ours"].n_zero == 2


def test_moving_average_is_the_mean_of_its_neighbours() -> None:
    values = np.arange(40, dtype=float)
    mean, low, high = moving_average(values, k=15)
    assert mean[20] == 20
    assert mean[0] == np.mean(values[:8])
    sd = np.std(values[13:28], ddof=1)
    assert high[20] - low[20] == pytest.approx(2 * 1.96 * sd / math.sqrt(15))
    assert np.isnan(moving_average(np.array([0.4]))[1]).all()
