"""How many tasks the workers of a Dask cluster can take, looked up now and then."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recontour.errors import ClusterError, MissingFileError

logger = logging.getLogger(__name__)

ANSWER_S = 30.0
"""How long a scheduler may take to answer."""

LOOK_S = 5.0
"""Seconds between two looks at which workers there are."""


class Workers:
    """The workers there are: one task a thread, or one a GPU where workers advertise `GPU`.

    Parameters
    ----------
    gpu : tasks may use GPUs
    may_grow : others manage the cluster; it may add workers when there is more to do
    wait_s : how long there may be no worker at all

    Attributes
    ----------
    slots : tasks they can carry out at once
    resources : what a task asks of its worker
    """

    def __init__(self, client: Any, *, gpu: bool, may_grow: bool, wait_s: float) -> None:
        self.resources: dict[str, float] | None = None
        self.slots = 0
        self._client = client
        self._gpu = gpu
        self._may_grow = may_grow
        self._wait_s = wait_s
        self._next = 0.0
        self._none_since: float | None = None

    @property
    def room(self) -> int:
        """Tasks to hand out; a few in excess tell an adaptive cluster that it may grow."""
        return self.slots + (1 + self.slots // 8 if self._may_grow else 0)

    def look(self) -> None:
        """Count again, where that is due.

        Raises
        ------
        ClusterError : there has been no worker for too long
        OSError : the scheduler does not answer
        """
        now = time.monotonic()
        if now < self._next:
            return
        found = self._ask().values()
        gpus = sum(min(int(w["resources"].get("GPU", 0)), w["nthreads"]) for w in found)
        if self._gpu and gpus:
            self.resources, self.slots = {"GPU": 1}, gpus
        else:
            self.resources, self.slots = None, sum(w["nthreads"] for w in found)
        self._next = now + (LOOK_S if self.slots else 0.5)
        if self.slots:
            self._none_since = None
        elif self._none_since is None:
            self._none_since = now
            logger.warning("the cluster has no worker at the moment; waiting for one")
        elif now - self._none_since > self._wait_s:
            raise ClusterError(
                f"the cluster had no worker for {self._wait_s / 60:.0f} min; start some "
                "(`dask worker ADDRESS`), and the same command goes on"
            )

    def look_until_some(self) -> None:
        """Wait until there is a worker.

        Raises
        ------
        ClusterError, OSError : as `look`
        """
        self.look()
        while not self.slots:
            time.sleep(0.2)
            self.look()

    def _ask(self) -> Mapping[str, Any]:
        identity = self._client.sync(
            self._client.scheduler.identity, n_workers=-1, callback_timeout=ANSWER_S
        )
        workers: Mapping[str, Any] = identity["workers"]
        return workers


def scheduler_address(scheduler: str) -> str:
    """An address, read from the scheduler file where one is named (`….json`).

    Raises
    ------
    MissingFileError : there is no such file
    ClusterError : it is none
    """
    from distributed.comm.addressing import get_address_host_port

    if not scheduler.endswith(".json"):
        address = scheduler if "://" in scheduler else f"tcp://{scheduler}"
        # Here already: a client that is given a wrong one takes a minute to give it up.
        try:
            get_address_host_port(address, strict=True)
        except ValueError as error:
            raise ClusterError(
                f"--scheduler {scheduler}: no address of a scheduler ({error}); it is like "
                "tcp://head:8786, or a scheduler file (….json)"
            ) from error
        return address
    try:
        return str(json.loads(Path(scheduler).read_text())["address"])
    except FileNotFoundError as error:
        raise MissingFileError(
            f"--scheduler {scheduler}: no such file; `dask scheduler --scheduler-file` writes it"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClusterError(f"--scheduler {scheduler}: not a scheduler file") from error
