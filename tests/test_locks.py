"""Taking turns: one after another, and nobody for ever."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from recontour import locks
from recontour.locks import in_turn


def test_turns_do_not_overlap(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        with in_turn(tmp_path / "lock"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 6
    assert list(tmp_path.iterdir()) == []


def test_who_waited_long_enough_goes_on(tmp_path: Path) -> None:
    with in_turn(tmp_path / "lock"), in_turn(tmp_path / "lock", patience_s=0.1):
        pass
    assert list(tmp_path.iterdir()) == []


def test_where_files_cannot_be_locked_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(locks, "_open_locked", refuse)
    with in_turn(tmp_path / "lock"), in_turn(tmp_path / "lock"):
        pass
