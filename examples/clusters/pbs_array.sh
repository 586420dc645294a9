#!/bin/bash
# An array job: each task works on its part of the manifest. No task needs another one.
#     qsub -v MANIFEST=slides.csv,OUT=cohort pbs_array.sh
# The same command goes on with what is left.
#PBS -N recontour
#PBS -J 1-50
#PBS -l select=1:ncpus=8:ngpus=1:mem=32gb
#PBS -l walltime=24:00:00
set -euo pipefail

PARTS=50 # as many as the array has
cd "$PBS_O_WORKDIR"

recontour cohort "$MANIFEST" -o "$OUT" \
    --shard "$PBS_ARRAY_INDEX/$PARTS" --threads "${NCPUS:-1}" --skip-errors
