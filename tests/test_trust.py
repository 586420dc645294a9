"""Outlines that should not be believed are noticed; good ones pass without a word."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from shapely import Polygon, box
from test_refiners_contract import slide

from recontour.trust import check_areas, check_labels, noise_found
from recontour.types import PatchSet


def with_labels(patches: PatchSet, labels: np.ndarray) -> PatchSet:
    return dataclasses.replace(patches, labels=labels.astype(np.int8))


@pytest.mark.parametrize("k", [2, 3])
def test_a_good_outline_raises_no_warning(k: int) -> None:
    patches, _ = slide(side=32, k=k)
    report = check_labels(patches)
    assert report.warnings == ()
    assert 0.8 < report.facts["agreement"] < 0.9  # 15 % of the labels are wrong
    assert report.facts["cells"] == {
        name: int((patches.labels == i).sum()) for i, name in enumerate(patches.classes)
    }
    assert sum(report.facts["share"].values()) == pytest.approx(1)
    json.dumps(report.facts)


@pytest.mark.parametrize("k", [2, 3])
def test_an_outline_that_has_nothing_to_do_with_the_tissue_is_noticed(k: int) -> None:
    patches, _ = slide(side=32, k=k)
    looks = np.random.default_rng(0).normal(size=patches.features.shape).astype(np.float32)
    report = check_labels(dataclasses.replace(patches, features=looks))
    assert report.warnings == ()  # `validity.judge` says it, once
    assert report.facts["agreement"] == pytest.approx(1 / k, abs=0.1)


def test_neighbours_that_look_alike_do_not_pass_for_agreement() -> None:
    # Every patch of tissue has a look of its own and the outline is random over patches: cells
    # left out one by one would be recognised by their neighbours, blocks left out are not.
    patches, _ = slide(side=60)
    rng = np.random.default_rng(0)
    block = (patches.grid.rows // 6) * 10 + patches.grid.cols // 6
    looks = 5 * rng.normal(size=(100, 100))[block] + rng.normal(size=(3600, 100))
    labels = (rng.permutation(100) % 2)[block]
    report = check_labels(with_labels(dataclasses.replace(patches, features=looks), labels))
    assert report.facts["agreement"] < 0.6


def test_few_cells_of_a_class_are_noticed() -> None:
    patches, truth = slide(side=32)
    small = with_labels(patches, (np.arange(len(patches)) % 32 > 26) & (patches.grid.rows < 30))
    assert int((small.labels == 1).sum()) < 200
    (warning,) = [w for w in check_labels(small).warnings if "few cells" in w]
    assert "'Tumor': 150 of 1,024 tissue cells" in warning
    most = with_labels(
        patches, ~((truth == 0) & (patches.grid.rows < 10) & (patches.grid.cols < 10))
    )
    (warning,) = [w for w in check_labels(most).warnings if "outside" in w]
    assert "100 of 1,024 tissue cells are background" in warning


def test_two_percent_is_few_however_many_cells() -> None:
    patches, _ = slide(side=120)
    labels = (patches.grid.rows < 2).astype(np.int8)
    report = check_labels(with_labels(patches, labels))
    assert any("240 of 14,400" in w for w in report.warnings)


@pytest.mark.parametrize("label", [-1, 0, 1])
def test_one_class_alone_is_reported_not_a_crash(label: int) -> None:
    patches, _ = slide(side=32)
    report = check_labels(with_labels(patches, np.full(len(patches), label)))
    assert report.facts["agreement"] is None
    assert report.facts["unlabelled"] == (1024 if label == -1 else 0)
    assert report.warnings


def test_unlabelled_cells_do_not_count() -> None:
    patches, _ = slide(side=40)
    labels = np.where(patches.grid.rows < 20, -1, patches.labels)
    report = check_labels(with_labels(patches, labels))
    assert report.facts["unlabelled"] == 800
    assert sum(report.facts["cells"].values()) == 800
    assert report.warnings == ()


def test_same_seed_same_report() -> None:
    patches, _ = slide(side=32)
    assert check_labels(patches, seed=4) == check_labels(patches, seed=4)


@pytest.mark.parametrize("value", [np.nan, 1234.5])
def test_odd_features_are_no_crash(value: float) -> None:
    patches, _ = slide(side=32)
    features = patches.features.astype(np.float16)
    features[:, 4] = value
    report = check_labels(dataclasses.replace(patches, features=features))
    assert (report.facts["agreement"] is None) == bool(np.isnan(value))


def test_noise_found_counts_what_was_contradicted() -> None:
    patches, _ = slide(side=4, k=3)
    labels = np.array([0] * 6 + [1] * 4 + [2] * 3 + [-1] * 3)
    found = np.array([0, 0, 0, 0, 1, 2] + [1, 1, 1, 0] + [2, 2, 1] + [0, 1, 2])
    noise = noise_found(with_labels(patches, labels), np.eye(3, dtype=np.float32)[found])
    assert noise == {
        "cells": 13,
        "changed": 4,
        "share": 4 / 13,
        "classes": {
            "background": {"stayed": 4, "left": 2, "joined": 1},
            "Tumor": {"stayed": 3, "left": 1, "joined": 2},
            "Stroma": {"stayed": 2, "left": 1, "joined": 1},
        },
    }
    json.dumps(noise)


def test_a_class_of_which_nothing_is_left_is_a_warning():
    nine = box(0, 0, 9, 9)
    classes = ("background", "Tumor", "Stroma")
    (warning,) = check_areas(classes, (nine, Polygon()), (nine, nine), nine)
    assert "nothing of class 'Stroma'" in warning
    assert "--min-area-um2" in warning


def test_a_class_that_grows_or_shrinks_beyond_belief_is_a_warning():
    classes, tissue = ("background", "Tumor"), box(0, 0, 100, 100)
    drawn = (box(-20, 0, 20, 20),)  # half of it on glass
    assert check_areas(classes, (box(0, 0, 30, 20),), drawn, tissue) == ()
    (grown,) = check_areas(classes, (box(0, 0, 50, 20),), drawn, tissue)
    assert "2.5 times the tissue that was outlined" in grown
    (shrunk,) = check_areas(classes, (box(0, 0, 8, 20),), drawn, tissue)
    assert "0.4 times" in shrunk


def test_tissue_without_any_noise_is_told_apart_by_finite_numbers() -> None:
    """A painted slide: every cell of a class looks exactly the same."""
    patches, _ = slide(side=32)
    same = np.eye(2, 8, dtype=np.float32)[patches.labels]
    assert check_labels(dataclasses.replace(patches, features=same)).facts["agreement"] == 1
