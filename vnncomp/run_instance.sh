#!/bin/bash
# VNN-COMP: run_instance.sh v1 BENCHMARK ONNX VNNLIB RESULTS SECONDS
# Writes to RESULTS sat and a counterexample, unsat, unknown, timeout or error. The seconds count from here, the start
# of Python included.
set -euo pipefail

if [ "$#" -ne 6 ] || [ "$1" != v1 ]; then
    echo "usage: $0 v1 BENCHMARK ONNX VNNLIB RESULTS SECONDS" >&2
    exit 1
fi
root=$(dirname "$(dirname "$(realpath "$0")")")
onnx=$3 vnnlib=$4 results=$5 seconds=$6
export OMP_WAIT_POLICY=passive

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
echo timeout > "$results" # what stands if the organisers' own clock is faster
code=0
timeout --kill-after=1 "$seconds" "${DSRNA_PYTHON:-$root/.venv/bin/python}" -m cli verify \
    --onnx "$onnx" --property "$vnnlib" --time-limit "$seconds" --out "$folder" || code=$?
case $code in
    0) cp "$folder/answer.txt" "$results" ;;
    124 | 137) ;;
    *) echo error > "$results" ;;
esac
