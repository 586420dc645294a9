"""Where a method stands between its outline and the oracle; every slide counts once."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recontour.benchmark.standing import (
    Key,
    by_slide,
    chosen_on_the_rest,
    macro,
    pairs,
    standing,
)


def scores(**slides):
    """slide -> values of its outlines."""
    return {
        Key(slide, "missed", seed): value
        for slide, values in slides.items()
        for seed, value in enumerate(values)
    }


def test_every_slide_counts_once_however_many_outlines_it_has():
    found = scores(a=[0.2], b=[0.6, 0.8, 1.0])
    assert by_slide(found) == pytest.approx({"a": 0.2, "b": 0.8})
    assert macro(found) == pytest.approx(0.5)
    assert math.isnan(macro({}))


def test_a_method_stands_between_outline_and_oracle():
    coarse = scores(a=[0.6, 0.6], b=[0.8, 0.8])
    oracle = scores(a=[0.8, 0.8], b=[0.9, 0.9])
    found = scores(a=[0.7, 0.6], b=[0.9, 0.7])
    s = standing(found, coarse, oracle)
    assert (s.slides, s.cases) == (2, 4)
    assert (s.coarse, s.found, s.oracle) == pytest.approx((0.7, 0.725, 0.85))
    assert s.better == 0.5  # as good as before is not better
    assert s.worst == pytest.approx(-0.085)
    assert s.median == pytest.approx(0.05)
    assert s.way == pytest.approx(0.025 / 0.15)


def test_a_slide_without_an_oracle_does_not_count_for_the_way():
    """Its truth lies in one block: there is nothing to train on."""
    coarse = scores(a=[0.6], easy=[0.9])
    found = scores(a=[0.7], easy=[0.95])
    s = standing(found, coarse, scores(a=[0.8]))
    assert (s.cases, s.oracle) == (2, 0.8)
    assert s.coarse == pytest.approx(0.75)
    assert s.way == pytest.approx(0.5)


def test_where_the_outline_is_as_good_as_the_oracle_there_is_no_way_to_go():
    same = scores(a=[0.8])
    assert math.isnan(standing(same, same, same).way)
    assert math.isnan(standing({}, same, same).found)


def test_pairs_count_only_what_both_have():
    first = scores(a=[0.7, 0.9], b=[0.5], c=[0.9])
    second = scores(a=[0.6], b=[0.6], d=[0.1])
    found = pairs(first, second)
    assert found.slides == {"a": (0.7, 0.6), "b": (0.5, 0.6)}
    assert found.difference == pytest.approx(0)
    assert (found.wins, found.cases) == (1, 2)
    undefined = {**second, Key("b", "missed", 0): math.nan}
    assert pairs(first, undefined).cases == 1


def test_what_is_chosen_for_a_site_was_chosen_without_it():
    # "local" shines at one site only; whoever chooses without that site does not know.
    candidates = {
        "steady": scores(x1=[0.7], x2=[0.7], y1=[0.7]),
        "local": scores(x1=[0.6], x2=[0.6], y1=[0.9]),
    }
    found = chosen_on_the_rest(candidates, {"x1": "x", "x2": "x", "y1": "y"})
    assert found == {"x": ("local", pytest.approx(0.6)), "y": ("steady", pytest.approx(0.7))}


def test_one_site_alone_has_nothing_to_choose_on():
    found = chosen_on_the_rest({"a": scores(x=[0.5])}, {"x": "only"})
    assert found == {"only": ("a", pytest.approx(0.5))}


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20
    )
)
def test_pairs_turn_round_with_the_methods(rows):
    first = {Key(s, "k", i): a for i, (s, a, _) in enumerate(rows)}
    second = {Key(s, "k", i): b for i, (s, _, b) in enumerate(rows)}
    here, there = pairs(first, second), pairs(second, first)
    assert here.difference == pytest.approx(-there.difference, abs=1e-12)
    assert here.wins + there.wins <= len(here.slides)
    assert here.difference == pytest.approx(macro(first) - macro(second), abs=1e-12)
