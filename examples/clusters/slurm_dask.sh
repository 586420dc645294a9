#!/bin/bash
# One job with a Dask cluster in it: a worker a task, a GPU each. Slides go to whoever is free.
#     sbatch slurm_dask.sh slides.csv cohort
# The same command goes on with what is left.
#SBATCH --job-name=recontour
#SBATCH --ntasks=8
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-task=1
#SBATCH --mem-per-cpu=4G
#SBATCH --time=24:00:00
set -euo pipefail

WORKER=(--nthreads 1 --memory-limit 0 --no-dashboard --death-timeout 120)
WORKER+=(--resources GPU=1) # without GPUs: remove this line

scheduler=$PWD/scheduler-$SLURM_JOB_ID.json
trap 'kill $(jobs -p) 2>/dev/null || true; rm -f "$scheduler"' EXIT

dask scheduler --port 0 --no-dashboard --scheduler-file "$scheduler" &
until [ -s "$scheduler" ]; do sleep 0.5; done
srun dask worker --scheduler-file "$scheduler" --local-directory "${TMPDIR:-/tmp}" "${WORKER[@]}" &

recontour cohort "$1" -o "$2" "${@:3}" \
    --executor dask --scheduler "$scheduler" --threads "${SLURM_CPUS_PER_TASK:-1}" --skip-errors
