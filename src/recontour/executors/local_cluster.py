"""A Dask cluster on this machine: a process a job, or a process a GPU where there are GPUs."""

from __future__ import annotations

import logging
import os
from typing import Any

import distributed

ALLOWED_DEATHS = 1
"""How many workers a task may lose before it is set aside and tried alone."""


def start_local_cluster(jobs: int, gpus: list[str]) -> Any:
    """Start scheduler and workers that listen on this machine only.

    Parameters
    ----------
    jobs : worker processes, where there is no GPU
    gpus : names for CUDA_VISIBLE_DEVICES; one worker each, which advertises `GPU=1`

    Returns
    -------
    a running `distributed.SpecCluster`; closing it ends its processes
    """
    common = {"host": "127.0.0.1", "protocol": "tcp://", "dashboard_address": "127.0.0.1:0"}
    worker: dict[str, Any] = {
        **common,
        "nthreads": 1,  # one task, hence one encoder, at a time
        "memory_limit": 0,  # tasks run in children of the worker, which hold nothing here
        "silence_logs": logging.CRITICAL,
    }
    options = [
        {**worker, "env": {"CUDA_VISIBLE_DEVICES": gpu}, "resources": {"GPU": 1}} for gpu in gpus
    ] or [worker] * jobs
    make: Any = distributed.SpecCluster
    return make(
        name="recontour",
        scheduler={
            "cls": distributed.Scheduler,
            "options": {
                **common,
                "port": 0,
                "allowed_failures": ALLOWED_DEATHS,
            },
        },
        workers={i: {"cls": distributed.Nanny, "options": o} for i, o in enumerate(options)},
        silence_logs=logging.CRITICAL,
    )


def visible_gpus() -> list[str]:
    """Names of the GPUs that may be used, as CUDA_VISIBLE_DEVICES spells them."""
    import torch

    if not torch.cuda.is_available():
        return []
    if named := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return [name.strip() for name in named.split(",")][: torch.cuda.device_count()]
    return [str(i) for i in range(torch.cuda.device_count())]
