#!/bin/bash
# The same seed is the same run in another process, switch by switch: what makes a seed a bug report.
set -euo pipefail
once=$("$1" --first 11 --seeds 8 --jobs 1 --each 2>/dev/null | grep ^seed)
again=$("$1" --first 11 --seeds 8 --jobs 1 --each 2>/dev/null | grep ^seed)
printf '%s\n' "$once"
diff <(printf '%s\n' "$once") <(printf '%s\n' "$again") || { echo "two runs of one seed differ"; exit 1; }
[ "$(grep -o 'trace [0-9a-f]*' <<< "$once" | sort -u | wc -l)" = 8 ] || { echo "different seeds gave one run"; exit 1; }
