#!/usr/bin/env bash
# Trains a recipe on this machine: one rank per GPU, or two gloo ranks where there is none.
#   launch/local.sh RECIPE [--set key=value ...] [any other option of `dist-rec train`]        Variables: launch/README.md.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/common.sh"

restarts=${DIST_REC_RESTARTS:-0}
number DIST_REC_RESTARTS "$restarts" 0
# Ranks that start again after a failure go on where the run was.
if [ "$restarts" -gt 0 ] && ! resumes "$@"; then set -- "$@" --resume auto; fi
prepare "$@"
exec "$python" "$root/launch/ranks.py" --standalone --nproc-per-node "$ranks" --max-restarts "$restarts" -m dist_rec.cli train "$@"
