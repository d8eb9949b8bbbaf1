#!/bin/bash
# Runs a test of the chart with the interpreter of tools/setup (KVIST_PYTHON, or build/venv of this workspace) and its Helm
# (KVIST_HELM, or build/helm). Argument: the test.
set -euo pipefail
test=$(readlink -f "$1")
workspace=${test%/tests/*}
python=${KVIST_PYTHON:-$workspace/build/venv/bin/python}
[ -x "$python" ] || { echo "no $python: run tools/setup, or set KVIST_PYTHON"; exit 1; }
export PYTHONDONTWRITEBYTECODE=1 KVIST_BIN=$PWD PYTHONPATH=$workspace/tests/services/testing
exec "$python" "$test" -v
