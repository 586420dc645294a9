"""Workers as jobs of SLURM or PBS, as many as the queue gives; replaced when their time is over.

    pip install dask-jobqueue
    python jobqueue_cohort.py slurm --workers 16 -- slides.csv -o cohort --skip-errors

Run it where it may stay: on a login node, or in a small job of its own. What stands after `--` goes
to `recontour cohort`. The same command goes on with what is left.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import dask_jobqueue

CPUS = 8
COMMON = {
    "cores": 1,  # one slide at a time in a worker
    "processes": 1,
    "memory": "32GB",
    "walltime": "12:00:00",
    "worker_extra_args": ["--resources", "GPU=1", "--no-dashboard"],  # without GPUs: drop GPU=1
    "scheduler_options": {"dashboard": False},
}


def make_cluster(system: str, queue: str, interface: str | None) -> dask_jobqueue.JobQueueCluster:
    """A cluster without workers yet; adapt what your site asks for here."""
    if system == "slurm":
        return dask_jobqueue.SLURMCluster(
            queue=queue,
            interface=interface,
            job_cpu=CPUS,
            job_extra_directives=["--gres=gpu:1"],
            **COMMON,
        )
    return dask_jobqueue.PBSCluster(
        queue=queue,
        interface=interface,
        resource_spec=f"select=1:ncpus={CPUS}:ngpus=1:mem=32gb",
        **COMMON,
    )


def main() -> int:
    """Start the workers, run the cohort on them, and give its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("system", choices=["slurm", "pbs"])
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--queue", default="gpu")
    parser.add_argument("--interface", help="network that workers reach, such as ib0")
    parser.add_argument("--show", action="store_true", help="print the job script and end")
    words = sys.argv[1:]
    own = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:own])
    with make_cluster(options.system, options.queue, options.interface) as cluster:
        if options.show:
            print(cluster.job_script())
            return 0
        # Not scale(): a worker whose job ended is asked for again.
        cluster.adapt(minimum_jobs=options.workers, maximum_jobs=options.workers)
        command = ["recontour", "cohort", *words[own + 1 :]]
        command += ["--executor", "dask", "--scheduler", cluster.scheduler_address]
        return subprocess.call([*command, "--threads", str(CPUS)])


if __name__ == "__main__":
    sys.exit(main())
