"""The tables of benchmarks/default_refiner.py, from runs whose figures are known."""

from __future__ import annotations

import importlib
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from recontour.benchmark.loading import Data, Run
from recontour.benchmark.spec import MethodSpec, Plan
from recontour.benchmark.tables import markdown
from recontour.metrics.cells import Confusion
from recontour.recipe import Recipe

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
NOTHING = Confusion(0, 0, 0, 0)


@pytest.fixture
def script(monkeypatch):
    """A script of `benchmarks/`, imported as if it were run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def run(case, method, f1, outline="missed", seed=0, *, valid=True, per_class=None):
    return Run(
        case=case,
        encoder="colour",
        outline=outline,
        seed=seed,
        method=method,
        drawn=False,
        valid=valid,
        metrics={"f1": f1, "accuracy": f1, "f1_foreground": f1},
        counts=NOTHING,
        counts_grid=NOTHING,
        per_class=per_class or {"Tumor": {"f1": f1}},
        n_cells=100,
        cell_px=10,
        cell_um=5.0,
        seconds_fit=0.1,
        seconds_predict=0.1,
    )


def data(*runs, methods=("lc_mil", "prototype", "prototype_literal", "em")):
    plan = Plan("folder", Recipe(), tuple(MethodSpec(m, m) for m in methods), (), ("colour",), 1)
    return Data(plan, runs, (), (), {})


# Two sites; em leads by .05 on each image, and prototype_literal is the better variant.
IMAGES = {"bcss_1": 0.6, "bcss_2": 0.7, "lung_3": 0.5}
GAINS = {"coarse": 0, "lc_mil": 0.1, "prototype": -0.1, "prototype_literal": 0.05, "em": 0.15,
         "oracle": 0.3}  # fmt: skip
RUNS = [
    run(image, method, coarse + gain, outline)
    for image, coarse in IMAGES.items()
    for method, gain in GAINS.items()
    for outline in ("missed", "missed@hard")
]


def rows(table):
    return {row.values[0]: row.values for row in table.rows}


def test_standing_says_how_far_each_method_got(script):
    table = script("quality_tables").standing_table(data(*RUNS), "colour", "mild")
    found = rows(table)
    assert list(found) == ["coarse", "lc_mil", "prototype", "prototype_literal", "em", "oracle"]
    assert found["em"][1:] == pytest.approx((3, 0.6, 0.75, 0.15, 1.0, 0.15, 0.15, 0.5))
    assert found["coarse"][4:] == (None,) * 5
    assert "−0.100" in markdown(table)


def test_invalid_outlines_and_the_other_severity_do_not_count(script):
    module = script("quality_tables")
    off = [run("bcss_1", "em", 0.0, valid=False), run("bcss_1", "em", 0.0, "missed@hard", 1)]
    found = module.scores_of([*RUNS, *off], encoder="colour", severity="mild")
    assert len(found["em"]) == 3
    assert min(found["em"].values()) > 0.6
    both = module.scores_of(RUNS, encoder="colour")
    assert len(both["em"]) == 6
    assert module.scores_of(RUNS, encoder="vgg16") == {}


def test_pairs_name_the_best_prototype_variant(script):
    module = script("quality_tables")
    table = module.pairs_table(data(*RUNS), "colour", "hard", "em")
    found = rows(table)
    assert "prototype_literal (its best variant)" in found
    assert found["lc_mil"][1] == pytest.approx(0.05)
    assert found["lc_mil"][2:] == ("3 of 3", 3)
    assert found["oracle"][2] == "0 of 3"
    assert module.pairs_table(data(*RUNS), "colour", "hard", "another") is None


def test_images_have_a_dash_where_a_slow_method_was_not_run(script):
    some = [r for r in RUNS if not (r.method == "prototype" and r.case == "lung_3")]
    table = script("quality_tables").image_table(data(*some), "colour", "all")
    found = rows(table)
    at = [c.name for c in table.columns].index("prototype")
    assert found["lung_3"][at] is None
    assert found["mean of the images"][at] == pytest.approx(0.55)
    assert markdown(table)


def test_a_site_gets_the_options_that_were_best_elsewhere(script):
    # On the lung "prototype" is the better one: who chooses without the lung does not take it.
    runs = [
        run(r.case, r.method, 0.9) if (r.case, r.method) == ("lung_3", "prototype") else r
        for r in RUNS
        if r.outline == "missed"
    ]
    families = {"prototype": ["prototype", "prototype_literal"], "em": ["em"], "gone": ["gone"]}
    table = script("quality_tables").rotated_table(data(*runs), "colour", "mild", families)
    assert [c.name for c in table.columns] == [
        "site held out", "images", "coarse", "prototype", "em", "oracle",
    ]  # fmt: skip
    found = rows(table)
    assert found["lung"][3] == "0.550 (prototype_literal)"
    assert found["bcss"][3] == "0.550 (prototype)"
    assert found["bcss"][4] == "0.800"
    assert found["mean of the images"][2] == pytest.approx(0.6)
    assert "Of em there is one option set" in table.notes[0]


def test_classes_stand_apart(script):
    per_class = {"Gleason 3": {"f1": 0.4}, "Gleason 4": {"f1": 0.8}}
    lone = {"Gleason 4": {"f1": 0.6}}
    runs = [
        run("prostate_1", "em", 0.6, per_class=per_class, valid=False),
        run("prostate_2", "em", 0.6, per_class=lone),
    ]
    module = script("quality_tables")
    table = module.class_table(data(*runs), "colour", "prostate")
    ((_, images, three, four, *_rest),) = (row.values for row in table.rows)
    assert images == 2
    assert three.mean == pytest.approx(0.4)
    assert math.isnan(three.sd)
    assert four.mean == pytest.approx(0.7)
    assert module.class_table(data(*RUNS), "colour", "lung") is None


def test_the_page_is_filled_between_its_markers_and_nowhere_else(script):
    fill = script("default_refiner").fill
    page = (
        "before\n<!-- begin a -->\nold\n<!-- end a -->\nafter\n<!-- begin b -->\n<!-- end b -->\n"
    )
    filled = fill(page, {"a": "| \\1 new |", "c": "unused"})
    assert filled == (
        "before\n<!-- begin a -->\n\n| \\1 new |\n\n<!-- end a -->\nafter\n"
        "<!-- begin b -->\n<!-- end b -->\n"
    )
    assert fill(filled, {"a": "| \\1 new |"}) == filled


def test_every_marker_of_the_page_is_a_table_that_can_be_made(script):
    module = script("default_refiner")
    page = (BENCHMARKS.parent / "docs" / "research" / "default.md").read_text("utf-8")
    begun = re.findall(r"<!-- begin (\S+) -->", page)
    assert begun == re.findall(r"<!-- end (\S+) -->", page)
    both = ("efficientnet_lite0", "colour")
    runs = [replace(r, encoder=encoder) for r in RUNS for encoder in both]
    classes = [
        replace(
            run(f"{site}_1", "em", 0.5, per_class={"A": {"f1": 0.1}, "B": {"f1": 0.2}}),
            encoder=both[0],
        )
        for site in ("prostate", "lung")
    ]
    several = data(*runs)
    several = replace(several, plan=replace(several.plan, encoders=both))
    apart = replace(data(*classes), plan=several.plan)
    tables = module.tables_of(several, apart, module.options_of([]))
    assert set(begun) <= {table.name for table in tables} | {"figures"}


def test_severity_and_site_are_read_from_names(script):
    module = script("quality")
    assert [module.severity_of(o) for o in ("missed", "missed@hard")] == ["mild", "hard"]
    assert module.site_of("prostate_102") == "prostate"
    assert module.outline_names(["hard"])[0] == "missed@hard"
    labels = [o.label for o in module.plan_of(()).outlines]
    assert labels == module.outline_names(["mild", "hard"])
