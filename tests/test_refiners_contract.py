"""Every refiner keeps the same promises. A new one is tested by being registered."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import numpy as np
import pytest
import torch

from recontour import registry
from recontour.errors import RefinerError, UnknownNameError, UsageError
from recontour.refiners import make_refiner
from recontour.types import COARSE_TRUST, PatchGrid, PatchSet, Refiner

NAMES = registry.names("refiner")
LEARNERS = [name for name in NAMES if name != "identity"]
# The answer is a mean over models; two are enough to check promises.
QUICK: dict[str, dict[str, Any]] = {
    "lc_mil": {"n_seeds": 2},
    # A test misleads with 60 % wrong labels: those are 1.5 times as common inside as outside.
    "prototype": {"iterations": 300, "k_local": 3, "lift": 1.2},
    # Where 15 % of the labels are wrong, so are 2.7 % of the votes of five: the task, not the vote.
    "deep_knn": {"k": 15},
    # Random weights, all widths divided by 64.
    "deep_knn_vgg16": {"weights": "random:0:64", "k": 15, "epochs": 10, "lr": 1e-3},
    "lc_mil_vgg16": {"weights": "random:0:64", "bags": 200, "blocks": 2, "lr": 2e-3},
}
# These take what VGG16's convolutions give, as it comes: so many numbers, none below zero.
CONV_DIM = 8 * 7 * 7
CONV = [name for name in NAMES if name.endswith("_vgg16")]
ANY_FEATURES = [name for name in LEARNERS if name not in CONV]
CLASSES = ("background", "Tumor", "Stroma", "Necrosis")


@pytest.fixture(autouse=True)
def conv_like(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slides of a test look as its refiner expects them."""
    parameters = getattr(request.node, "callspec", None)
    name = parameters.params.get("name") if parameters else None
    monkeypatch.setattr(sys.modules[__name__], "conv", name in CONV)


conv = False


def refiner(name: str, seed: int = 0, **options: Any) -> Refiner:
    return make_refiner(name, seed=seed, **{**QUICK.get(name, {}), **options})


def slide(
    side: int = 24, k: int = 2, noise: float = 0.15, seed: int = 0, d: int = 12
) -> tuple[PatchSet, np.ndarray]:
    """A square of tissue in k vertical stripes of different look, and its true labels.

    The coarse labels have `noise` of the cells wrong, at random.
    """
    rng = np.random.default_rng(seed)
    rows, cols = np.divmod(np.arange(side * side, dtype=np.int32), np.int32(side))
    grid = PatchGrid((0.0, 0.0), (side, side), rows, cols, 64, 64, 64, 0.5, 0.5)
    truth = (cols * k // side).astype(np.int8)
    looks = 4 * np.eye(k, d)  # 4√2 σ apart: the best rule is right in 99 % of the cells
    features = looks[truth] + rng.normal(size=(len(grid), d))
    wrong = rng.random(len(grid)) < noise
    labels = np.where(wrong, (truth + rng.integers(1, k, len(grid))) % k, truth).astype(np.int8)
    if conv and d == 12:
        spread = np.random.default_rng(99).normal(0, 0.25, (d, CONV_DIM))
        features = np.maximum(features @ spread, 0)
    context = features + 0.1 * rng.normal(size=features.shape)
    patches = PatchSet(
        slide_id=f"slide_{seed}",
        grid=grid,
        features=features.astype(np.float32),
        labels=labels,
        classes=CLASSES[:k],
        context=context.astype(np.float32),
    )
    return patches, truth


def accuracy(probs: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean(probs.argmax(axis=1) == truth))


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("name", NAMES)
def test_answers_with_probabilities_of_every_class(name: str, k: int) -> None:
    patches, _ = slide(k=k)
    probs = refiner(name).fit([patches]).predict_proba(patches)
    assert probs.shape == (len(patches), k)
    assert probs.dtype == np.float32
    assert probs.min() >= 0
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("name", LEARNERS)
def test_cleans_easy_noise(name: str, k: int) -> None:
    patches, truth = slide(k=k)
    probs = refiner(name).fit([patches]).predict_proba(patches)
    coarse = np.mean(patches.labels == truth)
    assert coarse < 0.9
    assert accuracy(probs, truth) > 0.96


def test_identity_answers_with_the_coarse_labels() -> None:
    patches, _ = slide(k=3)
    probs = refiner("identity").fit([patches]).predict_proba(patches)
    np.testing.assert_array_equal(probs, np.eye(3)[patches.labels])


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_answer(name: str) -> None:
    patches, _ = slide()
    first = refiner(name, seed=7).fit([patches]).predict_proba(patches)
    again = refiner(name, seed=7).fit([patches]).predict_proba(patches)
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("name", NAMES)
def test_input_is_not_modified(name: str) -> None:
    patches, _ = slide()
    arrays = [patches.features, patches.context, patches.labels]
    before = [a.copy() for a in arrays]
    for a in arrays:
        a.flags.writeable = False
    refiner(name).fit([patches]).predict_proba(patches)
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_leaves_global_state_alone(name: str) -> None:
    patches, _ = slide()
    threads = torch.get_num_threads()
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002 - the legacy state is what a user's script may rely on
    expected = torch.rand(4), np.random.rand(4)  # noqa: NPY002
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    refiner(name).fit([patches]).predict_proba(patches)
    assert torch.equal(torch.rand(4), expected[0])
    np.testing.assert_array_equal(np.random.rand(4), expected[1])  # noqa: NPY002
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("name", NAMES)
def test_works_where_gradients_are_switched_off(name: str) -> None:
    patches, _ = slide()
    expected = refiner(name).fit([patches]).predict_proba(patches)
    with torch.inference_mode():
        found = refiner(name).fit([patches]).predict_proba(patches)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", LEARNERS)
def test_unlabelled_cells_are_answered_and_teach_nothing(name: str) -> None:
    patches, truth = slide()
    hidden = np.random.default_rng(1).random(len(patches)) < 0.5
    labels = np.where(hidden, -1, patches.labels).astype(np.int8)
    probs = refiner(name).fit([dataclasses.replace(patches, labels=labels)]).predict_proba(patches)
    assert accuracy(probs[hidden], truth[hidden]) > 0.96


@pytest.mark.parametrize("name", LEARNERS)
def test_cells_without_trust_teach_nothing(name: str) -> None:
    patches, truth = slide()
    doubtful = np.random.default_rng(1).random(len(patches)) < 0.8
    labels = np.where(doubtful, 1 - truth, truth).astype(np.int8)
    misled = dataclasses.replace(patches, labels=labels)
    told = dataclasses.replace(misled, trust=np.where(doubtful, 0, 1).astype(np.float32))
    assert accuracy(refiner(name).fit([misled]).predict_proba(patches), truth) < 0.2
    assert accuracy(refiner(name).fit([told]).predict_proba(patches), truth) > 0.96


@pytest.mark.parametrize("name", LEARNERS)
def test_no_trust_is_that_of_a_coarse_outline(name: str) -> None:
    patches, _ = slide(k=3)
    told = dataclasses.replace(patches, trust=np.full(len(patches), COARSE_TRUST, np.float32))
    found = refiner(name).fit([told]).predict_proba(patches)
    np.testing.assert_allclose(
        found, refiner(name).fit([patches]).predict_proba(patches), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("name", LEARNERS)
def test_refit_forgets(name: str) -> None:
    patches, _ = slide()
    inverted = dataclasses.replace(patches, labels=(1 - patches.labels).astype(np.int8))
    model = refiner(name)
    model.fit([inverted])
    found = model.fit([patches]).predict_proba(patches)
    expected = refiner(name).fit([patches]).predict_proba(patches)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", LEARNERS)
def test_learns_from_many_slides(name: str) -> None:
    slides = [slide(side=side, seed=i)[0] for i, side in enumerate((5, 16, 11))]
    fresh, truth = slide(seed=9)
    probs = refiner(name).fit(slides).predict_proba(fresh)
    assert accuracy(probs, truth) > 0.96


@pytest.mark.parametrize("name", LEARNERS)
def test_a_slide_may_lack_a_class_that_another_has(name: str) -> None:
    first, truth = slide(k=3)
    labels = first.labels.copy()
    labels[labels == 2] = -1
    probs = (
        refiner(name)
        .fit([dataclasses.replace(first, labels=labels), slide(k=3, seed=1)[0]])
        .predict_proba(first)
    )
    assert accuracy(probs, truth) > 0.95


@pytest.mark.parametrize("name", LEARNERS)
def test_half_precision_features_give_the_same_regions(name: str) -> None:
    patches, _ = slide()
    half = dataclasses.replace(patches, features=patches.features.astype(np.float16))
    probs = refiner(name).fit([patches]).predict_proba(patches)
    found = refiner(name).fit([half]).predict_proba(half)
    assert np.mean(found.argmax(axis=1) == probs.argmax(axis=1)) > 0.99


@pytest.mark.parametrize("name", ANY_FEATURES)
def test_offset_and_scale_of_features_do_not_matter(name: str) -> None:
    patches, truth = slide()
    scale = np.logspace(-3, 3, patches.features.shape[1]).astype(np.float32)
    odd = dataclasses.replace(patches, features=(patches.features + 50) * scale)
    assert accuracy(refiner(name).fit([odd]).predict_proba(odd), truth) > 0.96


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_feature_is_harmless(name: str) -> None:
    patches, _ = slide()
    features = patches.features.copy()
    features[:, 3] = 1234.567
    constant = dataclasses.replace(patches, features=features)
    assert np.isfinite(refiner(name).fit([constant]).predict_proba(constant)).all()


@pytest.mark.parametrize("name", NAMES)
def test_one_cell_of_a_class_is_enough_to_run(name: str) -> None:
    patches, _ = slide(side=4)
    labels = np.zeros(len(patches), np.int8)
    labels[5] = 1
    few = dataclasses.replace(patches, labels=labels)
    probs = refiner(name).fit([few]).predict_proba(few)
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_no_cells_no_answers(name: str) -> None:
    patches, _ = slide()
    none = np.zeros(0, np.int32)
    empty = dataclasses.replace(
        patches,
        grid=dataclasses.replace(patches.grid, rows=none, cols=none),
        features=patches.features[:0],
        labels=patches.labels[:0],
        context=None,
    )
    assert refiner(name).fit([patches]).predict_proba(empty).shape == (0, 2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("label", "sentence"),
    [(1, "'background' has no tissue cell"), (0, "'Tumor' has no tissue cell"), (-1, "background")],
)
def test_one_class_only_is_refused(name: str, label: int, sentence: str) -> None:
    patches, _ = slide()
    same = dataclasses.replace(patches, labels=np.full(len(patches), label, np.int8))
    with pytest.raises(RefinerError, match=sentence):
        refiner(name).fit([same])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("name", NAMES)
def test_features_that_are_not_finite_are_refused(name: str, dtype: Any, value: float) -> None:
    patches, _ = slide()
    features = patches.features.astype(dtype)
    features[17, 2] = value
    with pytest.raises(RefinerError, match="NaN or infinite"):
        refiner(name).fit([dataclasses.replace(patches, features=features)])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", LEARNERS)
def test_cells_to_predict_that_are_not_finite_are_refused(name: str, value: float) -> None:
    patches, _ = slide()
    features = patches.features.copy()
    features[17, 2] = value
    model = refiner(name).fit([patches])
    with pytest.raises(RefinerError, match="NaN or infinite"):
        model.predict_proba(dataclasses.replace(patches, features=features))


@pytest.mark.parametrize("name", NAMES)
def test_input_that_does_not_fit_together_is_refused(name: str) -> None:
    patches, _ = slide()
    model = refiner(name)
    with pytest.raises(RefinerError, match="call fit"):
        model.predict_proba(patches)
    with pytest.raises(RefinerError, match="at least one"):
        model.fit([])
    with pytest.raises(RefinerError, match="different widths"):
        model.fit([patches, slide(d=5)[0]])
    with pytest.raises(RefinerError, match="has the classes"):
        model.fit([patches, slide(k=3)[0]])
    with pytest.raises(RefinerError, match="for 576 labels"):
        model.fit([dataclasses.replace(patches, features=patches.features[:9])])
    with pytest.raises(RefinerError, match="not floating point"):
        model.fit([dataclasses.replace(patches, features=patches.features.astype(np.int32))])
    with pytest.raises(RefinerError, match="label 5"):
        model.fit([dataclasses.replace(patches, labels=np.full(len(patches), 5, np.int8))])
    with pytest.raises(RefinerError, match="trust"):
        model.fit([dataclasses.replace(patches, trust=np.full(len(patches), 2, np.float32))])
    with pytest.raises(RefinerError, match=r"trust of shape \(9,\)"):
        model.fit([dataclasses.replace(patches, trust=np.ones(9, np.float32))])
    model.fit([patches])
    with pytest.raises(RefinerError, match=r"fitted on (12|392) features, given 5"):
        model.predict_proba(slide(d=5)[0])
    with pytest.raises(RefinerError, match="fitted for the classes"):
        model.predict_proba(slide(k=3)[0])


@pytest.mark.parametrize("views", ["context", "both"])
@pytest.mark.parametrize("name", ANY_FEATURES)
def test_the_wider_window_can_be_used(name: str, views: str) -> None:
    patches, truth = slide()
    model = refiner(name, views=views)
    assert accuracy(model.fit([patches]).predict_proba(patches), truth) > 0.96
    with pytest.raises(RefinerError, match="no context features"):
        model.fit([dataclasses.replace(patches, context=None)])


def test_unknown_names_and_options_list_the_known() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown method 'knnn'; known: .*lc_mil"):
        make_refiner("knnn")
    with pytest.raises(UsageError, match=r"no option 'bag'; its options: bags, .*focal_gamma"):
        make_refiner("lc_mil", bag=3)
    with pytest.raises(UsageError, match=r"'identity' has no option 'x'; its options: none"):
        make_refiner("identity", x=1)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("lc_mil", "bags", 0),
        ("lc_mil", "bags", 2.5),
        ("lc_mil", "bags", True),
        ("lc_mil", "blocks", 1001),
        ("lc_mil", "n_seeds", "5"),
        ("lc_mil", "lr", 0.0),
        ("lc_mil", "weight_decay", -1.0),
        ("lc_mil", "batched", 0),
        ("lc_mil", "focal_gamma", "book"),
        ("lc_mil", "views", "all"),
        ("logistic", "inverse_l2", float("nan")),
        ("logistic", "max_iter", 0),
    ],
)
def test_values_that_make_no_sense_are_refused(name: str, option: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{option}="):
        make_refiner(name, **{option: value})
