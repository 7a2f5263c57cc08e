#!/bin/bash
# VNN-COMP: install_tool.sh v1
# Makes .venv beside this folder, with all that `dsrna verify` needs. PYTHON chooses the interpreter, as in the Makefile.
set -euo pipefail

if [ "$#" -ne 1 ] || [ "$1" != v1 ]; then
    echo "usage: $0 v1" >&2
    exit 1
fi
make -C "$(dirname "$(dirname "$(realpath "$0")")")" setup
