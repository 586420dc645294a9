"""Tasks on a Dask cluster: one that runs already (SLURM, PBS, Kubernetes, …) or one made here.

Only small messages travel: the tasks' paths and settings one way, their outcomes the other. The
scheduler is given no more tasks than the workers can take, so that a dying worker takes nothing
with it but what it was doing; that is given to another one. A task whose workers die again and
again is tried once more when nothing else runs, and then fails alone.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import distributed

from recontour import __version__
from recontour.errors import ClusterError
from recontour.executors.base import Item, Outcome, Value
from recontour.executors.dask_flow import Flow
from recontour.executors.dask_workers import ANSWER_S, Workers, scheduler_address
from recontour.executors.local_cluster import start_local_cluster, visible_gpus
from recontour.executors.on_worker import Check, UnfitWorkerError, inspect
from recontour.files import write_text

logger = logging.getLogger(__name__)
CLIENT_LOGGER = logging.getLogger("distributed.client")

WAIT_S = 1800.0
"""How long to wait for a first worker, or for a new one when all have gone."""

MAX_UNFIT = 20
"""Workers sent away during one `map` before the cluster is given up."""


class Dask:
    """See `recontour.executors.base.Executor`.

    Parameters
    ----------
    jobs : workers of a local cluster (on a machine with GPUs: at most; one a GPU)
    scheduler : address (`tcp://…`, `tls://…`) or scheduler file (`….json`) of a running cluster;
        None: a local one, made when it is first needed and ended by `close`

    Attributes
    ----------
    received_bytes : size of all answers so far
    """

    def __init__(self, *, jobs: int = 2, scheduler: str | None = None) -> None:
        self.address = None if scheduler is None else scheduler_address(scheduler)
        self.wait_s = WAIT_S
        self.received_bytes = 0
        self._jobs = jobs
        self._stopped = False
        self._check: Check | None = None
        self._token: Path | None = None
        self._cluster: Any = None
        self._client: Any = None
        self._told = logging.NOTSET

    def prepare(self, out: Path, inputs: Sequence[str] = (), *, device: str = "auto") -> None:
        """See that every worker can take part, before any task is sent.

        Parameters
        ----------
        out : the output folder, which all have to share
        inputs : paths or URLs of some slides and outlines, which all have to see
        device : what tasks will compute on

        Raises
        ------
        ClusterError : the scheduler does not answer, or workers cannot take part; lists all
        """
        client = self._connect(device)
        self._forget()
        check = Check(__version__, str(Path(out).resolve()), uuid.uuid4().hex)
        token = Path(check.out) / check.name
        write_text(token, check.token)
        self._token = token
        with self._scheduler_may_go():
            self._workers(device).look_until_some()
            answers = client.run(inspect, check, list(inputs), on_error="return")
        problems = [
            f"worker {address} {sentence}"
            for address, answer in sorted(answers.items())
            for sentence in (answer if isinstance(answer, list) else [_unloadable(answer)])
        ]
        if problems:
            listed = "".join(f"\n  {problem}" for problem in problems)
            raise ClusterError(f"some workers cannot take part; nothing was started:{listed}")
        self._check = check

    def map(
        self, fn: Callable[[Item], Value], items: Sequence[Item]
    ) -> Iterator[Outcome[Item, Value]]:
        """Call `fn` on the workers; a lost worker's items go to others.

        Raises
        ------
        ClusterError : the scheduler or all workers were lost
        """
        self._stopped = False
        unfit = 0
        flow = Flow(fn, items, self._check)
        for item, why in flow.refuse_large():
            yield Outcome(item, None, why, 0.0)
        if not flow:
            return
        device = _device_of(items[0])
        client = self._connect(device)
        workers = self._workers(device)
        try:
            while flow:
                with self._scheduler_may_go(flow):
                    workers.look()
                    if not self._stopped:
                        flow.hand_out(client, workers.room, workers.resources)
                    elif not flow.running:
                        return
                    ended = flow.take_back(timeout=0.5)
                if ended is None:
                    continue
                sent, answer = ended
                if isinstance(answer, UnfitWorkerError):
                    unfit += 1
                    self._send_away(answer, unfit)
                elif isinstance(answer, BaseException):
                    seconds = time.perf_counter() - sent.since
                    yield Outcome(sent.item, None, _why(answer), seconds)
                else:
                    self.received_bytes += len(pickle.dumps(answer))
                    yield Outcome(sent.item, answer["value"], answer["error"], answer["seconds"])
        finally:
            if flow.running:
                with contextlib.suppress(Exception):  # the scheduler may be what was lost
                    client.cancel(flow.running, force=True)

    def stop(self) -> None:
        """Begin no further item."""
        self._stopped = True

    def close(self) -> None:
        """Leave the cluster; a local one ends."""
        self._forget()
        client, cluster = self._client, self._cluster
        self._client = self._cluster = None
        if client is not None:
            client.close(timeout=5)
            CLIENT_LOGGER.setLevel(self._told)
        if cluster is not None:
            cluster.close(timeout=20)

    @property
    def sent_bytes(self) -> int:
        """What went to the scheduler so far."""
        comm = None if self._client is None else self._client.scheduler_comm
        return 0 if comm is None else int(comm.byte_count)

    def _connect(self, device: str) -> Any:
        if self._client is None:
            address: Any = self.address
            if address is None:
                gpus = visible_gpus()[: self._jobs] if _may_use_gpu(device) else []
                address = self._cluster = start_local_cluster(self._jobs, gpus)
            connect: Any = distributed.Client
            try:
                self._client = connect(
                    address, timeout=ANSWER_S, set_as_default=False, name="recontour"
                )
            except (OSError, ValueError) as error:
                raise ClusterError(
                    f"no Dask scheduler answers at {self.address}; start one with "
                    "`dask scheduler`, or leave --scheduler out for a local cluster"
                ) from error
            self._told = CLIENT_LOGGER.level
            CLIENT_LOGGER.setLevel(logging.CRITICAL)  # a lost scheduler is our error to tell
        return self._client

    def _workers(self, device: str) -> Workers:
        return Workers(
            self._client,
            gpu=_may_use_gpu(device),
            may_grow=self.address is not None,
            wait_s=self.wait_s,
        )

    def _send_away(self, unfit: UnfitWorkerError, count: int) -> None:
        address, why = unfit.args
        if count > MAX_UNFIT:
            raise ClusterError(f"{count} workers could not take part; the last, {address}, {why}")
        logger.warning("worker %s was sent away: it %s", address, why)
        with self._scheduler_may_go():
            self._client.retire_workers([address], close_workers=True)

    def _forget(self) -> None:
        if self._token is not None:
            with contextlib.suppress(OSError):
                self._token.unlink(missing_ok=True)
        self._check = self._token = None

    @contextlib.contextmanager
    def _scheduler_may_go(self, flow: Flow | None = None) -> Iterator[None]:
        """Turn the loss of the scheduler into one sentence."""
        try:
            yield
        except (distributed.client.FutureCancelledError, OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and self._client.status == "running":
                raise  # a fault of ours
            where = self.address or "this machine"
            done = f"{flow.done} of {flow.total} tasks were finished; " if flow else ""
            raise ClusterError(
                f"the Dask scheduler at {where} was lost; {done}what was finished is kept, and "
                "the same command goes on from there"
            ) from error


def _device_of(item: object) -> str:
    runtime = item.get("runtime") if isinstance(item, Mapping) else None
    return str((runtime or {}).get("device", "auto"))


def _may_use_gpu(device: str) -> bool:
    return device.startswith(("auto", "cuda"))


def _why(error: BaseException) -> str:
    if isinstance(error, distributed.KilledWorker):
        return (
            "every worker that took it died (out of memory, a crash, or killed from outside); "
            "the workers' logs say more"
        )
    return (
        f"a worker could not take it ({type(error).__name__}: {error}); install the same "
        "recontour and plug-ins on every worker"
    )


def _unloadable(error: object) -> str:
    if isinstance(error, ImportError) and (error.name or "").startswith("recontour"):
        return f"has no recontour, or an older one; install recontour {__version__} there"
    return f"could not be asked ({type(error).__name__}: {error})"
