#!/bin/bash
# VNN-COMP: prepare_instance.sh v1 BENCHMARK ONNX VNNLIB
# Exit code 0 where both files are understood and the network can be bounded; the reason why not is on stderr.
set -euo pipefail

if [ "$#" -ne 4 ] || [ "$1" != v1 ]; then
    echo "usage: $0 v1 BENCHMARK ONNX VNNLIB" >&2
    exit 1
fi
root=$(dirname "$(dirname "$(realpath "$0")")")
export OMP_WAIT_POLICY=passive

"${DSRNA_PYTHON:-$root/.venv/bin/python}" - "$3" "$4" <<'EOF'
import sys

import verify

onnx, vnnlib = sys.argv[1:]
try:
    model = verify.from_onnx(onnx)
    verify.BoundedNetwork(model, model.example)
    verify.read_vnnlib(vnnlib).shaped(model.example.shape[1:])
except verify.InputError as error:
    sys.exit(f"error: {error}")
EOF
