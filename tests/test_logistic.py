"""Logistic regression against scikit-learn's."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from test_refiners_contract import slide

from recontour.refiners.logistic import Logistic
from recontour.types import COARSE_TRUST


@pytest.mark.parametrize("inverse_l2", [0.01, 1.0])
@pytest.mark.parametrize("k", [2, 3])
def test_is_scikit_learns_balanced_logistic_regression(k: int, inverse_l2: float) -> None:
    patches, _ = slide(k=k, noise=0.3)
    rare = (patches.labels == 1) & (np.arange(len(patches)) % 3 > 0)
    patches = dataclasses.replace(
        patches, labels=np.where(rare, -1, patches.labels).astype(np.int8)
    )
    x = patches.features.astype(np.float64)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    known = patches.labels >= 0
    expected = LogisticRegression(
        C=inverse_l2, class_weight="balanced", tol=1e-8, max_iter=1000
    ).fit(x[known], patches.labels[known])
    found = Logistic(inverse_l2=inverse_l2).fit([patches]).predict_proba(patches)
    np.testing.assert_allclose(found, expected.predict_proba(x), atol=1e-3)


@pytest.mark.parametrize("k", [2, 3])
def test_many_features_give_the_same_answer_the_other_way(
    k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    patches, _ = slide(k=k, noise=0.3)
    mixed = patches.features @ np.random.default_rng(0).normal(size=(12, 300))
    wide = dataclasses.replace(patches, features=np.maximum(mixed, 0).astype(np.float32))
    expected = Logistic().fit([wide]).predict_proba(wide)
    monkeypatch.setattr("recontour.refiners.logistic.WIDE", 100)
    found = Logistic().fit([wide]).predict_proba(wide)
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_copies_of_a_feature_do_no_harm() -> None:
    patches, truth = slide()
    copied = dataclasses.replace(patches, features=np.tile(patches.features, (1, 60)))
    probs = Logistic(inverse_l2=1.0).fit([copied]).predict_proba(copied)
    assert np.mean(probs.argmax(axis=1) == truth) > 0.96


def test_trust_weighs_as_repetition() -> None:
    patches, _ = slide(noise=0.3)
    half = dataclasses.replace(patches, trust=np.full(len(patches), COARSE_TRUST / 2, np.float32))
    # Every cell twice at half the trust of an outline is every cell once.
    found = Logistic(inverse_l2=1.0).fit([half, half]).predict_proba(patches)
    np.testing.assert_allclose(
        found, Logistic(inverse_l2=1.0).fit([patches]).predict_proba(patches), atol=1e-3
    )
