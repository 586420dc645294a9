"""The oracle learns from the truth, and never from the block it predicts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy.special import expit

from recontour.errors import RefinerError
from recontour.refiners.base import table
from recontour.refiners.discriminant import Discriminant, Projection, cross_fitted, softmax
from recontour.refiners.oracle import deal_blocks, oracle_probs
from recontour.types import PatchGrid, PatchSet

CLASSES = ("background", "Tumor", "Stroma")


def square(side: int) -> PatchGrid:
    rows, cols = np.divmod(np.arange(side * side, dtype=np.int32), np.int32(side))
    return PatchGrid((0.0, 0.0), (side, side), rows, cols, 64, 64, 64, 0.5, 0.5)


def slide(
    side: int = 40, k: int = 2, d: int = 12, apart: float = 2.0, seed: int = 0
) -> tuple[PatchSet, np.ndarray]:
    """k vertical stripes; a quarter of the coarse labels is wrong, all in the top rows."""
    rng = np.random.default_rng(seed)
    grid = square(side)
    truth = (grid.cols * k // side).astype(np.int8)
    features = apart * np.eye(k, d)[truth] + rng.normal(size=(len(grid), d))
    labels = np.where(grid.rows < side // 4, (truth + 1) % k, truth).astype(np.int8)
    return PatchSet(
        "slide", grid, features.astype(np.float32), labels, CLASSES[:k], context=None
    ), truth


@pytest.mark.parametrize("k", [2, 3])
def test_beats_the_coarse_labels(k: int) -> None:
    patches, truth = slide(k=k, apart=3)
    probs = oracle_probs(patches, truth)
    assert probs.shape == (1600, k)
    assert probs.dtype == np.float32
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-6)
    assert np.mean(patches.labels == truth) == 0.75
    assert np.mean(probs.argmax(axis=1) == truth) > 0.93


def test_does_not_see_the_coarse_labels() -> None:
    patches, truth = slide()
    other = dataclasses.replace(patches, labels=np.full(len(patches), -1, np.int8))
    np.testing.assert_array_equal(oracle_probs(patches, truth), oracle_probs(other, truth))


def test_never_predicts_a_block_with_a_model_that_saw_it() -> None:
    # Features that name the block and say nothing else, and a class drawn for each block: whoever
    # has seen a block knows the class of its cells; whoever has not can only guess.
    rng = np.random.default_rng(0)
    grid = square(40)
    block = (grid.rows // 4) * 10 + grid.cols // 4
    looks = rng.normal(size=(100, 60))
    right = []
    for _ in range(5):
        truth = rng.integers(0, 2, 100)[block].astype(np.int8)
        patches = PatchSet("s", grid, looks[block].astype(np.float32), truth, CLASSES[:2])
        probs = oracle_probs(patches, truth, block_cells=4)
        right.append(np.mean(probs.argmax(axis=1) == truth))
        x = Projection.of(table([patches]))(table([patches]))
        seen = Discriminant.of(x, np.eye(2)[truth]).scores(x).argmax(axis=1)
        assert np.mean(seen == truth) > 0.85
    assert 0.35 < np.mean(right) < 0.65


def test_context_is_a_second_opinion() -> None:
    patches, truth = slide(apart=1.5)
    noise = np.random.default_rng(5).normal(size=patches.features.shape)
    context = (1.5 * np.eye(2, 12)[truth] + noise).astype(np.float32)
    both = oracle_probs(dataclasses.replace(patches, context=context), truth)
    alone = oracle_probs(patches, truth)
    assert np.mean(both.argmax(1) == truth) > np.mean(alone.argmax(1) == truth) + 0.02


def test_cells_of_unknown_class_are_predicted_and_train_nothing() -> None:
    patches, truth = slide(apart=4)
    hidden = patches.grid.rows < 20
    misleading = np.where(hidden, -1, truth)
    probs = oracle_probs(patches, misleading)
    assert np.isfinite(probs).all()
    assert np.mean(probs.argmax(axis=1)[hidden] == truth[hidden]) > 0.95


def test_a_class_in_one_block_only_has_no_chance_there_and_no_nan() -> None:
    patches, truth = slide(k=3)
    truth = np.minimum(truth, 1).astype(np.int8)
    corner = (patches.grid.rows < 3) & (patches.grid.cols < 3)
    truth[corner] = 2
    probs = oracle_probs(patches, truth, block_cells=5)
    assert np.isfinite(probs).all()
    np.testing.assert_array_equal(probs[corner, 2], 0)


@pytest.mark.parametrize("seed", range(3))
def test_folds_hold_about_as_many_cells_of_each_class_and_whole_blocks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid = square(60)
    truth = np.where(grid.cols < 10, 1, 0).astype(np.int8)
    truth[rng.random(len(truth)) < 0.1] = -1
    fold = deal_blocks(grid, truth, 2, 5, 6, seed)
    for k in (-1, 0, 1):
        share = np.bincount(fold[truth == k], minlength=5) / np.sum(truth == k)
        assert share.min() > 0.08
        assert share.max() < 0.35
    blocks = (grid.rows // 6) * 10 + grid.cols // 6
    assert all(len(set(fold[blocks == b])) == 1 for b in range(100))


@pytest.mark.parametrize("side", [2, 3, 5])
def test_a_handful_of_cells_is_enough(side: int) -> None:
    patches, truth = slide(side=side, apart=5)
    probs = oracle_probs(patches, truth)
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-6)


def test_same_seed_same_answer() -> None:
    patches, truth = slide()
    np.testing.assert_array_equal(
        oracle_probs(patches, truth, seed=3), oracle_probs(patches, truth, seed=3)
    )
    assert not np.array_equal(
        oracle_probs(patches, truth, seed=3), oracle_probs(patches, truth, seed=4)
    )


def test_a_truth_that_cannot_be_learned_from_is_refused() -> None:
    patches, truth = slide()
    with pytest.raises(RefinerError, match="one class only"):
        oracle_probs(patches, np.zeros(len(truth), np.int8))
    with pytest.raises(RefinerError, match="one block of 40 x 40"):
        oracle_probs(patches, truth, block_cells=40)
    with pytest.raises(RefinerError, match="for 1600 cells"):
        oracle_probs(patches, truth[:5])
    with pytest.raises(RefinerError, match="between -1 and 1"):
        oracle_probs(patches, truth + 1)
    with pytest.raises(RefinerError, match="at least 2"):
        oracle_probs(patches, truth, folds=1)
    with pytest.raises(RefinerError, match="block_cells=-1"):
        oracle_probs(patches, truth, block_cells=-1)
    features = patches.features.copy()
    features[3, 3] = np.nan
    with pytest.raises(RefinerError, match="NaN"):
        oracle_probs(dataclasses.replace(patches, features=features), truth)


def test_the_discriminant_of_two_classes_is_the_one_written_down() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6)).astype(np.float32)
    q = rng.random(300)
    model = Discriminant.of(x, np.stack([1 - q, q], axis=1), shrinkage=0.3)
    scores = model.scores(x)
    # As in the description of Side-prior LDA-EM, step 3, word by word.
    w1, w0 = q / q.sum(), (1 - q) / (1 - q).sum()
    m1, m0 = w1 @ x, w0 @ x
    covariance = np.einsum("i,ij,ik->jk", (w1 + w0) / 2, x, x)
    covariance -= (np.outer(m1, m1) + np.outer(m0, m0)) / 2
    covariance = 0.7 * covariance + 0.3 * np.trace(covariance) / 6 * np.eye(6)
    b = np.linalg.solve(covariance, m1 - m0)
    z = x @ b - (m1 + m0) @ b / 2
    np.testing.assert_allclose(scores[:, 1] - scores[:, 0], z, atol=1e-9)
    np.testing.assert_allclose(softmax(scores)[:, 1], expit(z), atol=1e-9)


def test_the_discriminant_does_not_mind_how_many_cells_a_class_has() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random(20_000) < 0.02).astype(int)
    x = (rng.normal(size=(20_000, 3)) + truth[:, None]).astype(np.float32)
    found = Discriminant.of(x, np.eye(2)[truth]).scores(x).argmax(axis=1)
    assert abs(np.mean(found[truth == 1] == 1) - np.mean(found[truth == 0] == 0)) < 0.05


def test_components_are_not_whitened_and_have_mean_square_one() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(500, 100)) @ rng.normal(size=(100, 100)) * 30 + 7
    patches = PatchSet(
        "s", square(23), features[:529].astype(np.float32), np.zeros(500, np.int8), CLASSES
    )
    cells = table([dataclasses.replace(patches, labels=np.zeros(len(features), np.int8))])
    x = Projection.of(cells)(cells)
    assert x.shape == (500, 64)
    assert np.mean(x.astype(float) ** 2) == pytest.approx(1, abs=1e-4)
    variance = x.var(axis=0)
    assert (np.diff(variance) < 1e-6).all()
    assert variance[0] > 10 * variance[-1]
    few = table([dataclasses.replace(patches, features=features[:9], labels=np.zeros(9, np.int8))])
    assert Projection.of(few)(few).shape == (9, 8)


@pytest.mark.parametrize("shrinkage", [0.0, 0.3])
def test_classes_without_any_spread_are_finitely_far_apart(shrinkage: float) -> None:
    truth = np.arange(60) % 3
    x = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)[truth]
    scores = Discriminant.of(x, np.eye(3)[truth], shrinkage).scores(x)
    assert np.array_equal(scores.argmax(axis=1), truth)
    assert np.abs(scores).max() < 1e15  # the next step may be in single precision


def test_a_fold_is_scored_by_what_lies_outside_of_it() -> None:
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    labels, fold = np.arange(60) % 2, np.repeat([0, 1, 2], 20)
    labels[:5] = -1
    scores = cross_fitted([x], labels, fold, 2)
    rest = (fold != 1) & (labels >= 0)
    alone = Discriminant.of(x[rest], np.eye(2)[labels[rest]]).scores(x[fold == 1])
    np.testing.assert_array_equal(scores[fold == 1], alone)
    # A class that lives in one fold cannot be learned without it, nor anything without cells.
    scores = cross_fitted([x], np.where(fold == 0, 0, 1), fold, 2)
    assert (scores[fold == 0, 0] == -np.inf).all()
    assert np.isfinite(scores[fold != 0]).all()
    assert (cross_fitted([x], np.where(fold == 0, 0, -1), fold, 2)[fold == 0] == -np.inf).all()
