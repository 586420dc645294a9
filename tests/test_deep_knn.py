"""Deep k nearest neighbours: what votes, what does not, and who is who."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from recontour.errors import RefinerError, UsageError
from recontour.refiners.deep_knn import DeepKnn, votes
from recontour.refiners.same_cells import cell_keys, find_keys
from recontour.types import PatchGrid, PatchSet

CLASSES = ("background", "Tumor")


def slide(
    side: int = 30, noise: float = 0.2, seed: int = 0, d: int = 16, apart: float = 4
) -> tuple[PatchSet, np.ndarray]:
    """Two halves of different look, with `noise` of the coarse labels wrong."""
    rng = np.random.default_rng(seed)
    rows, cols = np.divmod(np.arange(side * side, dtype=np.int32), np.int32(side))
    grid = PatchGrid((0.0, 0.0), (side, side), rows, cols, 64, 64, 64, 0.5, 0.5)
    truth = (cols >= side // 2).astype(np.int8)
    features = apart * np.eye(2, d)[truth] + rng.normal(size=(len(grid), d))
    labels = (truth ^ (rng.random(len(grid)) < noise)).astype(np.int8)
    return PatchSet(f"s{seed}", grid, features.astype(np.float32), labels, CLASSES), truth


def answer(patches: PatchSet, other: PatchSet | None = None, **options: Any) -> np.ndarray:
    model = DeepKnn(**options).fit([patches])
    return model.predict_proba(patches if other is None else other)


def accuracy(probs: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean((probs[:, 1] > 0.5) == truth))


def test_answers_with_shares_of_votes() -> None:
    patches, truth = slide()
    probs = answer(patches, k=5)
    np.testing.assert_allclose(probs * 5, np.round(probs * 5), atol=1e-5)
    assert accuracy(probs, truth) > np.mean(patches.labels == truth) + 0.08


def test_more_neighbours_clean_more() -> None:
    patches, truth = slide(noise=0.3)
    assert accuracy(answer(patches, k=25), truth) > accuracy(answer(patches, k=3), truth) + 0.05


def test_votes_are_weighed_by_trust() -> None:
    labels = np.array([[1, 1, 0], [0, 0, 0]], np.int8)
    trust = np.array([[0.25, 0.25, 1], [1, 1, 1]], np.float32)
    np.testing.assert_allclose(votes(labels, trust, 3), [[2 / 3, 1 / 3, 0], [1, 0, 0]], atol=1e-6)


def test_equal_votes_stay_equal_and_the_majority_of_them_is_background() -> None:
    patches, _ = slide(noise=0.5)
    shares = answer(patches, k=4)
    tied = shares[:, 1] == 0.5
    assert tied.any()
    hard = answer(patches, k=4, majority=True)
    assert set(np.unique(hard)) == {0, 1}
    np.testing.assert_array_equal(hard[tied], [[1, 0]] * tied.sum())
    np.testing.assert_array_equal(hard.argmax(axis=1), shares.argmax(axis=1))


def test_a_cell_votes_for_itself_only_when_asked_to() -> None:
    # With one neighbour that is the cell itself, the answer is the coarse label.
    patches, _ = slide()
    np.testing.assert_array_equal(answer(patches, k=1, include_self=True).argmax(1), patches.labels)
    assert np.mean(answer(patches, k=1).argmax(axis=1) == patches.labels) < 0.8


def test_a_cell_is_recognised_in_part_of_its_slide_and_in_half_precision() -> None:
    patches, _ = slide()
    half = dataclasses.replace(patches, features=patches.features.astype(np.float16))
    whole = dataclasses.replace(half, features=half.features.astype(np.float32))
    some = np.arange(17, 400, 3)
    part = dataclasses.replace(
        whole,
        grid=dataclasses.replace(
            whole.grid, rows=whole.grid.rows[some], cols=whole.grid.cols[some]
        ),
        features=whole.features[some],
        labels=whole.labels[some],
    )
    model = DeepKnn(k=1).fit([half])
    expected = model.predict_proba(half)
    np.testing.assert_array_equal(model.predict_proba(whole), expected)
    np.testing.assert_array_equal(model.predict_proba(part), expected[some])


def test_another_slide_has_no_cell_of_its_own_among_the_voters() -> None:
    # The same features under another name are other cells, so their twins may vote.
    patches, _ = slide()
    twin = dataclasses.replace(patches, slide_id="twin")
    found = answer(patches, twin, k=1)
    np.testing.assert_array_equal(found.argmax(axis=1), patches.labels)


def test_a_copy_of_a_patch_in_another_place_remains_a_neighbour() -> None:
    patches, _ = slide()
    features = patches.features.copy()
    features[500] = features[100]
    labels = patches.labels.copy()
    labels[[100, 500]] = 0, 1
    copied = dataclasses.replace(patches, features=features, labels=labels)
    probs = answer(copied, k=1)
    np.testing.assert_array_equal(probs[[100, 500]].argmax(axis=1), [1, 0])


def test_every_cell_of_pooled_slides_is_recognised() -> None:
    first, second = slide(seed=0)[0], slide(side=20, seed=1)[0]
    model = DeepKnn(k=1, include_self=True).fit([first, second])
    for patches in (first, second):
        np.testing.assert_array_equal(model.predict_proba(patches).argmax(axis=1), patches.labels)
    keys = np.concatenate([cell_keys(p, "cell") for p in (first, second)])
    assert len(np.unique(keys)) == len(keys)
    np.testing.assert_array_equal(find_keys(keys, keys), np.arange(len(keys)))


def test_unlabelled_cells_do_not_vote() -> None:
    patches, truth = slide(noise=0)
    labels = patches.labels.copy()
    labels[::2] = -1
    probs = answer(dataclasses.replace(patches, labels=labels), k=25)
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-6)
    assert accuracy(probs, truth) > 0.97


def test_the_filter_drops_wrong_labels_and_learns_again() -> None:
    patches, truth = slide(noise=0.25, side=50, apart=2.5, d=64)
    # Enough epochs to learn wrong labels by heart.
    options: dict[str, Any] = {"epochs": 40, "k": 15}
    plain = DeepKnn(mode="filter", **{**options, "k": 1, "include_self": True}).fit([patches])
    filtered = DeepKnn(mode="filter", **options).fit([patches])
    # A cell that is its own only neighbour agrees with itself: nothing is dropped.
    before = accuracy(plain.predict_proba(patches), truth)
    after = accuracy(filtered.predict_proba(patches), truth)
    assert after > before + 0.03
    assert filtered.notes == ()


def test_the_filter_keeps_a_class_that_nobody_agrees_with_and_says_so() -> None:
    patches, _ = slide(noise=0)
    labels = np.zeros(len(patches), np.int8)
    labels[[3, 400]] = 1
    model = DeepKnn(mode="filter").fit([dataclasses.replace(patches, labels=labels)])
    assert len(model.notes) == 1
    assert "'Tumor'" in model.notes[0]
    model.fit([patches])
    assert model.notes == ()


@pytest.mark.parametrize(("include_self", "enough"), [(False, 6), (True, 5)])
def test_fewer_labelled_cells_than_neighbours_are_refused(include_self: bool, enough: int) -> None:
    patches, _ = slide()
    labels = np.full(len(patches), -1, np.int8)
    labels[: enough - 1] = 0
    labels[0] = 1
    few = dataclasses.replace(patches, labels=labels)
    with pytest.raises(
        RefinerError, match=f"k=5 needs {enough} labelled cells and has {enough - 1}"
    ):
        answer(few, include_self=include_self)
    labels[enough] = 1
    answer(few, include_self=include_self)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("k", 0),
        ("mode", "both"),
        ("include_self", "yes"),
        ("majority", 1),
        ("epochs", 0),
        ("batch", 2.5),
        ("lr", 0),
        ("weight_decay", -1),
        ("hidden", True),
        ("views", "all"),
    ],
)
def test_values_that_make_no_sense_are_refused(option: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{option}="):
        DeepKnn(**{option: value})


def test_an_unknown_device_is_refused_before_anything_is_learnt() -> None:
    with pytest.raises(UsageError, match="unknown device 'tpu'"):
        DeepKnn(device="tpu")


def test_a_filter_has_no_votes_to_count() -> None:
    with pytest.raises(UsageError, match="majority=True must be false in mode filter"):
        DeepKnn(majority=True, mode="filter")
