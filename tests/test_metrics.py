"""Metrics against brute force, shapely's own Hausdorff distance, and circles."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from shapely import MultiPolygon, Point, Polygon, affinity, box

from recontour import metrics

flags = hnp.arrays(bool, 30)


@given(flags, flags)
def test_ratios_agree_with_counting_cell_by_cell(truth, prediction):
    counts = {"tp": 0, "fp": 0, "fn": 0, "tn": 0}
    for t, p in zip(truth, prediction, strict=True):
        counts[("t" if t == p else "f") + ("p" if p else "n")] += 1
    assert metrics.confusion(truth, prediction)._asdict() == counts
    tp, fp, fn, tn = counts.values()
    expected = {
        "accuracy": (tp + tn, 30),
        "tpr": (tp, tp + fn),
        "tnr": (tn, tn + fp),
        "ppv": (tp, tp + fp),
        "npv": (tn, tn + fn),
        "f1": (tp, tp + (fp + fn) / 2),
        "iou": (tp, tp + fp + fn),
        "dice": (2 * tp, (tp + fp) + (tp + fn)),
    }
    for name, (part, whole) in expected.items():
        value = getattr(metrics, name)(truth, prediction)
        if whole:
            assert value == pytest.approx(part / whole)
        else:
            assert math.isnan(value)


@given(flags, flags, flags)
def test_cleaned_and_mis_modified_balance_the_accuracy(truth, coarse, prediction):
    wrong, right = np.sum(truth != coarse), np.sum(truth == coarse)
    cleaned = metrics.cleaned(truth, coarse, prediction)
    spoiled = metrics.mis_modified(truth, coarse, prediction)
    assert math.isnan(cleaned) == (wrong == 0)
    assert math.isnan(spoiled) == (right == 0)
    gain = (wrong * cleaned if wrong else 0) - (right * spoiled if right else 0)
    before, after = metrics.accuracy(truth, coarse), metrics.accuracy(truth, prediction)
    assert after - before == pytest.approx(gain / 30)


def test_an_empty_prediction_has_no_precision_and_no_f1_to_boast_of():
    truth, nothing = np.array([1, 1, 0]), np.zeros(3)
    assert math.isnan(metrics.ppv(truth, nothing))
    assert metrics.f1(truth, nothing) == metrics.iou(truth, nothing) == 0
    assert math.isnan(metrics.f1(nothing, nothing))
    assert not metrics.valid(metrics.confusion(truth, nothing).ratios())


def test_flags_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="shapes differ"):
        metrics.iou(np.zeros(3), np.zeros(4))


def test_classes_are_compared_one_against_the_rest():
    truth, prediction = np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2])
    first, second = metrics.label_metrics(truth, prediction, 3)
    assert first["ppv"] == 0.5
    assert first["tpr"] == 1
    assert second["tpr"] == 0.5
    assert metrics.macro([first, second])["tpr"] == 0.75


def test_macro_leaves_out_a_class_that_is_nowhere():
    truth = np.array([0, 1, 1])
    assert metrics.macro(metrics.label_metrics(truth, truth, 3))["f1"] == 1


def test_half_overlapping_boxes():
    a, b = box(0, 0, 2, 1), box(1, 0, 3, 1)
    assert metrics.polygon_iou(a, b) == pytest.approx(1 / 3)
    assert metrics.polygon_dice(a, b) == pytest.approx(1 / 2)
    assert metrics.polygon_iou(a, Polygon()) == 0
    assert math.isnan(metrics.polygon_iou(Polygon(), Polygon()))


def test_concentric_circles_are_as_far_apart_as_their_radii():
    inner, outer = Point(0, 0).buffer(400, quad_segs=64), Point(0, 0).buffer(500, quad_segs=64)
    distance = metrics.boundary_distance_um(inner, outer, 0.5)
    assert distance.mean == pytest.approx(50, rel=0.01)
    assert distance.hausdorff95 == pytest.approx(50, rel=0.01)


def test_a_stray_island_does_not_decide_the_distance():
    lesion = Point(0, 0).buffer(1000)
    speck = MultiPolygon([lesion, Point(9000, 0).buffer(5)])
    assert metrics.boundary_distance_um(lesion, speck, 1.0).hausdorff95 < 1
    assert lesion.hausdorff_distance(speck) > 7000


def test_every_part_and_hole_of_an_outline_counts():
    solid = box(0, 0, 100, 100)
    holed = solid.difference(box(40, 40, 60, 60))
    two = MultiPolygon([solid, box(300, 0, 400, 100)])
    assert metrics.boundary_distance_um(solid, holed, 1.0).hausdorff95 > 35
    assert metrics.boundary_distance_um(two, two, 1.0) == (0, 0)
    assert metrics.boundary_distance_um(solid, two, 1.0).hausdorff95 > 200


def test_the_distance_to_nothing_is_undefined():
    assert all(map(math.isnan, metrics.boundary_distance_um(box(0, 0, 1, 1), Polygon(), 1.0)))


@given(st.floats(0, 50), st.floats(0, 50))
def test_a_displaced_box_is_nowhere_further_than_it_moved(dx, dy):
    a = box(0, 0, 200, 100)
    b = affinity.translate(a, dx, dy)
    there = metrics.boundary_distance_um(a, b, 1.0)
    assert there == pytest.approx(metrics.boundary_distance_um(b, a, 1.0))
    assert there.mean <= there.hausdorff95 <= a.hausdorff_distance(b) + 1e-9
