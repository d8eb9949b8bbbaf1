#!/bin/bash
# Runs a Python test with the interpreter of tools/setup (KVIST_PYTHON, or build/venv of this workspace). Argument: the test.
set -euo pipefail
test=$(readlink -f "$1")
workspace=${test%/tests/*}
python=${KVIST_PYTHON:-$workspace/build/venv/bin/python}
[ -x "$python" ] || { echo "no $python: run tools/setup, or set KVIST_PYTHON"; exit 1; }
export PYTHONDONTWRITEBYTECODE=1 KVIST_LIBRARY=$PWD/services/worker/libkvist.so KVIST_KVISTD=$PWD/services/node/kvistd
export PYTHONPATH=$workspace/services/worker/python:$workspace/examples/demo:$workspace/tests/python:$workspace/tests/services/testing
exec "$python" "$test" -v
