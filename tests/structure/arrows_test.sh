#!/bin/bash
# Fails when a dependency is added among kernels, cachestore and proto, or from what ships to the tests.
# Arguments: a list of targets that must not be empty, then lists that must be (results of Bazel queries, see BUILD).
set -u
[ -s "$1" ] || { echo "the queries saw no target of kernels, cachestore and proto: they would pass on anything"; exit 1; }
shift
failed=0
for list in "$@"; do
  [ ! -s "$list" ] && continue
  echo "$(basename "$list") what the design forbids (README.md, the map):"
  sed 's/^/  /' "$list"
  failed=1
done
exit "$failed"
