"""The default refiner on slides of known truth: what it repairs, and what it must not break."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recontour.errors import RefinerError, UsageError
from recontour.refiners.em import Em
from recontour.types import PatchGrid, PatchSet

CLASSES = ("background", "Tumor", "Stroma")


def slide(
    truth: np.ndarray, labels: np.ndarray, *, apart: float = 1.2, d: int = 20, seed: int = 0
) -> PatchSet:
    """Cells in a full rectangle; `apart` is how far two tissues lie from one another, in σ."""
    rng = np.random.default_rng(seed)
    rows, cols = (a.ravel().astype(np.int32) for a in np.indices(truth.shape))
    grid = PatchGrid((0.0, 0.0), truth.shape, rows, cols, 64, 64, 64, 0.5, 0.5)
    looks = np.random.default_rng(7).normal(size=(3, d))
    looks *= apart / np.linalg.norm(looks, axis=1, keepdims=True)
    features = looks[truth.ravel()] + rng.normal(size=(len(rows), d)) / 2
    context = looks[truth.ravel()] + rng.normal(size=(len(rows), d)) / 3
    k = max(2, int(truth.max()) + 1, int(labels.max()) + 1)
    return PatchSet(
        "slide",
        grid,
        features.astype(np.float32),
        labels.ravel().astype(np.int8),
        CLASSES[:k],
        context.astype(np.float32),
    )


def disc(side: int, radius: float, dx: float = 0.0, dy: float = 0.0) -> np.ndarray:
    y, x = np.indices((side, side)) - (side - 1) / 2
    return ((x - dx) ** 2 + (y - dy) ** 2 < radius**2).astype(np.int8)


def f1(truth: np.ndarray, found: np.ndarray) -> float:
    return float(2 * (truth & found).sum() / (truth.sum() + found.sum()))


def found(patches: PatchSet, **options: object) -> np.ndarray:
    probs = Em(**options).fit([patches]).predict_proba(patches)  # type: ignore[arg-type]
    assert np.isfinite(probs).all()
    return probs.argmax(axis=1).reshape(patches.grid.shape)


@pytest.mark.parametrize(
    ("coarse", "least"),
    [
        (disc(50, 16, dx=4), 0.97),  # shifted
        (disc(50, 11), 0.95),  # too tight: half of the lesion is outside
        (disc(50, 21), 0.97),  # too generous
    ],
)
def test_repairs_the_errors_of_a_hand(coarse: np.ndarray, least: float) -> None:
    truth = disc(50, 16)
    result = found(slide(truth, coarse)) > 0
    assert f1(truth > 0, coarse > 0) < 0.87
    assert f1(truth > 0, result) > least


def test_a_slide_that_is_nearly_all_tumour_keeps_it() -> None:
    truth = 1 - disc(50, 12)
    coarse = 1 - disc(50, 15, dx=3)  # 80 % tumour, and the outline misses some
    assert f1(truth > 0, found(slide(truth, coarse, apart=0.9)) > 0) > f1(truth > 0, coarse > 0)


def test_what_looks_alike_far_from_a_small_lesion_is_not_all_taken_in() -> None:
    truth = disc(80, 6)  # 2 % of the slide
    lookalike = np.zeros_like(truth)
    lookalike[:, :20] = 1  # a quarter of the slide looks half like the lesion
    patches = slide(truth, truth)
    looks = slide(np.ones_like(truth), truth).features
    half = (0.5 * looks + 0.5 * patches.features)[lookalike.ravel() > 0]
    features = patches.features.copy()
    features[lookalike.ravel() > 0] = half
    mixed = dataclasses.replace(patches, features=features, context=features)
    result = found(mixed) > 0
    assert result[truth > 0].mean() > 0.9
    assert result.sum() < 2 * truth.sum()


def test_an_outline_finer_than_the_cells_stays_as_it_was_drawn() -> None:
    nests = np.zeros((48, 48), np.int8)
    nests[4::6, 4::6] = nests[5::6, 4::6] = nests[4::6, 5::6] = 1  # three cells each
    tissue = disc(48, 17)  # what the features show is something else
    patches = slide(tissue, nests)
    refiner = Em().fit([patches])
    result = refiner.predict_proba(patches).argmax(axis=1).reshape(48, 48) > 0
    assert f1(nests > 0, result) > 0.95
    assert [note for note in refiner.notes if "finer than its cells of 32 µm" in note]


def test_scattered_wrong_labels_are_no_detail() -> None:
    truth = disc(50, 16)
    wrong = np.random.default_rng(0).random(truth.shape) < 0.15
    assert f1(truth > 0, found(slide(truth, np.where(wrong, 1 - truth, truth))) > 0) > 0.97


def test_three_classes_compete_in_one_model() -> None:
    truth = disc(60, 22) + disc(60, 11)  # class 2 within class 1
    coarse = disc(60, 25, dx=2) + disc(60, 14, dx=-3)
    result = found(slide(truth, coarse))
    before, after = np.mean(coarse == truth), np.mean(result == truth)
    assert before < 0.87
    assert after > 0.97


def test_two_grades_that_look_alike_are_not_taken_for_one_another() -> None:
    """The smaller one is not made of the errors of the larger, nor overrun by it."""
    truth = np.where(disc(70, 8, dx=17, dy=15) > 0, np.int8(2), disc(70, 15, dx=-7, dy=-7))
    coarse = np.roll(truth, (3, -2), (0, 1))
    gained = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        looks = rng.normal(size=(3, 16))
        looks /= np.linalg.norm(looks, axis=1, keepdims=True)
        looks[2] = looks[1] + 0.7 * looks[2]
        features = looks[truth.ravel()] + rng.normal(size=(truth.size, 16)) / 2
        patches = dataclasses.replace(
            slide(truth, coarse), features=features.astype(np.float32), context=None
        )
        result = found(patches)
        gained.append([f1(truth == k, result == k) - f1(truth == k, coarse == k) for k in (1, 2)])
    assert np.mean(gained, axis=0).min() > 0.02


def test_a_slide_without_the_class_borrows_it_from_the_cohort() -> None:
    truth = disc(50, 16)
    first = slide(truth, disc(50, 18))
    blank = np.zeros_like(truth)
    second = slide(truth, blank, seed=1)  # nobody outlined anything here
    second = dataclasses.replace(
        second, labels=np.full(truth.size, -1, np.int8), classes=CLASSES[:2]
    )
    with pytest.raises(RefinerError, match="no tissue cell"):
        Em().fit([second])
    probs = Em().fit([first, second]).predict_proba(second)
    assert f1(truth.ravel() > 0, probs.argmax(axis=1) > 0) > 0.95


def test_reviewed_cells_keep_their_label_and_teach_the_others() -> None:
    truth = disc(50, 16)
    coarse = disc(50, 16, dx=17)
    patches = slide(truth, coarse, apart=0.5)
    trust = np.full(truth.size, 0.85, np.float32)
    labels = coarse.ravel().copy()
    strokes = np.random.default_rng(1).choice(truth.size, 150, replace=False)
    labels[strokes], trust[strokes] = truth.ravel()[strokes], 1.0
    told = dataclasses.replace(patches, labels=labels, trust=trust)
    probs = Em().fit([told]).predict_proba(told)
    np.testing.assert_array_equal(probs[strokes].argmax(axis=1), truth.ravel()[strokes])
    assert (probs[strokes].max(axis=1) == 1).all()
    rest = np.setdiff1d(np.arange(truth.size), strokes)
    before = found(patches).ravel()
    better = f1(truth.ravel()[rest] > 0, probs[rest].argmax(axis=1) > 0)
    assert better > f1(truth.ravel()[rest] > 0, before[rest] > 0) + 0.05


def test_estimates_how_much_of_each_side_is_right() -> None:
    truth, coarse = disc(60, 20), disc(60, 20, dx=6)
    refiner = Em().fit([slide(truth, coarse)])
    ppv = truth[coarse > 0].mean()
    npv = 1 - truth[coarse == 0].mean()
    assert refiner.estimates["trust"]["Tumor"] == pytest.approx(ppv, abs=0.05)
    assert refiner.estimates["trust"]["background"] == pytest.approx(npv, abs=0.05)


def test_says_when_two_classes_are_the_same_tissue() -> None:
    truth = disc(50, 18)
    halves = truth * (1 + (np.indices(truth.shape)[1] > 25)).astype(np.int8)
    refiner = Em().fit([slide(truth, halves)])
    assert len(refiner.notes) == 1
    assert "'Tumor' and 'Stroma' look like the same tissue" in refiner.notes[0]
    assert Em().fit([slide(truth, truth)]).notes == ()


def test_finer_cells_of_the_same_slide_get_the_same_answer() -> None:
    truth = disc(40, 13)
    coarse = slide(truth, disc(40, 15))
    refiner = Em().fit([coarse])
    fine = slide(
        np.kron(truth, np.ones((2, 2), np.int8)), np.kron(disc(40, 15), np.ones((2, 2), np.int8))
    )
    fine = dataclasses.replace(
        fine,
        grid=dataclasses.replace(fine.grid, stride=32),
        features=np.repeat(np.repeat(coarse.features.reshape(40, 40, -1), 2, 0), 2, 1).reshape(
            6400, -1
        ),
        context=None,
    )
    fine = dataclasses.replace(fine, context=fine.features)
    probs = refiner.predict_proba(fine).argmax(axis=1).reshape(80, 80)
    assert f1(np.kron(truth, np.ones((2, 2))) > 0, probs > 0) > 0.95


def test_a_band_of_finer_cells_knows_how_small_the_lesion_is() -> None:
    truth = disc(80, 8)
    patches = slide(truth, disc(80, 9), apart=0.5)
    refiner = Em().fit([patches])
    ring = np.flatnonzero((disc(80, 12) - disc(80, 6)).ravel())
    outside = patches.labels[ring] == 0
    whole = refiner.predict_proba(patches)[ring, 1][outside]

    def part(name: str) -> np.ndarray:
        grid = dataclasses.replace(
            patches.grid, rows=patches.grid.rows[ring], cols=patches.grid.cols[ring], stride=62
        )
        some = dataclasses.replace(
            patches,
            slide_id=name,
            grid=grid,
            features=patches.features[ring],
            context=patches.context[ring],
            labels=patches.labels[ring],
        )
        return refiner.predict_proba(some)[outside, 1]

    assert np.abs(part("slide") - whole).mean() < 0.02
    assert np.abs(part("other") - whole).mean() > 0.05  # of a slide it does not know


@pytest.mark.parametrize("kind", ["constant", "one patch", "few"])
def test_poor_input_gives_the_outline_back(kind: str) -> None:
    side = 6 if kind == "few" else 30
    coarse = disc(side, side / 4)
    patches = slide(coarse, coarse)
    if kind == "constant":
        same = np.ones_like(patches.features)
        patches = dataclasses.replace(patches, features=same, context=same)
    if kind == "one patch":
        same = np.repeat(patches.features[:1], len(patches), axis=0)
        patches = dataclasses.replace(patches, features=same, context=same)
    probs = Em().fit([patches]).predict_proba(patches)
    assert np.isfinite(probs).all()
    assert f1(coarse.ravel() > 0, probs.argmax(axis=1) > 0) > 0.9


@pytest.mark.parametrize("shape", [(1, 2), (1, 5), (2, 2)])
def test_a_handful_of_cells_has_probabilities(shape: tuple[int, int]) -> None:
    """Two cells are two points: nothing is left of the spread within a class."""
    truth = np.zeros(shape, np.int8)
    truth[0, 0] = 1
    patches = slide(truth, truth)
    np.testing.assert_array_equal(found(patches), truth)
    certain = dataclasses.replace(patches, trust=np.ones(truth.size, np.float32))
    np.testing.assert_array_equal(found(certain), truth)


def test_a_label_of_no_trust_says_nothing_not_even_of_its_neighbours() -> None:
    truth = disc(40, 10)
    patches = slide(truth, truth, apart=0.5)
    mute = disc(40, 6, dx=10).ravel() > 0
    trust = np.where(mute, 0.0, 0.85).astype(np.float32)
    answers = []
    for label in (-1, 0, 1):
        labels = np.where(mute, label, patches.labels).astype(np.int8)
        told = dataclasses.replace(patches, labels=labels, trust=trust)
        answers.append(Em().fit([told]).predict_proba(told))
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])


def test_trusted_labels_that_contradict_the_features_are_kept_and_nothing_breaks() -> None:
    truth = disc(40, 12)
    patches = slide(truth, 1 - truth)  # every label is wrong, and "certain"
    certain = dataclasses.replace(patches, trust=np.ones(truth.size, np.float32))
    probs = Em().fit([certain]).predict_proba(certain)
    np.testing.assert_array_equal(probs.argmax(axis=1), 1 - truth.ravel())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(2, 3), blank=st.floats(0, 0.9))
def test_probabilities_whatever_the_labels(seed: int, k: int, blank: float) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, k, (9, 11)).astype(np.int8)
    patches = slide(truth, truth, seed=seed)
    labels = np.where(rng.random(truth.size) < blank, -1, rng.integers(0, k, truth.size))
    labels[:k] = np.arange(k)
    trust = rng.random(truth.size).astype(np.float32)
    trust[:k] = 1
    odd = dataclasses.replace(
        patches, labels=labels.astype(np.int8), trust=trust, classes=CLASSES[:k]
    )
    probs = Em().fit([odd]).predict_proba(odd)
    assert probs.dtype == np.float32
    assert probs.min() >= 0
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    "option",
    [{"rounds": 0}, {"views": "wide"}, {"components": ()}, {"shrinkage": 2}, {"smooth": -1}],
)
def test_refuses_options_that_make_no_sense(option: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(option))):
        Em(**option)  # type: ignore[arg-type]
