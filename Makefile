# Short names only; each target is one command. `make demo` and `make test` set up what they need.
.PHONY: setup demo up down test bench chaos simulate sanitize fuzz lint chart gpu-bundle image
setup:    ; @tools/setup
demo:     ; @tools/setup && tools/demo
up:       ; @tools/setup && bazel build -c opt //services/node:kvistd //services/ctl:kvist //services/worker:libkvist.so && build/venv/bin/python deploy/local/up.py up
down:     ; @/usr/bin/python3 deploy/local/up.py down
test:     ; @tools/setup && tools/test
bench:    ; @tools/setup && tools/bench
sanitize: ; @tools/setup && tools/sanitize
fuzz:     ; @tools/setup && tools/fuzz --seconds $(or $(SECONDS),60)
lint:     ; @tools/lint
chart:    ; @tools/setup && build/venv/bin/python deploy/helm/update.py
image:    ; @tools/setup && deploy/docker/build-image
chaos:    ; @tools/setup && bazel build -c opt //services/node:kvistd //services/ctl:kvist //tests/chaos:oracle_worker && build/venv/bin/python tests/chaos/chaos.py
simulate: ; @tools/setup && bazel build //tests/simulation:simulate && bazel-bin/tests/simulation/simulate --first $(or $(FIRST),1) --seeds $(or $(SEEDS),1000)
gpu-bundle: ; @tools/setup && tools/gpu-bundle
