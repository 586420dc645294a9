"""Which GPUs there are, without loading torch: the supervisor of lanes computes nothing itself."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

DRIVER = Path("/proc/driver/nvidia/gpus")
VISIBLE = "CUDA_VISIBLE_DEVICES"


def gpus() -> list[str]:
    """Names of the GPUs this process may use, as CUDA_VISIBLE_DEVICES spells them."""
    named = os.environ.get(VISIBLE)
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    count = len(list(DRIVER.iterdir())) if DRIVER.is_dir() else 0
    return [str(number) for number in range(count)]


def environment(gpu: str | None) -> Mapping[str, str]:
    """What makes a process see this GPU only; nothing for None."""
    return {} if gpu is None else {VISIBLE: gpu}


def least_used(device: str, used: Collection[str | None]) -> str | None:
    """The GPU that the fewest lanes have, where there are several and none is asked for by name."""
    known = gpus()
    if device not in ("auto", "cuda") or len(known) < 2:
        return None
    return min(known, key=lambda name: (sum(name == one for one in used), known.index(name)))
