"""`--shard i/n`: array jobs divide a cohort without talking to one another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recontour.cohort.shards import Shard, parse_shard
from recontour.errors import UsageError

IDS = st.lists(st.text(min_size=1, max_size=20), unique=True, max_size=40)


@given(IDS, st.integers(1, 12))
def test_every_slide_is_in_exactly_one_part(ids: list[str], count: int) -> None:
    parts = [Shard(i, count) for i in range(1, count + 1)]
    for name in ids:
        assert sum(name in part for part in parts) == 1


def test_parts_are_about_equal() -> None:
    sizes = [sum(f"slide_{n:04d}" in Shard(i, 10) for n in range(5000)) for i in range(1, 11)]
    assert sum(sizes) == 5000
    assert 430 < min(sizes) <= max(sizes) < 570


def test_parts_do_not_change_from_release_to_release() -> None:
    # An array job resumed after an update must find its slides in the same parts. Expected:
    # `printf case_05 | sha256sum`, the first 16 digits modulo 3.
    assert [n for n in range(12) if f"case_{n:02d}" in parse_shard("2/3")] == [5, 7]


def test_the_only_part_has_everything() -> None:
    assert "anything" in parse_shard("1/1")
    assert str(parse_shard(" 3 / 10")) == "3/10"


@pytest.mark.parametrize("text", ["", "3", "a/b", "1/2/3", "-1/4", "1.5/2"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="form i/n"):
        parse_shard(text)


@pytest.mark.parametrize("text", ["0/4", "5/4", "0/0", "1/0"])
def test_a_part_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        parse_shard(text)


def test_arrays_that_begin_at_zero_get_a_hint() -> None:
    with pytest.raises(UsageError, match="--array=1-10"):
        parse_shard("0/10")
