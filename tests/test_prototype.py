"""The prototype method: each step against what it promises, and by hand where that is short."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from test_refiners_contract import accuracy, slide

from recontour.errors import RefinerError, UsageError
from recontour.refiners.base import ZScore, table
from recontour.refiners.cell_classifier import CellClassifier, focal_slope, layer_norm
from recontour.refiners.cell_training import Inputs, draw_balanced, draw_shuffled
from recontour.refiners.known_cells import Known
from recontour.refiners.prototype import ABLATIONS, Prototype, likeliest
from recontour.refiners.prototypes import count_local, global_prototypes, local_prototypes
from recontour.refiners.pseudo_labels import (
    Majors,
    find_majors,
    lifts,
    match_prototypes,
    pseudo_label,
)
from recontour.types import COARSE_TRUST, PatchGrid, PatchSet


def quick(**options: Any) -> Prototype:
    return Prototype(**{"iterations": 300, **options})


def patch_set(
    looks: np.ndarray, labels: np.ndarray, seed: int = 0, classes: tuple[str, ...] = ()
) -> PatchSet:
    """One row of cells; look number i is a unit vector of its own, with noise."""
    rng = np.random.default_rng(seed)
    n = len(looks)
    index = np.arange(n, dtype=np.int32)
    features = 8 * np.eye(16)[looks] + rng.normal(size=(n, 16))
    return PatchSet(
        slide_id=f"slide_{seed}",
        grid=PatchGrid((0.0, 0.0), (1, n), index * 0, index, 64, 64, 64, 0.5, 0.5),
        features=features.astype(np.float32),
        labels=labels.astype(np.int8),
        classes=classes or ("background", "Tumor"),
    )


TUMOUR, STROMA, FAT, IMMUNE = range(4)


def generous(seed: int = 0) -> tuple[PatchSet, np.ndarray]:
    """An outline of 400 cells of which 60 % are stroma; one tumour cell in five was missed."""
    looks = np.repeat([TUMOUR, STROMA, TUMOUR, STROMA, FAT, IMMUNE], [160, 240, 40, 800, 300, 100])
    labels = np.repeat([1, 1, 0, 0, 0, 0], [160, 240, 40, 800, 300, 100])
    return patch_set(looks, labels, seed), looks == TUMOUR


def learnt(model: Prototype, *patch_sets: PatchSet) -> tuple[np.ndarray, list[str]]:
    """The pseudo-labels a model would learn from."""
    cells = table(patch_sets)
    notes: list[str] = []
    known = Known.of(cells, tuple(p.slide_id for p in patch_sets))
    return model.pseudo_labels(cells, known, ZScore.of(cells), notes), notes


def test_a_generous_outline_full_of_stroma_is_found_out_by_lift_and_not_by_coverage() -> None:
    patches, tumour = generous()
    by_lift, _ = learnt(Prototype(major="lift"), patches)
    by_coverage, _ = learnt(Prototype(major="coverage", coverage=0.8), patches)
    stroma_outside = np.zeros(len(tumour), bool)
    stroma_outside[440:1240] = True
    assert (by_lift[tumour] == 1).all()  # the missed ones too
    assert not (by_lift == 1)[~tumour].any()
    assert (by_lift[160:400] == -1).all()  # stroma inside the outline teaches nothing
    assert np.mean(by_coverage[stroma_outside] == 1) > 0.5

    probs = quick().fit([patches]).predict_proba(patches)
    assert accuracy(probs, tumour) > 0.99
    assert np.mean(patches.labels == tumour) < 0.85


def test_a_pattern_rare_on_every_slide_survives_among_the_global_prototypes() -> None:
    rare = np.eye(16)[7]
    local = []
    for i in range(4):
        looks = np.repeat([0, 1, 2, 7], [400, 300, 290, 10])
        x = patch_set(looks, looks * 0, seed=i).features
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        local.append(local_prototypes(x, 4, seed=i))
    shared = global_prototypes(local, 4)
    np.testing.assert_allclose(np.linalg.norm(shared, axis=1), 1, atol=1e-5)
    assert (shared @ rare).max() > 0.95
    # Weighted by cells, two centres would share the 1,600 cells of the most common pattern.
    assert sorted(shared.argmax(axis=1)) == [0, 1, 2, 7]


def test_one_slide_keeps_its_local_prototypes_and_sizes_follow_the_slide() -> None:
    x = local_prototypes(generous()[0].features / 8, 5)
    assert global_prototypes([x], 3) is x
    assert [count_local(n, None) for n in (1, 30, 99, 150, 800, 10_000)] == [1, 2, 2, 3, 16, 16]
    assert len(global_prototypes([x, x[:3] * -1])) == 8  # min(32, all)
    with pytest.raises(RefinerError, match=r"k_global=9 of 8 local prototypes"):
        global_prototypes([x, -x[:3]], 9)


# Inside and outside cells of five prototypes; G = 5, 100 inside, 300 outside.
COUNTS = np.array([[10.0, 180, 50, 60, 0], [50.0, 30, 18, 1, 1]])


def test_lift_is_the_ratio_of_smoothed_shares() -> None:
    inside = np.array([51, 31, 19, 2, 2]) / 105
    outside = np.array([11, 181, 51, 61, 1]) / 305
    np.testing.assert_allclose(lifts(COUNTS)[1], inside / outside)


def test_majors_by_lift_by_coverage_and_when_none_passes() -> None:
    def majors(**options: Any) -> tuple[list[int], tuple[int, ...]]:
        found = find_majors(COUNTS, **options)
        assert not found.major[0].any()
        return np.flatnonzero(found.major[1]).tolist(), found.forced

    assert majors() == ([0], ())  # prototype 4 has a lift of 5.8, but 1 % of the cells
    assert majors(min_share=0.01) == ([0, 4], ())
    assert majors(lift=1.0) == ([0, 2], ())
    assert majors(lift=50.0) == ([0], (1,))
    assert majors(rule="coverage") == ([0, 1], ())
    assert majors(rule="coverage", coverage=0.5) == ([0], ())
    assert majors(rule="coverage", coverage=0.81) == ([0, 1, 2], ())
    assert majors(rule="coverage", coverage=1.0) == ([0, 1, 2, 3, 4], ())


def test_pseudo_labels_by_hand() -> None:
    major = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], bool)
    majors = Majors(major, np.array([[0, 0, 0], [3, 1, 1], [1, 4, 1]]))
    cosine = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2, 0, 1, 2]]
    labels = np.repeat(np.array([0, 1, 2], np.int8), 3)
    strength = match_prototypes(cosine, majors, "nearest", 0.5)
    expected = {
        #          outside   | inside class 1 | inside class 2
        "keep": [1, 2, 0, 1, 1, 1, 2, 2, 2],
        "ignore": [1, 2, 0, 1, -1, -1, -1, 2, -1],
        "negative": [1, 2, 0, 1, 0, 0, 0, 2, 0],
    }
    for rule, answer in expected.items():
        assert pseudo_label(labels, strength, rule).tolist() == answer


def test_a_cell_that_matches_two_classes_gets_the_better_one() -> None:
    major = np.array([[0, 0], [1, 0], [1, 1]], bool)
    majors = Majors(major, np.array([[0, 0], [5, 1], [3, 9]]))
    near = np.array([[0.9, 0.6], [0.3, 0.8]], np.float32)
    outside = np.zeros(2, np.int8)
    by_lift = match_prototypes(near, majors, "nearest", 0.5)
    assert pseudo_label(outside, by_lift, "ignore").tolist() == [1, 2]
    inside = np.array([2, 1], np.int8)
    assert pseudo_label(inside, by_lift, "ignore").tolist() == [2, -1]


def test_matching_by_threshold_asks_every_major_prototype() -> None:
    majors = Majors(np.array([[0, 0, 0], [1, 0, 1]], bool), np.ones((2, 3)))
    cosine = np.array([[0.6, 0.7, 0.1], [0.2, 0.1, 0.4], [0.1, 0.9, 0.2]], np.float32)
    by_threshold = match_prototypes(cosine, majors, "threshold", 0.5)
    labels = np.array([0, 0, 1], np.int8)
    # The nearest of the first cell is no major one, but it is near enough to one that is.
    assert pseudo_label(labels, by_threshold, "keep").tolist() == [1, 0, 1]
    assert pseudo_label(labels, by_threshold, "negative").tolist() == [1, 0, 0]
    nearest = match_prototypes(cosine, majors, "nearest", 0.5)
    assert pseudo_label(labels, nearest, "negative").tolist() == [0, 1, 0]


def test_three_classes_have_majors_of_their_own() -> None:
    looks = np.repeat([0, 1, 2, 1, 2, 3, 0, 0], [100, 200, 200, 30, 30, 600, 30, 30])
    labels = np.repeat([0, 1, 2, 0, 0, 0, 1, 2], [100, 200, 200, 30, 30, 600, 30, 30])
    patches = patch_set(looks, labels, classes=("background", "Tumor", "Necrosis"))
    truth = np.where((looks == 1) | (looks == 2), looks, 0)
    found, notes = learnt(Prototype(), patches)
    assert not notes
    assert (found[found >= 0] == truth[found >= 0]).all()
    assert (found[-60:] == -1).all()
    probs = quick().fit([patches]).predict_proba(patches)
    assert accuracy(probs, truth) > 0.99


class Spy(Prototype):
    """Notes which steps were taken."""

    def fit(self, patch_sets: Any) -> Prototype:
        self.learnt_labels = learnt(self, *patch_sets)[0]
        return super().fit(patch_sets)


def test_each_row_of_the_ablation_changes_one_step() -> None:
    slides = [generous(seed)[0] for seed in range(2)]
    # Fat is what the second outline is full of, and of no interest on the first.
    labels = slides[1].labels.copy()
    labels[1240:1500] = 1
    slides[1] = dataclasses.replace(slides[1], labels=labels)
    coarse = np.concatenate([p.labels for p in slides])
    models = {row: Spy(ablation=row, iterations=200) for row in ABLATIONS}
    probs = {row: m.fit(slides).predict_proba(slides[0]) for row, m in models.items()}
    taught = {row: m.learnt_labels for row, m in models.items()}

    np.testing.assert_array_equal(taught["CA"], coarse)
    assert (taught["LP"] != coarse).any()
    assert (taught["GP"] != taught["LP"]).any()
    for row in ("DDS", "RF"):
        np.testing.assert_array_equal(taught[row], taught["GP"])
    steps = [(m.prototypes, m.sampling, m.refinetune) for m in models.values()]
    for before, after in zip(steps, steps[1:], strict=False):
        assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
    rows = list(ABLATIONS)
    for before, after in zip(rows, rows[1:], strict=False):
        assert (probs[before] != probs[after]).any()
    default = Prototype(iterations=200).fit(slides).predict_proba(slides[0])
    np.testing.assert_array_equal(default, probs["RF"])


def test_on_one_slide_local_and_global_prototypes_are_the_same() -> None:
    patches, _ = generous()
    found = [quick(ablation=row).fit([patches]).predict_proba(patches) for row in ("LP", "GP")]
    np.testing.assert_array_equal(*found)


def test_a_switch_that_contradicts_the_row_is_refused() -> None:
    with pytest.raises(UsageError, match=r"sampling='shuffled' must be 'dynamic'"):
        Prototype(ablation="RF", sampling="shuffled")
    assert Prototype(ablation="CA", sampling="shuffled").prototypes == "none"


def test_no_prototype_passes_the_lift() -> None:
    patches, _ = generous()
    model = quick(lift=80.0).fit([patches])
    assert len(model.notes) == 1
    assert "no prototype of 'Tumor' is 80 times as common inside" in model.notes[0]
    assert not quick().fit([patches]).notes
    local = quick(lift=80.0, prototypes="local").fit([patches, generous(1)[0]])
    assert [note.split(":")[0] for note in local.notes] == ["slide_0", "slide_1"]


def test_refinetuning_is_left_out_where_it_would_flip_too_much_or_lose_a_class() -> None:
    patches, tumour = generous()
    careful = quick(most_flips=0.1).fit([patches])
    assert "no re-finetuning: 17% of the coarse labels would flip" in careful.notes[0]
    plain = quick(refinetune=False).fit([patches])
    np.testing.assert_array_equal(careful.predict_proba(patches), plain.predict_proba(patches))
    tuned = quick().fit([patches])
    assert not tuned.notes
    assert (tuned.predict_proba(patches) != plain.predict_proba(patches)).any()
    assert accuracy(tuned.predict_proba(patches), tumour) > 0.99


def test_refinetuning_asks_its_threshold_which_cells_are_of_a_class() -> None:
    patches, _ = generous()
    strict = quick(refinetune_threshold=1.0).fit([patches])
    assert strict.notes == ("no re-finetuning: no cell would be left of 'Tumor'",)
    lax = quick(refinetune_threshold=0.0).fit([patches])
    assert "of the coarse labels would flip" in lax.notes[0]
    probs = np.array([[0.5, 0.5, 0.0], [0.4, 0.3, 0.3], [0.6, 0.1, 0.3], [0.2, 0.3, 0.5]])
    assert likeliest(probs.astype(np.float32), 0.5).tolist() == [1, 1, 0, 2]


def test_refinetuning_learns_what_was_predicted_not_what_was_drawn() -> None:
    # The stroma inside the outline taught nothing and was called background; more rounds on that
    # answer make the model surer of it, more rounds on the coarse labels would undo it.
    patches, tumour = generous()
    stroma_inside = (patches.labels == 1) & ~tumour
    plain = quick(refinetune=False).fit([patches]).predict_proba(patches)[:, 1]
    tuned = quick(epochs=60).fit([patches]).predict_proba(patches)[:, 1]
    assert tuned[stroma_inside].mean() < 0.9 * plain[stroma_inside].mean()
    assert tuned[tumour].mean() > plain[tumour].mean()


def test_a_class_that_would_vanish_is_named() -> None:
    model = Prototype()
    labels = np.array([0, 0, 1, 2], np.int8)
    found = np.array([0, 0, 1, 1], np.int8)
    classes = ("background", "Tumor", "Necrosis")
    assert "'Necrosis'" in model._unsafe(labels, found, classes)
    assert not model._unsafe(labels, labels, classes)


def test_models_by_slide_answer_for_their_own_slide() -> None:
    """What is tumour on one slide is normal on the other: only models of their own can tell."""
    first, tumour = generous(0)
    second, _ = generous(1)
    opposite = dataclasses.replace(second, labels=np.roll(second.labels, 1240 - 160))
    slides = [first, opposite]
    own = quick(per_slide=True, prototypes="local").fit(slides)
    assert accuracy(own.predict_proba(first), tumour) > 0.99
    looks = np.repeat([TUMOUR, STROMA, TUMOUR, STROMA, FAT, IMMUNE], [160, 240, 40, 800, 300, 100])
    fat = own.predict_proba(opposite).argmax(axis=1)[looks == FAT]
    assert fat.mean() > 0.5
    pooled = quick().fit(slides)
    assert (pooled.predict_proba(first) != own.predict_proba(first)).any()
    with pytest.raises(RefinerError, match=r"slide_5: per_slide=true has models of slide_0, slid"):
        own.predict_proba(generous(5)[0])
    with pytest.raises(RefinerError, match=r"different slide names; twice: slide_0"):
        own.fit([first, first])


def test_a_slide_of_one_class_cannot_have_a_model_of_its_own() -> None:
    first, _ = generous(0)
    empty = dataclasses.replace(generous(1)[0], labels=np.zeros(1640, np.int8))
    with pytest.raises(RefinerError, match=r"slide_1: all labelled cells are 'background'"):
        quick(per_slide=True).fit([first, empty])
    quick().fit([first, empty])
    quick(prototypes="local").fit([first, empty])


def test_where_everything_outside_looks_major_the_coarse_labels_stay() -> None:
    looks = np.zeros(200, int)
    patches = patch_set(looks, (np.arange(200) < 60).astype(np.int8))
    model = quick(lift=0.1, k_local=2).fit([patches])
    assert any("outside the coarse labels stay" in note for note in model.notes)
    strict = quick(match="threshold", match_threshold=1.0).fit([generous()[0]])
    assert any("no cell matches a major prototype of 'Tumor'" in note for note in strict.notes)


def test_too_few_cells() -> None:
    patches = patch_set(np.array([0, 0, 0, 1]), np.array([0, 0, 0, 1]))
    assert quick().fit([patches]).predict_proba(patches).shape == (4, 2)
    with pytest.raises(RefinerError, match=r"k_local=5 prototypes of a slide with 4 labelled"):
        quick(k_local=5).fit([patches])
    same = dataclasses.replace(patches, features=np.ones((4, 3), np.float32))
    np.testing.assert_allclose(quick().fit([same]).predict_proba(same).sum(axis=1), 1, atol=1e-6)


def test_cells_without_a_label_or_without_trust_are_not_learnt_from() -> None:
    patches = patch_set(np.zeros(4, int), np.array([0, 1, -1, 1]))
    told = dataclasses.replace(patches, trust=np.array([1, 0, 1, 0.5], np.float32))
    known = Known.of(table([told, told]), ("a", "b"))
    assert known.index.tolist() == [0, 3, 4, 7]
    assert known.slides.tolist() == [0, 0, 1, 1]
    assert known.labels.tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(known.trust * COARSE_TRUST, [1, 0.5, 1, 0.5], rtol=1e-6)


def test_trust_weighs_the_counts() -> None:
    """Half of the stroma was outlined; believed, it is tumour, doubted, it is not."""
    looks = np.repeat([TUMOUR, STROMA, STROMA, FAT], [200, 200, 200, 200])
    labels = np.repeat([1, 1, 0, 0], [200, 200, 200, 200])
    patches = patch_set(looks, labels)
    trust = np.ones(800, np.float32)
    trust[200:400] = 0.05
    stroma = np.repeat([False, True, True, False], 200)
    options = {"lift": 0.9, "k_local": 3}
    assert (learnt(Prototype(**options), patches)[0][stroma] == 1).all()
    doubted, _ = learnt(Prototype(**options), dataclasses.replace(patches, trust=trust))
    assert set(doubted[stroma].tolist()) == {-1, 0}


def test_balanced_batches_draw_as_many_of_each_class_and_slide() -> None:
    rng = np.random.default_rng(0)
    slides = np.repeat([0, 1, 2], [1000, 100, 10])
    labels = np.where(np.arange(1110) % 10 == 0, 1, 0).astype(np.int8)
    labels[slides == 2] = 0  # the third slide has no positive
    labels[5] = -1
    trust = np.ones(1110)
    trust[(labels == 1) & (slides == 0)] = np.linspace(0.01, 1, 100)
    blocks = list(draw_balanced(rng, labels, slides, trust, steps=21, per_class=32))
    assert sum(len(b.sizes) for b in blocks) == 21
    drawn = np.concatenate([b.where.reshape(-1, 64) for b in blocks])
    assert 5 not in drawn
    for step in drawn:
        assert np.bincount(labels[step]).tolist() == [32, 32]
        negative, positive = (np.bincount(slides[step[labels[step] == k]]) for k in (0, 1))
        assert sorted(negative.tolist()) == [10, 11, 11]
        assert positive.tolist() == [16, 16]
    assert not np.array_equal(drawn[0], drawn[1])
    of_first = drawn[(labels[drawn] == 1) & (slides[drawn] == 0)]
    assert trust[of_first].mean() == pytest.approx(
        (trust[labels == 1][:100] ** 2).sum() / 50.5, abs=0.05
    )


def test_plain_batches_go_through_every_cell_once_an_epoch() -> None:
    rng = np.random.default_rng(0)
    labels = np.where(np.arange(1000) % 7 == 0, -1, np.arange(1000) % 2).astype(np.int8)
    weights = np.linspace(1, 3, 1000)
    blocks = list(draw_shuffled(rng, labels, weights, batch=64, epochs=3))
    where = np.concatenate([b.where for b in blocks])
    counts = np.bincount(where, minlength=1000)
    np.testing.assert_array_equal(counts, 3 * (labels >= 0))
    assert sum(len(b.sizes) for b in blocks) == 3 * 14
    assert all(sum(b.sizes) == len(b.where) for b in blocks)
    assert np.concatenate([b.weights for b in blocks]).mean() == pytest.approx(1, abs=1e-5)
    exact = list(draw_shuffled(rng, labels, weights, batch=64, steps=17))
    assert sum(len(b.sizes) for b in exact) == 17
    tiny = list(draw_shuffled(rng, labels[:5], weights[:5], batch=64, steps=9))
    assert [size for b in tiny for size in b.sizes] == [4] * 9


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_the_gradient_is_that_of_the_network_as_one_would_write_it(k: int, dropout: float) -> None:
    rng = np.random.default_rng(1)
    model = CellClassifier(rng, 9, 12, k, dropout=dropout, gamma=2.0, alpha=0.3)
    raw = rng.normal(3, 2, (40, 9)).astype(np.float32)
    labels = torch.from_numpy(rng.integers(0, k, 40))
    weights = torch.from_numpy(rng.random(40).astype(np.float32))
    state = rng.bit_generator.state
    bits = rng.integers(0, 256, (40, 12), dtype=np.uint8)
    rng.bit_generator.state = state
    model.learn(torch.from_numpy(layer_norm(raw.copy())), labels, weights)

    p = {name: w.clone().requires_grad_() for name, w in model.weights.items()}
    x = torch.nn.functional.layer_norm(torch.from_numpy(raw), (9,))
    h = torch.relu(x @ p["A"] + p["a"])
    if dropout:
        h = h * torch.from_numpy(bits >= 64) / 0.75
    score = h @ p["g"] + p["c"]
    logits = torch.cat([torch.zeros(40, 1), score], 1) if k == 2 else score
    p_t = torch.softmax(logits, 1).gather(1, labels[:, None])[:, 0]
    alpha = torch.where(labels > 0, 0.3, 0.7)
    loss = (-alpha * (1 - p_t) ** 2 * p_t.log() * weights).mean()
    loss.backward()
    for name, gradient in model.gradients.items():
        torch.testing.assert_close(gradient, p[name].grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_focal_loss_is_finite_at_its_ends(gamma: float) -> None:
    probs = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]])
    slope = focal_slope(probs, torch.tensor([1, 1, 1]), gamma, 0.5)
    assert torch.isfinite(slope).all()
    assert slope[2, 1] < 0


def test_rows_made_anew_are_those_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    patches, _ = generous()
    cells = table([patches, generous(1)[0]])
    index = np.arange(0, len(cells), 3)
    kept = Inputs(cells, index, ZScore.of(cells))
    monkeypatch.setattr("recontour.refiners.cell_training.STORED_BYTES", 0)
    anew = Inputs(cells, index, ZScore.of(cells))
    assert anew.stored is None
    where = np.array([5, 900, 5, 0])
    np.testing.assert_array_equal(kept.rows(where), anew.rows(where))


def test_cleans_easy_noise_with_the_defaults() -> None:
    patches, truth = slide()
    probs = Prototype().fit([patches]).predict_proba(patches)
    assert accuracy(probs, truth) > 0.96


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("k_local", 1),
        ("k_global", 2.5),
        ("starts", 0),
        ("major", "top"),
        ("lift", 0),
        ("min_share", 1.5),
        ("coverage", 0.0),
        ("match", "both"),
        ("match_threshold", 1.2),
        ("inside_nonmajor", "drop"),
        ("prototypes", "all"),
        ("ablation", "XX"),
        ("per_slide", 1),
        ("dropout", 1.0),
        ("most_flips", float("nan")),
        ("refinetune_threshold", 1.1),
        ("views", "wide"),
    ],
)
def test_values_that_make_no_sense_are_refused(option: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{option}="):
        Prototype(**{option: value})
