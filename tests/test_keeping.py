"""What a refiner learned is kept in a file, and answers elsewhere as it did here."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from recontour import registry
from recontour.errors import RefinerError, UsageError
from recontour.refiners import make_refiner
from recontour.refiners.keeping import can_keep, digest_of, pack, unpack
from recontour.refiners.sampling import sample_order, take_cells
from recontour.types import PatchGrid, PatchSet

QUICK = {
    "lc_mil": {"n_seeds": 2, "bags": 100},
    "prototype": {"iterations": 50, "k_local": 3, "lift": 1.2},
    "pencil": {"epochs_1": 2, "epochs_2": 2, "epochs_3": 2},
}
KEPT = [name for name in registry.names("refiner") if can_keep(name)]


def slide(seed: int = 0, k: int = 2, side: int = 20, outlined: float = 0.5) -> PatchSet:
    """A square of tissue whose left part is outlined, in k - 1 stripes."""
    rng = np.random.default_rng(seed)
    rows, cols = np.divmod(np.arange(side * side, dtype=np.int32), np.int32(side))
    labels = np.where(cols < outlined * side, 1 + rows * (k - 1) // side, 0).astype(np.int8)
    looks = 3 * np.eye(k, 8)[labels] + rng.normal(size=(side * side, 8))
    grid = PatchGrid((0.0, 0.0), (side, side), rows, cols, 64, 64, 64, 0.5, 0.5)
    return PatchSet(
        f"slide_{seed}",
        grid,
        looks.astype(np.float16),
        labels,
        ("background", "Tumor", "Stroma")[:k],
        looks.astype(np.float16),
    )


def fitted(name: str, k: int = 2):
    options = QUICK.get(name, {})
    refiner = make_refiner(name, seed=1, **options)
    return refiner.fit([slide(0, k), slide(1, k)]), options


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("name", KEPT)
def test_answers_elsewhere_as_it_did_here(name, k):
    refiner, options = fitted(name, k)
    again, about = unpack(pack(refiner, name, 1, options, {"slides": 2}))
    assert about == {"slides": 2}
    for one in (slide(0, k), slide(7, k)):
        np.testing.assert_array_equal(again.predict_proba(one), refiner.predict_proba(one))
    assert digest_of(again) == digest_of(refiner)


@pytest.mark.parametrize("name", KEPT)
def test_the_same_fit_makes_the_same_bytes(name):
    first, options = fitted(name)
    second, _ = fitted(name)
    assert pack(first, name, 1, options, {}) == pack(second, name, 1, options, {})


def test_another_fit_has_another_digest():
    first, _ = fitted("logistic")
    second = make_refiner("logistic").fit([slide(2)])
    assert digest_of(first) != digest_of(second)


def test_the_pooled_methods_are_among_those_that_can_be_kept():
    assert {"logistic", "lc_mil", "deep_knn", "pencil", "prototype"} <= set(KEPT)


def test_what_cannot_be_kept_is_said():
    with pytest.raises(UsageError, match="cannot say what it has learned"):
        digest_of(make_refiner("identity"))


@pytest.mark.parametrize("name", KEPT)
def test_nothing_is_kept_before_a_fit(name):
    with pytest.raises(RefinerError, match="call fit"):
        digest_of(make_refiner(name))


def _with_an_object() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, facts=np.array([{"code": 1}], object), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize("data", [b"", b"nonsense", _with_an_object()])
def test_foreign_and_damaged_files_are_refused(data):
    with pytest.raises(RefinerError, match="damaged"):
        unpack(data)


def test_a_file_cut_short_is_refused():
    refiner, options = fitted("logistic")
    with pytest.raises(RefinerError, match="damaged"):
        unpack(pack(refiner, "logistic", 1, options, {})[:-100])


def test_no_flipped_bit_makes_a_file_answer_otherwise():
    refiner, options = fitted("logistic")
    data, patches = pack(refiner, "logistic", 1, options, {}), slide(0)
    expected = refiner.predict_proba(patches)
    loaded = 0
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        with contextlib.suppress(RefinerError):
            again, _ = unpack(bytes(damaged))
            np.testing.assert_array_equal(again.predict_proba(patches), expected)
            loaded += 1
    assert loaded < len(data) // 2  # dates and the like may change


def changed(data: bytes, facts: Mapping[str, Any], **arrays: Any) -> bytes:
    """A kept file with other facts (None: none) and arrays, as nobody writes it."""
    with np.load(io.BytesIO(data)) as archive:
        found = {name: archive[name] for name in archive.files}
    told = {**json.loads(found.pop("facts").tobytes()), **facts}
    text = json.dumps({name: value for name, value in told.items() if value is not None})
    buffer = io.BytesIO()
    np.savez(buffer, facts=np.frombuffer(text.encode(), np.uint8), **{**found, **arrays})
    return buffer.getvalue()


@pytest.mark.parametrize(
    "facts",
    [
        *({name: None} for name in ("schema", "method", "seed", "options", "about", "learned")),
        *({"method": "em"}, {"options": ["views"]}, {"options": {"seed": 1}}, {"about": 3}),
        *({"learned": {"classes": 3}}, {"learned": ["classes"]}),
    ],
    ids=str,
)
def test_facts_that_nobody_wrote_are_refused(facts):
    refiner, options = fitted("logistic")
    with pytest.raises(RefinerError, match="delete the file"):
        unpack(changed(pack(refiner, "logistic", 1, options, {}), facts))


@pytest.mark.parametrize(
    ("name", "array"),
    [
        *((name, "mean") for name in KEPT),
        *((name, "models") for name in ("lc_mil", "prototype")),
        *((name, "head") for name in ("deep_knn", "pencil")),
        ("logistic", "weights"),
    ],
)
@pytest.mark.parametrize("value", [np.ones((1, 1), np.float32), np.float32(1), np.array(["x"])])
def test_arrays_of_another_shape_are_refused(name, array, value):
    refiner, options = fitted(name)
    with pytest.raises(RefinerError, match="does not fit this version"):
        unpack(changed(pack(refiner, name, 1, options, {}), {}, **{array: value}))


def test_what_is_no_array_is_refused():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("facts", "{}")
    with pytest.raises(RefinerError, match="damaged"):
        unpack(buffer.getvalue())


def test_what_does_not_fit_is_refused():
    refiner, _ = fitted("pencil")
    data = pack(refiner, "pencil", 1, {"hidden": 16}, {})  # it was fitted with 256
    with pytest.raises(RefinerError, match="does not fit this version"):
        unpack(data)


def test_a_small_sample_is_the_beginning_of_a_large_one():
    patches = slide(3, 3, outlined=0.2)
    order = sample_order(patches, 300, seed=5)
    assert len(np.unique(order)) == 300
    np.testing.assert_array_equal(sample_order(patches, 40, seed=5), order[:40])


def test_a_sample_holds_the_classes_about_as_they_are():
    patches = slide(3, outlined=0.4)
    drawn = patches.labels[sample_order(patches, 100)]
    assert abs((drawn == 1).mean() - 0.4) < 0.02


def test_a_small_lesion_is_not_lost():
    patches = slide(3, outlined=0.05)
    for most in (10, 20, 80):
        drawn = patches.labels[sample_order(patches, most)]
        assert min((drawn == 1).sum(), 20) >= min(0.15 * most, 20)


@pytest.mark.parametrize("sizes", [(900, 30), (833, 87, 215), (578, 54, 9, 22), (1, 999), (500,)])
def test_every_beginning_has_a_third_of_an_even_share_of_each_class(sizes):
    labels = np.repeat(np.arange(len(sizes)), sizes).astype(np.int8)
    n, k = len(labels), len(sizes)
    cols = np.arange(n, dtype=np.int32)
    grid = PatchGrid((0.0, 0.0), (1, n), np.zeros(n, np.int32), cols, 64, 64, 64, 0.5, 0.5)
    patches = PatchSet("s", grid, np.zeros((n, 1), np.float16), labels, ("background", *"abc"))
    order = sample_order(patches, n)
    assert len(np.unique(order)) == n
    for most in range(1, n):
        drawn = np.bincount(labels[order[:most]], minlength=k)
        assert (drawn >= np.minimum(sizes, most / k / 3) - 1).all()


def test_cells_that_say_nothing_are_not_drawn():
    patches = slide(3)
    labels = patches.labels.copy()
    labels[:50] = -1
    trust = np.full(len(labels), 0.85, np.float32)
    trust[50:100] = 0
    silent = PatchSet("s", patches.grid, patches.features, labels, patches.classes, trust=trust)
    drawn = sample_order(silent, 10_000)
    assert sorted(drawn) == list(range(100, 400))


def test_another_seed_or_slide_draws_others():
    patches = slide(3)
    first = sample_order(patches, 50, seed=0)
    assert set(first) != set(sample_order(patches, 50, seed=1))
    other = PatchSet("other", patches.grid, patches.features, patches.labels, patches.classes)
    assert set(first) != set(sample_order(other, 50, seed=0))


def test_taken_cells_lie_in_the_order_of_the_grid():
    patches = slide(3)
    part = take_cells(patches, np.sort(sample_order(patches, 50)))
    place = part.grid.rows * 20 + part.grid.cols
    assert (np.diff(place) > 0).all()
    np.testing.assert_array_equal(part.features, patches.features[place])
    np.testing.assert_array_equal(part.labels, patches.labels[place])
