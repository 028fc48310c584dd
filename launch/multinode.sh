#!/usr/bin/env bash
# Trains a recipe on several hosts. The same call on each of them, in any order:
#   DIST_REC_NNODES=4 DIST_REC_RDZV=node1:29500 launch/multinode.sh RECIPE [--set key=value ...]        Variables: launch/README.md.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"

nnodes=${DIST_REC_NNODES:-}
[ -n "$nnodes" ] || stop "DIST_REC_NNODES: expected the number of hosts, such as 4, or 1:4 for any number between, got nothing"
[[ $nnodes =~ ^[1-9][0-9]*(:[1-9][0-9]*)?$ ]] && [ "${nnodes%:*}" -le "${nnodes#*:}" ] || stop "DIST_REC_NNODES must be a number of hosts, such as 4, or 1:4 for any number between, got '$nnodes'"
rdzv=${DIST_REC_RDZV:-}
[ -n "$rdzv" ] || stop "DIST_REC_RDZV: expected HOST:PORT of one of the hosts, the same on all, got nothing"
restarts=${DIST_REC_RESTARTS:-3} join_s=${DIST_REC_JOIN_S:-600} last_call_s=${DIST_REC_LAST_CALL_S:-30}
number DIST_REC_RESTARTS "$restarts" 0
number DIST_REC_JOIN_S "$join_s" 1
number DIST_REC_LAST_CALL_S "$last_call_s" 1

# Whoever starts later, or again, goes on with the others.
resumes "$@" || [ $# -eq 0 ] || set -- "$@" --resume auto
prepare "$@"
exec "$python" "$root/launch/ranks.py" --nnodes "$nnodes" --nproc-per-node "$ranks" --max-restarts "$restarts" \
  --rdzv-backend c10d --rdzv-endpoint "$rdzv" --rdzv-id "${DIST_REC_JOB_ID:-dist_rec}" \
  --rdzv-conf "join_timeout=$join_s,last_call_timeout=$last_call_s" -m dist_rec.cli train "$@"
