"""Probabilities that mean what they say: on tissue whose truth is known, and by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recontour import make_refiner
from recontour.calibration import (
    _conformal_bar,
    calibrate,
    check_target,
    decided_share,
    decisions,
    sure_cells,
)
from recontour.errors import UsageError
from recontour.metrics import brier, calibration_error, reliability, top_label_error
from recontour.refiners.discriminant import softmax
from recontour.types import COARSE_TRUST, PatchGrid, PatchSet


def tissue(
    side: int = 40, apart: float = 1.2, noise: float = 0.15, k: int = 2, seed: int = 0
) -> tuple[PatchSet, np.ndarray]:
    """Stripes of classes that look `apart`, labelled with errors; and their true classes."""
    rng = np.random.default_rng(seed)
    rows, cols = np.divmod(np.arange(side * side), side)
    truth = (cols // 5) % k
    looks = rng.normal(size=(k, 8))
    looks *= apart / np.linalg.norm(looks, axis=1, keepdims=True)
    features = (looks[truth] + rng.normal(size=(len(truth), 8))).astype(np.float32)
    flipped = rng.random(len(truth)) < noise
    labels = np.where(flipped, (truth + 1) % k, truth).astype(np.int8)
    grid = PatchGrid(
        (0, 0), (side, side), rows.astype(np.int32), cols.astype(np.int32), 10, 10, 10, 1.0, 1.0
    )
    names = ("background", "Tumor", "Stroma", "Fat")[:k]
    return PatchSet("case", grid, features, labels, names), truth


def overconfident(patches: PatchSet, truth: np.ndarray, error: float = 0.2) -> np.ndarray:
    """What a refiner says that is wrong in some cells and sure of all of them."""
    rng = np.random.default_rng(3)
    k = len(patches.classes)
    said = np.where(rng.random(len(truth)) < error, (truth + 1) % k, truth)
    return np.where(np.eye(k)[said] > 0, 0.98, 0.02 / (k - 1))


def test_a_weather_forecast_is_judged_by_hand():
    said = np.array([0.0, 0.0, 0.5, 0.5, 1.0, 1.0])
    came = np.array([0, 0, 1, 0, 1, 0])
    curve = reliability(said, came, bins=3)
    assert curve.predicted.tolist() == [0, 0.5, 1]
    assert curve.observed.tolist() == [0, 0.5, 0.5]
    assert curve.error == pytest.approx(0.5 / 3)
    assert brier(np.stack([1 - said, said], axis=1), came) == pytest.approx(2 * 1.5 / 6)
    assert top_label_error(np.array([[0.2, 0.8], [0.2, 0.8]]), np.array([1, 0])) == pytest.approx(
        0.3
    )


def test_equal_probabilities_do_not_depend_on_the_order_of_cells():
    came = np.repeat([1, 0], 50)
    assert calibration_error(np.full(100, 0.5), came) == pytest.approx(0)


def test_no_cells_have_no_calibration():
    assert np.isnan(calibration_error(np.empty(0), np.empty(0)))
    assert np.isnan(brier(np.empty((0, 2)), np.empty(0, int)))
    with pytest.raises(ValueError, match="between 0 and 1"):
        reliability(np.array([1.2]), np.array([1]))
    with pytest.raises(ValueError, match="both be"):
        reliability(np.array([0.2]), np.array([1, 0]))


@pytest.mark.parametrize("k", [2, 3])
def test_an_overconfident_refiner_is_corrected_and_not_overturned(k):
    patches, truth = tissue(k=k, noise=0.0)
    fitted = make_refiner("logistic", inverse_l2=1.0).fit([patches]).predict_proba(patches)
    probs = softmax(5 * np.log(np.maximum(fitted, 1e-9)))
    found = calibrate(patches, probs)
    assert found.source == "cross-fitted"
    np.testing.assert_allclose(found.probs.sum(axis=1), 1, atol=1e-5)
    before = calibration_error(probs[:, 1], truth == 1)
    after = calibration_error(found.probs[:, 1], truth == 1)
    assert after < before / 2
    # Where the model that has not seen a cell disagrees, the two may tie; never the reverse.
    mine = decided_share(found.probs, probs)
    assert (mine >= found.probs.max(axis=1) - 1e-6)[decisions(probs) > 0].mean() > 0.9
    inside = decisions(probs) > 0
    assert (1 - found.probs[inside, 0] >= 0.5 - 1e-6).all()
    assert (found.probs[~inside, 0] >= 0.5 - 1e-6).all()


def test_tissue_that_cannot_be_told_apart_gives_no_confidence():
    patches, truth = tissue(apart=0.0)
    found = calibrate(patches, overconfident(patches, truth))
    assert found.probs.max() < 0.75
    easy, truth = tissue(apart=6.0, noise=0.0)
    assert calibrate(easy, overconfident(easy, truth, 0.0)).facts["expected_error"] < 0.05


def test_a_rare_class_is_known_to_be_rare():
    patches, truth = tissue(apart=1.0, noise=0.0)
    rare = (truth == 1) & (patches.grid.cols >= 10)
    keep = ~rare
    grid = dataclasses.replace(
        patches.grid, rows=patches.grid.rows[keep], cols=patches.grid.cols[keep]
    )
    patches = dataclasses.replace(
        patches, grid=grid, features=patches.features[keep], labels=patches.labels[keep]
    )
    truth = truth[keep]
    found = calibrate(patches, np.eye(2)[truth])
    assert calibration_error(found.unseen[:, 1], truth) < 0.04
    assert found.unseen[:, 1].mean() == pytest.approx(truth.mean(), abs=0.02)


def test_reviewed_cells_are_certain_and_a_fair_sample_corrects_the_rest():
    # The outline calls every third tumour stripe background: a bias nobody can see without truth.
    patches, truth = tissue(side=60, apart=1.5, noise=0.0)
    labels = np.where((truth == 1) & (patches.grid.rows % 2 == 0), 0, truth).astype(np.int8)
    rng = np.random.default_rng(0)
    seen = np.zeros(len(truth), bool)
    for start in rng.choice(58, (20, 2)):
        seen |= (abs(patches.grid.rows - start[0]) <= 1) & (abs(patches.grid.cols - start[1]) <= 1)
    trust = np.where(seen, 1, COARSE_TRUST).astype(np.float32)
    patches = dataclasses.replace(patches, labels=np.where(seen, truth, labels), trust=trust)
    probs = overconfident(patches, truth)
    plain, corrected = calibrate(patches, probs), calibrate(patches, probs, sample=True)
    for found in (plain, corrected):
        assert (found.probs[seen, truth[seen]] == 1).all()
    errors = [
        calibration_error(found.probs[~seen, 1], truth[~seen]) for found in (plain, corrected)
    ]
    assert corrected.source == "sample"
    assert errors[1] < errors[0]


@pytest.mark.parametrize("spoil", ["one class", "few cells", "nan", "one block"])
def test_where_nothing_can_be_measured_it_says_assumed(spoil):
    patches, truth = tissue(side=12)
    probs = overconfident(patches, truth)
    if spoil == "one class":
        patches = dataclasses.replace(patches, labels=np.zeros(144, np.int8))
    elif spoil == "few cells":
        labels = np.where(np.arange(144) < 9, 1, 0).astype(np.int8)
        patches = dataclasses.replace(patches, labels=labels)
    elif spoil == "nan":
        patches = dataclasses.replace(patches, features=np.full_like(patches.features, np.nan))
    else:
        where = np.zeros(144, np.int32)
        grid = dataclasses.replace(patches.grid, rows=where, cols=where)
        patches = dataclasses.replace(patches, grid=grid)
    found = calibrate(patches, probs)
    assert found.source == "assumed"
    assert np.isfinite(found.probs).all()
    assert found.probs.max() < 0.98
    assert (decisions(found.probs) == decisions(probs)).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 4), st.integers(0, 1000), st.floats(0, 1))
def test_probabilities_stay_probabilities(k, seed, share):
    patches, truth = tissue(side=14, k=k, seed=seed)
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(k, 0.3), len(truth))
    trust = np.where(rng.random(len(truth)) < share, 1, rng.random(len(truth))).astype(np.float32)
    labels = np.where(rng.random(len(truth)) < 0.2, -1, patches.labels).astype(np.int8)
    patches = dataclasses.replace(patches, labels=labels, trust=trust)
    for sample in (False, True):
        found = calibrate(patches, probs, sample=sample)
        assert np.isfinite(found.probs).all()
        assert (found.probs >= 0).all()
        np.testing.assert_allclose(found.probs.sum(axis=1), 1, atol=1e-5)
        sure = sure_cells(patches, probs, found, 0.1)
        assert 0 <= sure.facts["share"] <= 1


def test_constant_features_and_no_cells_are_borne():
    patches, truth = tissue()
    same = dataclasses.replace(patches, features=np.ones_like(patches.features))
    assert np.isfinite(calibrate(same, overconfident(same, truth)).probs).all()
    none = np.empty(0, np.int32)
    grid = dataclasses.replace(patches.grid, rows=none, cols=none)
    empty = PatchSet("e", grid, np.empty((0, 8), np.float32), none.astype(np.int8), ("b", "t"))
    assert calibrate(empty, np.empty((0, 2))).probs.shape == (0, 2)


def test_the_sure_cells_keep_the_error_below_the_target():
    patches, truth = tissue(side=60, apart=2.5, noise=0.1)
    probs = overconfident(patches, truth, 0.1)
    found = calibrate(patches, probs)
    strict, loose = (sure_cells(patches, probs, found, target) for target in (0.05, 0.2))
    assert strict.facts["how"] == "estimate"
    assert strict.facts["expected_error"] <= 0.05
    assert 0 < strict.facts["share"] <= loose.facts["share"]
    assert (loose.cells | ~strict.cells).all()
    assert np.mean(decisions(probs)[strict.cells] != truth[strict.cells]) < 0.1


def test_a_target_nobody_can_meet_leaves_no_cell_sure():
    patches, truth = tissue(apart=0.0)
    probs = overconfident(patches, truth)
    sure = sure_cells(patches, probs, calibrate(patches, probs), 0.01)
    assert not sure.cells.any()
    assert sure.facts == {
        "target": 0.01,
        "share": 0.0,
        "expected_error": None,
        "how": "estimate",
        "regions": 0,
    }


def test_with_enough_reviewed_regions_the_bar_is_conformal():
    patches, truth = tissue(side=90, apart=6.0, noise=0.0)
    rows, cols = patches.grid.rows, patches.grid.cols
    seen = (rows % 10 < 3) & (cols % 10 < 3)  # 81 regions
    trust = np.where(seen, 1, COARSE_TRUST).astype(np.float32)
    patches = dataclasses.replace(patches, labels=truth.astype(np.int8), trust=trust)
    probs = overconfident(patches, truth, 0.02)
    found = calibrate(patches, probs, sample=True)
    sure = sure_cells(patches, probs, found, 0.05)
    assert sure.facts["how"] == "conformal"
    assert sure.facts["regions"] == 81
    assert np.mean(decisions(probs)[sure.cells] != truth[sure.cells]) <= 0.05
    # Ten regions cannot promise 5 %: 1 / 11 is more.
    few = dataclasses.replace(patches, trust=np.where(seen & (rows < 20), 1, 0.85))
    found = calibrate(few, probs, sample=True)
    assert sure_cells(few, probs, found, 0.04).facts["how"] == "estimate"


@pytest.mark.parametrize("seed", range(5))
def test_the_bar_is_the_lowest_that_keeps_the_promise(seed):
    """As it is written down in `sure_cells`, bar by bar."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.3, 1, 300).round(2).astype(np.float32)
    labels = (rng.random(300) > 0.9 * p).astype(np.int8)
    regions = np.split(np.arange(200), np.sort(rng.choice(np.arange(1, 200), 30, replace=False)))
    others = p[200:].astype(float)
    called, confidence = (p <= 0.5).astype(int), np.maximum(p, 1 - p)
    kept = []
    for bar in np.unique(confidence[:200]):
        sure_and_wrong = (called != labels) & (confidence >= bar)
        risk = (sum(sure_and_wrong[cells].mean() for cells in regions) + 1) / (len(regions) + 1)
        if risk <= 0.3 * np.mean(others >= bar):
            kept.append(float(bar))
    found = _conformal_bar(np.stack([p, 1 - p], axis=1), labels, regions, others, 0.3)
    assert found == (min(kept) if kept else None)


@pytest.mark.parametrize("target", [0, 1, -0.1, 2, float("nan")])
def test_a_target_that_is_none_is_refused(target):
    with pytest.raises(UsageError, match="--error-target"):
        check_target(target)
