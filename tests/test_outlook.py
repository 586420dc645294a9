"""What the summary and the report say of a review, further outlines and an error target."""

from __future__ import annotations

import json

import pytest
from shapely import box
from shapely.geometry import mapping

from recontour.reports.outlook import little_outside, target, told, verdict

FAST = ("--encoder", "colour", "--method", "logistic")


def write(path, label, shape):
    properties = {"objectType": "annotation", "classification": {"name": label}}
    feature = {"type": "Feature", "geometry": mapping(shape), "properties": properties}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return path


def test_the_screen_and_the_report_confirm_what_was_given(cli, scene, tmp_path):
    review = write(tmp_path / "review.geojson", "Tumour", box(300, 300, 500, 500))
    also = write(tmp_path / "ben.geojson", "Tumor", box(200, 200, 900, 900))
    given = ("--reviewed", review, "--also", also, "--error-target", "0.05")
    out = tmp_path / "out"
    answer = cli("refine", scene.slide, scene.coarse, "-o", out, *given, *FAST)
    assert answer.code == 0, answer.err
    said, warned = " ".join(answer.out.split()), " ".join(answer.err.split())
    assert "2 outlines were given: they differ on" in said
    assert "tissue cells, by review.geojson (not refined, so background: Tumour)" in said
    assert "if 'Tumor' was meant, rename it" in warned
    assert "Error target 5 %:" in said
    report = (out / "report.html").read_text("utf-8")
    assert "by review.geojson" in report
    assert "Error target 5 %:" in report


def test_a_run_without_any_of_these_says_nothing_of_them():
    assert list(told({})) == []
    assert list(told({"given": {"also": [], "reviewed": None}, "grid": {"n_cells": 4}})) == []
    assert list(target({"confidence": {"error_target": None}})) == []


def test_a_review_that_said_nothing_is_noticed():
    reviewed = {"source": "review.geojson", "cells": {"background": 0, "Tumor": 0}}
    assert list(told({"given": {"reviewed": reviewed}})) == [
        "Reviewed: no tissue cells, by review.geojson."
    ]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            {"target": 0.05, "share": 0.68, "expected_error": 0.049, "how": "estimate"},
            "Error target 5 %: 68 % of the cells are sure enough, of which about 5 % are expected "
            "to be wrong (an estimate, without truth); the others are listed as uncertain.",
        ),
        (
            {"target": 0.01, "share": 0.0, "expected_error": None, "how": "conformal"},
            "Error target 1 %: no cell is sure enough; all are listed as uncertain.",
        ),
        (
            {"target": 0.0025, "share": 0.0, "expected_error": None, "how": "estimate"},
            "Error target 0.25 %: no cell is sure enough; all are listed as uncertain.",
        ),
    ],
)
def test_an_error_target_says_what_can_be_kept(found, said):
    assert list(target({"confidence": {"error_target": found}})) == [said]


def test_too_few_cells_are_no_verdict():
    few = {"verdict": "doubtful", "score": 0.5, "signals": {}}
    assert verdict(few) == "cannot be judged"
    assert verdict({**few, "signals": {"rim": 0.1}}) == "doubtful (0.50)"


def test_an_outline_that_leaves_little_outside_is_not_said_to_be_nearly_right():
    (said,) = little_outside({"labels": {"background": 163, "Tumor": 2077}})
    assert "Only 163 of 2,240 tissue cells lie outside" in said
    assert list(little_outside({"labels": {"background": 900, "Tumor": 1340}})) == []
    assert list(little_outside({})) == []  # a run of an older version
