"""One run in one folder: what is left behind, and what a kill, a full disk or a rerun does."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from recontour import Recipe, Runtime, files, read_annotation, refine_to_folder
from recontour.cache import FeatureCache
from recontour.claim import LOCK, STATE
from recontour.errors import OutputError, OutputRefusedError, UnknownNameError
from recontour.geometry import union
from recontour.runs import OUTPUTS

QUICK = Recipe(encoder="colour", method="logistic")
TIMED = {"timings_s", "finished", "embedding"}


@pytest.fixture(scope="module")
def finished(scene, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    refine_to_folder(scene.slide, scene.coarse, out, QUICK, Runtime(use_cache=False))
    return out


def digests(folder: Path) -> dict[str, str]:
    """Content of the outputs; of `run.json` without times, and of the report not at all."""
    found = {}
    for name in OUTPUTS:
        data = (folder / name).read_bytes()
        if name == "report.html":
            continue
        if name == "run.json":
            run = json.loads(data)
            data = json.dumps({k: v for k, v in run.items() if k not in TIMED}).encode()
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def test_the_folder_holds_the_outputs_and_nothing_else(finished):
    assert sorted(p.name for p in finished.iterdir()) == sorted(OUTPUTS)


def test_no_output_names_a_folder_of_this_machine(finished, scene):
    for name in OUTPUTS:
        data = (finished / name).read_bytes()
        assert str(scene.slide.parent).encode() not in data, name
        assert str(Path.home()).encode() not in data or Path.home() == Path("/"), name


def test_a_cache_that_cannot_be_used_is_a_warning_without_its_folder(scene, tmp_path):
    (tmp_path / "file").write_text("no folder")
    runtime = Runtime(cache_dir=tmp_path / "file" / "cache")
    refine_to_folder(scene.slide, scene.coarse, tmp_path / "out", QUICK, runtime)
    (warning,) = json.loads((tmp_path / "out" / "run.json").read_text())["warnings"]
    assert "features are not kept" in warning
    assert str(tmp_path) not in warning


def test_run_json_tells_what_was_done(finished, scene):
    run = json.loads((finished / "run.json").read_text())
    assert run["schema"] == "recontour.run/1"
    assert run["inputs"] == {"slide": "case.tif", "coarse": "coarse.geojson"}
    assert run["recipe"]["method"] == "logistic"
    assert run["slide"]["mpp"] == 0.5
    assert "mpp" in run["slide"]["mpp_source"]
    assert run["versions"]["recontour"]
    assert set(run["timings_s"]) == {"prepare", "embed", "learn", "band", "trace", "write"}


def test_refined_holds_the_new_and_complete_holds_everything(finished, scene):
    given = json.loads(scene.coarse.read_text())["features"]
    new = json.loads((finished / "refined.geojson").read_text())["features"]
    complete = json.loads((finished / "complete.geojson").read_text())
    assert complete["type"] == "FeatureCollection"
    assert complete["features"] == given + new
    assert {f["properties"]["metadata"]["parent"] for f in new} <= {f["id"] for f in given}


def test_the_probability_map_lies_on_the_slide(finished, scene):
    with tifffile.TiffFile(finished / "probability.tif") as tiff:
        assert tiff.is_ome
        prob = tiff.series[0].asarray().squeeze()
    run = json.loads((finished / "run.json").read_text())
    assert list(prob.shape[-2:]) == run["grid"]["shape"]
    fine = union(r.geometry for r in read_annotation(finished / "refined.geojson").regions)
    x, y = fine.representative_point().coords[0]
    cell = run["grid"]["cell_px"]
    assert prob[int(y // cell), int(x // cell)] > 0.3


def test_the_picture_opens(finished):
    with Image.open(finished / "overview.png") as image:
        assert min(image.size) > 500
        assert np.asarray(image).std() > 10


def test_the_same_run_again_does_nothing(finished, scene):
    before = {p.name: p.stat().st_mtime_ns for p in finished.iterdir()}
    outcome = refine_to_folder(scene.slide, scene.coarse, finished, QUICK, Runtime())
    assert outcome.already_done
    assert {p.name: p.stat().st_mtime_ns for p in finished.iterdir()} == before


def test_a_different_run_is_refused(finished, scene):
    other = Recipe(encoder="colour", method="identity")
    before = digests(finished)
    with pytest.raises(OutputRefusedError, match="--overwrite"):
        refine_to_folder(scene.slide, scene.coarse, finished, other, Runtime())
    assert digests(finished) == before


def test_overwrite_replaces_a_different_run(scene, tmp_path):
    other = Recipe(encoder="colour", method="identity")
    refine_to_folder(scene.slide, scene.coarse, tmp_path / "out", QUICK, Runtime())
    refine_to_folder(scene.slide, scene.coarse, tmp_path / "out", other, Runtime(), overwrite=True)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["recipe"]["method"] == "identity"


def test_overwrite_keeps_what_is_there_until_there_is_something_better(finished, scene):
    before = digests(finished)
    wrong = Recipe(encoder="colour", method="no_such_method")
    with pytest.raises(UnknownNameError):
        refine_to_folder(scene.slide, scene.coarse, finished, wrong, Runtime(), overwrite=True)
    assert digests(finished) == before
    assert refine_to_folder(scene.slide, scene.coarse, finished, QUICK, Runtime()).already_done


def test_a_run_that_fails_leaves_nothing(scene, tmp_path):
    wrong = Recipe(encoder="colour", method="no_such_method")
    with pytest.raises(UnknownNameError):
        refine_to_folder(scene.slide, scene.coarse, tmp_path / "out", wrong, Runtime())
    assert list(tmp_path.iterdir()) == []


def test_a_strange_run_json_is_refused_in_a_sentence(scene, tmp_path):
    (tmp_path / "run.json").write_text('{"run": "of another program"}')
    with pytest.raises(OutputRefusedError, match="files of that name"):
        refine_to_folder(scene.slide, scene.coarse, tmp_path, QUICK, Runtime())


def test_files_of_that_name_which_are_not_ours_are_not_touched(scene, tmp_path):
    (tmp_path / "refined.geojson").write_text("mine")
    with pytest.raises(OutputRefusedError, match=r"refined\.geojson"):
        refine_to_folder(scene.slide, scene.coarse, tmp_path, QUICK, Runtime())
    assert (tmp_path / "refined.geojson").read_text() == "mine"


def test_a_folder_with_other_files_can_be_used(scene, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    refine_to_folder(scene.slide, scene.coarse, tmp_path, QUICK, Runtime())
    assert (tmp_path / "run.json").exists()


def test_the_output_cannot_be_a_file(scene, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputRefusedError, match="pass a folder"):
        refine_to_folder(scene.slide, scene.coarse, tmp_path / "out", QUICK, Runtime())


def test_two_processes_do_not_share_a_folder(scene, tmp_path):
    import filelock

    with (
        filelock.FileLock(tmp_path / LOCK),
        pytest.raises(OutputRefusedError, match="another process"),
    ):
        refine_to_folder(scene.slide, scene.coarse, tmp_path, QUICK, Runtime())


def test_a_full_disk_leaves_no_half_file_and_the_rerun_finishes(
    scene, tmp_path, monkeypatch, finished
):
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "out"
    runtime = Runtime(use_cache=False)
    real = os.fsync
    calls = []

    def full_later(fd: int) -> None:
        calls.append(fd)
        if len(calls) > 3:
            full(fd)
        real(fd)

    monkeypatch.setattr(files.os, "fsync", full_later)
    with pytest.raises(OutputError, match="No space left"):
        refine_to_folder(scene.slide, scene.coarse, out, QUICK, runtime)
    monkeypatch.undo()
    left = {p.name for p in out.iterdir()}
    assert "run.json" not in left
    assert not [name for name in left if name.startswith(".tmp-")]
    outcome = refine_to_folder(scene.slide, scene.coarse, out, QUICK, runtime)
    assert outcome.resumed
    assert digests(out) == digests(finished)


def test_what_a_killed_writer_left_is_removed(scene, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".tmp-a1b2c3-overview.png").write_text("half a picture")
    (out / ".tmp-notes.txt").write_text("not ours")
    refine_to_folder(scene.slide, scene.coarse, out, QUICK, Runtime(cache_dir=tmp_path / "cache"))
    assert {p.name for p in out.iterdir()} == {*OUTPUTS, ".tmp-notes.txt"}


def test_what_is_flushed_may_be_written(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    modes = []
    monkeypatch.setattr(
        files.os, "fsync", lambda fd: modes.append(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE)
    )
    files.write_text(tmp_path / "a.txt", "a")
    assert modes == [os.O_RDWR]  # Windows refuses to flush a file that is open for reading


def test_killed_inside_the_slide_it_resumes_and_ends_bit_identical(scene, tmp_path):
    """kill -9 while embedding; the second run takes the shards and gives the same bytes."""
    cache, out = tmp_path / "cache", tmp_path / "out"
    command = [
        sys.executable, "-c", "from recontour.cli.main import main; main()",
        "refine", scene.slide, scene.coarse, "-o", out,
        "--method", "logistic", "--cache-dir", cache, "--threads", "1", "-q",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if len(list(cache.glob("features-*/[!.]*.npz"))) >= 1:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (out / STATE).exists()
    assert not (out / "run.json").exists()
    assert FeatureCache(cache).entries()

    recipe = Recipe(method="logistic")
    runtime = Runtime(threads=1, cache_dir=cache)
    outcome = refine_to_folder(scene.slide, scene.coarse, out, recipe, runtime)
    assert outcome.resumed
    assert outcome.summary["embedding"]["cells_from_cache"] > 0
    fresh = tmp_path / "fresh"
    runtime = Runtime(threads=1, use_cache=False)
    refine_to_folder(scene.slide, scene.coarse, fresh, recipe, runtime)
    assert digests(fresh) == digests(out)


def test_interrupting_says_how_to_resume(scene, tmp_path):
    process = subprocess.Popen(
        [
            sys.executable, "-c", "from recontour.cli.main import main; main()",
            "refine", scene.slide, scene.coarse, "-o", tmp_path / "out",
            "--cache-dir", tmp_path / "cache",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("Embedding"):
            break
    process.send_signal(signal.SIGINT)
    rest = process.communicate()[1]
    assert process.returncode == 130, rest
    assert "the same command resumes" in rest
    assert "Traceback" not in rest
    assert not (tmp_path / "out" / "run.json").exists()
