"""Executors: every item gets one outcome, nothing stops the others, and leaving drops the rest."""

from __future__ import annotations

import threading
import time

import pytest

from recontour import registry
from recontour.errors import SlideError, UnknownNameError, UsageError
from recontour.executors import Executor, make_executor

LOCAL = ["serial", "threads"]


def double(item: int) -> int:
    if item == 3:
        raise SlideError("case_3.svs: truncated")
    if item == 4:
        raise ValueError("four")
    return 2 * item


@pytest.fixture(params=LOCAL)
def executor(request):
    made = make_executor(request.param, jobs=2)
    yield made
    made.close()
    made.close()


def test_every_item_has_one_outcome_and_a_failure_stops_nothing(executor):
    outcomes = sorted(executor.map(double, range(7)), key=lambda o: o.item)
    assert [o.item for o in outcomes] == list(range(7))
    assert [o.value for o in outcomes] == [0, 2, 4, None, None, 10, 12]
    assert [o.error for o in outcomes if o.value is None] == [
        "case_3.svs: truncated",
        "ValueError: four",
    ]
    assert all(o.seconds >= 0 for o in outcomes)


def test_an_executor_maps_again_and_again(executor):
    assert [o.value for o in executor.map(double, [1])] == [2]
    assert [o.value for o in executor.map(double, [])] == []
    assert [o.value for o in executor.map(double, [2])] == [4]


def test_stop_finishes_what_runs_and_begins_nothing_more(executor):
    begun = []

    def slow(item: int) -> int:
        begun.append(item)
        time.sleep(0.05)
        return item

    seen = []
    for outcome in executor.map(slow, range(50)):
        seen.append(outcome.item)
        executor.stop()
    assert sorted(seen) == sorted(begun)
    assert len(seen) <= 4


def test_leaving_the_loop_drops_what_nobody_has_begun(executor):
    begun = []
    for _ in executor.map(begun.append, range(50)):
        break
    executor.close()
    assert len(begun) <= 3


def test_threads_work_side_by_side():
    executor = make_executor("threads", jobs=3)
    meeting = threading.Barrier(3, timeout=60)
    outcomes = list(executor.map(lambda _: meeting.wait(), range(3)))
    executor.close()
    assert sorted(o.value for o in outcomes) == [0, 1, 2]


def test_ctrl_c_in_a_task_is_not_an_outcome():
    def interrupted(item: int) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(make_executor("serial").map(interrupted, [1]))


def test_executors_are_chosen_by_name():
    assert {"serial", "threads", "dask"} <= set(registry.names("executor"))
    with pytest.raises(UnknownNameError, match="serial"):
        make_executor("slurm")
    with pytest.raises(UsageError, match="dask"):
        make_executor("threads", scheduler="tcp://a:1")
    with pytest.raises(UsageError, match="dask"):
        make_executor("serial", scheduler="tcp://a:1")
    for name in LOCAL:
        assert isinstance(make_executor(name), Executor)
