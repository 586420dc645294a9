"""`recontour cohort` on real files: what it says, how it exits, and what it leaves."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recontour import Recipe, Runtime, generate_slide, refine_to_folder, simulate_coarse
from recontour.annotations import write_annotation
from recontour.cli.cohort_progress import CohortBars, CohortLines, Count, duration
from recontour.cohort.lanes import LANES
from recontour.cohort.settings import check_runtime
from recontour.errors import UsageError
from recontour.runs import OUTPUTS

QUICK = ("--encoder", "colour", "--method", "identity", "--threads", 1)
TIMED = {"timings_s", "finished", "embedding"}


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    """Two good slides, and one whose file ends in the middle of its pixels."""
    folder = tmp_path_factory.mktemp("slides")
    for name in ("a", "b"):
        made = generate_slide(folder / f"{name}.tif", size=(384, 384), seed=ord(name))
        coarse = simulate_coarse(made.truth, kind="generous", seed=1, mpp=0.5, size=made.size)
        write_annotation(coarse, folder / f"{name}.geojson")
    whole = (folder / "b.tif").read_bytes()
    (folder / "cut.tif").write_bytes(whole[: len(whole) // 3])
    shutil.copy(folder / "b.geojson", folder / "cut.geojson")
    rows = [f"{name},{name}.tif,{name}.geojson" for name in ("a", "cut", "b")]
    (folder / "all.csv").write_text("\n".join(["id,slide,coarse", *rows]) + "\n")
    (folder / "good.csv").write_text("\n".join(["id,slide,coarse", rows[0], rows[2]]) + "\n")
    return folder


@pytest.fixture(scope="module")
def finished(slides, tmp_path_factory) -> Path:
    """The good slides, done once; tests look at it and leave it as it is."""
    from recontour.cohort.manifest import read_manifest
    from recontour.cohort.running import run_cohort
    from recontour.executors import make_executor

    out = tmp_path_factory.mktemp("done") / "out"
    recipe = Recipe(encoder="colour", method="identity")
    table = read_manifest(slides / "good.csv")
    executor = make_executor("threads", jobs=2)
    outcome = run_cohort(table, out, recipe, Runtime(threads=1), executor)
    LANES.close()
    assert outcome.done == ("a", "b")
    return out


def comparable(folder: Path) -> dict[str, object]:
    found: dict[str, object] = {n: (folder / n).read_bytes() for n in OUTPUTS if "report" not in n}
    run = json.loads((folder / "run.json").read_text())
    return {**found, "run.json": {k: v for k, v in run.items() if k not in TIMED}}


def test_a_slide_of_a_cohort_is_the_slide_alone(slides, finished, tmp_path):
    recipe = Recipe(encoder="colour", method="identity")
    alone = tmp_path / "alone"
    refine_to_folder(slides / "a.tif", slides / "a.geojson", alone, recipe, Runtime(threads=1))
    assert sorted(p.name for p in (finished / "a").iterdir()) == sorted(OUTPUTS)
    assert comparable(finished / "a") == comparable(alone)


def test_the_same_command_again_does_nothing(cli, slides, finished):
    answer = cli("cohort", slides / "good.csv", "-o", finished, *QUICK, "--format", "json")
    assert answer.code == 0, answer.err
    said = json.loads(answer.out)
    assert said["schema"] == "recontour.cohort_outcome/1"
    assert (said["done"], said["already"], said["failures"]) == (["a", "b"], 2, [])
    assert "2 slides, 2 of them settled already" in answer.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--device", "potato"), "unknown device 'potato'"),
        (("--device", "cuda:99"), "device 'cuda:99'"),
        (("--engine", "tensorrt"), "unknown engine 'tensorrt'"),
        (("--precision", "fp8"), "unknown precision 'fp8'"),
        (("--encoder", "colour", "--engine", "openvino"), "'colour' has no --engine openvino"),
        (("--device", "potato", "--executor", "dask", "--scheduler", "x:1"), "unknown device"),
    ],
)
def test_what_every_slide_would_fail_with_is_said_before_the_first(
    cli, slides, tmp_path, options, said
):
    answer = cli("cohort", slides / "good.csv", "-o", tmp_path / "out", *options, "--skip-errors")
    assert answer.code == 2, answer.err
    assert said in answer.err
    assert not (tmp_path / "out").exists()


def test_other_machines_may_have_devices_that_this_one_lacks():
    recipe, runtime = Recipe(), Runtime(device="cuda:99")
    check_runtime(recipe, runtime, here=False)
    with pytest.raises(UsageError, match="cuda:99"):
        check_runtime(recipe, runtime)


def test_a_truncated_slide_among_good_ones_fails_alone(cli, slides, tmp_path):
    out = tmp_path / "out"
    command = ("cohort", slides / "all.csv", "-o", out, *QUICK, "--skip-errors")
    answer = cli(*command)
    assert answer.code == 1
    assert re.search(r"^failed: cut: .*cut\.tif", answer.err, re.M), answer.err
    assert "--retry-failed" in answer.err
    assert "2/3 done, 1 failed" in answer.err
    assert sorted(p.name for p in out.iterdir() if (p / "run.json").exists()) == ["a", "b"]
    about = json.loads((out / "cohort.json").read_text())
    assert (about["counts"]["done"], about["counts"]["failed"]) == (2, 1)
    assert about["failures"][0]["line"] == 3
    again = cli(*command, "--quiet")
    assert again.code == 1
    assert "failed: cut" in again.err
    assert "3/3" not in again.err


def test_problems_are_listed_at_once_and_nothing_is_started(cli, slides, tmp_path):
    table = slides / "bad.csv"
    table.write_text("id,slide,coarse\na,a.tif,none.geojson\nb,no.tif,b.geojson\n")
    answer = cli("cohort", table, "-o", tmp_path / "out", *QUICK)
    assert answer.code == 2
    assert "line 2 (a)" in answer.err
    assert "line 3 (b)" in answer.err
    assert not (tmp_path / "out").exists()


def test_other_settings_for_the_same_folder_are_refused(cli, slides, finished):
    answer = cli("cohort", slides / "good.csv", "-o", finished, "--encoder", "colour")
    assert answer.code == 2
    assert "method identity -> em" in answer.err
    assert "--overwrite" in answer.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--shard", "0/2"), "--shard 0/2"),
        (("--executor", "serial", "--scheduler", "tcp://a:1"), "--executor dask"),
        (("--method", "none"), "unknown method 'none'"),
    ],
)
def test_wrong_options_exit_2(cli, slides, tmp_path, options, said):
    answer = cli("cohort", slides / "good.csv", "-o", tmp_path / "out", *QUICK, *options)
    assert answer.code == 2
    assert said in answer.err


def test_a_dry_run_says_what_is_to_do_and_writes_nothing(cli, slides, finished, tmp_path):
    out = tmp_path / "out"
    answer = cli("cohort", slides / "good.csv", "-o", out, *QUICK, "--dry-run")
    assert answer.code == 0, answer.err
    assert "to do" in answer.out
    assert "a slide" in answer.out
    assert not out.exists()
    answer = cli(
        "cohort", slides / "good.csv", "-o", finished, *QUICK, "--dry-run", "--format", "json"
    )
    plan = json.loads(answer.out)
    assert (plan["done"], plan["todo"]) == (2, [])
    assert plan["expected"]["seconds"] == 0
    assert "2 finished slides" in plan["expected"]["basis"]


def test_interrupted_it_says_how_to_go_on(slides, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "recontour", "cohort", slides / "good.csv", "-o", out]
    process = subprocess.Popen(
        [*map(str, (*command, *QUICK))], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(out.glob("state/*.lease")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130, said
    assert "the same command resumes" in said
    assert "Traceback" not in said
    assert not list(out.glob("state/*.lease"))


def ended(id: str, outcome: str = "done") -> dict[str, object]:
    error = "torn" if outcome == "failed" else None
    return {"id": id, "outcome": outcome, "error": error, "seconds": 3.0}


def test_a_log_has_one_line_a_slide_with_what_is_left(capsys):
    lines = CohortLines()
    lines.begin(500, 10)
    lines.count.start -= 100
    lines.ended(ended("a"))
    lines.at("b", "embed", 1, 2)
    lines.ended(ended("b", "failed"))
    lines.waiting([f"s{i}" for i in range(9)])
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "500 slides, 10 of them settled already"
    assert said[1] == "a: done (3 s; 11/500 done, ETA 13.6 h)"
    assert said[2] == "b: failed: torn (3 s; 11/500 done, 1 failed, ETA 6.8 h)"
    assert "s4 and 4 more" in said[3]


def test_a_log_names_the_stages_of_a_pooled_cohort(capsys):
    lines = CohortLines()
    lines.begin(1, 0, "sample")
    lines.ended(ended("a"))
    lines.begin(1, 0, "learn")
    lines.ended(ended("9e6b7fe6"))
    lines.begin(1, 1, "learn")
    lines.begin(1, 0, "answer")
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "Samples: 1 slide, 0 of them settled already"
    assert said[1] == "a: done (3 s; 1/1 done)"
    assert said[2:4] == ["Learning: from all samples together", "Learning: done (3 s)"]
    assert said[4:] == ["Learning: learned before", "Answers: 1 slide, 0 of them settled already"]
    with CohortBars() as bars:
        bars.begin(3, 0, "answer")
        assert {task.description for task in bars.bars.tasks} == {"Answers"}


def test_bars_show_the_slides_in_work():
    with CohortBars() as bars:
        bars.begin(3, 0)
        bars.at("a", "embed", 1, 4)
        bars.at("b", "fit", 0, 0)
        assert {task.description for task in bars.bars.tasks} == {"Slides", "  a", "  b"}
        bars.ended(ended("a"))
        bars.ended(ended("b", "failed"))
        bars.waiting(["c"])
        assert [task.description for task in bars.bars.tasks] == ["Slides"]
        assert "others work on c" in bars.bars.tasks[0].fields["said"]


def test_an_id_in_brackets_is_no_markup():
    with CohortBars() as bars:
        bars.begin(1, 0)
        bars.at("s[/1]", "embed", 1, 4)
        bars.waiting(["t[/1]"])
        bars.bars.refresh()


def test_durations_are_in_one_unit():
    times = (40, 720, 3 * 3600, 60 * 3600)
    assert [duration(s) for s in times] == ["40 s", "12 min", "3.0 h", "2.5 days"]
    assert str(Count()) == "0/0 done"


def test_without_a_cluster_what_was_done_is_still_summed_up(
    slides, finished, tmp_path, cli, monkeypatch
):
    from recontour.executors import dask

    monkeypatch.setattr(dask, "ANSWER_S", 0.5)
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    given = ["cohort", slides / "all.csv", "-o", out, "--skip-errors", "--quiet", *QUICK]
    ended = cli(*given, "--executor", "dask", "--scheduler", "tcp://127.0.0.1:9")
    assert ended.code == 1
    assert "no Dask scheduler answers" in ended.err
    assert "cut" in (out / "summary.html").read_text("utf-8")
