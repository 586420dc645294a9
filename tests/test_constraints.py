"""What the user allows the outline to do, on shapes whose answer is known."""

from __future__ import annotations

import math

import pytest
from shapely import box

from recontour.annotations.select import claimed_areas
from recontour.constraints import check_limits, constrain
from recontour.errors import UsageError
from recontour.geometry import union
from recontour.types import Region


def region(geometry, label):
    return Region("5f3b1f5e-0000-4000-8000-000000000001", geometry, label)


BIG, SMALL = box(0, 0, 100, 100), box(40, 40, 60, 60)


def test_of_overlapping_outlines_the_smaller_one_has_the_area():
    tumour, stroma = claimed_areas([[region(BIG, "Tumor")], [region(SMALL, "Stroma")]])
    assert stroma.equals(SMALL)
    assert tumour.equals(BIG.difference(SMALL))


def test_an_outline_in_an_outline_in_an_outline():
    core = box(48, 48, 52, 52)
    tumour, stroma = claimed_areas(
        [[region(BIG, "Tumor"), region(core, "Tumor")], [region(SMALL, "Stroma")]]
    )
    assert stroma.equals(SMALL.difference(core))
    assert tumour.equals(union([BIG.difference(SMALL), core]))


def test_outlines_of_one_class_may_overlap():
    (area,) = claimed_areas([[region(BIG, None), region(SMALL, None)]])
    assert area.equals(BIG)


@pytest.mark.parametrize("limits", [{"only": "add"}, {"within_px": 3.0}])
def test_limits_leave_no_slivers_but_all_that_has_to_stay(limits):
    speck = box(200, 200, 201, 201)
    coarse = union([box(0, 0, 100, 100), speck])
    # A nest of its own that reaches a tenth of a px into what is allowed.
    found = union([box(10, 10, 90, 90), box(102.9, 0, 140, 40)])
    (area,) = constrain([found], [coarse], min_area_px=8, **limits)
    parts = sorted(part.area for part in getattr(area, "geoms", [area]))
    if "only" in limits:
        assert coarse.difference(area).area == 0
        assert len(parts) == 3
        assert parts[0] == speck.area
    else:
        assert len(parts) == 1


def test_only_remove_leaves_no_slivers():
    found = union([box(10, 10, 90, 90), box(99.9, 0, 140, 40)])
    (area,) = constrain([found], [box(0, 0, 100, 100)], only="remove", min_area_px=8)
    assert area.equals(box(10, 10, 90, 90))


def test_without_limits_nothing_is_touched():
    found = [box(0, 0, 1, 1)]
    assert constrain(found, [BIG], min_area_px=8) == found


@pytest.mark.parametrize("within", [0, -5, math.nan, math.inf])
def test_a_distance_that_makes_no_sense(within):
    with pytest.raises(UsageError, match=f"{within:g}"):
        check_limits(None, within)


def test_a_direction_that_does_not_exist():
    with pytest.raises(UsageError, match="sideways"):
        check_limits("sideways", None)
