#!/usr/bin/env bash
# Trains a recipe on this machine: one rank per GPU, or two gloo ranks where there is none.
#   launch/local.sh RECIPE [--set key=value ...] [any other option of `dist-rec train`]        Variables: launch/README.md.
set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd) # also where it is called through a link

stop() {
  printf 'local.sh: %s\n' "$*" >&2
  exit 1
}

[ $# -ge 1 ] || stop "expected a recipe, got nothing; for example: launch/local.sh launch/recipes/quickstart.yaml --set model.longer.k=32"
recipe=$1
shift
[ -f "$recipe" ] || stop "no recipe '$recipe' (seen from $PWD); those that come with the project: $(cd "$root" && echo launch/recipes/*.yaml)"

if [ -x "$root/.venv/bin/python" ]; then python=$root/.venv/bin/python; else python=$(command -v python || command -v python3 || true); fi
[ -n "$python" ] || stop "found neither $root/.venv nor a python on PATH; call: make setup"
missing=$("$python" -c 'import importlib.util as u; print(*(n for n in ("torch", "torchrec", "fbgemm_gpu", "pydantic") if u.find_spec(n) is None))')
[ -z "$missing" ] || stop "$python has no: $missing; call: make setup"

gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true)
[ -z "${CUDA_VISIBLE_DEVICES+set}" ] || gpus=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c . || true)
ranks=${DIST_REC_RANKS:-$([ "$gpus" -gt 0 ] && echo "$gpus" || echo 2)}
[[ $ranks =~ ^[1-9][0-9]*$ ]] || stop "DIST_REC_RANKS must be a positive number, got '$ranks'"

# One OpenMP thread per rank unless told otherwise: sums are then split the same way on every machine, so runs can be compared bit for bit.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# Embeddings and dense gradients have a communicator each. Torch asks for one order of their collectives on all ranks; NCCL then keeps the order of the calls.
export NCCL_LAUNCH_ORDER_IMPLICIT=${NCCL_LAUNCH_ORDER_IMPLICIT:-1}
# Batches differ in size; without it every new size leaves a hole in the GPU's memory.
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}
# The source tree works without an installation too, from whatever folder this is called.
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
# A wrong recipe is told here, once and briefly, before any rank starts.
"$python" -m dist_rec.cli train "$recipe" "$@" --check-only || exit
exec "$python" "$root/launch/ranks.py" --standalone --nproc-per-node "$ranks" -m dist_rec.cli train "$recipe" "$@"
