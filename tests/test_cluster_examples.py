"""The files of examples/clusters: each is run with stubs of what it needs, or read and checked."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_docs_commands import problems, program

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples" / "clusters"
CHART = {  # the keys of the chart's own values.yaml that may be set
    "scheduler": {"image", "resources"},
    "worker": {
        "image", "replicas", "threads_per_worker", "extraArgs", "resources", "env", "mounts",
    },
    "jupyter": {"enabled"},
}  # fmt: skip


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Programs that write down how they were called, found before all others."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def make(name: str, body: str = "") -> Path:
        log = tmp_path / f"{name}.log"
        script = folder / name
        script.write_text(f'#!/bin/bash\nprintf "%q " "$@" >> {log}; echo >> {log}\n{body}\n')
        script.chmod(0o755)
        return log

    return make


def calls(log: Path) -> list[list[str]]:
    return [shlex.split(line) for line in log.read_text().splitlines()]


def valid(words: list[str]) -> list[str]:
    """The words of a `recontour …`, after checking that there is all of it."""
    assert not list(problems(program(), words))
    return words


def run(script: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(EXAMPLES / script), *words],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_every_example_is_on_the_page_and_tested() -> None:
    page = (ROOT / "docs" / "how-to" / "clusters.md").read_text("utf-8")
    tests = Path(__file__).read_text("utf-8")
    for path in EXAMPLES.iterdir():
        assert path.name in page, f"{path.name} is not in docs/how-to/clusters.md"
        assert f'"{path.name}"' in tests, f"{path.name} is not tested"


def test_slurm_array(stub: Any) -> None:
    log = stub("recontour")
    env = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_CPUS_PER_TASK": "4"}
    done = run("slurm_array.sh", "my slides.csv", "out", "--class", "Tumor", **env)
    assert done.returncode == 0, done.stderr
    (words,) = calls(log)
    assert valid(words)[:4] == ["cohort", "my slides.csv", "-o", "out"]
    assert words[4:10] == ["--class", "Tumor", "--shard", "7/50", "--threads", "4"]


@pytest.mark.parametrize("script", ["slurm_array.sh", "pbs_array.sh"])
def test_an_array_has_as_many_tasks_as_parts(script: str) -> None:
    text = (EXAMPLES / script).read_text()
    (last,) = re.findall(r"(?:--array=|-J )1-(\d+)", text)
    assert f"PARTS={last} " in text


def test_pbs_array(stub: Any, tmp_path: Path) -> None:
    log = stub("recontour")
    env = {"MANIFEST": "slides.csv", "OUT": "out", "PBS_ARRAY_INDEX": "50", "NCPUS": "8"}
    done = run("pbs_array.sh", PBS_O_WORKDIR=str(tmp_path), **env)
    assert done.returncode == 0, done.stderr
    (words,) = calls(log)
    assert valid(words)[4:8] == ["--shard", "50/50", "--threads", "8"]


def test_the_exit_code_of_an_array_task_is_recontours(stub: Any) -> None:
    stub("recontour", "exit 1")
    assert run("slurm_array.sh", "m.csv", "out", SLURM_ARRAY_TASK_ID="1").returncode == 1


def test_slurm_dask_runs_tasks_on_all_its_workers(
    stub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed", reason="needs recontour[dask]")
    client = tmp_path / "client.py"
    client.write_text(
        "import json, sys\n"
        f"sys.path.insert(0, {str(ROOT / 'tests')!r})\n"
        "from test_dask import pause\n"
        "from recontour.executors.dask import Dask\n"
        "executor = Dask(scheduler=sys.argv[sys.argv.index('--scheduler') + 1])\n"
        "client = executor._connect('auto')\n"
        "client.wait_for_workers(2, timeout=100)\n"
        "items = [{'n': n, 'seconds': 0.01} for n in range(6)]\n"
        "values = sorted(outcome.value for outcome in executor.map(pause, items))\n"
        "gpus = [w['resources'] for w in client.scheduler_info()['workers'].values()]\n"
        "json.dump([values, gpus], open('answer.json', 'w'))\n"
        "executor.close()\n"
    )
    python = shlex.quote(sys.executable)
    log = stub("recontour", f"exec {python} {client} " + '"$@"')
    stub("dask", f"exec {python} -m dask " + '"$@"')
    stub("srun", 'trap "kill \\$(jobs -p)" TERM\n"$@" &\n"$@" &\nwait')
    monkeypatch.chdir(tmp_path)
    env = {"SLURM_JOB_ID": "1", "SLURM_CPUS_PER_TASK": "2", "PYTHONPATH": str(ROOT / "tests")}
    done = run("slurm_dask.sh", "m.csv", "out", "--seed", "1", **env)
    assert done.returncode == 0, done.stderr
    (words,) = calls(log)
    assert valid(words)[:6] == ["cohort", "m.csv", "-o", "out", "--seed", "1"]
    values, gpus = json.loads((tmp_path / "answer.json").read_text())
    assert values == list(range(6))
    assert gpus == [{"GPU": 1}] * 2
    assert not list(tmp_path.glob("scheduler-*.json"))


class Cluster:
    """What dask-jobqueue would make; keeps what it was asked for."""

    scheduler_address = "tcp://10.0.0.1:1234"
    made: Any = None

    def __init__(self, **asked: Any) -> None:
        self.asked = asked
        Cluster.made = self

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def adapt(self, **limits: int) -> None:
        self.limits = limits


@pytest.fixture
def jobqueue(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = types.ModuleType("dask_jobqueue")
    for name in ("JobQueueCluster", "SLURMCluster", "PBSCluster"):
        setattr(module, name, Cluster)
    monkeypatch.setitem(sys.modules, "dask_jobqueue", module)
    yield
    Cluster.made = None


@pytest.mark.parametrize("system", ["slurm", "pbs"])
def test_jobqueue(jobqueue: None, stub: Any, monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    log = stub("recontour", "exit 1")
    own = [system, "--workers", "3", "--interface", "ib0"]
    words = ["x", *own, "--", "slides.csv", "-o", "out", "--skip-errors"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(EXAMPLES / "jobqueue_cohort.py"), run_name="__main__")
    assert end.value.code == 1  # recontour's
    (called,) = calls(log)
    assert valid(called)[:5] == ["cohort", "slides.csv", "-o", "out", "--skip-errors"]
    assert called[called.index("--scheduler") + 1] == Cluster.scheduler_address
    made = Cluster.made
    assert made.limits == {"minimum_jobs": 3, "maximum_jobs": 3}
    assert made.asked["interface"] == "ib0"
    assert (made.asked["cores"], made.asked["processes"]) == (1, 1)
    assert made.closed


def words_of_the_entrypoint(stub: Any, *words: str) -> list[str]:
    log = stub("dask")
    done = subprocess.run(["sh", str(EXAMPLES / "entrypoint.sh"), *words], timeout=60, check=True)
    assert done.returncode == 0
    return calls(log)[0]


def test_the_image_starts_what_the_chart_asks_for(stub: Any) -> None:
    said = words_of_the_entrypoint(stub, "dask-worker", "host:8786", "--nthreads", "1")
    assert said == ["worker", "host:8786", "--nthreads", "1"]
    docker = (EXAMPLES / "Dockerfile").read_text()
    assert "entrypoint.sh" in docker
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version
    assert f"=={version[1]}'" in docker


def test_the_image_starts_anything_else_as_it_is() -> None:
    words = ["sh", str(EXAMPLES / "entrypoint.sh"), "echo", "a  b"]
    assert subprocess.check_output(words, text=True, timeout=60) == "a  b\n"


def test_helm_values_are_those_of_the_chart() -> None:
    yaml = pytest.importorskip("yaml")
    values = yaml.safe_load((EXAMPLES / "helm-values.yaml").read_text())
    assert values.keys() == CHART.keys()
    for part, known in CHART.items():
        assert values[part].keys() <= known
    worker, scheduler = values["worker"], values["scheduler"]
    assert worker["image"] == scheduler["image"]
    assert worker["threads_per_worker"] == 1
    mounted = {mount["name"] for mount in worker["mounts"]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in worker["mounts"]["volumes"]}


def test_the_client_of_kubernetes_sees_what_workers_see() -> None:
    yaml = pytest.importorskip("yaml")
    values = yaml.safe_load((EXAMPLES / "helm-values.yaml").read_text())
    job = yaml.safe_load((EXAMPLES / "client-job.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    (client,) = pod["containers"]
    image = values["worker"]["image"]
    assert client["image"] == f"{image['repository']}:{image['tag']}"
    assert client["args"][0] == "recontour"
    valid(client["args"][1:])
    assert client["volumeMounts"][0] in values["worker"]["mounts"]["volumeMounts"]
    assert pod["volumes"][0] in values["worker"]["mounts"]["volumes"]


def recontour_lines(name: str) -> list[list[str]]:
    """The words of every `recontour` in a workflow, with a number for each placeholder."""
    text = (EXAMPLES / name).read_text()
    text = re.sub(r'"\s*\n\s*"|\\\n', " ", text)  # strings and lines that go on
    found = re.findall(r"^\s*\"?(recontour .+?)(?:\"|\|\||$)", text, re.M)
    return [shlex.split(re.sub(r"\$?\{[^}]*\}", "7", line))[1:] for line in found]


@pytest.mark.parametrize("name", ["Snakefile", "cohort.nf"])
def test_workflows_call_what_there_is(name: str) -> None:
    lines = recontour_lines(name)
    assert len(lines) == 2  # a part, and the whole
    assert sum("--shard" in valid(line) and "7/7" in line for line in lines) == 1
