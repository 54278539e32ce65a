#!/usr/bin/env bash
# Test with several processes: bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py]
# On a machine without GPU, GPUS is the number of processes (gloo).
# Several machines: NNODES, NODE_RANK, MASTER_ADDR and PORT, as in the OpenMMLab repositories.
set -euo pipefail
CONFIG=${1:?CONFIG is missing: bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [options]}
CHECKPOINT=${2:?CHECKPOINT is missing: bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [options]}
GPUS=${3:?GPUS is missing: bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [options]}
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$GPUS" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    "$(dirname "$0")/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "${@:4}"
