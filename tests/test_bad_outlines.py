"""Outlines that are wrong as a whole: in the way their name says, the same every time."""

from __future__ import annotations

import numpy as np
import pytest
from shapely import Point, box

from recontour.errors import AnnotationError, UnknownNameError, UsageError
from recontour.geometry import union
from recontour.grid import full_lattice, label_patches
from recontour.simulation import (
    BAD_KINDS,
    BAD_OUTLINES,
    Other,
    is_valid,
    other_case,
    simulate_bad,
    simulate_coarse,
)
from recontour.types import Annotation, Region

SIZE, MPP = (4000, 3000), 0.5
TISSUE = box(200, 200, 3800, 2800)
PROPERTIES = {"classification": {"name": "Tumor", "color": [200, 0, 0]}}


def annotation(*shapes, label="Tumor", name="case"):
    regions = [
        Region(str(i), shape, label, properties=PROPERTIES) for i, shape in enumerate(shapes)
    ]
    return Annotation(name, tuple(regions))


LARGE, SMALL = Point(1300, 1500).buffer(600), Point(3000, 900).buffer(350)
FINE = annotation(LARGE, SMALL)
OTHER = Other(annotation(box(3000, 3000, 7000, 5500), name="other"), (8000, 6000))


def bad(kind, seed=0, fine=FINE, **options):
    options = {"size": SIZE, "mpp": MPP, "tissue": TISSUE, "other": OTHER, **options}
    return simulate_bad(fine, kind, seed, **options)


def area(found, label="Tumor"):
    return union([r.geometry for r in found.regions if r.label == label])


def validity(found, fine=FINE):
    grid = full_lattice((2, 2), (38, 28), 100, MPP)
    truth, coarse = (label_patches(grid, [[r.geometry for r in a.regions]]) for a in (fine, found))
    return is_valid(truth, coarse)


@pytest.mark.parametrize("kind", BAD_KINDS)
def test_a_bad_outline_lies_on_the_slide_keeps_its_class_and_comes_again(kind):
    found = bad(kind, 3)
    assert found == bad(kind, 3)
    assert found != bad(kind, 4)
    for region in found.regions:
        assert region.geometry.is_valid
        assert box(0, 0, *SIZE).covers(region.geometry)
        assert region.label == "Tumor"
        assert region.properties["classification"] == PROPERTIES["classification"]
    assert len({region.id for region in found.regions}) == len(found.regions)


def test_flipped_holds_the_tissue_that_is_no_lesion():
    found = area(bad("flipped"))
    assert found.intersection(area(FINE)).area < 0.2 * area(FINE).area
    healthy = TISSUE.difference(area(FINE))
    assert found.intersection(healthy).area > 0.85 * healthy.area
    assert TISSUE.covers(found)
    assert not validity(bad("flipped"))


def test_the_outline_of_another_slide_is_fitted_or_laid_as_it_is():
    fitted = area(bad("other"))
    expected = box(1500, 1500, 3500, 2750)
    assert fitted.intersection(expected).area > 0.7 * fitted.union(expected).area
    small = Other(OTHER.fine, OTHER.size, fitted=False)
    with pytest.raises(AnnotationError, match="nothing of the outline of other"):
        bad("other", other=small, size=(2900, 2900), tissue=None)
    cut = area(bad("other", other=small, size=(4000, 4000), tissue=None))
    expected = box(3000, 3000, 4000, 4000)
    assert cut.intersection(expected).area > 0.6 * cut.union(expected).area
    with pytest.raises(UsageError, match="another case"):
        bad("other", other=None)


@pytest.mark.parametrize("seed", range(4))
def test_shifted_goes_a_third_of_the_lesion_and_stays_on_the_slide(seed):
    one = annotation(LARGE)
    found = area(bad("shifted", seed, fine=one))
    drawn = area(simulate_coarse(one, kind="wobbly", seed=seed, mpp=MPP, size=SIZE, tissue=TISSUE))
    distance = found.centroid.distance(drawn.centroid)
    assert distance == pytest.approx(np.sqrt(drawn.area) / 3, rel=0.15)
    assert found.area > 0.89 * drawn.area


@pytest.mark.parametrize("seed", range(4))
def test_a_blob_is_as_large_as_the_lesion_wherever_it_lies(seed):
    found = area(bad("blob", seed))
    assert found.area == pytest.approx(area(FINE).area, rel=0.25)
    assert TISSUE.buffer(1).covers(found)
    assert found.centroid.distance(area(bad("blob", seed + 10)).centroid) > 50


def test_the_main_lesion_is_missed_and_the_other_one_kept():
    found = area(bad("main_missed"))
    assert found.intersection(LARGE).area == 0
    assert found.intersection(SMALL).area > 0.6 * SMALL.area


def test_of_a_lone_lesion_a_decoy_takes_the_place():
    found = bad("main_missed", fine=annotation(LARGE))
    assert area(found).intersection(LARGE).area < 0.1 * LARGE.area
    assert 0.3 * LARGE.area < area(found).area < 0.7 * LARGE.area
    assert not validity(found, annotation(LARGE))


def test_classes_shift_together_and_strangers_become_the_main_class():
    second = Region("s", SMALL, "Stroma")
    fine = Annotation("case", (*annotation(LARGE).regions, second))
    moved = bad("shifted", fine=fine)
    by = [
        np.subtract(area(moved, label).centroid.coords[0], shape.centroid.coords[0])
        for label, shape in (("Tumor", LARGE), ("Stroma", SMALL))
    ]
    assert np.hypot(*(by[0] - by[1])) < 100
    assert {r.label for r in bad("blob", fine=fine).regions} == {"Tumor", "Stroma"}
    stranger = Other(annotation(box(500, 500, 2000, 2000), label="Fat"), SIZE)
    assert {r.label for r in bad("other", fine=fine, other=stranger).regions} == {"Tumor"}
    assert {r.label for r in bad("flipped", fine=fine).regions} == {"Tumor"}


def test_without_tissue_the_slide_is_the_ground():
    found = area(bad("flipped", tissue=None))
    assert found.area == pytest.approx(12e6 - area(FINE).area, rel=0.1)


def test_the_recipe_names_every_kind_once_or_more():
    assert {line.kind for line in BAD_OUTLINES} == set(BAD_KINDS)
    assert len({line.name for line in BAD_OUTLINES}) == len(BAD_OUTLINES)


def test_every_case_lends_its_outline_and_gets_one_of_another():
    ids = ["c", "a", "b"]
    assert [other_case(ids, name, 0) for name in "abc"] == ["b", "c", "a"]
    assert [other_case(ids, name, 1) for name in "abc"] == ["c", "a", "b"]
    assert [other_case(ids, "a", seed) for seed in range(4)] == ["b", "c", "b", "c"]
    with pytest.raises(UsageError, match="two cases"):
        other_case(["a"], "a", 0)


def test_an_unknown_kind_is_refused():
    with pytest.raises(UnknownNameError, match="flipped"):
        bad("fliped")


def test_valid_is_what_is_mostly_right_on_both_sides():
    truth = np.array([1, 1, 1, 0, 0, 0])
    assert is_valid(truth, np.array([1, 1, 0, 0, 0, 0]))
    assert not is_valid(truth, np.array([1, 0, 0, 1, 1, 0]))
    assert not is_valid(truth, np.zeros(6, int))
    # Of three classes one is wrong throughout: the outline is not valid.
    assert not is_valid(np.array([1, 1, 2, 2, 0, 0]), np.array([1, 1, 0, 0, 2, 2]), 3)
