"""Coarse outlines: valid, seeded, wrong in the way their name says, and as published."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import MultiPolygon, Point, box

from recontour.annotations import read_annotation
from recontour.errors import AnnotationError, UnknownNameError, UsageError
from recontour.evaluation import evaluate
from recontour.geometry import union
from recontour.simulation import KINDS, SEVERITIES, Severity, named_severity, simulate_coarse
from recontour.types import Annotation, Frame, Region

SIZE = (8000, 6000)
MPP = 0.5
TUMOR = {"classification": {"name": "Tumor", "color": [200, 0, 0]}}


def nests(seed=0, n=60, label="Tumor", centre=(3000, 3000)):
    """Nests of cells round a centre, as in a carcinoma."""
    random = np.random.default_rng(seed)
    xy = random.normal(centre, 600, (n, 2))
    shapes = union(
        [
            Point(p).buffer(r, quad_segs=6)
            for p, r in zip(xy, random.uniform(60, 260, n), strict=True)
        ]
    )
    return tuple(
        Region(f"{label}{i}", p, label, properties=TUMOR)
        for i, p in enumerate(shapely.get_parts(shapes))
    )


FINE = Annotation("case", nests())


def area(annotation, label="Tumor"):
    return union([r.geometry for r in annotation.regions if r.label == label])


@pytest.mark.parametrize("kind", KINDS)
def test_outlines_are_valid_on_the_slide_and_keep_their_class(kind):
    coarse = simulate_coarse(FINE, kind=kind, seed=3, mpp=MPP, size=SIZE)
    assert coarse.slide_id == "case"
    assert coarse.regions
    for region in coarse.regions:
        assert region.geometry.is_valid
        assert region.geometry.area > 0
        assert box(0, 0, *SIZE).covers(region.geometry)
        assert region.label == "Tumor"
        assert region.properties["classification"] == TUMOR["classification"]
    assert len({region.id for region in coarse.regions}) == len(coarse.regions)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_outline_and_another_seed_another(kind):
    first, again, other = (
        simulate_coarse(FINE, kind=kind, seed=seed, mpp=MPP, size=SIZE) for seed in (1, 1, 2)
    )
    assert first == again
    drawn_at_random = kind not in ("published", "generous", "tight")
    assert (area(first) != area(other)) == drawn_at_random


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "published"])
@pytest.mark.parametrize("seed", [0, 1])
def test_default_errors_leave_outlines_that_are_wrong_but_valid(kind, seed):
    fine = Annotation("case", nests(seed))
    coarse = simulate_coarse(fine, kind=kind, seed=seed, mpp=MPP, size=SIZE)
    found = evaluate(fine, coarse, coarse=coarse, slide_size=SIZE, mpp=MPP)
    assert found.coarse.valid
    assert 0.4 < found.coarse.overall["f1"] < 0.97


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "published"])
def test_hard_outlines_are_worse_than_mild_ones_and_still_valid(kind):
    mild, hard = (
        evaluate(FINE, coarse, coarse=coarse, slide_size=SIZE, mpp=MPP).coarse
        for coarse in (
            simulate_coarse(FINE, kind=kind, mpp=MPP, size=SIZE, severity=SEVERITIES[name])
            for name in ("mild", "hard")
        )
    )
    assert hard.valid
    assert hard.overall["f1"] < mild.overall["f1"] - 0.01


def test_of_dense_tumour_a_hard_outline_goes_to_the_limit_and_no_further():
    # Four fifths of the slide: hardly anything may be missed before most of the outside is tumour.
    dense = Annotation("dense", (Region("d", box(0, 0, 6400, 6000), "Tumor"),))
    for kind in ("missed", "tight"):
        coarse = area(
            simulate_coarse(dense, kind=kind, mpp=MPP, size=SIZE, severity=SEVERITIES["hard"])
        )
        healthy = 1600 * 6000
        wrong = 6400 * 6000 - coarse.intersection(box(0, 0, 6400, 6000)).area
        assert 0.5 < healthy / (healthy + wrong) < 0.62


def test_a_named_severity_is_what_differs_from_the_defaults():
    assert named_severity("mild") == {}
    assert Severity(**named_severity("hard")) == SEVERITIES["hard"]
    with pytest.raises(UnknownNameError, match="mild"):
        named_severity("brutal")
    with pytest.raises(UsageError, match="slips"):
        Severity(slips=0)


def test_each_kind_is_wrong_in_its_own_way():
    fine = area(FINE)

    def shares(kind):
        coarse = area(simulate_coarse(FINE, kind=kind, seed=0, mpp=MPP, size=SIZE))
        common = coarse.intersection(fine).area
        return common / fine.area, common / coarse.area

    inside, right = shares("generous")
    assert inside > 0.99
    assert right == pytest.approx(0.65, abs=0.05)
    inside, right = shares("tight")
    assert inside == pytest.approx(0.5, abs=0.05)
    assert right > 0.7
    inside, _ = shares("missed")
    assert 0.35 < inside < 0.85
    inside, _ = shares("flipped")
    assert 0.6 < inside < 0.9


def test_of_several_lesions_whole_ones_are_missed():
    lesions = tuple(Region(str(i), Point(1500 * i + 800, 3000).buffer(400), "T") for i in range(5))
    coarse = simulate_coarse(Annotation("five", lesions), kind="missed", seed=0, mpp=MPP, size=SIZE)
    found = [
        any(lesion.geometry.intersects(r.geometry) for r in coarse.regions) for lesion in lesions
    ]
    assert sum(found) == 3
    assert len(coarse.regions) == 3


def test_classes_stay_apart_and_excluded_ones_are_cut_out():
    stroma = nests(5, 20, "Stroma", (6500, 1500))
    hole = Region("x", box(2800, 2800, 3200, 3200), "Region 1")
    fine = Annotation("case", (*FINE.regions, *stroma, hole))
    both = simulate_coarse(fine, kind="wobbly", seed=0, mpp=MPP, size=SIZE)
    assert {r.label for r in both.regions} == {"Tumor", "Stroma"}
    one = simulate_coarse(fine, kind="wobbly", seed=0, mpp=MPP, size=SIZE, classes=["stroma"])
    assert [r.geometry for r in one.regions] == [
        r.geometry for r in both.regions if r.label == "Stroma"
    ]


def test_an_unclassified_outline_is_simulated_too():
    fine = Annotation("case", (Region("a", Point(3000, 3000).buffer(800)),))
    coarse = simulate_coarse(fine, kind="shifted", mpp=MPP, size=SIZE)
    assert {r.label for r in coarse.regions} == {None}
    assert "classification" not in coarse.regions[0].properties


def test_flipped_blocks_lie_on_tissue():
    tissue = box(600, 600, 5400, 5400)
    coarse = simulate_coarse(FINE, kind="flipped", seed=0, mpp=MPP, size=SIZE, tissue=tissue)
    elsewhere = simulate_coarse(FINE, kind="flipped", seed=0, mpp=MPP, size=SIZE)
    far = box(0, 0, *SIZE).difference(tissue.buffer(200))
    assert not area(coarse).intersects(far)
    assert area(elsewhere).intersects(far)


def test_a_lesion_cut_in_half_loses_half():
    lesion = Annotation("one", (Region("a", Point(3000, 3000).buffer(1500), "T"),))
    whole, half = (
        simulate_coarse(
            lesion, kind="published", mpp=MPP, severity=Severity(dilation_um=20, cut=cut)
        )
        for cut in (0.0, 0.5)
    )
    assert area(half, "T").area / area(whole, "T").area == pytest.approx(0.5, abs=0.05)


def test_published_is_the_hull_of_the_largest_lesion_dilated():
    large, small = Point(4000, 3000).buffer(1200), Point(1000, 1000).buffer(300)
    fine = Annotation("case", (Region("a", large, "T"), Region("b", small, "T")))
    coarse = simulate_coarse(fine, kind="published", mpp=MPP, severity=Severity(dilation_um=100))
    (region,) = coarse.regions
    assert not region.geometry.intersects(small)
    expected = large.buffer(200, join_style="mitre")
    assert region.geometry.covers(large)
    # One cell is 40 px; the square reaches further into the diagonals than a disc.
    assert region.geometry.hausdorff_distance(expected) < 200 * (math.sqrt(2) - 1) + 2 * 40
    two = simulate_coarse(
        fine, kind="published", mpp=MPP, severity=Severity(dilation_um=100, lesions=2)
    )
    assert len(two.regions) == 2


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5, deadline=None)
@given(x=st.integers(0, 900), y=st.integers(0, 700), w=st.integers(1, 300), h=st.integers(1, 300))
def test_even_odd_little_lesions_are_outlined(kind, x, y, w, h):
    fine = Annotation("tiny", (Region("a", box(x, y, x + w, y + h), "T"),))
    coarse = simulate_coarse(fine, kind=kind, mpp=1.0, size=(1000, 800))
    for region in coarse.regions:
        assert region.geometry.is_valid
        assert box(0, 0, 1000, 800).buffer(1e-9).covers(region.geometry)


def test_what_cannot_be_simulated_is_refused():
    with pytest.raises(UnknownNameError, match="wobbly"):
        simulate_coarse(FINE, kind="drunk", mpp=MPP)
    with pytest.raises(UnknownNameError, match="Tumor"):
        simulate_coarse(FINE, kind="tight", mpp=MPP, classes=["Stroma"])
    with pytest.raises(AnnotationError, match="no region"):
        simulate_coarse(Annotation("none", ()), kind="tight", mpp=MPP)
    with pytest.raises(AnnotationError, match="no region"):
        simulate_coarse(
            Annotation("n", (Region("a", box(0, 0, 9, 9), "Necrosis"),)), kind="tight", mpp=MPP
        )
    with pytest.raises(UsageError, match="mpp"):
        simulate_coarse(FINE, kind="tight", mpp=0)
    with pytest.raises(UsageError, match="keep"):
        Severity(keep=1.5)
    with pytest.raises(UsageError, match="slip_um"):
        Severity(slip_um=-1)


@pytest.mark.real_data
@pytest.mark.parametrize("slide", ["tumor_011", "tumor_038", "tumor_064", "tumor_090", "tumor_109"])
def test_the_released_outlines_of_camelyon16_are_met_vertex_by_vertex(shared_data, slide):
    folder = shared_data / "camelyon16"
    fine = read_annotation(folder / f"{slide}.fine.geojson.gz", Frame())
    released = read_annotation(folder / f"{slide}.coarse_simulated.geojson.gz", Frame())
    coarse = simulate_coarse(fine, kind="published", mpp=0.243)
    assert isinstance(coarse.regions[0].geometry, shapely.Polygon)
    ours, theirs = area(coarse), area(released)
    assert not isinstance(ours, MultiPolygon)
    assert ours.normalize().equals_exact(theirs.normalize(), 0.0)
