"""`--strict`: an outline that is wrong as a whole is refused, a good one is refined as ever."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from recontour import read_annotation, write_annotation
from recontour.geometry import polygonal, union
from recontour.types import Frame

FAST = ("--encoder", "colour", "--method", "logistic")


@pytest.fixture(scope="module")
def flipped(scene, tmp_path_factory) -> Path:
    """All tissue but what was outlined."""
    coarse = read_annotation(scene.coarse)
    inside = union(r.geometry for r in coarse.regions)
    region = replace(coarse.regions[0], geometry=polygonal(scene.made.tissue.difference(inside)))
    path = tmp_path_factory.mktemp("flipped") / "flipped.geojson"
    write_annotation(replace(coarse, regions=(region,)), path, Frame())
    return path


def test_a_good_outline_passes(cli, scene, tmp_path):
    answer = cli("refine", scene.slide, scene.coarse, "-o", tmp_path / "out", "--strict", *FAST)
    assert answer.code == 0, answer.err
    assert "coarse outline" in answer.out
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["validity"]["verdict"] == "valid"
    assert "the coarse outline looks" not in answer.err
    assert "the given outline looks" in (tmp_path / "out" / "report.html").read_text()


def test_a_flipped_outline_is_a_warning_and_strictly_an_error(cli, scene, flipped, tmp_path):
    out = tmp_path / "out"
    refused = cli("refine", scene.slide, flipped, "-o", out, "--strict", *FAST)
    assert refused.code == 1
    assert "looks invalid (--strict)" in refused.err
    assert "Nothing was written" in refused.err
    assert not out.exists() or not list(out.iterdir())

    warned = cli("refine", scene.slide, flipped, "-o", out, *FAST)
    assert warned.code == 0, warned.err
    assert "inside and outside swapped" in " ".join(warned.err.split())
    run = json.loads((out / "run.json").read_text())
    assert run["validity"]["verdict"] == "invalid"
    assert sum("the coarse outline looks" in w for w in run["warnings"]) == 1

    # What is there already is no way round it.
    again = cli("refine", scene.slide, flipped, "-o", out, "--strict", *FAST)
    assert again.code == 1
    assert "Nothing was written" not in again.err
    assert "holds the run without --strict" in " ".join(again.err.split())
