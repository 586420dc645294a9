"""What `evaluate` says of outlines whose overlap is known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from shapely import box

from recontour.errors import AnnotationError, UnknownNameError, UsageError
from recontour.evaluation import aggregate, evaluate, format_table
from recontour.types import Annotation, Region


def outlines(*shapes, label="Tumor", name="case"):
    regions = tuple(
        Region(str(i), s, label) if not isinstance(s, Region) else s for i, s in enumerate(shapes)
    )
    return Annotation(name, regions)


TRUTH = outlines(box(0, 0, 400, 200))
COARSE = outlines(box(0, 0, 200, 400))
BETTER = outlines(box(0, 0, 400, 300))
SLIDE = {"slide_size": (1000, 1000), "mpp": 0.5, "cell_px": 10}


def test_figures_on_a_slide_are_those_of_the_areas():
    found = evaluate(TRUTH, BETTER, coarse=COARSE, **SLIDE)
    assert (found.cells, found.n_cells, found.n_grid) == ("slide", 10_000, 10_000)
    assert found.prediction.overall["iou"] == pytest.approx(2 / 3)
    assert found.prediction.overall["polygon_iou"] == pytest.approx(2 / 3)
    assert found.prediction.overall["ppv"] == pytest.approx(2 / 3)
    assert found.prediction.overall["tpr"] == 1
    assert found.prediction.overall["area_um2"] == pytest.approx(400 * 300 / 4)
    assert found.coarse.overall["f1"] == pytest.approx(0.5)
    # 800 of 10,000 cells were wrong; 200 put right on the left, 200 missed on the right found …
    truth, coarse, better = (np.zeros((100, 100), bool) for _ in range(3))
    truth[:20, :40] = coarse[:40, :20] = better[:30, :40] = True
    wrong = truth != coarse
    assert found.cleaned == np.mean(better[wrong] == truth[wrong])
    assert found.mis_modified == np.mean(better[~wrong] != truth[~wrong])


def test_only_tissue_counts_but_the_grid_figures_count_all():
    found = evaluate(TRUTH, BETTER, tissue=box(0, 0, 1000, 200), **SLIDE)
    assert found.cells == "tissue"
    assert found.n_cells == 2_000
    assert found.prediction.overall["f1"] == 1
    assert found.prediction.overall["iou_grid"] == pytest.approx(2 / 3)
    assert found.prediction.overall["dice_grid"] == pytest.approx(4 / 5)


def test_without_a_slide_the_geometry_alone_is_compared_and_said_so():
    found = evaluate(TRUTH, BETTER, cell_px=10)
    assert found.cells == "geometry"
    assert found.n_grid == (40 + 10) * (30 + 10)
    assert "no slide" in found.notes[0]
    assert math.isnan(found.prediction.overall["boundary_mean_um"])
    assert math.isnan(found.cleaned)
    assert found.coarse is None


def test_cells_without_a_size_are_refused():
    with pytest.raises(UsageError, match="--mpp"):
        evaluate(TRUTH, BETTER)
    assert evaluate(TRUTH, BETTER, mpp=0.5).cell_px == 64


def test_an_empty_prediction_is_worth_nothing_and_no_error():
    found = evaluate(TRUTH, outlines(), **SLIDE)
    assert found.prediction.overall["f1"] == 0
    assert not found.prediction.valid
    assert found.to_dict()["prediction"]["overall"]["ppv"] is None
    assert any("has no Tumor" in note for note in found.notes)


def test_an_unclassified_outline_stands_for_the_only_class():
    found = evaluate(TRUTH, outlines(box(0, 0, 400, 200), label=None), **SLIDE)
    assert found.prediction.overall["f1"] == 1
    assert any("unclassified" in note for note in found.notes)


def test_class_names_match_in_any_case():
    assert evaluate(TRUTH, outlines(box(0, 0, 400, 200), label="tumor"), **SLIDE).prediction.valid


def test_an_unknown_class_is_refused_with_those_there_are():
    with pytest.raises(UnknownNameError, match="Tumor"):
        evaluate(TRUTH, BETTER, classes=["Stroma"], **SLIDE)


def test_a_truth_without_regions_is_refused():
    with pytest.raises(AnnotationError, match="no region"):
        evaluate(outlines(), BETTER, **SLIDE)


def test_ignored_areas_take_no_part_and_subtracted_ones_are_background():
    hole = Region("hole", box(100, 100, 200, 200), "Region 1")
    truth = outlines(box(0, 0, 400, 200), hole)
    prediction = outlines(box(0, 0, 400, 200))
    ignored = evaluate(truth, prediction, **SLIDE)
    assert ignored.prediction.overall["f1"] == 1
    assert ignored.n_cells == 10_000 - 100 - _border_cells(hole.geometry)
    subtracted = evaluate(truth, prediction, subtract=["Region*"], **SLIDE)
    assert subtracted.prediction.overall["ppv"] == pytest.approx(7 / 8)
    assert subtracted.prediction.overall["polygon_iou"] == pytest.approx(7 / 8)


def _border_cells(shape):
    # Cells of 10 px have their centres at 5, 15, …: none lies on a border at a multiple of 10.
    return sum(float(v) % 10 == 5 for v in shape.bounds)


def test_several_classes_are_averaged_and_told_apart():
    truth = outlines(
        Region("a", box(0, 0, 200, 200), "Tumor"), Region("b", box(300, 0, 400, 200), "Stroma")
    )
    prediction = outlines(Region("a", box(0, 0, 200, 200), "Tumor"))
    found = evaluate(truth, prediction, **SLIDE)
    assert found.classes == ("background", "Stroma", "Tumor")
    assert found.prediction.per_class["Tumor"]["f1"] == 1
    assert found.prediction.per_class["Stroma"]["f1"] == 0
    assert found.prediction.overall["f1"] == 0.5
    assert found.prediction.overall["accuracy"] == 1 - 200 / 10_000


def test_the_published_rule_loses_the_border_cells():
    centre = evaluate(TRUTH, TRUTH, label_rule="centre", **SLIDE)
    published = evaluate(TRUTH, TRUTH, label_rule="published", **SLIDE)
    assert published.prediction.confusions["Tumor"].tp < centre.prediction.confusions["Tumor"].tp


def test_the_answer_is_plain_json_with_a_schema_version():
    data = evaluate(TRUTH, BETTER, coarse=COARSE, **SLIDE).to_dict()
    again = json.loads(json.dumps(data, allow_nan=False))
    assert again == data
    assert data["schema"] == "recontour.evaluation/1"
    assert data["prediction"]["overall"]["iou"] == pytest.approx(2 / 3, abs=1e-12)
    assert data["prediction"]["counts"]["Tumor"] == {"tp": 800, "fp": 400, "fn": 0, "tn": 8800}


def test_the_table_shows_both_outlines_and_the_change():
    table = format_table(evaluate(TRUTH, BETTER, coarse=COARSE, **SLIDE))
    row = next(line for line in table.splitlines() if line.startswith("  iou "))
    assert row.split() == ["iou", "0.333", "0.667", "+0.333"]
    assert "cleaned" in table
    assert "the coarse outline is NOT valid" in table


def test_means_over_slides_and_over_all_cells_differ_as_they_should():
    small = evaluate(outlines(box(0, 0, 100, 100)), outlines(box(0, 0, 50, 100)), **SLIDE)
    large = evaluate(TRUTH, TRUTH, coarse=TRUTH, **SLIDE)
    nothing = evaluate(TRUTH, outlines(), coarse=outlines(), **SLIDE)
    data = aggregate([small, large, nothing])
    prediction = data["all"]["prediction"]
    assert prediction["mean"]["tpr"]["mean"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert prediction["mean"]["tpr"]["sd"] == pytest.approx(np.std([0.5, 1, 0], ddof=1))
    assert prediction["mean"]["ppv"]["n"] == 2
    assert prediction["micro"]["tpr"] == pytest.approx((50 + 800) / (100 + 800 + 800))
    assert (data["valid"]["slides"], data["not_valid"]["slides"]) == (1, 1)
    json.dumps(data, allow_nan=False)


def test_no_slides_give_no_means():
    assert aggregate([])["all"]["prediction"] is None
