#!/usr/bin/env bash
# Test under Slurm: bash tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]
# GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (5) and SRUN_ARGS come from the environment.
set -euo pipefail
PARTITION=${1:?PARTITION is missing: bash tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options]}
JOB_NAME=${2:?JOB_NAME is missing: bash tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options]}
CONFIG=${3:?CONFIG is missing: bash tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options]}
CHECKPOINT=${4:?CHECKPOINT is missing: bash tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options]}
GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-8}
# shellcheck disable=SC2086  # SRUN_ARGS holds several words
srun -p "$PARTITION" --job-name="$JOB_NAME" --gres=gpu:"$GPUS_PER_NODE" --ntasks="$GPUS" \
    --ntasks-per-node="$GPUS_PER_NODE" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$(dirname "$0")/test.py" "$CONFIG" "$CHECKPOINT" --launcher slurm "${@:5}"
