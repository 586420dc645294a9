#!/bin/bash
# An array job: each task works on its part of the manifest. No task needs another one.
#     sbatch slurm_array.sh slides.csv cohort
# The same command goes on with what is left; --array=3,7 repeats two parts.
#SBATCH --job-name=recontour
#SBATCH --array=1-50
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:1
#SBATCH --mem=32G
#SBATCH --time=24:00:00
set -euo pipefail

PARTS=50 # as many as the array has

recontour cohort "$1" -o "$2" "${@:3}" \
    --shard "$SLURM_ARRAY_TASK_ID/$PARTS" --threads "${SLURM_CPUS_PER_TASK:-1}" --skip-errors
