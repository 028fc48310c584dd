#!/usr/bin/env bash
# Makes .venv: the pinned packages for this machine (CPU or CUDA) and the project itself, editable.
# A second call does nothing until a pin, setup.py, a C++ source, the kind of machine or the folder changes. Variables: launch/README.md.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."

readonly pins=launch/requirements venv=.venv
readonly python=$venv/bin/python log=$PWD/$venv/install.log stamp=$venv/dist_rec.stamp
readonly torch_index=${DIST_REC_TORCH_INDEX:-https://download.pytorch.org/whl/cpu}

stop() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

choose_device() {
  local device=${DIST_REC_DEVICE:-}
  [ -n "$device" ] || { if nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then device=cuda; else device=cpu; fi; }
  case $device in cpu | cuda) echo "$device" ;; *) stop "DIST_REC_DEVICE must be cpu or cuda, got '$device'" ;; esac
}

# The set of versions that was asked for, now or when .venv was made; empty for the newest that this machine can have.
choose_stack() {
  local wanted=${DIST_REC_STACK-$(cat "$venv/dist_rec.stack" 2>/dev/null)}
  case $wanted in
    '') ;;
    */* | .*) stop "DIST_REC_STACK must be $(stacks), got '$wanted'" ;;
    *) [ -d "$pins/$wanted" ] || stop "DIST_REC_STACK must be $(stacks), got '$wanted'" ;;
  esac
  echo "$wanted"
}

stacks() { (cd "$pins" && printf '%s\n' */ | tr -d / | sort -Vr | paste -sd' ' | sed 's/ / or /g'); }

fingerprint() { { echo "$device $asked $PWD" && cat "$pins"/*.txt "$pins"/*/*.txt setup.py dist_rec/data/_*.?pp kernels/native/*.?pp; } | cksum; }

fits() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; }

find_python() {
  local candidate bare=""
  for candidate in ${PYTHON:-python3.12 python3.11 python3.13 python3.10 python3}; do
    fits "$candidate" || continue
    if "$candidate" -c 'import venv, ensurepip' 2>/dev/null; then echo "$candidate" && return; fi
    bare=${bare:-$candidate}
  done
  [ -z "$bare" ] || stop "$bare has no venv module; install it (Debian, Ubuntu: apt-get install $("$bare" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')) and call again"
  stop "needs Python 3.10 to 3.13, found none as ${PYTHON:-python3.12, python3.11, python3.13, python3.10 or python3}; install one, or name it: PYTHON=/path/to/python make setup"
}

check_disk() {
  local needed_gb free_gb
  needed_gb=$([ "$device" = cuda ] && echo 14 || echo 4) # the packages themselves, and pip's copies while it unpacks
  free_gb=$(($(df -Pk . | awk 'NR == 2 { print $4 }') / 1024 / 1024))
  [ "$free_gb" -ge "$needed_gb" ] || stop "needs about $needed_gb GB of free disk in $PWD for the $device packages, found $free_gb GB"
}

make_venv() {
  ! fits "$python" || return 0
  local base
  base=$(find_python)
  echo "setup: creating $venv with $("$base" --version)"
  "$base" -m venv --clear "$venv" || stop "$base could not create $venv; its message stands above"
}

# One phase: a line on the terminal, everything else in the log, its tail if the phase fails.
phase() {
  local title=$1
  shift
  echo "setup: $title"
  echo "== $title: $*" >>"$log"
  "$@" >>"$log" 2>&1 && return
  tail -n 15 "$log" >&2
  if grep -qE 'No space left' "$log"; then stop "the disk is full while $title; free some and call again"; fi
  if grep -qE 'NewConnectionError|ConnectTimeout|ProxyError|Network is unreachable|from versions: none' "$log"; then
    stop "no package index that has these packages could be reached; check the network, or pip's proxy and index (pip config list)"
  fi
  if grep -qE 'No matching distribution found for torch==.*\+cpu' "$log"; then
    stop "no CPU build of torch in reach; name an index that has it with DIST_REC_TORCH_INDEX=URL, or take the CUDA build of several GB with DIST_REC_DEVICE=cuda"
  fi
  stop "failed while $title; the whole log is $log"
}

pip() { "$python" -m pip --disable-pip-version-check --no-input "$@"; }

# pip is content with torch 2.14.1+cpu where 2.14.1 is asked for, and both FBGEMM packages write the same folder: take out what belongs to the other kind.
drop_misfits() {
  local misfits='^fbgemm[-_]gpu=='
  [ "$device" = cpu ] || misfits='^(torch==.*\+cpu|fbgemm[-_]gpu[-_]cpu==)'
  ! pip freeze 2>/dev/null | grep -qiE "$misfits" || phase "removing packages of another kind of machine" pip uninstall -y torch fbgemm-gpu fbgemm-gpu-cpu
}

# The CPU build of torch is not on PyPI. PyTorch's own index has it; where that cannot be reached, pip's configuration must (a mirror, a folder of wheels).
torch_source() {
  [ "$device" = cpu ] || return 0
  "$python" -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1] + "/torch/", timeout=5)' "$torch_index" 2>/dev/null || return 0
  echo "--extra-index-url $torch_index"
}

newest() { stacks | cut -d' ' -f1; }

torch_of() { sed -n 's/^torch==//p' "$pins/$1/$device.txt"; }

# Whether torch's CPU build of these versions is in reach. The other build brings 5 GB of CUDA, and works without a GPU.
has_cpu_build() {
  # shellcheck disable=SC2046 # two words or none
  [ -n "${builds:-}" ] || builds=$(pip index versions torch $(torch_source) 2>/dev/null || echo none)
  grep -qF "$(torch_of "$1")" <<<"$builds"
}

# The versions to install: those that were asked for, or the newest that have a build for this kind of machine.
find_stack() {
  local found
  if [ -n "$asked" ]; then echo "$asked" && return; fi
  for found in $(stacks | sed 's/ or / /g'); do
    if [ "$device" = cuda ] || has_cpu_build "$found"; then echo "$found" && return; fi
  done
  newest # pip will say what is missing
}

main() {
  device=$(choose_device)
  asked=$(choose_stack)
  readonly device asked
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(fingerprint)" ] && fits "$python"; then return; fi
  check_disk
  make_venv
  rm -f "$stamp"
  : >"$log"
  local stack requirements
  stack=$(find_stack)
  requirements=$pins/$stack/$device.txt
  if [ -n "$asked" ] && [ "$device" = cpu ] && ! has_cpu_build "$stack"; then
    echo "setup: no CPU build of torch $stack in reach; taking the build with CUDA's libraries, 5 GB"
    sed 's/+cpu$//' "$requirements" >"$venv/cpu.txt"
    requirements=$venv/cpu.txt
  elif [ -z "$asked" ] && [ "$stack" != "$(newest)" ]; then
    echo "setup: no CPU build of torch $(newest) in reach; taking the versions around torch $stack (DIST_REC_STACK=$(newest): the build with CUDA's libraries)"
  fi
  drop_misfits
  # shellcheck disable=SC2046 # two words or none
  phase "installing torch, FBGEMM and the other pinned packages for $device (minutes; log: $venv/install.log)" \
    pip install --upgrade-strategy only-if-needed $(torch_source) -r "$requirements" -r "$pins/base.txt" -r "$pins/dev.txt"
  phase "installing TorchRec" pip install --no-deps -r "$pins/$stack/torchrec.txt"
  phase "installing dist-rec, editable" pip install --no-deps --no-build-isolation -e .
  echo "$asked" >"$venv/dist_rec.stack"
  fingerprint >"$stamp"
  echo "setup: done; $venv/bin/dist-rec doctor checks it"
}

main
