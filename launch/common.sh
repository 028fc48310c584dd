# What local.sh and multinode.sh share; both source it.
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd) # also where a script is called through a link
script=$(basename "$(readlink -f "$0")")

stop() {
  printf '%s: %s\n' "$script" "$*" >&2
  exit 1
}

# number NAME VALUE LEAST: stops unless the value is a whole number and no less.
number() {
  [[ $2 =~ ^[0-9]+$ ]] && [ "$2" -ge "$3" ] || stop "$1 must be a $([ "$3" = 1 ] && echo positive || echo whole) number, got '$2'"
}

# prepare RECIPE [option ...]: checks what can be known before any rank starts; sets python, ranks and the environment.
prepare() {
  [ $# -ge 1 ] || stop "expected a recipe, got nothing; for example: launch/$script launch/recipes/quickstart.yaml --set model.longer.k=32"
  [ -f "$1" ] || stop "no recipe '$1' (seen from $PWD); those that come with the project: $(cd "$root" && echo launch/recipes/*.yaml)"

  if [ -x "$root/.venv/bin/python" ]; then python=$root/.venv/bin/python; else python=$(command -v python || command -v python3 || true); fi
  [ -n "$python" ] || stop "found neither $root/.venv nor a python on PATH; call: make setup"
  missing=$("$python" -c 'import importlib.util as u; print(*(n for n in ("torch", "torchrec", "fbgemm_gpu", "pydantic") if u.find_spec(n) is None))')
  [ -z "$missing" ] || stop "$python has no: $missing; call: make setup"

  gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true)
  [ -z "${CUDA_VISIBLE_DEVICES+set}" ] || gpus=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c . || true)
  ranks=${DIST_REC_RANKS:-$([ "$gpus" -gt 0 ] && echo "$gpus" || echo 2)}
  number DIST_REC_RANKS "$ranks" 1

  # One OpenMP thread per rank unless told otherwise: sums are then split the same way on every machine, so runs can be compared bit for bit.
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
  # Embeddings and dense gradients have a communicator each. Torch asks for one order of their collectives on all ranks; NCCL then keeps the order of the calls.
  export NCCL_LAUNCH_ORDER_IMPLICIT=${NCCL_LAUNCH_ORDER_IMPLICIT:-1}
  # Batches differ in size; without it every new size leaves a hole in the GPU's memory.
  export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}
  # The source tree works without an installation too, from whatever folder this is called.
  export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
  # A wrong recipe is told here, once and briefly, before any rank starts.
  "$python" -m dist_rec.cli train "$@" --check-only || exit
}

# resumes [option ...]: whether the caller has said from where to go on.
resumes() {
  local option
  for option in "$@"; do case $option in --resume | --resume=*) return 0 ;; esac done
  return 1
}
