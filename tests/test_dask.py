"""Many slides on a Dask cluster: workers come, die and go, and every slide is worked on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from recontour.errors import ClusterError, MissingExtraError, MissingFileError
from recontour.executors import Executor, make_executor

pytest.importorskip("distributed", reason="needs recontour[dask]")

import distributed

from recontour.executors import dask as dask_module
from recontour.executors import on_worker
from recontour.executors.dask import Dask
from recontour.executors.dask_workers import Workers, scheduler_address
from recontour.executors.on_worker import MESSAGE_LIMIT, Check, inspect

HERE = Path(__file__).resolve().parent
PLAIN = {"device": "cpu"}


# What the workers do. At the top of the module: workers import it by name.


def double(item: dict[str, Any]) -> int:
    return 2 * int(item["n"])


def fragile(item: dict[str, Any]) -> int:
    if item["n"] == 3:
        raise ValueError("slide 3 is truncated")
    return int(item["n"])


def kill_once(item: dict[str, Any]) -> int:
    """The first to come here takes its worker with it."""
    try:
        os.close(os.open(item["mark"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return int(item["n"])
    os.kill(os.getpid(), signal.SIGKILL)
    return -1


def poison(item: dict[str, Any]) -> int:
    """Item 2 kills whoever takes it."""
    if item["n"] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return int(item["n"])


def slow_first(item: dict[str, Any]) -> int:
    time.sleep(1.0 if item["n"] == 0 else 0.02)
    return int(item["n"])


def pause(item: dict[str, Any]) -> int:
    time.sleep(item["seconds"])
    return int(item["n"])


def mark(item: dict[str, Any]) -> int:
    Path(item["folder"], str(item["n"])).touch()
    time.sleep(0.1)
    return int(item["n"])


def child(item: dict[str, Any]) -> str:
    """Start a process from inside a worker, as lanes do, and talk to it."""
    code = "print(input()[::-1])"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        return process.communicate(item["say"], timeout=60)[0].strip()


def large_answer(item: dict[str, Any]) -> str:
    return "x" * int(item["n"])


def where(item: dict[str, Any]) -> tuple[str, float, float]:
    start = time.time()
    time.sleep(0.1)
    return os.environ.get("CUDA_VISIBLE_DEVICES", "none"), start, time.time()


def toy_task(task: dict[str, Any]) -> dict[str, Any]:
    """`run_task` with a lane that makes up its slides."""
    from recontour.cohort import lanes, tasks

    lanes.COMMAND = (sys.executable, str(HERE / "toy_lane.py"))
    return tasks.run_task(task)


def items(n: int, **more: Any) -> list[dict[str, Any]]:
    return [{"n": i, "runtime": PLAIN, **more} for i in range(n)]


@pytest.fixture(scope="module")
def local() -> Iterator[Dask]:
    """Two worker processes on this machine, shared by the tests that leave them as they were."""
    executor = Dask(jobs=2)
    yield executor
    executor.close()


# A local cluster


def test_it_is_an_executor_by_name(local: Dask) -> None:
    made = make_executor("dask", jobs=3)
    assert isinstance(made, Dask)
    assert isinstance(made, Executor)
    made.close()  # nothing was started: nothing to wait for


def test_without_the_extra_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.delitem(sys.modules, "recontour.executors.dask")
    with pytest.raises(MissingExtraError, match=r"pip install 'recontour\[dask\]'"):
        make_executor("dask")


def test_one_failure_is_a_sentence_and_stops_nothing(local: Dask) -> None:
    outcomes = {o.item["n"]: o for o in local.map(fragile, items(8))}
    assert {n: o.value for n, o in outcomes.items() if o.error is None} == {
        n: n for n in range(8) if n != 3
    }
    assert outcomes[3].error == "ValueError: slide 3 is truncated"
    assert outcomes[3].value is None


def test_nothing_to_do_is_done_at_once() -> None:
    executor = Dask(jobs=2)
    assert list(executor.map(double, [])) == []
    assert executor._cluster is None
    executor.close()


def test_outcomes_come_as_they_are_ready(local: Dask) -> None:
    order = [o.value for o in local.map(slow_first, items(6))]
    assert order[-1] == 0
    assert sorted(order) == list(range(6))


def test_workers_can_hold_lanes(local: Dask) -> None:
    # Worker processes are daemons: they may start programs, but no multiprocessing children.
    values = [o.value for o in local.map(child, items(3, say="slide"))]
    assert values == ["edils"] * 3


def test_only_small_messages_travel(local: Dask) -> None:
    path = "/data/cohort/slides/" + 40 * "x"
    before, received = local.sent_bytes, local.received_bytes
    outcomes = list(local.map(double, items(100, slide=path, recipe={"method": "em"})))
    assert len(outcomes) == 100
    assert (local.sent_bytes - before) / 100 < 4096
    assert (local.received_bytes - received) / 100 < 512


def test_what_is_too_large_to_travel_is_refused_by_name(local: Dask) -> None:
    tasks = [*items(2), {"n": 9, "runtime": PLAIN, "pixels": bytes(MESSAGE_LIMIT)}]
    outcomes = {o.item["n"]: o for o in local.map(double, tasks)}
    assert outcomes[1].value == 2
    assert "send their paths" in (outcomes[9].error or "")
    (answer,) = local.map(large_answer, [{"n": MESSAGE_LIMIT, "runtime": PLAIN}])
    assert answer.value is None
    assert "the answer has" in (answer.error or "")


def test_stopping_lets_what_runs_finish(local: Dask, tmp_path: Path) -> None:
    given = []
    for outcome in local.map(mark, items(20, folder=str(tmp_path))):
        given.append(outcome.value)
        local.stop()
    assert len(given) <= 4
    assert sorted(int(p.name) for p in tmp_path.iterdir()) == sorted(given)


def test_leaving_the_loop_drops_the_rest(local: Dask, tmp_path: Path) -> None:
    for _ in local.map(mark, items(20, folder=str(tmp_path))):
        break
    assert [o.value for o in local.map(double, items(2))] in ([0, 2], [2, 0])
    assert len(list(tmp_path.iterdir())) <= 5


def test_a_lost_worker_is_made_up_for(local: Dask, tmp_path: Path) -> None:
    outcomes = list(local.map(kill_once, items(6, mark=str(tmp_path / "died"))))
    assert (tmp_path / "died").exists()
    assert sorted(o.value for o in outcomes) == list(range(6))


def test_a_task_that_kills_its_workers_fails_alone(local: Dask) -> None:
    outcomes = {o.item["n"]: o for o in local.map(poison, items(6))}
    assert "every worker that took it died" in (outcomes.pop(2).error or "")
    assert {n: o.value for n, o in outcomes.items()} == {n: n for n in (0, 1, 3, 4, 5)}


def test_one_worker_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_module, "visible_gpus", lambda: ["3", "7", "8"])
    executor = Dask(jobs=2)
    try:
        values = [o.value for o in executor.map(where, [{"n": i} for i in range(8)])]
    finally:
        executor.close()
    assert all(values)
    assert {v[0] for v in values if v} == {"3", "7"}
    for gpu in ("3", "7"):  # never two tasks at once on one
        spans = sorted(v[1:] for v in values if v and v[0] == gpu)
        assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))


def test_a_cohort_survives_a_killed_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recontour import Recipe, Runtime
    from recontour.cohort import carrying
    from recontour.cohort.manifest import read_manifest
    from recontour.cohort.running import run_cohort
    from recontour.cohort.states import read_state

    monkeypatch.setattr(carrying, "run_task", toy_task)
    names = [f"s{i}" for i in range(6)]
    for name in names:
        (tmp_path / f"{name}.txt").write_text("fail blank" if name == "s1" else f"slow 0.4 {name}")
    (tmp_path / "o.txt").write_text(" o")
    rows = "".join(f"{name},{name}.txt,o.txt\n" for name in names)
    (tmp_path / "m.csv").write_text("id,slide,coarse\n" + rows)
    executor = Dask(jobs=2)

    class Killer(carrying.Silent):
        """Kills a worker once a slide is done."""

        killed = 0

        def ended(self, value: Any) -> None:
            if not self.killed and value["outcome"] == "done":
                pids = executor._client.run(os.getpid)
                self.killed = min(pids.values())
                os.kill(self.killed, signal.SIGKILL)

    killer = Killer()
    outcome = run_cohort(
        read_manifest(tmp_path / "m.csv"),
        tmp_path / "out",
        Recipe(encoder="colour", method="identity"),
        Runtime(device="cpu"),
        executor,
        skip_errors=True,
        progress=killer,
    )
    assert killer.killed
    assert sorted(outcome.done) == [name for name in names if name != "s1"]
    assert [failure["error"] for failure in outcome.failures] == ["blank o"]
    states = [read_state(tmp_path / "out" / "state", name) for name in names]
    assert {state.attempts for state in states if state} <= {1, 2}
    assert not list((tmp_path / "out").glob(".*"))  # nothing is left of the check


# Fit workers


def test_workers_that_share_the_folder_are_fit(local: Dask, tmp_path: Path) -> None:
    slide = tmp_path / "a.svs"
    slide.touch()
    out = tmp_path / "out"
    local.prepare(out, [str(slide), "s3://bucket/b.svs"], device="cpu")
    assert sum(o.value is not None for o in local.map(double, items(4))) == 4
    local._forget()
    assert list(out.iterdir()) == []


def test_every_unfit_worker_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A cluster of its own: a worker that another test killed may be gone for good.
    with contextlib.closing(Dask(jobs=2)) as executor:
        executor._connect("cpu").wait_for_workers(2, timeout=240)
        with pytest.raises(ClusterError) as missing:
            executor.prepare(tmp_path, [str(tmp_path / "gone.svs")], device="cpu")
        assert str(missing.value).count("gone.svs; mount them at the same path") == 2
        monkeypatch.setattr(dask_module, "__version__", "99.0")
        with pytest.raises(ClusterError, match="this is 99.0; install the same"):
            executor.prepare(tmp_path, device="cpu")


def test_the_folder_has_to_be_the_same_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_worker, "PATIENCE_S", 0.0)
    check = Check(on_worker.__version__, str(tmp_path / "out"), "0123456789abcdef")
    assert "does not see the output folder" in inspect(check)[0]
    (tmp_path / "out").mkdir()
    assert "does not see the output folder" in inspect(check)[0]
    (tmp_path / "out" / check.name).write_text("of somebody else")
    assert "has another folder" in inspect(check)[0]
    (tmp_path / "out" / check.name).write_text(check.token)
    assert inspect(check) == []


def test_a_folder_that_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = Check(on_worker.__version__, str(tmp_path), "0123456789abcdef")
    (tmp_path / check.name).write_text(check.token)

    def refuse(self: Path, text: str) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refuse)
    assert inspect(check) == [f"cannot write in {tmp_path} (Permission denied)"]


class FakeClient:
    """A scheduler that says which workers it has."""

    def __init__(self, *workers: dict[str, Any]) -> None:
        self.found = {f"tcp://10.0.0.{i}:1": w for i, w in enumerate(workers)}
        self.scheduler = self

    def identity(self, n_workers: int) -> dict[str, Any]:
        return {"workers": self.found}

    def sync(self, function: Callable[..., Any], *, callback_timeout: float, **more: Any) -> Any:
        return function(**more)


def test_a_task_a_thread_and_a_task_a_gpu() -> None:
    client = FakeClient({"nthreads": 4, "resources": {}}, {"nthreads": 2, "resources": {"GPU": 1}})
    cpu = Workers(client, gpu=False, may_grow=False, wait_s=0)
    cpu.look()
    assert (cpu.slots, cpu.room, cpu.resources) == (6, 6, None)
    gpu = Workers(client, gpu=True, may_grow=True, wait_s=0)
    gpu.look()
    assert (gpu.slots, gpu.room, gpu.resources) == (1, 2, {"GPU": 1})


def test_a_worker_of_several_gpus_takes_a_task_a_gpu_and_thread() -> None:
    node, narrow = (
        {"nthreads": 8, "resources": {"GPU": 4}},
        {"nthreads": 1, "resources": {"GPU": 4}},
    )
    workers = Workers(FakeClient(node, narrow), gpu=True, may_grow=False, wait_s=0)
    workers.look()
    assert workers.slots == 5


def test_waiting_for_workers_ends() -> None:
    workers = Workers(FakeClient(), gpu=False, may_grow=True, wait_s=0.0)
    workers.look()
    with pytest.raises(ClusterError, match="dask worker ADDRESS"):
        workers.look_until_some()


# A cluster that runs already


def test_where_the_scheduler_is(tmp_path: Path) -> None:
    assert scheduler_address("tcp://head:8786") == "tcp://head:8786"
    assert scheduler_address("head:8786") == "tcp://head:8786"
    for wrong in ("head", "tcp://head", "head:port", "http://head:8786", str(tmp_path)):
        with pytest.raises(ClusterError, match="no address of a scheduler"):
            scheduler_address(wrong)
    file = tmp_path / "scheduler.json"
    with pytest.raises(MissingFileError, match="scheduler-file"):
        scheduler_address(str(file))
    file.write_text("[]")
    with pytest.raises(ClusterError, match="not a scheduler file"):
        scheduler_address(str(file))
    file.write_text(json.dumps({"address": "tls://head:1"}))
    assert scheduler_address(str(file)) == "tls://head:1"


def test_no_scheduler_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_module, "ANSWER_S", 0.5)
    executor = Dask(scheduler="tcp://127.0.0.1:9")
    with pytest.raises(ClusterError, match="no Dask scheduler answers at tcp://127.0.0.1:9"):
        list(executor.map(double, items(1)))
    executor.close()


def start(stack: ExitStack, *words: str) -> subprocess.Popen[bytes]:
    """A process of the cluster; ends with the test."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dask", *words],
        env={**os.environ, "PYTHONPATH": str(HERE), "DASK_DISTRIBUTED__WORKER__PRELOAD": "[]"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    stack.callback(process.wait, 60)
    stack.callback(process.kill)
    return process


def test_late_unfit_workers_and_a_lost_scheduler(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "scheduler.json"
    old = tmp_path / "old.py"
    old.write_text("import recontour\nrecontour.__version__ = '0.0.1'\n")
    worker = ("worker", "--scheduler-file", str(file), "--no-nanny", "--nthreads", "1")
    quiet = ("--no-dashboard",)
    with ExitStack() as stack:
        scheduler = start(
            stack, "scheduler", "--port", "0", "--host", "127.0.0.1", *quiet,
            "--scheduler-file", str(file),
        )  # fmt: skip
        start(stack, *worker, *quiet)
        end = time.monotonic() + 120
        while not file.exists() and time.monotonic() < end:
            time.sleep(0.1)
        executor = Dask(scheduler=str(file))
        stack.callback(executor.close)
        executor.prepare(tmp_path / "out", device="cpu")

        # A worker with an older version joins while tasks run: it is sent away, they are done.
        start(stack, *worker, *quiet, "--preload", str(old))
        with distributed.Client(executor.address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=120)
        values = [o.value for o in executor.map(pause, items(12, seconds=0.1))]
        assert sorted(values) == list(range(12))
        assert "has recontour 0.0.1" in caplog.text

        # The scheduler dies: what is done is said, and nobody waits for ever.
        outcomes = executor.map(pause, items(50, seconds=0.2))
        seen = [next(outcomes)]
        scheduler.kill()
        with pytest.raises(ClusterError) as lost:
            seen.extend(outcomes)
        assert f"{len(seen)} of 50 tasks were finished" in str(lost.value)
        assert "the same command goes on" in str(lost.value)
        assert lost.value.exit_code == 1
        executor.close()
        assert not [r for r in caplog.records if r.name == "distributed.client"]
