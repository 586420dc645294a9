"""The command line as scripts and people meet it: exit codes, JSON, and bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image
from shapely import box
from shapely.geometry import mapping

from recontour import Annotation, Region, read_annotation, write_annotation
from recontour.types import Frame

QUICK = ("--encoder", "colour", "--method", "logistic", "-q")


def geojson(path, *geometries, label="Tumor"):
    features = [
        {
            "type": "Feature",
            "geometry": g if isinstance(g, dict) else mapping(g),
            "properties": {"objectType": "annotation", "classification": {"name": label}},
        }
        for g in geometries
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def refuse(answer, code, *words):
    """It failed with that code, one clear sentence, and no traceback."""
    assert answer.code == code, answer.err
    assert "Traceback" not in answer.err
    last = answer.err.strip().splitlines()[-1]
    assert last.startswith("error: "), answer.err
    assert "fault in recontour" not in last
    for word in words:
        assert word in answer.err, answer.err


def test_version_and_help(cli):
    assert cli("--version").out.startswith("recontour ")
    for command in ("refine", "evaluate", "simulate", "info", "embed", "doctor", "demo", "cache"):
        answer = cli(command, "--help")
        assert answer.code == 0
        assert "Usage" in answer.out


def test_starting_up_imports_nothing_heavy():
    code = (
        "import sys, recontour, recontour.cli.main; "
        "print([m for m in ('torch', 'skimage', 'sklearn', 'matplotlib', 'scipy', 'shapely', "
        "'numpy', 'PIL', 'openslide') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_refine_prints_json_for_scripts(cli, scene, tmp_path):
    answer = cli("refine", scene.slide, scene.coarse, "-o", tmp_path / "out", *QUICK,
                 "--format", "json")  # fmt: skip
    assert answer.code == 0, answer.err
    assert json.loads(answer.out) == json.loads((tmp_path / "out" / "run.json").read_text())


def test_a_finished_run_says_so_and_exits_0(cli, scene, tmp_path):
    args = ("refine", scene.slide, scene.coarse, "-o", tmp_path / "out", *QUICK[:-1])
    assert cli(*args).code == 0
    again = cli(*args)
    assert again.code == 0
    assert "nothing to do" in again.err


def test_what_takes_no_part_is_said_and_quiet_says_nothing(cli, scene, tmp_path):
    given = json.loads(scene.coarse.read_text())
    extra = json.loads(
        geojson(tmp_path / "necrosis.geojson", box(10, 10, 60, 60), label="Necrosis").read_text()
    )
    bow = {"type": "Polygon", "coordinates": [[[500, 500], [900, 900], [900, 500], [500, 900],
                                               [500, 500]]]}  # fmt: skip
    crossed = {**given["features"][0], "id": "5f3b1f5e-0000-4000-8000-000000000003"}
    given["features"] += [*extra["features"], {**crossed, "geometry": bow}]
    coarse = tmp_path / "coarse.geojson"
    coarse.write_text(json.dumps(given))
    command = ("refine", scene.slide, coarse, "-o", tmp_path / "out", *QUICK[:-1])
    answer = cli(*command)
    assert answer.code == 0, answer.err
    assert "note: takes no part: Necrosis (1)" in answer.err
    assert answer.err.count("crossed itself") == 1
    assert "µm/px" in answer.out
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["notes"] == ["takes no part: Necrosis (1)"]
    assert cli(*command, "-q")[1:] == ("", "")


def test_quiet_keeps_warnings(cli, scene, tmp_path):
    large = ("--cell-um", 64)
    loud = cli("refine", scene.slide, scene.coarse, "-o", tmp_path / "out", *QUICK, *large)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["warnings"]
    assert loud == (0, "", "".join(f"warning: {text}\n" for text in run["warnings"]))


def test_dry_run_writes_nothing(cli, scene, tmp_path, monkeypatch):
    monkeypatch.setenv("RECONTOUR_CACHE_DIR", str(tmp_path / "cache"))
    answer = cli("refine", scene.slide, scene.coarse, "-o", tmp_path / "out", "--dry-run",
                 "--format", "json")  # fmt: skip
    assert answer.code == 0, answer.err
    plan = json.loads(answer.out)
    assert plan["schema"] == "recontour.plan/1"
    assert plan["grid"]["n_cells"] == sum(plan["labels"].values())
    assert plan["expected"]["seconds"] > 0
    assert plan["expected"]["bytes"] > 0
    assert list(tmp_path.iterdir()) == []


def test_evaluate_and_simulate_from_files(cli, scene, tmp_path):
    coarse = tmp_path / "coarse.geojson"
    made = cli("simulate", scene.truth, "-o", coarse, "--slide", scene.slide, "--kind", "tight",
               "--seed", 4)  # fmt: skip
    assert made.code == 0, made.err
    answer = cli("evaluate", "--truth", scene.truth, "--prediction", scene.truth, "--coarse",
                 coarse, "--slide", scene.slide, "--format", "json")  # fmt: skip
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["schema"] == "recontour.evaluation/1"
    assert found["prediction"]["overall"]["f1"] == 1
    assert found["coarse"]["overall"]["f1"] < 1
    assert found["cleaned"] == 1
    assert (
        cli("evaluate", "--truth", scene.truth, "--prediction", coarse, "--cell-px", 64).code == 0
    )


def test_info_embed_and_cache(cli, scene, tmp_path):
    info = json.loads(cli("info", scene.slide, "--format", "json").out)
    assert info["schema"] == "recontour.info/1"
    assert info["size"] == [1536, 1536]
    cache = ("--cache-dir", tmp_path / "cache")
    npz = tmp_path / "features.npz"
    assert cli("embed", scene.slide, "-o", npz, "--encoder", "colour", *cache).code == 0
    with np.load(npz) as features:
        assert len(features["cell"]) == len(features["centres"])
    shown = json.loads(cli("cache", "show", *cache, "--format", "json").out)
    assert len(shown["entries"]) == 1
    refined = cli("refine", scene.slide, scene.coarse, "-o", tmp_path / "out", *QUICK, *cache,
                  "--format", "json")  # fmt: skip
    assert json.loads(refined.out)["embedding"]["cells_from_cache"] > 0
    assert cli("cache", "clear", *cache).code == 0
    assert json.loads(cli("cache", "show", *cache, "--format", "json").out)["entries"] == []


def test_doctor_finds_the_machine_ready(cli):
    answer = cli("doctor", "--format", "json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["problems"] == []


def test_the_encoder_may_see_more_than_the_cell(cli, scene, tmp_path):
    answer = cli("refine", scene.slide, scene.coarse, "-o", tmp_path / "out", *QUICK,
                 "--cell-um", 16, "--patch-um", 48, "--format", "json")  # fmt: skip
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["recipe"]["patch_um"] == 48
    small = cli("refine", scene.slide, scene.coarse, "-o", tmp_path / "no", *QUICK,
                "--cell-um", 16, "--patch-um", 8)  # fmt: skip
    refuse(small, small.code, "patch")


def test_the_demo_keeps_slide_outline_and_result_in_step(cli, tmp_path):
    args = ("demo", "-o", tmp_path, "--size-px", 1024, *QUICK)
    assert cli(*args).code == 0
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["prediction"]["overall"]["f1"] > 0.3
    refuse(cli(*args, "--kind", "tight"), 2, "another demo", "--overwrite")
    assert cli(*args).code == 0


class TestBadSlides:
    def refine(self, cli, scene, tmp_path, slide, *options):
        answer = cli("refine", slide, scene.coarse, "-o", tmp_path / "out", *QUICK, *options)
        assert not (tmp_path / "out" / "run.json").exists()
        return answer

    def test_no_such_file(self, cli, scene, tmp_path):
        refuse(self.refine(cli, scene, tmp_path, tmp_path / "no.svs"), 2, "no.svs")

    def test_not_a_slide(self, cli, scene, tmp_path):
        (tmp_path / "notes.svs").write_text("not a slide")
        refuse(self.refine(cli, scene, tmp_path, tmp_path / "notes.svs"), 1, "notes.svs")

    def test_truncated(self, cli, scene, tmp_path):
        data = scene.slide.read_bytes()
        (tmp_path / "cut.tif").write_bytes(data[: len(data) // 2])
        refuse(self.refine(cli, scene, tmp_path, tmp_path / "cut.tif"), 1, "cut")

    def test_no_mpp(self, cli, scene, tmp_path):
        Image.fromarray(np.full((300, 300, 3), 200, np.uint8)).save(tmp_path / "plain.png")
        answer = self.refine(cli, scene, tmp_path, tmp_path / "plain.png")
        refuse(answer, 2, "plain.png", "--mpp")

    def test_nonsense_mpp(self, cli, scene, tmp_path):
        refuse(self.refine(cli, scene, tmp_path, scene.slide, "--mpp", 264.58), 2, "264.58")

    def test_no_tissue(self, cli, tmp_path, scene):
        image = np.full((600, 600, 3), 243, np.uint8)
        tifffile.imwrite(tmp_path / "white.tif", image, photometric="rgb", tile=(256, 256))
        answer = self.refine(cli, scene, tmp_path, tmp_path / "white.tif", "--mpp", 1)
        refuse(answer, 1, "tissue")


class TestBadAnnotations:
    @pytest.fixture
    def refine(self, cli, scene, tmp_path):
        def run(coarse, *options):
            answer = cli("refine", scene.slide, coarse, "-o", tmp_path / "out", *QUICK, *options)
            assert not (tmp_path / "out" / "refined.geojson").exists()
            return answer

        return run

    def test_no_such_file(self, refine, tmp_path):
        refuse(refine(tmp_path / "no.geojson"), 2, "no.geojson")

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            '{"a": 1}',
            '{"type": "FeatureCollection", "features": []}',
            '{"type": "FeatureCollection", "features": 3}',
            '"text"',
            "null",
        ],
    )
    def test_empty_or_not_geojson(self, refine, tmp_path, text):
        (tmp_path / "bad.geojson").write_text(text)
        refuse(refine(tmp_path / "bad.geojson"), 1, "bad.geojson")

    def test_only_points_or_lines(self, refine, tmp_path):
        point = {"type": "Point", "coordinates": [5, 5]}
        line = {"type": "LineString", "coordinates": [[5, 5], [9, 9]]}
        refuse(refine(geojson(tmp_path / "points.geojson", point, line)), 1, "points.geojson")

    def test_off_the_slide(self, refine, tmp_path):
        coarse = geojson(tmp_path / "off.geojson", box(90_000, 0, 91_000, 1000))
        refuse(refine(coarse), 1, "off the slide", "--origin")

    def test_covers_everything_or_nothing(self, refine, tmp_path):
        refuse(refine(geojson(tmp_path / "all.geojson", box(-9, -9, 3000, 3000))), 1, "covers all")
        refuse(refine(geojson(tmp_path / "none.geojson", box(0, 0, 4, 4))), 1, "no tissue cell")

    def test_unknown_class(self, refine, scene):
        refuse(refine(scene.coarse, "--class", "Stroma"), 2, "Stroma", "Tumor")

    @pytest.mark.parametrize("ring", [
        [[300, 300], [1100, 1000], [1100, 300], [300, 1000], [300, 300]],
        [[300, 300], [1100, 300], [1100, 1000], [300, 1000]],
        [[300, 300], [300, 300], [1100, 300], [1100, 300], [1100, 1000], [300, 1000], [300, 300]],
    ], ids=["self-crossing", "unclosed", "duplicate points"])  # fmt: skip
    def test_broken_rings_are_repaired(self, cli, scene, tmp_path, ring):
        coarse = geojson(tmp_path / "ring.geojson", {"type": "Polygon", "coordinates": [ring]})
        answer = cli("refine", scene.slide, coarse, "-o", tmp_path / "out", *QUICK)
        assert answer.code == 0, answer.err
        run = json.loads((tmp_path / "out" / "run.json").read_text())
        if ring[0] == ring[-1] and len(ring) == 5:
            assert run["repairs"]

    def test_nan_coordinates(self, refine, tmp_path):
        ring = [[300, 300], [float("nan"), 300], [float("nan"), 1000], [300, 300]]
        coarse = geojson(tmp_path / "nan.geojson", {"type": "Polygon", "coordinates": [ring]})
        refuse(refine(coarse), 1, "nan.geojson")


class TestWrongUse:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--method", "knnn"), ("knnn", "lc_mil")),
            (("--encoder", "resnet"), ("resnet", "efficientnet_lite0")),
            (("--tissue", "magic"), ("magic", "robust")),
            (("--label-rule", "edge"), ("edge", "centre")),
            (("--threshold", "1.5"), ("1.5",)),
            (("--cell-um", "-3"), ("-3",)),
            (("--mpp-embed", "0"), ("--mpp-embed",)),
            (("--mpp-embed", "0.0001"), ("--mpp-embed",)),
            (("--within-um", "0"), ("within-um",)),
            (("--within-um", "-5"), ("-5",)),
            (("--within-um", "inf"), ("within-um", "inf")),
            (("--method-option", "bags"), ("NAME=VALUE",)),
            (("--method-option", "bugs=3"), ("bugs",)),
            (("--smooth-cells", "1e9"), ("smooth-cells",)),
            (("--origin", "moon"), ("moon", "bounds")),
            (("--device", "cuda:9", "--encoder", "efficientnet_lite0"), ("cuda",)),
            (("--device", "moon", "--encoder", "efficientnet_lite0"), ("moon", "cuda:1")),
        ],
    )
    def test_options_that_make_no_sense(self, cli, scene, tmp_path, options, words):
        base = ("--encoder", "colour", "--method", "logistic", "-q")
        answer = cli("refine", scene.slide, scene.coarse, "-o", tmp_path / "out", *base, *options)
        refuse(answer, 2, *words)
        assert not (tmp_path / "out").exists()

    def test_a_negative_seed(self, cli, scene, tmp_path):
        answer = cli("refine", scene.slide, scene.coarse, "-o", tmp_path, "--seed", "-1")
        assert answer.code == 2
        assert "fault in recontour" not in answer.err

    def test_missing_arguments(self, cli):
        answer = cli("refine")
        assert answer.code == 2
        assert "Traceback" not in answer.err

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_folder_not_writable(self, cli, scene, tmp_path):
        tmp_path.chmod(0o500)
        answer = cli("refine", scene.slide, scene.coarse, "-o", tmp_path / "out", *QUICK)
        tmp_path.chmod(0o700)
        refuse(answer, 1, "cannot write")

    def test_folder_below_a_file(self, cli, scene, tmp_path):
        (tmp_path / "file").write_text("")
        answer = cli("refine", scene.slide, scene.coarse, "-o", tmp_path / "file" / "out", *QUICK)
        refuse(answer, 1, "cannot write")

    def test_evaluate_without_any_pixel_size(self, cli, scene):
        refuse(cli("evaluate", "--truth", scene.truth, "--prediction", scene.coarse), 2, "--mpp")

    def test_simulate_unknown_kind(self, cli, scene, tmp_path):
        out = tmp_path / "x.geojson"
        answer = cli("simulate", scene.truth, "-o", out, "--mpp", 0.5, "--kind", "lazy")
        refuse(answer, 2, "lazy", "generous")
        assert not out.exists()

    def test_simulate_takes_all_classes_unless_told(self, cli, tmp_path):
        fine = tmp_path / "fine.geojson"
        parts = [
            Region(name, box(x, 0, x + 300, 300), name)
            for x, name in ((0, "Tumor"), (300, "Stroma"))
        ]
        write_annotation(Annotation("case", tuple(parts)), fine, Frame())
        for named, classes in (((), {"Tumor", "Stroma"}), (("--class", "Tumor"), {"Tumor"})):
            out = tmp_path / f"coarse{len(named)}.geojson"
            made = cli("simulate", fine, "-o", out, "--mpp", 1, "--kind", "wobbly", *named)
            assert made.code == 0, made.err
            assert {r.label for r in read_annotation(out).regions} == classes

    def test_simulate_does_not_overwrite(self, cli, scene, tmp_path):
        out = tmp_path / "x.geojson"
        out.write_text("mine")
        refuse(cli("simulate", scene.truth, "-o", out, "--mpp", 0.5), 2, "--overwrite")
        assert out.read_text() == "mine"


def test_info_opens_a_slide_without_a_pixel_size(cli, tmp_path):
    Image.fromarray(np.full((300, 200, 3), 200, np.uint8)).save(tmp_path / "plain.png")
    answer = cli("info", tmp_path / "plain.png")
    assert answer.code == 0, answer.err
    assert "unknown: plain.png has no pixel size; pass it" in answer.out
    assert json.loads(cli("info", tmp_path / "plain.png", "--format", "json").out)["mpp"] is None


def test_evaluating_an_outline_off_the_slide_says_so(cli, scene, tmp_path):
    off = geojson(tmp_path / "off.geojson", box(90_000, 0, 91_000, 1000))
    answer = cli("evaluate", "--truth", scene.truth, "--prediction", off, "--slide", scene.slide)
    assert answer.code == 0, answer.err
    assert "the prediction lies off the slide" in answer.out
