"""The nearest neighbours are those that comparing every pair finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recontour.errors import UsageError
from recontour.refiners import neighbours
from recontour.refiners.base import unit_rows
from recontour.refiners.neighbours import nearest


def points(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    return unit_rows(rng.normal(size=(n, d)).astype(np.float32))


def by_hand(
    queries: np.ndarray, references: np.ndarray, k: int, exclude: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Every pair in float64; equal ones (to 12 digits) by index."""
    cosine = np.round(queries.astype(np.float64) @ references.astype(np.float64).T, 12)
    if exclude is not None:
        has = np.flatnonzero(exclude >= 0)
        cosine[has, exclude[has]] = -np.inf
    order = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(cosine, order, 1)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(2, 150),
    m=st.integers(1, 90),
    d=st.integers(1, 9),
    k=st.integers(1, 12),
    same=st.booleans(),
    excluding=st.booleans(),
    copies=st.integers(1, 4),
    memory=st.sampled_from([64, 2000, 1 << 20]),
    seed=st.integers(0, 2**32 - 1),
)
def test_agrees_with_comparing_every_pair(
    n: int,
    m: int,
    d: int,
    k: int,
    same: bool,
    excluding: bool,
    copies: int,
    memory: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    references = points(rng, n, d)[rng.integers(0, max(n // copies, 1), n)]
    queries = references if same else points(rng, m, d)
    k = min(k, n - excluding)
    exclude = None
    if excluding:
        exclude = np.arange(n) if same else rng.integers(-1, n, m)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "MEMORY", memory)
        patch.setattr(neighbours, "TILE", 64)
        index, cosine = nearest(queries, references, k, exclude=exclude, device="cpu")
    expected, values = by_hand(queries, references, k, exclude)
    np.testing.assert_allclose(cosine, values, atol=3e-6)
    # Cosines that float32 cannot tell apart may trade places; all others may not.
    actual = np.einsum("md,mkd->mk", queries.astype(np.float64), references[index])
    np.testing.assert_allclose(actual, values, atol=3e-6)
    assert all(len(set(row)) == k for row in index.tolist())
    if exclude is not None:
        assert not (index == exclude[:, None]).any()
    if d > 4 and copies == 1 and n < 20:
        apart = np.diff(by_hand(queries, references, min(k + 1, n), exclude)[1], axis=1)
        clear = (np.abs(apart) > 1e-5).all(axis=1)
        np.testing.assert_array_equal(index[clear], expected[clear])


def test_a_point_is_its_own_nearest_unless_left_out() -> None:
    x = points(np.random.default_rng(0), 3000, 16)
    itself, cosine = nearest(x, x, 1)
    np.testing.assert_array_equal(itself[:, 0], np.arange(3000))
    np.testing.assert_allclose(cosine, 1, atol=1e-6)
    other, _ = nearest(x, x, 1, exclude=np.arange(3000))
    assert not (other[:, 0] == np.arange(3000)).any()


def test_copies_of_a_point_are_its_neighbours_lower_index_first() -> None:
    x = points(np.random.default_rng(0), 5000, 32)
    copies = np.array([40, 1077, 2500, 2501, 4999])
    x[copies] = x[40]
    index, cosine = nearest(x, x, 3, exclude=np.arange(5000))
    np.testing.assert_array_equal(index[40], [1077, 2500, 2501])
    np.testing.assert_array_equal(index[2500], [40, 1077, 2501])
    np.testing.assert_array_equal(index[4999], [40, 1077, 2500])
    np.testing.assert_allclose(cosine[copies], 1, atol=1e-6)


def test_all_points_alike_take_the_first() -> None:
    x = np.full((700, 4), 0.5, np.float32)
    index, _ = nearest(x, x, 5, exclude=np.arange(700))
    np.testing.assert_array_equal(index[600], [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(index[2], [0, 1, 3, 4, 5])


def test_many_passes_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    x = points(np.random.default_rng(0), 900, 24)
    expected = nearest(x, x, 5, exclude=np.arange(900))
    monkeypatch.setattr(neighbours, "MEMORY", 900 * 10)
    found = nearest(x, x, 5, exclude=np.arange(900))
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], atol=1e-6)


def test_no_queries_no_neighbours() -> None:
    x = points(np.random.default_rng(0), 9, 3)
    index, cosine = nearest(x[:0], x, 4)
    assert index.shape == cosine.shape == (0, 4)


def test_more_neighbours_than_points_are_refused() -> None:
    x = points(np.random.default_rng(0), 5, 3)
    assert nearest(x, x, 5)[0].shape == (5, 5)
    with pytest.raises(ValueError, match="5 neighbours wanted of 4"):
        nearest(x, x, 5, exclude=np.arange(5))
    with pytest.raises(ValueError, match="0 neighbours"):
        nearest(x, x, 0)


def test_a_row_of_zeros_stays_one() -> None:
    x = unit_rows(np.array([[3, 4], [0, 0]], np.float32))
    np.testing.assert_allclose(x, [[0.6, 0.8], [0, 0]])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_named() -> None:
    x = points(np.random.default_rng(0), 5, 3)
    with pytest.raises(UsageError, match="no CUDA device"):
        nearest(x, x, 1, device="cuda")
    with pytest.raises(UsageError, match="unknown device 'tpu'"):
        nearest(x, x, 1, device="tpu")
