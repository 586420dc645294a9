"""Benchmarks: what is run, what is kept, and what happens when something goes wrong."""

from __future__ import annotations

import csv
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from shapely import box

from recontour import evaluate, generate_slide, open_slide, read_annotation, registry
from recontour.annotations import write_annotation
from recontour.benchmark.cases import lay_out_case, open_case
from recontour.benchmark.engine import narrowed
from recontour.benchmark.loading import load
from recontour.benchmark.records import Results, Unit, file_name, pack, unpack
from recontour.benchmark.running import run_benchmark
from recontour.benchmark.spec import (
    MethodSpec,
    OutlineSpec,
    Plan,
    check_places,
    parse_methods,
    parse_outlines,
    split_specs,
)
from recontour.datasets import Case, Outlines, open_dataset
from recontour.errors import OutputRefusedError, UnknownNameError, UsageError
from recontour.recipe import Recipe, Runtime
from recontour.refiners.identity import Identity
from recontour.types import Annotation, PatchGrid, PatchSet, Region

QUICK = ("--methods", "identity", "--encoders", "colour", "--seeds", 2, "--all", "-q")
LOGISTIC, IDENTITY = MethodSpec("logistic", "logistic"), MethodSpec("identity", "identity")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small slides with their truth, and two outlines drawn by hand of the first."""
    folder = tmp_path_factory.mktemp("made")
    for i in range(3):
        slide = generate_slide(folder / f"s{i}.tif", size=(480, 480), seed=i, artefacts=False)
        write_annotation(slide.truth, folder / f"s{i}.fine.geojson")
    for name, shape in (("ann", box(60, 60, 420, 300)), ("bob", box(30, 150, 300, 480))):
        drawn = Annotation("s0", (Region(f"{name}", shape, "Tumor"),))
        write_annotation(drawn, folder / f"s0.coarse_{name}.geojson")
    return folder


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data"))


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all the rest; tests/test_benchmark_report.py looks at figures."""
    for name in ("box_plot", "sorted_curves", "write_overlays"):
        monkeypatch.setattr(f"recontour.reports.benchmark_page.{name}", lambda *_: None)


def plan(**changes: object) -> Plan:
    outlines, _ = parse_outlines(["shifted,published"])
    base = Plan("folder", Recipe(), (LOGISTIC, IDENTITY), outlines, ("colour",), 2, keep_all=True)
    return replace(base, **changes)  # type: ignore[arg-type]


def run(plan: Plan, data: Path, out: Path, **options: object):
    listing = open_dataset(plan.dataset).list_cases(data)
    return run_benchmark(plan, listing, out, Runtime(), **options)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def report(results: Path) -> bytes:
    from recontour.benchmark.loading import write_runs

    write_runs(load(Results(results)), Results(results))
    return (results / "runs.csv").read_bytes()


def test_every_method_meets_every_outline_in_every_repeat(data, tmp_path):
    outcome = run(plan(), data, tmp_path / "out")
    assert not outcome.failures
    found = load(Results(tmp_path / "out"))
    assert len(found.runs) == 3 * 2 * 2 * (2 + 2)
    assert found.methods("colour") == ["coarse", "logistic", "identity", "oracle"]
    by_unit = {(r.case, r.outline, r.seed, r.method): r for r in found.runs}
    for run_ in found.runs:
        coarse = by_unit[run_.case, run_.outline, run_.seed, "coarse"]
        assert run_.valid == coarse.valid
        assert run_.counts.n == run_.n_cells
    # Chance has no part in the published outline: both repeats judge the same one.
    counts = {key: r.counts for key, r in by_unit.items()}
    assert counts["s1", "published", 0, "coarse"] == counts["s1", "published", 1, "coarse"]
    assert counts["s1", "shifted", 0, "coarse"] != counts["s1", "shifted", 1, "coarse"]
    oracle = np.mean([r.metrics["f1"] for r in found.runs if r.method == "oracle"])
    logistic = np.mean([r.metrics["f1"] for r in found.runs if r.method == "logistic"])
    assert oracle > logistic


@pytest.mark.parametrize("rule", ["centre", "published"])
def test_the_outline_scores_as_an_evaluation_says(data, tmp_path, rule):
    recipe = Recipe(label_rule=rule)
    run(plan(recipe=recipe, outlines=parse_outlines(["generous"])[0], seeds=1), data,
        tmp_path / "out")  # fmt: skip
    results = Results(tmp_path / "out")
    scored = next(r for r in load(results).runs if (r.case, r.method) == ("s1", "coarse"))
    slide = open_slide(data / "s1.tif")
    with open_case(open_dataset("folder").list_cases(data).cases[1], plan(recipe=recipe)) as opened:
        laid = lay_out_case(opened, "colour", Runtime())
    outline = next((tmp_path / "out" / "coarse" / "s1").iterdir())
    told = evaluate(
        read_annotation(data / "s1.fine.geojson"),
        read_annotation(outline),
        tissue=laid.tissue,
        slide_size=slide.size,
        mpp=slide.mpp,
        cell_px=laid.grid.stride,
        label_rule=rule,
    ).prediction
    slide.close()
    for name in ("accuracy", "f1", "ppv", "npv", "iou", "iou_grid", "dice_grid"):
        assert scored.metrics[name] == pytest.approx(told.overall[name], nan_ok=True)
    assert scored.counts == told.confusions["Tumor"]
    assert scored.valid == told.valid


def test_a_torn_record_is_run_again_and_nothing_else(data, tmp_path):
    out = tmp_path / "out"
    run(plan(), data, out)
    whole = report(out)
    path = out / "runs" / "s1.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-2]) + lines[-2][:100])  # killed while it wrote
    before = {p.name: len(p.read_bytes().splitlines()) for p in (out / "runs").iterdir()}
    run(plan(), data, out)
    after = {p.name: len(p.read_bytes().splitlines()) for p in (out / "runs").iterdir()}
    assert report(out) == whole
    assert after == {**before, "s1.jsonl": before["s1.jsonl"] + 2}


def test_a_method_whose_code_changed_is_forgotten_and_alone_runs_again(data, tmp_path):
    out = tmp_path / "out"
    run(plan(), data, out)
    whole = report(out)
    results = Results(out)
    held = [len(results.records(case)) for case in ("s0", "s1")]
    assert results.forget("identity") == 3 * 2 * 2
    assert results.forget("identity") == 0
    assert not any(unit.method == "identity" for unit in results.records("s1"))
    assert not any(unit.method == "identity" for unit in results.maps("s1"))
    run(plan(), data, out)
    assert report(out) == whole
    assert [len(results.records(case)) for case in ("s0", "s1")] == held


def test_a_killed_benchmark_goes_on_to_the_same_figures(data, tmp_path):
    out, untouched = tmp_path / "out", tmp_path / "untouched"
    program = "from recontour.cli.main import main; main()"
    args = ["benchmark", "folder", "--data", str(data), "-o", str(out), *map(str, QUICK)]
    command = [sys.executable, "-c", program, *args]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (out / "runs" / "s0.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "runs.csv").exists()
    spec = plan(methods=(LOGISTIC, IDENTITY), outlines=parse_outlines(["published"])[0])
    run(spec, data, out)
    run(spec, data, untouched)
    assert report(out) == report(untouched)


def test_two_processes_find_what_one_finds(data, tmp_path):
    spec = plan(outlines=parse_outlines(["tight"])[0], seeds=1)
    stages = []
    listing = open_dataset("folder").list_cases(data)
    runtime = Runtime(progress=lambda *step: stages.append(step))
    run_benchmark(spec, listing, tmp_path / "two", runtime, jobs=2)
    assert stages[-1] == ("benchmark", 12, 12)
    run(spec, data, tmp_path / "one")
    assert report(tmp_path / "one") == report(tmp_path / "two")


def test_a_broken_slide_is_listed_and_the_others_are_done(cli, data, tmp_path, no_figures):
    whole = (data / "s1.tif").read_bytes()
    (data / "s1.tif").write_bytes(whole[: len(whole) // 3])
    args = ("benchmark", "folder", "--data", data, "-o", tmp_path / "out", *QUICK)
    answer = cli(*args)
    assert answer.code == 1
    assert "failed: s1:" in answer.err
    assert {row["case"] for row in table(tmp_path / "out" / "runs.csv")} == {"s0", "s2"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "1 slide failed" in page
    (data / "s1.tif").write_bytes(whole)
    spec = plan(outlines=parse_outlines(["published"])[0])
    assert not run(spec, data, tmp_path / "out").failures
    assert {r.case for r in load(Results(tmp_path / "out")).runs} == {"s0", "s1", "s2"}


def test_missing_files_are_listed_before_anything_runs(cli, data, tmp_path, no_figures):
    (data / "s1.tif").unlink()
    args = ("benchmark", "folder", "--data", data, "-o", tmp_path / "out", *QUICK)
    answer = cli(*args)
    assert answer.code == 2
    assert "s1" in answer.err
    assert "--skip-missing" in answer.err
    assert not (tmp_path / "out").exists()
    assert cli(*args, "--skip-missing").code == 0
    assert {row["case"] for row in table(tmp_path / "out" / "runs.csv")} == {"s0", "s2"}
    assert "missing: s1" in (tmp_path / "out" / "report.html").read_text()


def test_other_settings_are_refused_and_more_methods_are_not(data, tmp_path):
    out = tmp_path / "out"
    spec = plan(seeds=1, outlines=parse_outlines(["tight"])[0])
    run(spec, data, out)
    other = replace(spec, recipe=Recipe(cell_um=12))
    with pytest.raises(OutputRefusedError, match=r"cell um None, not 12.*--overwrite"):
        run(other, data, out)
    clash = replace(spec, methods=(MethodSpec("logistic", "logistic", {"steps": 3}),))
    with pytest.raises(OutputRefusedError, match="another method called 'logistic'"):
        run(clash, data, out)
    lines = len((out / "runs" / "s0.jsonl").read_text().splitlines())
    run(replace(spec, methods=(LOGISTIC, MethodSpec("again", "identity"))), data, out)
    assert len((out / "runs" / "s0.jsonl").read_text().splitlines()) == lines + 1
    found = load(Results(out))
    assert found.methods("colour") == ["coarse", "logistic", "identity", "again", "oracle"]
    run(other, data, out, overwrite=True)
    assert {r.cell_um for r in load(Results(out)).runs} == {12.0}


def test_nothing_of_a_kind_to_run_is_said(cli, data, tmp_path):
    args = ("benchmark", "folder", "--data", data, "-o", tmp_path / "out")
    answer = cli(*args, "--methods", "magic")
    assert (answer.code, "magic" in answer.err) == (2, True)
    answer = cli(*args, "--encoders", "colour,magic")
    assert (answer.code, "magic" in answer.err) == (2, True)
    answer = cli(*args, "--coarse", "magic", "--encoders", "colour")
    assert (answer.code, "magic" in answer.err) == (2, True)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_or_in_use_is_refused(data, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(OutputRefusedError, match=r"thesis\.txt"):
        run(plan(), data, tmp_path / "mine")
    results = Results(tmp_path / "out")
    with results.claim(plan()), pytest.raises(OutputRefusedError, match="another benchmark"):
        run(plan(), data, tmp_path / "out")


class Deadly(Identity):
    """Takes its process with it on one slide."""

    def fit(self, patch_sets):
        if patch_sets[0].slide_id == "s1":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().fit(patch_sets)


def test_a_process_that_dies_fails_its_slide_and_no_other(data, tmp_path, monkeypatch):
    # Spawned processes know only what is installed: the method comes as an entry point would.
    (tmp_path / "deadly.py").write_text(
        "from recontour import registry\n"
        "registry.BUILTIN['refiner']['deadly'] = registry.Entry('test_benchmark:Deadly')\n"
        "from recontour.datasets import Case\n"
        "class Deadlier(Case):\n    pass\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parent}")
    monkeypatch.syspath_prepend(tmp_path)
    deadlier = importlib.import_module("deadly").Deadlier
    monkeypatch.delitem(registry.BUILTIN["refiner"], "deadly")
    listing = open_dataset("folder").list_cases(data)
    # Its class is imported where it is unpickled, and with it the method.
    cases = tuple(deadlier(**vars(case)) for case in listing.cases)
    spec = plan(methods=(LOGISTIC, MethodSpec("deadly", "deadly")), seeds=1,
                outlines=parse_outlines(["tight"])[0])  # fmt: skip
    outcome = run_benchmark(spec, replace(listing, cases=cases), tmp_path / "out", jobs=2)
    assert outcome.failures == ("s1: its process was killed (signal 9); out of memory?",)
    done = {r.case for r in load(Results(tmp_path / "out")).runs if r.method == "deadly"}
    assert done == {"s0", "s2"}


class Moody(Identity):
    """Fails on one slide."""

    def fit(self, patch_sets):
        if any(p.slide_id == "s1" for p in patch_sets):
            raise FloatingPointError("overflow on s1")
        return super().fit(patch_sets)


def test_a_method_that_fails_on_a_slide_is_listed_and_tried_again(data, tmp_path, monkeypatch):
    target = registry.Entry(f"{__name__}:Moody")
    monkeypatch.setitem(registry.BUILTIN["refiner"], "moody", target)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Moody.__module__])
    spec = plan(methods=(LOGISTIC, MethodSpec("moody", "moody")), seeds=1)
    outcome = run(spec, data, tmp_path / "out")
    assert len(outcome.failures) == 2
    assert "s1, colour, shifted, repeat 0, moody: FloatingPointError: overflow on s1" in (
        outcome.failures
    )
    monkeypatch.setattr(Moody, "fit", Identity.fit)
    assert not run(spec, data, tmp_path / "out").failures


def test_pooled_methods_learn_from_all_slides_together(data, tmp_path, monkeypatch):
    seen = []
    fit = Identity.fit

    def note(self, patch_sets):
        seen.append(tuple(p.slide_id for p in patch_sets))
        return fit(self, patch_sets)

    monkeypatch.setattr(Identity, "fit", note)
    pooled = MethodSpec("identity (pooled)", "identity", pooled=True)
    spec = plan(methods=(LOGISTIC, pooled), seeds=1)
    run(spec, data, tmp_path / "out")
    assert seen == [("s0", "s1", "s2")] * 2
    found = load(Results(tmp_path / "out"))
    assert sum(r.method == "identity (pooled)" for r in found.runs) == 6
    run(spec, data, tmp_path / "out")
    assert len(seen) == 2  # nothing is missing
    (data / "s2.tif").unlink()
    (data / "s2.fine.geojson").unlink()
    run(spec, data, tmp_path / "out")
    assert seen[2:] == [("s0", "s1")] * 2  # another pool is another run


def test_a_pool_that_is_too_large_fails_alone(data, tmp_path, monkeypatch):
    def too_much(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("recontour.benchmark.pooling._Pool", too_much)
    pooled = MethodSpec("identity (pooled)", "identity", pooled=True)
    spec = plan(methods=(LOGISTIC, pooled), seeds=1)
    outcome = run(spec, data, tmp_path / "out")
    assert len(outcome.failures) == 6
    assert all("MemoryError" in failure for failure in outcome.failures)
    assert len(load(Results(tmp_path / "out")).runs) == 3 * 2 * 3
    monkeypatch.undo()
    assert not run(spec, data, tmp_path / "out").failures


def test_drawn_outlines_are_those_that_come_with_the_case(data, tmp_path):
    spec = plan(outlines=parse_outlines(["drawn"])[0], seeds=1)
    run(spec, data, tmp_path / "out")
    found = load(Results(tmp_path / "out"))
    assert {(r.case, r.outline, r.drawn) for r in found.runs} == {
        ("s0", "coarse_ann", True),
        ("s0", "coarse_bob", True),
    }
    with pytest.raises(UnknownNameError, match="coarse_ann"):
        run(plan(outlines=parse_outlines(["coarse_eve"])[0]), data, tmp_path / "eve")


def test_slides_with_little_lesion_are_left_out_with_their_share(data, tmp_path):
    speck = Annotation("s2", (Region("speck", box(200, 200, 260, 260), "Tumor"),))
    write_annotation(speck, data / "s2.fine.geojson")
    outcome = run(plan(keep_all=False, seeds=1), data, tmp_path / "out")
    assert len(outcome.left_out) == 1
    assert outcome.left_out[0].startswith("s2: the lesion covers ")
    assert {r.case for r in load(Results(tmp_path / "out")).runs} == {"s0", "s1"}
    kept = run(plan(keep_all=True, seeds=1), data, tmp_path / "all")
    assert not kept.left_out


def test_several_classes_are_scored_each_and_together(data, tmp_path):
    halves = Annotation(
        "s1",
        (
            Region("a", box(0, 0, 250, 500), "Tumor"),
            Region("b", box(250, 0, 400, 500), "Stroma"),
            Region("c", box(200, 200, 280, 280), "Ignore*"),
        ),
    )
    write_annotation(halves, data / "s1.fine.geojson")
    run(plan(seeds=1, outlines=parse_outlines(["shifted"])[0]), data, tmp_path / "out")
    scored = [r for r in load(Results(tmp_path / "out")).runs if r.case == "s1"]
    assert scored
    for one in scored:
        assert list(one.per_class) == ["Stroma", "Tumor"]
        both = [one.per_class[name]["f1"] for name in one.per_class]
        assert one.metrics["f1"] == pytest.approx(np.mean(both))
        # Two classes, counted once each; ignored cells not at all.
        assert one.counts.n == 2 * one.n_cells
    with open_case(open_dataset("folder").list_cases(data).cases[1], plan()) as opened:
        laid = lay_out_case(opened, "colour", Runtime())
    assert len(laid.grid) < len(laid.lattice)
    x, y = laid.grid.centres.T
    assert not ((x > 200) & (x < 280) & (y > 200) & (y < 280)).any()


def test_a_truth_that_changed_is_run_again(data, tmp_path):
    spec = plan(seeds=1)
    run(spec, data, tmp_path / "out")
    before = {r.counts for r in load(Results(tmp_path / "out")).runs if r.case == "s1"}
    truth = Annotation("s1", (Region("new", box(100, 100, 380, 330), "Tumor"),))
    write_annotation(truth, data / "s1.fine.geojson")
    run(spec, data, tmp_path / "out")
    found = [r for r in load(Results(tmp_path / "out")).runs if r.case == "s1"]
    assert len(found) == 2 * 4
    assert not before & {r.counts for r in found}


def test_the_maps_that_are_kept_are_those_that_were_scored(data, tmp_path):
    run(plan(seeds=1), data, tmp_path / "out")
    results = Results(tmp_path / "out")
    maps = results.maps("s0")
    with open_case(open_dataset("folder").list_cases(data).cases[0], plan()) as opened:
        laid = lay_out_case(opened, "colour", Runtime())
    for one in load(results).runs:
        if one.case == "s0":
            found = maps[Unit(one.case, one.encoder, one.outline, one.seed, one.method)]
            cells = found[laid.grid.rows, laid.grid.cols]
            assert np.mean(cells == laid.true_labels) == one.metrics["accuracy"]


class TestSpecs:
    def test_methods_are_split_at_commas_but_not_their_options(self):
        assert split_specs(["a,b:x=1,y=2 c", "d"]) == ["a", "b:x=1,y=2", "c", "d"]
        methods, _ = parse_methods(["lc_mil:bags=200,n_seeds=2,as=quick,logistic"])
        assert methods[0] == MethodSpec("quick", "lc_mil", {"bags": 200, "n_seeds": 2})
        assert methods[1] == LOGISTIC

    def test_the_linear_baseline_is_added_and_said(self):
        methods, notes = parse_methods(["identity"])
        assert methods == (LOGISTIC, IDENTITY)
        assert "logistic was added" in notes[0]

    def test_all_is_what_is_registered(self):
        labels = {m.label for m in parse_methods(["all"])[0]}
        assert {"lc_mil", "logistic"} <= labels
        assert not labels & {"identity", "lc_mil_vgg16", "deep_knn_vgg16"}

    def test_a_preset_gives_the_method_and_its_ablation_the_settings_of_the_paper(self):
        paper = Recipe(method="prototype", method_options={"major": "coverage"})
        methods, notes = parse_methods(["prototype", "ablation"], paper, pooled=True)
        own = [m for m in methods if m.name == "prototype"]
        assert len(own) == 6
        assert all(m.pooled and m.options["major"] == "coverage" for m in own)
        assert [m.options.get("ablation") for m in own] == [None, "CA", "LP", "GP", "DDS", "RF"]
        assert own[0].label == "prototype (pooled)"
        assert "prototype runs with major=coverage and all slides together" in notes

    def test_the_ablation_has_the_rows_of_the_paper(self):
        methods, _ = parse_methods(["ablation"])
        rows = [m.options.get("ablation") for m in methods if m.name == "prototype"]
        assert rows == ["CA", "LP", "GP", "DDS", "RF"]

    def test_methods_on_vgg16_run_there_only(self):
        assert not MethodSpec("a", "lc_mil_vgg16").runs_on("colour")
        assert MethodSpec("a", "lc_mil_vgg16").runs_on("vgg16")
        assert not MethodSpec("a", "logistic", encoder="vgg16").runs_on("colour")

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("lc_mil_vgg16", "lc_mil_vgg16 runs on the encoder vgg16 only"),
            ("logistic:on=vgg16,as=mine", "mine runs on the encoder vgg16 only"),
        ],
    )
    def test_a_method_that_would_run_nowhere_is_refused(self, text, words):
        methods, _ = parse_methods([text])
        check_places(methods, ["colour", "vgg16"])
        with pytest.raises(UsageError, match=words):
            check_places(methods, ["colour"])

    @pytest.mark.parametrize(
        ("texts", "words"),
        [
            (["nothing"], "unknown method 'nothing'"),
            (["lc_mil:bugs=3"], "bugs"),
            (["logistic:as=coarse"], "as=NAME"),
            (["lc_mil:bags"], "NAME:option=value"),
            (["bags=3"], "before any name"),
            (["logistic:pooled=7"], "pooled is true or false"),
            ([""], "nothing is named"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, texts, words):
        with pytest.raises(UsageError, match=words):
            parse_methods(texts)

    def test_outlines_name_a_committed_severity(self) -> None:
        outlines, _ = parse_outlines(["missed@hard,missed@mild,tight@hard:keep=0.5"])
        assert [o.label for o in outlines] == ["missed@hard", "missed", "tight@hard:keep=0.5"]
        assert [o.kind for o in outlines] == ["missed", "missed", "tight"]
        assert outlines[0].severity["to_limit"] is True
        assert outlines[1].severity == {}
        assert outlines[2].severity["keep"] == 0.5
        with pytest.raises(UnknownNameError, match="hard"):
            parse_outlines(["missed@harder"])

    def test_outlines_have_severities(self):
        outlines, _ = parse_outlines(["missed:drop=0.6,drawn,published"])
        assert outlines[0] == OutlineSpec("missed:drop=0.6", "missed", {"drop": 0.6})
        assert [o.outline_seed(3) for o in outlines] == [3, 0, 0]
        with pytest.raises(UsageError, match="dropped"):
            parse_outlines(["missed:dropped=0.6"])
        with pytest.raises(UsageError, match="only simulated"):
            parse_outlines(["drawn:cut=0.5"])

    def test_a_paper_that_cuts_lesions_has_them_cut(self):
        outlines, notes = parse_outlines(["published"], {"kind": "published", "cut": 0.5})
        assert outlines[0] == OutlineSpec("published", "published", {"cut": 0.5})
        assert outlines[0].outline_seed(3) == 3
        assert "cut=0.5" in notes[0]

    def test_a_plan_comes_back_from_json(self):
        given = plan(recipe=Recipe(cell_um=12, classes=("Tumor",)))
        back = Plan.of(json.loads(json.dumps(given.to_dict())))
        assert back.to_dict() == given.to_dict()


def test_wide_features_are_narrowed_for_the_oracle():
    rng = np.random.default_rng(0)
    index = np.arange(60, dtype=np.int32)
    lattice = PatchGrid((0.0, 0.0), (1, 60), index * 0, index, 16, 16, 16, 0.5, 0.5)
    wide = rng.normal(size=(60, 5000)).astype(np.float16)
    wide[30:] += 1
    patches = PatchSet("a", lattice, wide, np.zeros(60, np.int8), ("background", "Tumor"))
    narrow = narrowed(patches).features
    assert narrow.shape == (60, 1024)
    # Distances are kept, up to one factor.
    was = np.linalg.norm(wide[:1].astype(float) - wide.astype(float), axis=1)
    ratio = np.linalg.norm(narrow[:1] - narrow, axis=1)[1:] / was[1:]
    assert ratio.std() / ratio.mean() < 0.05
    slim = replace(patches, features=wide[:, :100])
    assert narrowed(slim) is slim


def test_maps_and_names_come_back(tmp_path):
    labels = np.random.default_rng(0).integers(0, 3, (7, 9)).astype(np.int8)
    np.testing.assert_array_equal(unpack(json.loads(json.dumps(pack(labels)))), labels)
    assert file_name("tumor_001") == "tumor_001"
    assert file_name("a/b") != file_name("a:b")


def test_two_cases_of_one_name_are_refused(data, tmp_path):
    listing = open_dataset("folder").list_cases(data)
    twice = replace(listing, cases=(*listing.cases, listing.cases[0]))
    with pytest.raises(UsageError, match="'s0'"):
        run_benchmark(plan(), twice, tmp_path / "out")


def test_an_empty_case_fails_alone(data, tmp_path):
    listing = open_dataset("folder").list_cases(data)
    gone = Case("gone", data / "gone.tif", Outlines(data / "gone.geojson"))
    both = replace(listing, cases=(*listing.cases[:1], gone))
    outcome = run_benchmark(plan(seeds=1), both, tmp_path / "out")
    assert outcome.failures == (f"gone: no such slide: {data / 'gone.tif'}",)
