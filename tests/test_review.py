"""What people are certain of, and what several of them agree on, from file to result."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from shapely import LineString, Point, box
from shapely.geometry import mapping

from recontour import Annotation, Recipe, Region, Runtime, refine_slide, refine_to_folder
from recontour.annotators import agree
from recontour.errors import AnnotationError, OutputRefusedError, RefinerError, UsageError
from recontour.geometry import union
from recontour.grid import full_lattice
from recontour.review import hold_labels, hold_probs, review_cells
from recontour.types import COARSE_TRUST, Frame, PatchSet

QUICK = Recipe(encoder="colour", method="logistic")
CLASSES = ("background", "Tumor")


def seen(*objects) -> Annotation:
    regions = tuple(Region(str(i), shape, label) for i, (label, shape) in enumerate(objects))
    return Annotation("case", regions, "review.geojson")


def write(path, *objects):
    """Objects as QuPath exports them; (class or None, shape)."""
    features = [
        {
            "type": "Feature",
            "geometry": mapping(shape),
            "properties": {"objectType": "annotation"}
            | ({"classification": {"name": label}} if label else {}),
        }
        for label, shape in objects
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


@pytest.fixture
def lattice():
    return full_lattice((0, 0), (10, 10), 10, 1.0)  # 10 x 10 cells of 10 px


def cells_of(grid, found, label):
    chosen = np.flatnonzero(found.labels == label)
    return [(int(grid.rows[i]), int(grid.cols[i])) for i in chosen]


def test_a_stroke_labels_the_cells_whose_centre_it_holds(lattice):
    found = review_cells(lattice, seen(("tumor", box(0, 0, 21, 9))), CLASSES)
    assert cells_of(lattice, found, 1) == [(0, 0), (0, 1)]
    assert found.facts == {
        "regions": 1,
        "cells": {"background": 0, "Tumor": 2},
        "contradicted": 0,
        "other_classes": [],
    }
    assert not found.warnings


def test_a_stroke_smaller_than_a_cell_labels_the_one_it_covers_most(lattice):
    found = review_cells(lattice, seen(("Tumor", box(8, 1, 13, 3))), CLASSES)
    assert cells_of(lattice, found, 1) == [(0, 1)]


def test_other_classes_are_background_and_excluded_ones_say_nothing(lattice):
    review = seen(("Stroma", box(0, 0, 10, 10)), ("Ignore*", box(20, 0, 30, 10)))
    found = review_cells(lattice, review, CLASSES, ("Ignore*",))
    assert cells_of(lattice, found, 0) == [(0, 0)]
    assert (found.labels == -1).sum() == 99


def test_a_class_that_is_nearly_the_refined_one_is_pointed_out(lattice):
    review = seen(
        ("Tumour", box(0, 0, 10, 10)),
        ("Stroma", box(20, 0, 30, 10)),
        ("Stroma", box(40, 0, 50, 10)),
    )
    found = review_cells(lattice, review, CLASSES)
    assert cells_of(lattice, found, 0) == [(0, 0), (0, 2), (0, 4)]
    assert found.facts["other_classes"] == ["Tumour", "Stroma"]
    (warning,) = found.warnings
    assert "'Tumour' is not refined" in warning
    assert "'Tumor' was meant" in warning


def test_another_grade_is_not_a_slip_of_the_hand(lattice):
    review = seen(("Gleason 3", box(0, 0, 10, 10)))
    found = review_cells(lattice, review, ("background", "Gleason 4"))
    assert cells_of(lattice, found, 0) == [(0, 0)]
    assert not found.warnings


def test_regions_without_a_class_count_where_the_outline_has_none_either(lattice):
    review = seen((None, box(0, 0, 10, 10)))
    assert (review_cells(lattice, review, ("background", "Unclassified")).labels == 1).sum() == 1
    found = review_cells(lattice, review, CLASSES)
    assert (found.labels == -1).all()
    assert any("have no class" in said for said in found.warnings)


def test_contradictions_are_said_with_their_place_and_keep_the_coarse_label(lattice):
    review = seen(("Tumor", box(0, 0, 30, 10)), ("Other", box(20, 0, 40, 10)))
    found = review_cells(lattice, review, CLASSES)
    assert cells_of(lattice, found, 1) == [(0, 0), (0, 1)]
    assert cells_of(lattice, found, 0) == [(0, 3)]
    assert found.facts["contradicted"] == 1
    (warning,) = found.warnings
    assert "contradict" in warning
    assert "(25, 5)" in warning
    assert "review.geojson" in warning


def test_regions_that_meet_no_cell_are_said(lattice):
    found = review_cells(lattice, seen(("Tumor", box(500, 500, 600, 600))), CLASSES)
    assert any("touch no cell" in said for said in found.warnings)
    assert any("nothing in it" in said for said in found.warnings)


def test_lines_and_points_are_half_a_cell_wide(lattice):
    lines = [
        {
            "type": "Feature",
            "geometry": mapping(shape),
            "properties": {"classification": {"name": "Tumor"}},
        }
        for shape in (LineString([(5, 5), (45, 5)]), Point(95, 95))
    ]
    damaged = {"type": "Feature", "geometry": {"type": "LineString", "coordinates": [[1]]}}
    review = Annotation("case", (), "lines.geojson", originals=(*lines, damaged))
    found = review_cells(lattice, review, CLASSES, frame=Frame())
    assert cells_of(lattice, found, 1) == [*((0, c) for c in range(5)), (9, 9)]
    shifted = review_cells(lattice, review, CLASSES, frame=Frame((0.0, 10.0)))
    assert (1, 0) in cells_of(lattice, shifted, 1)
    assert (review_cells(lattice, review, CLASSES).labels == -1).all()


def test_a_reviewed_cell_stays_whatever_its_neighbours_say(lattice):
    labels = np.zeros(100, np.int8)
    labels[55] = 1
    trust = np.full(100, COARSE_TRUST, np.float32)
    trust[55] = 1
    features = np.zeros((100, 2), np.float32)
    patches = PatchSet("case", lattice, features, labels, CLASSES, None, trust)
    held = hold_probs(patches, np.tile([0.9, 0.1], (100, 1)))
    assert held[55].tolist() == [0, 1]
    assert held[54].tolist() == pytest.approx([0.9, 0.1])
    decided = hold_labels(patches, np.zeros((10, 10), np.int8))
    assert decided.sum() == decided[5, 5] == 1


def test_the_majority_of_annotators_decides_and_agreement_is_trust():
    outlines = [np.array(labels) for labels in ([1, 1, 1, 0], [1, 1, 0, 1], [1, 0, 0, -1])]
    labels, trust = agree(outlines, 2)
    assert labels.tolist() == [1, 1, 0, -1]
    # Two against one is worth one alone; three of a mind hit the cap.
    np.testing.assert_allclose(trust, [0.98, COARSE_TRUST, COARSE_TRUST, 0], rtol=1e-6)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_one_annotator_is_trusted_as_a_coarse_outline(k):
    labels, trust = agree([np.arange(k)], k)
    assert labels.tolist() == list(range(k))
    np.testing.assert_allclose(trust, COARSE_TRUST, rtol=1e-6)


def test_three_annotators_with_three_opinions_say_nothing():
    labels, trust = agree([np.array([0]), np.array([1]), np.array([2])], 3)
    assert labels.tolist() == [-1]
    assert trust.tolist() == [0]


def test_a_review_changes_the_outline_where_it_was_wrong(scene, tmp_path):
    runtime = Runtime(cache_dir=tmp_path)
    plain = refine_slide(scene.slide, scene.coarse, QUICK, runtime=runtime)
    x, y = plain.patches.grid.centres[np.argmax(plain.calibrated[:, 1])]
    half = plain.patches.grid.stride * 1.5
    wrong = write(
        tmp_path / "review.geojson", ("Other", box(x - half, y - half, x + half, y + half))
    )
    found = refine_slide(scene.slide, scene.coarse, QUICK, reviewed=wrong, runtime=runtime)
    certain = np.flatnonzero(found.patches.trust == 1)
    assert 4 <= len(certain) <= 16
    assert (found.probs[certain, 0] == 1).all()
    assert (found.calibrated[certain, 0] == 1).all()
    assert not any(r.geometry.contains(Point(x, y)) for r in found.annotation.regions)
    assert found.facts["given"]["reviewed"]["cells"]["background"] == len(certain)
    assert found.facts["confidence"]["reviewed_cells"] == len(certain)
    # The same from Python objects.
    again = refine_slide(
        scene.slide,
        scene.coarse,
        QUICK,
        reviewed=seen(("Other", box(x - half, y - half, x + half, y + half))),
        runtime=runtime,
    )
    np.testing.assert_array_equal(again.probs, found.probs)
    assert again.annotation.regions[0].id == found.annotation.regions[0].id
    assert plain.annotation.regions[0].id != found.annotation.regions[0].id


@pytest.mark.parametrize("band", [1, 2])
def test_what_was_reviewed_at_the_border_stays_when_the_border_is_drawn_finer(
    scene, tmp_path, band
):
    """Strokes to both sides of the border, each the contrary of what the method says."""
    runtime = Runtime(cache_dir=tmp_path)
    plain = refine_slide(scene.slide, scene.coarse, QUICK, runtime=runtime)
    grid = plain.patches.grid
    drawn = union(region.geometry for region in plain.annotation.regions)
    near = drawn.boundary.buffer(1.5 * grid.stride)
    cells = [box(*Point(xy).buffer(grid.stride * 0.6).bounds) for xy in grid.centres[::37]]
    strokes = [
        ("Other" if drawn.contains(cell.centroid) else "Tumor", cell)
        for cell in cells
        if near.contains(cell.centroid)
    ]
    assert len(strokes) > 3
    found = refine_slide(
        scene.slide,
        scene.coarse,
        replace(QUICK, band=band),
        reviewed=seen(*strokes),
        runtime=runtime,
    )
    area = union(region.geometry for region in found.annotation.regions)
    for label, cell in strokes:
        assert area.contains(cell.centroid) == (label == "Tumor"), cell


def test_several_annotators(scene, tmp_path):
    runtime = Runtime(cache_dir=tmp_path)
    alone = refine_slide(scene.slide, scene.coarse, QUICK, runtime=runtime)
    assert alone.patches.trust is None
    both = refine_slide(scene.slide, scene.coarse, QUICK, also=[scene.truth], runtime=runtime)
    tied = both.patches.labels == -1
    assert tied.any()
    assert both.facts["given"]["also"] == ["truth.geojson"]
    assert both.facts["given"]["tied_cells"] == tied.sum()
    assert both.patches.trust[~tied] == pytest.approx(0.85**2 / (0.85**2 + 0.15**2))
    other = write(tmp_path / "other.geojson", ("Stroma", box(0, 0, 500, 500)))
    with pytest.raises(AnnotationError, match=r"no outline of class Tumor.*it has: Stroma"):
        refine_slide(scene.slide, scene.coarse, QUICK, also=[other], runtime=runtime)


def test_a_class_that_nobody_seconds_is_said(scene, tmp_path):
    runtime = Runtime(cache_dir=tmp_path)
    one = seen(("Tumor", box(100, 100, 700, 700)), ("Stroma", box(800, 100, 1400, 700)))
    other = seen(("Stroma", box(100, 100, 1400, 700)))
    recipe = replace(QUICK, classes=("Tumor", "Stroma"))
    with pytest.raises(RefinerError, match=r"left of class 'Tumor'.*--also.*contradict"):
        refine_slide(scene.slide, one, recipe, also=[other], runtime=runtime)


def test_an_error_target_lists_what_is_left(scene, tmp_path):
    runtime = Runtime(cache_dir=tmp_path)
    recipe = replace(QUICK, error_target=0.02)
    found = refine_slide(scene.slide, scene.coarse, recipe, runtime=runtime)
    target = found.facts["confidence"]["error_target"]
    assert target["how"] == "estimate"
    assert target["expected_error"] <= 0.02
    uncertain = found.facts["cells"]["uncertain"]
    assert uncertain == pytest.approx((1 - target["share"]) * len(found.patches))
    assert uncertain > 0
    with pytest.raises(UsageError, match="--error-target"):
        refine_slide(scene.slide, scene.coarse, replace(QUICK, error_target=5.0), runtime=runtime)


def test_a_sample_needs_a_review(scene, tmp_path):
    with pytest.raises(UsageError, match="pass --reviewed"):
        refine_slide(scene.slide, scene.coarse, replace(QUICK, reviewed_sample=True))


def test_another_review_is_another_run(cli, scene, tmp_path):
    first = write(tmp_path / "a.geojson", ("Other", box(700, 700, 760, 760)))
    second = write(tmp_path / "b.geojson", ("Tumor", box(700, 700, 760, 760)))
    out = tmp_path / "out"
    options = ("refine", scene.slide, scene.coarse, "-o", out, "--encoder", "colour")
    options += ("--method", "logistic", "--cache-dir", tmp_path / "cache", "--format", "json")
    answer = cli(*options, "--reviewed", first, "--also", scene.truth)
    assert answer.code == 0, answer.err
    run = json.loads(answer.out)
    assert run["inputs"]["reviewed"] == "a.geojson"
    assert run["inputs"]["also"] == ["truth.geojson"]
    assert set(run["run"]) == {
        "key", "slide", "coarse_sha256", "reviewed_sha256", "also_sha256",
    }  # fmt: skip
    again = cli(*options, "--reviewed", first, "--also", scene.truth)
    assert "nothing to do" in again.err
    assert json.loads(again.out)["run"]["key"] == run["run"]["key"]
    for other in (("--reviewed", second, "--also", scene.truth), ("--reviewed", first), ()):
        refused = cli(*options, *other)
        assert refused.code == 2
        assert "another run" in refused.err
    with pytest.raises(OutputRefusedError):
        refine_to_folder(scene.slide, scene.coarse, out, QUICK, reviewed=second)
    missing = cli(*options, "--reviewed", tmp_path / "no.geojson")
    assert missing.code == 2
    assert "no.geojson" in missing.err
    planned = cli(*options, "--dry-run", "--reviewed", second)
    assert planned.code == 0
