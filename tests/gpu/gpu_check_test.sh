#!/bin/bash
# Goal    gpu-check's exit status is the verdict, whatever its parts do: fail, are slow, hang, are missing, run out of time.
# Method  gpu-check itself over programs that do what each case says; no GPU, no bundle.
set -u
check=$PWD/$1
folder=$(mktemp -d "${TEST_TMPDIR:-/tmp}/gpu_check.XXXXXX")
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/bin" "$folder/does"
cp "$check" "$folder/gpu-check"
programs="launch_test decode_on_device_test decode_vectors_on_device_test encode_on_device_test hostile_on_device_test
  cuda_device_test device_conformance_test device_tier_test tiered_store_test ipc_check promotion_bench gpu_bench nccl_check"
for program in $programs; do
  cat > "$folder/bin/$program" << 'PROGRAM'
#!/bin/bash
does=$(dirname "$(dirname "$0")")/does/$(basename "$0")
[ "${1:-}" = --probe ] && does+=_probe
[ -n "${KVIST_REQUIRE_DEVICE:-}" ] || { echo "tests may skip for want of a device"; exit 1; }
[ -e "$does" ] || exit 0
. "$does"
PROGRAM
  chmod +x "$folder/bin/$program"
done
hang='exec tail -f /dev/null'
failures=0

# SENTENCE STATUS TEXT [PROGRAM DOES]... [-- ARGUMENTS]: with these programs gpu-check exits so and says this.
expect() {
  local sentence=$1 status=$2 text=$3 said got
  shift 3
  rm -f "$folder"/does/*
  while [ $# -gt 0 ] && [ "$1" != -- ]; do echo "$2" > "$folder/does/$1"; shift 2; done
  [ $# -gt 0 ] && shift
  said=$("$folder/gpu-check" "$@" 2>&1)
  got=$?
  if [ "$got" -ne "$status" ] || ! grep -qF -- "$text" <<< "$said"; then
    printf 'FAILED: %s: status %d, not %d, or no "%s" in:\n%s\n' "$sentence" "$got" "$status" "$text" "$said"
    failures=1
  fi
}

expect "all is well" 0 RIGHT
expect "no GPU is told in a sentence" 3 "no GPU: no CUDA driver here" \
  gpu_bench_probe 'echo "no GPU: no CUDA driver here" >&2; exit 3' launch_test 'exit 1'
expect "a look for a GPU that crashes is no absence" 1 "the look for a GPU failed" gpu_bench_probe 'exit 139'
expect "a test that fails is wrong" 1 "WRONG: status 1" hostile_on_device_test 'exit 1'
expect "a program that crashes is wrong" 1 "WRONG: status 139" tiered_store_test 'exit 139'
expect "a kernel below its reach is slow" 2 "right, but slower than asked" gpu_bench 'exit 2'
expect "NCCL below its reach is slow" 2 "SLOW" nccl_check 'exit 2'
expect "wrong outweighs slow" 1 "WRONG: see above" gpu_bench 'exit 2' ipc_check 'exit 1'
expect "a test cannot be slow" 1 "WRONG: status 2" launch_test 'exit 2'
expect "a machine without libnccl is no failure" 0 "not run: no libnccl" \
  nccl_check 'echo "not run: no libnccl" >&2; exit 3'
expect "a GPU without IPC is no failure" 0 "not run: a slice" ipc_check 'echo "not run: a slice" >&2; exit 3'
expect "a test without the GPU that was there is wrong" 1 "WRONG: status 3" device_tier_test 'exit 3'
expect "what hangs is ended and wrong" 1 "WRONG: it did not end within 1 s" decode_on_device_test "$hang" -- --limit 1
expect "what has no time left was not proven" 1 "WRONG: no time was left for it" -- --total 0
expect "the library that was named is used" 0 "RIGHT" \
  nccl_check '[ "$3" = '"$folder"'/gpu-check ] || exit 1' -- --nccl "$folder/gpu-check"
expect "a library that is not there is told" 1 "there is no /nowhere/libnccl.so.2" -- --nccl /nowhere/libnccl.so.2
expect "an argument that means nothing is told" 1 "what is --fast?" -- --fast
rm "$folder/bin/encode_on_device_test"
expect "a program that is missing is wrong" 1 "WRONG: status 127"
[ "$failures" -eq 0 ] && echo "gpu-check: all verdicts are as they should be"
exit "$failures"
