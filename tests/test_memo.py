"""What hangs on the features alone is found out once, and never told of other features."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from recontour import make_refiner
from recontour.appearance import look_at
from recontour.calibration import calibrate
from recontour.memo import Memo, recall
from recontour.refiners import discriminant
from recontour.refiners.base import ZScore, table
from recontour.refiners.discriminant import Projection, project_view
from recontour.trust import check_labels, predict_blocked
from recontour.types import PatchGrid, PatchSet


def slide_of(side: int = 24, *, seed: int = 0, memo: bool = True) -> PatchSet:
    """A square of cells whose left third looks different; what is labelled lies near it."""
    rng = np.random.default_rng(seed)
    rows, cols = np.indices((side, side), dtype=np.int32).reshape(2, -1)
    grid = PatchGrid((0.0, 0.0), (side, side), rows, cols, 32, 32, 32, 1.0, 1.0)
    tumor = cols < side // 3
    features = (rng.normal(size=(len(rows), 20)) + 2 * tumor[:, None]).astype(np.float16)
    context = (rng.normal(size=(len(rows), 20)) + tumor[:, None]).astype(np.float16)
    labels = (cols < side // 2).astype(np.int8)
    kept = Memo(features, context) if memo else None
    return PatchSet("s", grid, features, labels, ("background", "Tumor"), context, memo=kept)


def test_an_answer_is_computed_once():
    x, asked = np.zeros(3), []
    memo = Memo(x)
    for _ in range(3):
        assert memo.get("sum", [x], lambda: asked.append(1) or 7) == 7
    assert len(asked) == 1


def test_answers_about_other_arrays_are_never_kept_nor_given():
    x = np.zeros(3)
    memo = Memo(x)
    memo.get("sum", [x], lambda: "of x")
    assert memo.get("sum", [x.copy()], lambda: "of another") == "of another"
    assert memo.get("sum", [x[:2]], lambda: "of a part") == "of a part"
    assert memo.get("sum", [x], lambda: "again") == "of x"
    assert len(memo) == 1


def test_what_was_used_longest_ago_goes_first():
    x = np.zeros(3)
    memo = Memo(x, most=2)
    for name in ("a", "b", "a", "c"):
        memo.get(name, [x], lambda name=name: f"first {name}")
    assert memo.get("a", [x], lambda: "anew") == "first a"
    assert memo.get("b", [x], lambda: "anew") == "anew"


def test_a_kept_array_cannot_be_written_on():
    x = np.zeros(3)
    found = Memo(x).get("twice", [x], lambda: 2 * x)
    with pytest.raises(ValueError, match="read-only"):
        found += 1


def test_an_error_is_not_kept():
    x = np.zeros(3)
    memo = Memo(x)
    with pytest.raises(ZeroDivisionError):
        memo.get("ratio", [x], lambda: 1 / 0)
    assert memo.get("ratio", [x], lambda: 1.0) == 1.0


def test_without_a_memo_everything_is_computed():
    assert recall(None, "sum", [np.zeros(2)], lambda: 5) == 5


def test_a_copy_in_another_process_begins_empty():
    patches = slide_of()
    check_labels(patches)
    assert patches.memo is not None
    assert len(patches.memo)
    copied = pickle.loads(pickle.dumps(patches))
    assert len(copied.memo) == 0
    assert check_labels(copied) == check_labels(patches)


def test_the_same_features_are_decomposed_once_for_all_who_ask(monkeypatch):
    asked = []
    whole = discriminant._components
    monkeypatch.setattr(
        discriminant, "_components", lambda cells, scale: asked.append(1) or whole(cells, scale)
    )
    patches = slide_of()
    for labels in (patches.labels, 1 - patches.labels):
        now = replace(patches, labels=labels)
        probs = make_refiner("em").fit([now]).predict_proba(now)
        check_labels(now)
        calibrate(now, probs)
    assert len(asked) == 2  # the cell, and what is around it


@pytest.mark.parametrize("method", ["em", "logistic", "prototype", "deep_knn", "pencil"])
def test_answers_with_a_memo_are_those_without_bit_for_bit(method):
    kept, bare = slide_of(), slide_of(memo=False)
    for shift in (0, 3, 5):
        labels = np.roll(kept.labels, shift)
        with_memo, without = replace(kept, labels=labels), replace(bare, labels=labels)
        one, other = (make_refiner(method).fit([p]).predict_proba(p) for p in (with_memo, without))
        assert np.array_equal(one, other)
        assert check_labels(with_memo) == check_labels(without)
        a, b = calibrate(with_memo, one), calibrate(without, other)
        assert np.array_equal(a.probs, b.probs)
        look, plain = look_at(with_memo), look_at(without)
        assert np.array_equal(look.x, plain.x)
        assert np.array_equal(look.labels, plain.labels)


def test_cells_without_a_label_take_part_in_one_outline_and_not_in_the_next():
    kept, bare = slide_of(), slide_of(memo=False)
    for unlabelled in (0, 40, 0, 80):
        labels = kept.labels.copy()
        labels[:unlabelled] = -1
        with_memo, without = replace(kept, labels=labels), replace(bare, labels=labels)
        found, expected = predict_blocked(with_memo), predict_blocked(without)
        assert np.array_equal(found[0], expected[0])
        assert np.array_equal(found[1], expected[1])
        assert np.array_equal(look_at(with_memo).of_cell, look_at(without).of_cell)


def test_a_set_with_other_features_is_not_answered_with_these():
    patches = slide_of()
    first = ZScore.of(table([patches]))
    other = replace(patches, features=patches.features * np.float16(3))
    assert not np.array_equal(ZScore.of(table([other])).mean, first.mean)
    half = replace(
        patches, features=patches.features[::2], labels=patches.labels[::2], context=None
    )
    assert len(Projection.of(table([half]))(table([half]))) == len(half)


def test_wide_features_are_thinned_as_without_a_memo():
    kept, bare = slide_of(), slide_of(memo=False)
    some = np.arange(0, len(kept), 3)
    for rows, learn in ((None, None), (some, None), (None, some)):
        found, expected = (
            project_view(p, "context", rows=rows, learn=learn, most_columns=7) for p in (kept, bare)
        )
        assert np.array_equal(found, expected)
