#!/usr/bin/env bash
# Everything that needs a GPU, in one command and under 10 minutes: the GPU tests, then the benchmarks of attention and lookup.
# Results stand in benchmarks/results/{attention,lookup}_<gpu>_<yyyymm>.{md,csv}; what a run that is cut off has measured is kept.
#   benchmarks/gpu.sh            PYTHON=python3 benchmarks/gpu.sh     OUT=/tmp/results benchmarks/gpu.sh
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
OUT=${OUT:-benchmarks/results}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
"$PYTHON" -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "benchmarks/gpu.sh needs a GPU; torch sees none")'
timeout 180 "$PYTHON" -m pytest -q -m gpu tests || echo "GPU tests failed or ran out of time: the numbers below may be of a wrong kernel"
QUICK="dist_rec,varlen_attn (FA2),FlashAttention-4,padded SDPA,history repeated"
timeout 190 "$PYTHON" -m benchmarks.bench_ops attention --lengths uniform,zipf,fixed --peers "$QUICK" --out "$OUT" ||
    echo "cut off: the page holds the cases that were measured"
timeout 100 "$PYTHON" -m benchmarks.bench_ops lookup --out "$OUT" || echo "cut off: the page holds the sizes that were measured"
# FlexAttention compiles anew for every shape, which takes longer than all the rest.
timeout 110 "$PYTHON" -m benchmarks.bench_ops attention --lengths fixed --cases A2,A3,A8 --out "$OUT/all_peers" || echo "cut off"
