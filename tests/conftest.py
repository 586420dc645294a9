"""What several test files share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from recontour.generated import GeneratedSlide

# The same examples in every run, however busy the machine; HYPOTHESIS_PROFILE=search looks further.
settings.register_profile(
    "steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("search", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real tissue and annotations; skips where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no real data: ../shared/data is not there")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def private_cache(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No test touches the user's cache."""
    if "RECONTOUR_TEST_CACHE" not in os.environ:
        monkeypatch.setenv("RECONTOUR_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))


class Answer(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Answer]:
    """Run `recontour ARGS…` in this process: exit code, stdout and stderr."""
    from recontour.cli.main import main

    def run(*args: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["recontour", *map(str, args)])
        capfd.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return Answer(code, *capfd.readouterr())

    return run


@dataclass(frozen=True)
class Scene:
    """A small generated slide, its truth, and a coarse outline of it, as files."""

    slide: Path
    truth: Path
    coarse: Path
    made: GeneratedSlide


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """1,536 px at 0.5 µm/px: about 1,500 cells of 16 µm."""
    from recontour import generate_slide, simulate_coarse, write_annotation

    folder = tmp_path_factory.mktemp("scene")
    made = generate_slide(folder / "case.tif", size=(1536, 1536), seed=3)
    coarse = simulate_coarse(made.truth, kind="generous", seed=1, mpp=0.5, size=made.size)
    write_annotation(made.truth, folder / "truth.geojson")
    write_annotation(coarse, folder / "coarse.geojson")
    return Scene(made.path, folder / "truth.geojson", folder / "coarse.geojson", made)
