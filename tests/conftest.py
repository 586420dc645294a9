"""What several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real tissue and annotations; skips where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no real data: ../shared/data is not there")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test touches the user's cache."""
    if "RECONTOUR_TEST_CACHE" not in os.environ:
        monkeypatch.setenv("RECONTOUR_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
