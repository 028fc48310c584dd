#!/usr/bin/env bash
# The command of a container: launch/multinode.sh by what the operator has told the pod, with exit codes that it knows.
#   entry.sh RECIPE [--set key=value ...]        Variables: launch/README.md.
set -uo pipefail
# Both operators tell torchrun's settings by torchrun's variables.
export DIST_REC_NNODES=${DIST_REC_NNODES:-${PET_NNODES:-}}
export DIST_REC_RDZV=${DIST_REC_RDZV:-${PET_RDZV_ENDPOINT:-${PET_MASTER_ADDR:-${MASTER_ADDR:-}}:${PET_MASTER_PORT:-${MASTER_PORT:-29500}}}}
"$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../multinode.sh" "$@" &
launcher=$!
# The first process of a container gets no signal that it does not ask for. Before the ranks are there it may end at once.
trap 'kill -TERM "$launcher" 2>/dev/null || true' TERM
trap 'kill -USR1 "$launcher" 2>/dev/null || true' USR1
code=0
wait "$launcher" || code=$?
while kill -0 "$launcher" 2>/dev/null; do # a trap ends `wait` early
  code=0
  wait "$launcher" || code=$?
done
# A PyTorchJob with restartPolicy ExitCode takes 1 to 127 for good, and 128 and more for "again": 143, as of SIGTERM.
[ "$code" -ne 75 ] || code=143
exit "$code"
