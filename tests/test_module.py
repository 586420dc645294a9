"""Where the script is not on the path, the module is the same command."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["recontour", "recontour.cli.main"])
def test_the_module_is_the_command(module):
    done = subprocess.run(
        [sys.executable, "-m", module, "refine"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "SLIDE" in done.stderr
    assert "Traceback" not in done.stderr
