"""After a run, without truth: how much may be wrong, why it changed, and where to look first."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from shapely import box

from recontour import (
    Annotation,
    Recipe,
    Refinement,
    Region,
    Runtime,
    read_annotation,
    refine_slide,
    refine_to_folder,
    simulate_coarse,
)
from recontour.attention import NUMBERED
from recontour.geometry import union
from recontour.grid import label_patches

QUICK = Recipe(encoder="colour", method="logistic")


def told(found: Refinement) -> tuple[dict, dict]:
    """The estimate and the places; every figure of the run must be one that JSON can hold."""
    json.dumps(found.facts, allow_nan=False)
    return found.facts["estimate"], found.facts["look_first"]


def refined(scene, **settings) -> Refinement:
    given = {name: settings.pop(name) for name in ("reviewed", "also") if name in settings}
    coarse = settings.pop("coarse", scene.coarse)
    return refine_slide(scene.slide, coarse, replace(QUICK, **settings), **given)


@pytest.mark.parametrize("method", ["em", "logistic", "identity"])
def test_every_method_says_what_may_be_wrong_and_where(scene, method):
    found = refined(scene, method=method)
    estimate, first = told(found)
    cells = len(found.patches)
    for which in ("given", "refined"):
        assert estimate[which]["cells"] == cells
        assert 0 < estimate[which]["wrong_share"] < 0.6
    changed = estimate["changed"]
    assert sum(n["cells"] for n in changed.values()) == found.facts["cells"]["changed"]
    ranks = [r.properties["measurements"]["rank"] for r in found.changes.regions]
    assert ranks == sorted(ranks)
    by_id = {r.id: r for r in found.changes.regions}
    for place in first["places"]:
        region = by_id[place["id"]]
        assert f"#{place['number']}" in region.properties["name"]
        # The spot is a cell of the change.
        near = region.geometry.buffer(found.patches.grid.stride)
        assert near.contains(box(*[place["x_px"], place["y_px"]] * 2).centroid)
    assert len(first["places"]) <= NUMBERED
    assert first["review"]["settle"] <= first["review"]["in_changes"] <= 1


def test_an_outline_that_misses_tumour_is_told_to_be_worse_than_what_came_of_it(scene):
    made = scene.made
    missed = simulate_coarse(made.truth, kind="missed", seed=1, mpp=0.5, size=made.size)
    found = refined(scene, coarse=missed, method="em", encoder="efficientnet_lite0")
    right = label_patches(found.patches.grid, [list(made.truth.regions)])
    given = np.mean(found.patches.labels != right)
    now = np.mean(label_patches(found.patches.grid, [list(found.annotation.regions)]) != right)
    estimate, _ = told(found)
    assert now < given
    assert estimate["refined"]["wrong_share"] < estimate["given"]["wrong_share"]
    assert estimate["given"]["wrong_share"] == pytest.approx(given, abs=0.1)
    assert estimate["refined"]["wrong_share"] == pytest.approx(now, abs=0.1)
    assert estimate["changed"]["added"]["alike"] > estimate["changed"]["added"]["method_alone"]


def test_limits_hold_back_and_are_named(scene):
    free = told(refined(scene))[0]
    held = refined(scene, only="add")
    estimate, _ = told(held)
    assert estimate["changed"]["removed"]["cells"] == 0
    assert estimate["held_back"]["cells"] > free["held_back"]["cells"]
    assert estimate["refined"]["wrong_cells"] > free["refined"]["wrong_cells"]
    near = refined(scene, within_um=24)
    reasons = [r.properties["metadata"]["reason"] for r in near.changes.regions]
    assert any("touches the limit --within-um 24" in reason for reason in reasons)


def test_an_error_target_lists_more_to_look_at(scene):
    _, loose = told(refined(scene))
    found = refined(scene, error_target=0.01)
    _, strict = told(found)
    assert strict["review"]["in_changes"] > loose["review"]["in_changes"]


def test_what_was_reviewed_is_settled(scene):
    first = refined(scene)
    worst = first.facts["look_first"]["places"][0]
    half = 4 * first.patches.grid.stride
    x, y = worst["x_px"], worst["y_px"]
    seen = Annotation("case", (Region("r", box(x - half, y - half, x + half, y + half), "Tumor"),))
    found = refined(scene, reviewed=seen)
    estimate, again = told(found)
    for place in again["places"]:
        assert max(abs(place["x_px"] - x), abs(place["y_px"] - y)) > half / 2
    truth = union(region.geometry for region in read_annotation(scene.truth).regions)
    rest = box(0, 0, 1536, 1536).difference(truth)
    whole = Annotation("case", (Region("t", truth, "Tumor"), Region("o", rest, "Other")))
    settled = refined(scene, reviewed=whole)
    estimate, first = told(settled)
    assert estimate["refined"]["wrong_cells"] < 0.01 * len(settled.patches)  # but for the border
    assert estimate["given"]["wrong_cells"] == pytest.approx(
        settled.facts["cells"]["changed"], abs=0.01 * len(settled.patches)
    )
    removed = estimate["changed"]["removed"]
    assert removed["cells"] == removed["reviewed"] > 0
    assert first["places"] == []
    assert {r.properties["metadata"]["reason"] for r in settled.changes.regions} == {
        "a person has reviewed it"
    }


def test_two_classes_and_an_excluded_region(scene):
    coarse = read_annotation(scene.coarse)
    (x0, y0, x1, y1) = coarse.regions[0].geometry.bounds
    middle = (x0 + x1) / 2
    parts = [
        Region(name, region.geometry.intersection(side), name)
        for name, side in (
            ("Tumor", box(0, 0, middle, 1536)),
            ("Stroma", box(middle, 0, 1536, 1536)),
        )
        for region in coarse.regions[:1]
    ]
    parts.append(Region("i", box(x0, y0, x0 + 200, y0 + 200), "Ignore*"))
    given = Annotation("case", tuple(parts), "two.geojson")
    for method in ("em", "logistic"):
        found = refined(scene, coarse=given, classes=("Tumor", "Stroma"), method=method)
        estimate, first = told(found)
        assert set(estimate["given"]["classes"]) == {"background", "Tumor", "Stroma"}
        assert first["places"]
        assert not any(
            box(x0, y0, x0 + 200, y0 + 200).contains(
                box(p["x_px"], p["y_px"], p["x_px"], p["y_px"]).centroid
            )
            for p in first["places"]
        )


def test_a_tiny_outline_is_told_as_guesswork(scene):
    middle = read_annotation(scene.truth).regions[0].geometry.representative_point()
    tiny = Annotation("case", (Region("t", middle.buffer(40), "Tumor"),), "tiny.geojson")
    estimate, _ = told(refined(scene, coarse=tiny, method="identity"))
    assert estimate["source"] == "assumed"
    assert estimate["changed"]["added"]["alike"] is None


def test_qupath_counts_from_the_corner_of_the_image(scene):
    found = refined(scene)
    for place in found.facts["look_first"]["places"]:
        assert place["qupath_x_um"] == pytest.approx(place["x_px"] * 0.5)
        assert place["qupath_y_um"] == pytest.approx(place["y_px"] * 0.5)


def test_the_summary_on_the_screen_and_the_file_for_qupath(scene, tmp_path: Path, cli):
    out = tmp_path / "out"
    answer = cli(
        "refine", scene.slide, scene.coarse, "-o", out,
        "--encoder", "colour", "--method", "em", "--only", "remove",
    )  # fmt: skip
    assert answer.code == 0
    run = json.loads((out / "run.json").read_text())
    first = run["look_first"]["places"][0]
    for expected in (
        "Estimated without truth: about",
        "would settle about",
        "look first: #1",
        first["reason"],
        "Because of --only remove",
    ):
        assert expected in answer.out, expected
    features = json.loads((out / "changes.geojson").read_text())["features"]
    assert features[0]["properties"]["name"].startswith("#1")
    for feature in features:
        properties = feature["properties"]
        assert properties["metadata"]["reason"]
        assert {"rank", "expected wrong", "expected wrong µm²", "area µm²"} <= set(
            properties["measurements"]
        )
    page = (out / "report.html").read_text("utf-8")
    assert page.count("data:image/jpeg") == 1 + len(run["look_first"]["places"])


def test_a_finished_run_of_an_older_version_is_still_summarised(scene, tmp_path: Path, cli):
    out = tmp_path / "out"
    refine_to_folder(scene.slide, scene.coarse, out, QUICK, Runtime())
    run = json.loads((out / "run.json").read_text())
    del run["estimate"], run["look_first"]
    (out / "run.json").write_text(json.dumps(run))
    command = ("refine", scene.slide, scene.coarse, "-o", out)
    answer = cli(*command, "--encoder", "colour", "--method", "logistic")
    assert answer.code == 0
    assert "look first" not in answer.out
    assert "open in QuPath" in answer.out
