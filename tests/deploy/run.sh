#!/bin/bash
# Runs a Python test with the interpreter of tools/setup (KVIST_PYTHON, or build/venv of this workspace). Arguments: the
# test, which is read where it lies together with what is beside it; the rest are the runfiles' and go to the test.
set -euo pipefail
test=$(readlink -f "$1")
shift
workspace=${test%/tests/*}
python=${KVIST_PYTHON:-$workspace/build/venv/bin/python}
[ -x "$python" ] || { echo "no $python: run tools/setup, or set KVIST_PYTHON"; exit 1; }
export PYTHONDONTWRITEBYTECODE=1 MPLBACKEND=Agg MPLCONFIGDIR=$TEST_TMPDIR
export PYTHONPATH=$workspace/deploy/grafana:$workspace/deploy/local:$workspace/tests/deploy:$workspace/tests/services/testing
exec "$python" "$test" "$@"
