#!/usr/bin/env bash
# Everything that needs a GPU, in stages in the order of their worth. Each has its own time limit, log and exit code, so that nothing is lost when
# the time is up; a second call goes on with what has not ended well.
#   benchmarks/gpu.sh [STAGE ...]     PYTHON=python3   OUT=benchmarks/results/gpu   AGAIN=1 (every stage anew)   WORKERS=12 (of the tests)
#                                     WARM=.gpu/triton (kernels that benchmarks/warm_cache.py compiled before)
# The limits together are 13 minutes: a quarter of an hour with the start of the machine. Compiled kernels are shared by all stages.
# Ends with a table of the stages and fails if one did. OUT/STAGE.log and OUT/STAGE.exit stay; the benchmarks write their pages into OUT too.
set -euo pipefail
self=$(readlink -f "$0")
cd "$(dirname "$self")/.."
PYTHON=${PYTHON:-.venv/bin/python}
OUT=${OUT:-benchmarks/results/gpu}
WORKERS=${WORKERS:-$(($(nproc) > 4 ? $(nproc) - 4 : 1))}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
# One cache for all stages and test processes: a kernel takes seconds to build.
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$HOME/.triton/cache}
export NCCL_LAUNCH_ORDER_IMPLICIT=1 PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True OMP_NUM_THREADS=1
QUICK="dist_rec,varlen_attn (FA2),FlashAttention-4,FBGEMM jagged,padded SDPA,history repeated"
ON_GPU=tests/integration/test

mkdir -p "$OUT"
wanted=" $* "
names=()

# NAME LIMIT_S COMMAND ...
stage() {
  local name=$1 limit=$2 code=0 started=$SECONDS
  shift 2
  [ "$wanted" = "  " ] || [[ $wanted == *" $name "* ]] || return 0
  names+=("$name")
  if [ "${AGAIN:-0}" = 0 ] && [ "$(cat "$OUT/$name.exit" 2>/dev/null)" = 0 ]; then
    echo "== $name: done before"
    return 0
  fi
  echo "== $name (up to $limit s): $*"
  timeout --kill-after=10 "$limit" "$@" >"$OUT/$name.log" 2>&1 || code=$?
  echo "$code" >"$OUT/$name.exit"
  tail -n 4 "$OUT/$name.log" | sed 's/^/   /'
  echo "   exit $code after $((SECONDS - started)) s"
}

"$PYTHON" -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "benchmarks/gpu.sh needs a GPU; torch sees none")'
parallel=$("$PYTHON" -c 'import importlib.util as u; print("-n '"$WORKERS"' --dist worksteal" if u.find_spec("xdist") else "")')
"$PYTHON" -m benchmarks.warm_cache take "${WARM:-.gpu/triton}" --into "$TRITON_CACHE_DIR" || echo "the warm Triton cache could not be taken: kernels are compiled here"

# shellcheck disable=SC2086 # words
stage kernels 150 "$PYTHON" -m pytest -q -m gpu $parallel tests/doctor ${ON_GPU}_attention_on_gpu.py ${ON_GPU}_gather_pool_on_gpu.py
# shellcheck disable=SC2086 # words
stage training 150 "$PYTHON" -m pytest -q -m gpu $parallel ${ON_GPU}_{training,recipes,tables,updates,checkpoint,predictions,two_ranks}_on_gpu.py \
  tests/embedding/test_dynamic_ids.py
stage sync 45 "$PYTHON" -m benchmarks.gpu_steps --update sync --out "$OUT"
stage delayed 45 "$PYTHON" -m benchmarks.gpu_steps --update delayed --out "$OUT"
stage trace-64 60 "$PYTHON" -m benchmarks.gpu_steps --width 64 --trace 10 --steps 40 --out "$OUT/trace-64"
stage ladder 75 "$PYTHON" -m benchmarks.bench_e2e ladder --lengths 2000 --batch 1024 --steps 8 --rounds 4 --rows 1,2,6,sync,delayed \
  --set model.longer.k=100 --set model.tokens.width=128 --set model.tokens.hidden=256 --set embedding.dim=64 --out "$OUT/ladder.md"
stage merged 30 "$PYTHON" -m benchmarks.gpu_steps --width 32 --merge 4 --out "$OUT/merged"
stage slots 30 "$PYTHON" -m benchmarks.gpu_slots
stage attention 90 "$PYTHON" -m benchmarks.bench_ops attention --lengths uniform,zipf,fixed --peers "$QUICK" --out "$OUT"
stage lookup 60 "$PYTHON" -m benchmarks.bench_ops lookup --out "$OUT"
# FlexAttention compiles anew for every shape, which takes longer than all the rest.
stage all-peers 45 "$PYTHON" -m benchmarks.bench_ops attention --lengths fixed --cases A2,A8,A10 --out "$OUT/all_peers"

[ $# = 0 ] || [ ${#names[@]} = $# ] || { echo "expected names of stages, got '$*'; they are: $(sed -n 's/^stage \([a-z0-9-]*\) .*/\1/p' "$self" | paste -sd' ')" >&2 && exit 2; }

failed=0
for name in "${names[@]}"; do
  code=$(cat "$OUT/$name.exit")
  case $code in 0) said=ok ;; 124 | 137) said="cut off by its limit" ;; *) said="exit $code" ;; esac
  [ "$code" = 0 ] || failed=1
  printf '%-10s %s\n' "$name" "$said"
done
exit "$failed"
