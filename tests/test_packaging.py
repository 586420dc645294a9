"""What an installed package holds, apart from modules: an editable install never misses a file."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_data_file_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["recontour"]
    package = ROOT / "src" / "recontour"
    installed = {path for pattern in patterns for path in package.glob(pattern)}
    there = {p for p in package.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert not {str(p.relative_to(package)) for p in there - installed}
    assert all(list(package.glob(pattern)) for pattern in patterns)
