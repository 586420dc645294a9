"""Whole cohorts: failures, resuming, several clients; with toy slides, and a few real ones."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recontour import Recipe, Runtime
from recontour.cohort import carrying, lanes, sweeping, tasks
from recontour.cohort.gpus import least_used
from recontour.cohort.lanes import LANES, Lane, LaneStopped
from recontour.cohort.leases import _record
from recontour.cohort.manifest import read_manifest, row_key
from recontour.cohort.running import run_cohort, task_of
from recontour.cohort.shards import Shard
from recontour.cohort.states import State, read_state
from recontour.errors import LaneError, OutputRefusedError
from recontour.executors import make_executor

TOY = (sys.executable, str(Path(__file__).with_name("toy_lane.py")))
QUICK = Recipe(encoder="colour", method="identity")
CLIENT = """
import sys
from pathlib import Path
from recontour import Recipe, Runtime
from recontour.cohort import carrying, lanes, manifest, running
from recontour.executors import make_executor
carrying.POLL_S = 0.05
lanes.COMMAND = (sys.executable, sys.argv[3])
outcome = running.run_cohort(
    manifest.read_manifest(sys.argv[1]), Path(sys.argv[2]),
    Recipe(encoder="colour", method="identity"), Runtime(),
    make_executor("threads", jobs=2), skip_errors=True,
)
print(len(outcome.done), len(outcome.failures))
"""


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setattr(lanes, "COMMAND", TOY)
    monkeypatch.setattr(carrying, "POLL_S", 0.02)
    yield
    LANES.close()


class Cohort:
    """Toy slides in a folder, and the ways to run them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        self.table = folder / "m.csv"
        (folder / "outline.txt").write_text(" o")

    def slides(self, **texts: str) -> None:
        for name, text in texts.items():
            (self.folder / f"{name}.txt").write_text(text)
        rows = [f"{name},{name}.txt,outline.txt" for name in texts]
        self.table.write_text("\n".join(["id,slide,coarse", *rows]) + "\n")

    def run(self, executor: str = "serial", jobs: int = 1, **options: object):
        recipe = options.pop("recipe", QUICK)
        out = options.pop("out", self.out)
        return run_cohort(
            read_manifest(self.table),
            out,
            recipe,
            Runtime(),
            make_executor(executor, jobs=jobs),
            **options,
        )

    def client(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", CLIENT, self.table, self.out, TOY[1]],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def state(self, id: str) -> State:
        state = read_state(self.out / "state", id)
        assert state is not None
        return state

    def contents(self, out: Path | None = None) -> dict[str, str]:
        """Digests of all that the slides left, and nothing else."""
        out = out or self.out
        return {
            str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(out.rglob("*"))
            if path.is_file() and "state" not in path.parts and path.parent != out
        }

    def leftovers(self) -> list[str]:
        """What should not be there when nobody works."""
        found = (p for p in (self.out / "state").rglob("*") if p.is_file())
        return [p.name for p in found if p.suffix != ".json" or p.name.startswith(".")]


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort(tmp_path)


@pytest.mark.parametrize(("executor", "jobs"), [("serial", 1), ("threads", 2)])
def test_all_slides_are_done_and_a_rerun_does_nothing(cohort, executor, jobs):
    cohort.slides(a="ok 1", b="ok 2", c="print", d="ok 4")
    outcome = cohort.run(executor, jobs)
    assert outcome.done == ("a", "b", "c", "d")
    assert (outcome.already, outcome.failures, outcome.not_begun) == (0, (), ())
    assert [cohort.state(id).attempts for id in "abcd"] == [1] * 4
    assert sorted(p.name for p in (cohort.out / "a").iterdir()) == [
        "probability.tif",
        "refined.geojson",
        "run.json",
    ]
    assert cohort.leftovers() == []
    before = {p: p.stat().st_mtime_ns for p in (cohort.out / "a").iterdir()}
    again = cohort.run(executor, jobs)
    assert (again.done, again.already) == (("a", "b", "c", "d"), 4)
    assert {p: p.stat().st_mtime_ns for p in (cohort.out / "a").iterdir()} == before
    about = json.loads((cohort.out / "cohort.json").read_text())
    assert about["counts"] == {"rows": 4, "done": 4, "failed": 0, "waiting": 0, "removed": 0}
    assert str(cohort.folder) not in (cohort.out / "cohort.json").read_text()


def test_one_lane_takes_many_slides(cohort):
    cohort.slides(a="ok 1", b="fail it is blank", c="ok 3")
    cohort.run(skip_errors=True)
    assert cohort.state("a").facts["pid"] == cohort.state("c").facts["pid"]


def test_the_first_failure_stops_what_was_not_begun(cohort):
    cohort.slides(a="ok 1", b="fail it is blank", c="ok 3", d="ok 4")
    outcome = cohort.run()
    (failure,) = outcome.failures
    assert (failure["id"], failure["error"]) == ("b", "it is blank o")
    assert failure["error_kind"] == "SlideError"
    assert (outcome.done, outcome.not_begun) == (("a",), ("c", "d"))
    # The same command goes on with the others; the failed one stays failed and is listed.
    outcome = cohort.run()
    assert outcome.done == ("a", "c", "d")
    assert [f["id"] for f in outcome.failures] == ["b"]
    assert cohort.state("b").attempts == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fail it is blank", "it is blank"),
        ("crash", "SIGSEGV"),
        ("memory", "out of memory"),
        ("hang", "not done within 0.05 min"),
    ],
)
def test_a_bad_slide_fails_alone(cohort, text, said):
    cohort.slides(a="ok 1", b=text, c="ok 3", d="ok 4")
    outcome = cohort.run("threads", 2, skip_errors=True, timeout_s=3 if text == "hang" else None)
    assert outcome.done == ("a", "c", "d")
    (failure,) = outcome.failures
    assert said in failure["error"]
    assert cohort.state("b").outcome == "failed"
    assert not (cohort.out / "b").exists()
    assert cohort.leftovers() == []


def test_a_slide_that_says_nothing_for_long_hangs(cohort, monkeypatch):
    monkeypatch.setattr(lanes, "STALL_S", 2.0)
    cohort.slides(a="hang", c="ok")
    outcome = cohort.run(skip_errors=True)
    assert "hangs" in outcome.failures[0]["error"]
    assert outcome.done == ("c",)


def test_retry_failed_tries_again_and_counts(cohort):
    (cohort.folder / "b.once").touch()
    cohort.slides(a="ok 1", b="crash")
    assert cohort.run(skip_errors=True).done == ("a",)
    (cohort.folder / "b.was_once").touch()
    assert cohort.run(skip_errors=True).done == ("a",)
    outcome = cohort.run(retry_failed=True)
    assert (outcome.done, outcome.failures) == (("a", "b"), ())
    assert cohort.state("b").attempts == 2
    assert cohort.run().already == 2


def test_an_edited_manifest_reruns_what_changed(cohort):
    cohort.slides(a="ok 1", b="ok 2", c="ok 3")
    cohort.run()
    (cohort.out / "b" / "notes.txt").write_text("mine")
    before = {id: (cohort.out / id / "run.json").stat().st_mtime_ns for id in "abc"}
    cohort.slides(a="ok 1", b="ok 2, edited", d="ok 4")
    outcome = cohort.run()
    assert (outcome.done, outcome.removed) == (("a", "b", "d"), ("c",))
    assert (cohort.out / "c").is_dir()
    assert "edited" in (cohort.out / "b" / "refined.geojson").read_text()
    assert (cohort.out / "b" / "notes.txt").read_text() == "mine"
    # Slide a was written again with the same content: its time of change is another.
    assert (cohort.out / "c" / "run.json").stat().st_mtime_ns == before["c"]
    assert cohort.state("b").attempts == 1


def test_an_untouched_row_does_not_rerun_when_another_is_added(cohort):
    cohort.slides(a="ok 1")
    cohort.run()
    before = (cohort.out / "a" / "run.json").stat().st_mtime_ns
    (cohort.folder / "b.txt").write_text("ok 2")
    with cohort.table.open("a") as table:
        table.write("b,b.txt,outline.txt\n")
    assert cohort.run().already == 1
    assert (cohort.out / "a" / "run.json").stat().st_mtime_ns == before


def test_other_settings_are_refused_unless_overwritten(cohort):
    cohort.slides(a="ok 1")
    cohort.run()
    other = Recipe(encoder="colour", method="logistic")
    with pytest.raises(OutputRefusedError, match="method identity -> logistic"):
        cohort.run(recipe=other)
    assert cohort.run(recipe=other, overwrite=True).already == 0
    run = json.loads((cohort.out / "a" / "run.json").read_text())
    assert run["recipe"]["method"] == "logistic"


def test_a_folder_of_that_name_which_is_not_ours_is_not_touched(cohort):
    (cohort.out / "a").mkdir(parents=True)
    (cohort.out / "a" / "mine.txt").write_text("mine")
    cohort.slides(a="ok 1", b="ok 2")
    outcome = cohort.run(skip_errors=True)
    assert "holds something else" in outcome.failures[0]["error"]
    assert outcome.done == ("b",)
    assert [p.name for p in (cohort.out / "a").iterdir()] == ["mine.txt"]


def test_a_finished_folder_without_its_last_file_is_not_taken_for_done(cohort):
    cohort.slides(a="ok 1", b="ok 2")
    cohort.run()
    (cohort.out / "a" / "run.json").unlink()
    (failure,) = cohort.run().failures
    assert "holds something else than a finished run; move it" in failure["error"]
    shutil.rmtree(cohort.out / "a")
    assert cohort.run(retry_failed=True).done == ("a", "b")


def test_a_task_finds_its_files_from_any_folder(cohort, monkeypatch):
    """A worker on another machine was started elsewhere."""
    monkeypatch.chdir(cohort.folder)
    cohort.slides(a="ok 1")
    row = read_manifest("m.csv").rows[0]
    recipe = Recipe(tissue="tissue.geojson")
    task = task_of(row, "k", None, out=Path("out"), recipe=recipe, runtime=Runtime())
    named = (task["row"]["slide"], task["row"]["coarse"], task["out"], task["recipe"]["tissue"])
    assert all(Path(path).is_absolute() for path in named)


def test_shards_divide_the_work(cohort):
    cohort.slides(**{f"s{i}": f"ok {i}" for i in range(8)})
    parts = [cohort.run(shard=Shard(i, 3)).done for i in (1, 2, 3)]
    assert sorted(id for part in parts for id in part) == [f"s{i}" for i in range(8)]
    assert cohort.run().already == 8


def test_a_full_disk_stops_all_and_is_no_fault_of_the_slide(cohort):
    (cohort.folder / "b.once").touch()
    cohort.slides(a="ok 1", b="full", c="ok 3", d="ok 4")
    outcome = cohort.run(skip_errors=True)
    assert "No space left" in outcome.disk_error
    assert outcome.not_begun == ("c", "d")
    assert not (cohort.out / "b").exists()
    assert cohort.leftovers() == []
    (cohort.folder / "b.was_once").touch()
    outcome = cohort.run()  # without --retry-failed
    assert (outcome.done, outcome.failures) == (("a", "b", "c", "d"), ())


def test_a_state_that_cannot_be_written_stops_all_too(cohort, monkeypatch):
    from recontour import files

    cohort.slides(a="ok 1", b="ok 2", c="ok 3")
    real, calls = os.fsync, []

    def full(fd: int) -> None:
        calls.append(fd)
        if len(calls) > 4:
            raise OSError(28, "No space left on device")
        real(fd)

    monkeypatch.setattr(files.os, "fsync", full)
    with contextlib.suppress(Exception):
        assert cohort.run(skip_errors=True).disk_error
    monkeypatch.undo()
    monkeypatch.setattr(lanes, "COMMAND", TOY)
    assert not [p for p in cohort.leftovers() if p.startswith(".tmp")]
    assert cohort.run().done == ("a", "b", "c")


def test_a_killed_lane_fails_its_slide_alone(cohort):
    cohort.slides(a="slow 30", b="ok 2")

    class Killer(carrying.Silent):
        def at(self, id: str, stage: str, done: int, total: int) -> None:
            if id == "a":
                for pid in LANES.pids():
                    os.kill(pid, signal.SIGKILL)

    outcome = cohort.run(skip_errors=True, progress=Killer())
    assert "SIGKILL" in outcome.failures[0]["error"]
    assert outcome.done == ("b",)


def test_a_signal_to_the_whole_job_fails_no_slide(cohort):
    """Schedulers and `kill` of a process group reach the lanes too, before or after the client."""
    cohort.slides(a="slow 1", b="ok 2")

    class Scheduler(carrying.Silent):
        def at(self, id: str, stage: str, done: int, total: int) -> None:
            for pid in LANES.pids():
                os.kill(pid, signal.SIGTERM)
                os.kill(pid, signal.SIGHUP)

    assert cohort.run(progress=Scheduler()).done == ("a", "b")


def test_a_lane_that_was_idle_for_long_is_not_asked_again(cohort, monkeypatch):
    """It ends by itself, perhaps in this very moment: no fault of the next slide."""
    cohort.slides(a="ok 1", b="ok 2")
    monkeypatch.setattr(lanes, "FRESH_S", -1.0)
    assert cohort.run().done == ("a", "b")
    assert cohort.state("a").facts["pid"] != cohort.state("b").facts["pid"]
    assert not _running(cohort.state("a").facts["pid"])


def test_a_lane_that_cannot_be_started_is_no_full_disk(cohort, monkeypatch):
    cohort.slides(a="ok 1")
    monkeypatch.setattr(lanes, "COMMAND", (str(cohort.folder / "no-python"),))
    (failure,) = cohort.run().failures
    assert (failure["error_kind"], "can be started" in failure["error"]) == ("LaneError", True)


def test_a_lane_does_not_outlive_who_asked(cohort):
    cohort.slides(a="slow 60", b="slow 60")
    client = cohort.client()
    children = _wait_for(lambda: _children(client.pid, 2))
    client.kill()
    client.communicate()
    _wait_for(lambda: not any(map(_running, children)))


def test_ctrl_c_ends_at_once_and_the_rest_is_resumed(cohort):
    cohort.slides(a="ok 1", b="slow 60", c="ok 3")
    client = cohort.client()
    _wait_for(lambda: (cohort.out / "state" / "b.lease").exists())
    client.send_signal(signal.SIGINT)
    client.communicate(timeout=60)
    assert client.returncode != 0
    assert not (cohort.out / "b").exists()
    assert cohort.leftovers() == []
    (cohort.folder / "b.was_once").touch()
    assert cohort.run().done == ("a", "b", "c")


KILLS = int(os.environ.get("RECONTOUR_KILLS", "3"))


def test_killed_at_any_moment_it_ends_as_if_undisturbed(cohort, monkeypatch):
    """kill -9 of the whole client; RECONTOUR_KILLS=20 kills it twenty times."""
    cohort.slides(**{f"s{i}": f"slow {0.05 * (i % 3)} {i}" for i in range(2 * KILLS + 4)})
    calm = cohort.folder / "calm"
    cohort.run("threads", 2, out=calm)
    killed = 0
    for number in range(KILLS):
        done = len(list(cohort.out.glob("s*/run.json")))
        client = cohort.client()
        # After at least one more slide, at moments spread over what a slide does.
        _wait_for(lambda done=done: len(list(cohort.out.glob("s*/run.json"))) > done)
        time.sleep(0.037 * (number % 7))
        client.kill()
        killed += client.wait() == -signal.SIGKILL
        client.communicate()
    assert killed
    monkeypatch.setattr(sweeping, "OLD_S", -1.0)  # else an hour
    outcome = cohort.run("threads", 2)
    assert (len(outcome.done), outcome.failures) == (2 * KILLS + 4, ())
    assert cohort.contents() == cohort.contents(calm)
    assert cohort.leftovers() == []


def test_two_clients_do_each_slide_once(cohort):
    cohort.slides(**{f"s{i}": f"slow 0.1 {i}" for i in range(10)})
    clients = [cohort.client(), cohort.client()]
    said = [client.communicate(timeout=120) for client in clients]
    assert [client.returncode for client in clients] == [0, 0], said
    assert [out for out, _ in said] == ["10 0\n"] * 2
    assert [cohort.state(f"s{i}").attempts for i in range(10)] == [1] * 10
    assert cohort.leftovers() == []


def test_what_another_host_works_on_is_waited_for_then_taken_over(cohort):
    cohort.slides(a="ok 1", b="ok 2")
    lease = cohort.out / "state" / "a.lease"
    lease.parent.mkdir(parents=True)
    mark = {"host": "far", "boot": "x", "pid": 1, "started": "1", "token": "t"}
    lease.write_bytes(_record({**mark, "time": 4e12}))
    os.utime(lease, (4e9, 4e9))  # its clock is decades ahead
    waited = []

    class Told(carrying.Silent):
        def waiting(self, ids):
            waited.append(list(ids))

    outcome = cohort.run(stale_s=0.5, progress=Told())
    assert outcome.done == ("a", "b")
    assert ["a"] in waited
    assert cohort.leftovers() == []


def test_an_owner_that_slept_drops_its_work(cohort, monkeypatch):
    cohort.slides(a="ok 1")
    monkeypatch.setattr("recontour.cohort.leases.Lease.held", lambda self: False)
    task = {
        "kind": "refine",
        "id": "a",
        "key": "k",
        "row": read_manifest(cohort.table).rows[0].to_dict(),
        "out": str(cohort.out),
        "recipe": {},
        "runtime": {},
        "timeout_s": None,
    }
    monkeypatch.setattr(tasks, "acquire", lambda base, **_: _Slept())
    assert tasks.run_task(task)["outcome"] == "busy"
    assert not (cohort.out / "a").exists()


class _Slept:
    token = "t"

    def held(self) -> bool:
        return False

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_a_kill_between_moving_the_old_and_the_new_folder_loses_neither(cohort):
    cohort.slides(a="ok 1")
    cohort.run()
    place = cohort.out / "state" / "work" / "a"
    place.mkdir(parents=True)
    (cohort.out / "a").rename(place / "old-x")
    (place / "y").mkdir()
    (place / "y" / "half").write_text("half")
    assert cohort.run().done == ("a",)
    assert not place.exists()


def test_a_kill_before_the_users_files_were_moved_loses_none(cohort):
    cohort.slides(a="ok 1")
    cohort.run()
    old = cohort.out / "state" / "work" / "a" / "old-x"
    old.mkdir(parents=True)
    for name in ("run.json", "notes.txt"):
        (old / name).write_text("old")
    (cohort.folder / "a.txt").write_text("ok 2")
    assert cohort.run().done == ("a",)
    assert (cohort.out / "a" / "notes.txt").read_text() == "old"
    assert (cohort.out / "a" / "run.json").read_text() != "old"
    assert not old.exists()


def test_a_folder_that_cannot_be_replaced_stays(cohort, monkeypatch):
    cohort.slides(a="ok 1")
    cohort.run()
    before = cohort.contents()
    (cohort.folder / "a.txt").write_text("ok 2")
    rename = Path.rename

    def full(path: Path, target: Path) -> Path:
        if path.parent.name == "a" and not path.name.startswith("old-"):
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", full)
    assert "No space left" in cohort.run().disk_error
    monkeypatch.undo()
    assert cohort.contents() == before


def test_a_resumed_slide_leaves_the_files_of_others_alone(cohort):
    """`b.json` is the end of `a-b.json`, which another process may be writing."""
    states = cohort.out / "state"
    states.mkdir(parents=True)
    cohort.slides(b="ok 1")
    row = read_manifest(cohort.table).rows[0]
    State("b", row_key(row, QUICK), "refine", "running", 1).write(states)
    for name in (".tmp-0_9abcde-a-b.json", ".tmp-0_9abcde-b.json"):
        (states / name).write_text("half")
    assert cohort.run().done == ("b",)
    assert cohort.leftovers() == [".tmp-0_9abcde-a-b.json"]


def test_a_stopped_lane_says_so(tmp_path):
    lane = Lane()
    lane.stop()
    with pytest.raises((LaneStopped, LaneError)):
        lane.run({"kind": "refine"}, tmp_path, lambda *_: None, None)
    assert not lane.alive


def test_lanes_are_spread_over_the_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5")
    assert [least_used("auto", used) for used in ([], ["3"], ["3", "GPU-5"])] == ["3", "GPU-5", "3"]
    assert least_used("cpu", []) is None
    assert least_used("cuda:1", []) is None
    with contextlib.ExitStack() as stack:
        borrowed = [stack.enter_context(LANES.borrow(None, "cuda")) for _ in range(3)]
        assert [lane.gpu for lane in borrowed] == ["3", "GPU-5", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert least_used("auto", []) is None


def _wait_for(condition):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError("waited too long")


def _children(pid: int, count: int) -> list[int]:
    task = Path(f"/proc/{pid}/task")
    if not task.exists():
        pytest.skip("no /proc on this system")
    found = [int(c) for t in task.iterdir() for c in (t / "children").read_text().split()]
    return found if len(found) >= count else []


def _running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
