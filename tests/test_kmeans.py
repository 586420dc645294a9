"""K-means: as good as scikit-learn's, the same every time, and content with too few cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_info

from recontour.errors import RefinerError
from recontour.refiners.base import unit_rows
from recontour.refiners.kmeans import kmeans


def blobs(n: int = 1200, k: int = 6, d: int = 20, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = 3 * rng.normal(size=(k, d))[rng.integers(0, k, n)] + rng.normal(size=(n, d))
    return unit_rows(rows.astype(np.float32))


def inertia(x: np.ndarray, centres: np.ndarray) -> float:
    return float(((x[:, None] - centres) ** 2).sum(axis=2).min(axis=1).sum())


@pytest.mark.parametrize("k", [2, 6, 13])
def test_finds_clusters_as_tight_as_scikit_learn_does(k: int) -> None:
    x = blobs()
    expected = KMeans(k, n_init=5, random_state=0).fit(x).inertia_
    assert inertia(x, kmeans(x, k)) < 1.01 * expected


def test_same_seed_same_centres_whatever_the_number_of_threads() -> None:
    x = blobs()
    threads = torch.get_num_threads()
    first = kmeans(x, 9, seed=3)
    try:
        torch.set_num_threads(1)
        again = kmeans(x, 9, seed=3)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(first, again)


def test_more_starts_are_never_worse() -> None:
    x = blobs(k=15)
    found = [inertia(x, kmeans(x, 15, starts=starts)) for starts in (1, 2, 8)]
    assert found[0] >= found[1] >= found[2]


def test_leaves_rows_and_threads_and_random_state_alone() -> None:
    x = blobs()
    x.flags.writeable = False
    threads = [library["num_threads"] for library in threadpool_info()]
    np.random.seed(5)  # noqa: NPY002 - the legacy state is what a user's script may rely on
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    kmeans(x, 4)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert [library["num_threads"] for library in threadpool_info()] == threads


def test_fewer_distinct_rows_than_clusters_gives_one_centre_each() -> None:
    distinct = blobs(n=3)
    centres = kmeans(np.repeat(distinct, 40, axis=0), 8)
    assert len(centres) == 3
    assert inertia(distinct, centres) == pytest.approx(0, abs=1e-6)
    assert len(kmeans(np.repeat(distinct[:1], 5, axis=0), 2)) == 1


def test_as_many_clusters_as_rows_are_the_rows() -> None:
    x = blobs(n=7)
    np.testing.assert_array_equal(kmeans(x, 7), np.unique(x, axis=0))
    assert len(kmeans(np.repeat(x, 2, axis=0), 14)) == 7


def test_what_makes_no_sense_is_refused() -> None:
    x = blobs(n=5)
    with pytest.raises(RefinerError, match="6 clusters of 5 rows"):
        kmeans(x, 6)
    for value in (np.nan, np.inf):
        x[2, 1] = value
        with pytest.raises(RefinerError, match="NaN or infinite"):
            kmeans(x, 2)
        with pytest.raises(RefinerError, match="NaN or infinite"):
            unit_rows(x.copy())


def test_unit_rows_have_length_one_and_zeros_stay() -> None:
    x = np.array([[3, 4], [0, 0], [1e-15, 0], [1e15, 1e15]], np.float32)
    np.testing.assert_allclose(
        unit_rows(x), [[0.6, 0.8], [0, 0], [1, 0], [0.5**0.5] * 2], atol=1e-6
    )
