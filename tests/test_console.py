"""What a person reads while a command runs, and in its help."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from recontour.cli import console
from recontour.cli.main import app


def lines_of(steps: list[tuple[float, int]], capsys, clock) -> list[str]:
    """What a log holds of a stage of 20 steps that was told of at (seconds, done)."""
    with console.progress_of(quiet=False) as progress:
        for now, done in steps:
            clock["now"] = now
            progress("thumbnails", done, 20)
    return capsys.readouterr().err.splitlines()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    now = {"now": 0.0}
    monkeypatch.setattr(console.time, "monotonic", lambda: now["now"])
    return now


def test_a_quick_stage_is_two_lines_of_a_log(capsys, clock) -> None:
    steps = [(done / 100, done) for done in range(21)]
    assert lines_of(steps, capsys, clock) == ["Thumbnails: 0/20 (0 s)", "Thumbnails: 20/20 (0 s)"]


def test_a_slow_stage_tells_every_ten_percent(capsys, clock) -> None:
    steps = [(done * 30.0, done) for done in range(21)]
    lines = lines_of(steps, capsys, clock)
    assert lines[:2] == ["Thumbnails: 0/20 (0 s)", "Thumbnails: 2/20 (60 s)"]
    assert len(lines) == 11
    assert lines[-1] == "Thumbnails: 20/20 (600 s)"


@pytest.mark.parametrize("command", ["refine", "embed", "cohort"])
def test_the_help_of_an_engine_names_what_to_install(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}, color=False)
    assert "pip install 'recontour[openvino]'" in " ".join(shown.stdout.split())
