#!/bin/bash
# The short form of `make chaos`, with the binaries of the runfiles. Argument: chaos.py.
# Its seed is fixed: what it does to whom is the same in every run. Logs and chaos.json are among the test's outputs.
set -euo pipefail
export PYTHONDONTWRITEBYTECODE=1
exec python3 "$(readlink -f "$1")" --scale test --seed 4 --bin "$PWD" --out "${TEST_UNDECLARED_OUTPUTS_DIR:-$TEST_TMPDIR}" \
  oracle kill_one stop_one cut_one flip etcd_dead rolling_restart mixed
