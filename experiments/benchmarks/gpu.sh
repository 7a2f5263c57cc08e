#!/usr/bin/env bash
# All that is worth doing on a GPU that is there for ten minutes:
#
#     experiments/benchmarks/gpu.sh OUT
#
# OUT/steps.jsonl says how each step ended and how long it took; figures are in OUT/*.json. A step that fails or takes too
# long does not keep the others from running.
set -uo pipefail
cd "$(dirname "$0")/../.."
out=${1:?give a folder for the results}
py=${PYTHON:-.venv/bin/python}
export CUBLAS_WORKSPACE_CONFIG=:4096:8 # as torch's deterministic algorithms need it
mkdir -p "$out"
: >"$out/steps.jsonl"
failed=0

step() { # NAME SECONDS COMMAND...
  local name=$1 limit=$2 begin=$SECONDS code=0
  shift 2
  timeout "$limit" "$@" >"$out/$name.log" 2>&1 || code=$?
  [ "$code" = 0 ] || failed=1
  printf '{"step": "%s", "exit": %d, "seconds": %d}\n' "$name" "$code" $((SECONDS - begin)) | tee -a "$out/steps.jsonl"
}

measure() { # WHAT SECONDS
  step "$1" "$2" "$py" experiments/benchmarks/gpu.py "$1" --out "$out/$1.json"
}

step tests 150 "$py" -m pytest -q -n 0 -m cuda
measure batches 60
measure search-step 120
measure repeated 60
step nccl 90 "$py" -m torch.distributed.run --standalone --nproc-per-node 1 -m cli search --metric cb --epochs 1 \
  --device cuda --out "$out/nccl"
step commands 120 "$py" -m cli certify --arch "$out/nccl/genotype.json" --norm linf --images 32 --device cuda \
  --out "$out/certify"
exit "$failed"
