#!/bin/bash
# The shared library shows the C ABI and nothing else: another copy of any library in the same process must not meet ours.
exports=$(nm -D --defined-only "$1" | awk '{print $3}' | sed 's/@.*//')
[ "$(grep -c '^kvist_' <<<"$exports")" -ge 10 ] || { echo "kvist_* are missing: $exports"; exit 1; }
others=$(grep -v '^kvist_' <<<"$exports")
[ -z "$others" ] || { echo "exported besides kvist_*:"; echo "$others" | head -20; exit 1; }
