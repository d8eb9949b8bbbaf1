"""Blocks that went into a real node and came back: kvistd of this machine, or a node that runs already."""

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator

import numpy as np

from .. import Client, Namespace
from .codecs import TOKENS_PER_BLOCK, Judged
from .engines import Engine

READY_SECONDS = 30
END_SECONDS = 15
DEADLINE_S = 30.0
CAPACITY = "512MiB"


class NodeError(Exception):
    """No node, or one that does not give back what it was given."""


@dataclasses.dataclass(frozen=True)
class Nodes:
    """How a client finds them: by the cluster's file, or by asking one."""

    cluster: pathlib.Path | None = None
    seeds: tuple[str, ...] = ()


def find_kvistd() -> pathlib.Path:
    """$KVIST_KVISTD, or the one of the source tree's bazel-bin."""
    if named := os.environ.get("KVIST_KVISTD"):
        return pathlib.Path(named)
    for parent in pathlib.Path(__file__).resolve().parents:
        if (built := parent / "bazel-bin/services/node/kvistd").exists():
            return built
    raise NodeError("no kvistd: build //services/node:kvistd, name it with KVIST_KVISTD, or give --node ADDRESS of one that runs")


@contextlib.contextmanager
def own_node(kvistd: pathlib.Path) -> Iterator[Nodes]:
    """Starts a node on a free port; ends it."""
    with tempfile.TemporaryDirectory(prefix="kvist-eval-") as folder:
        cluster = pathlib.Path(folder, "cluster.json")
        cluster.write_text(json.dumps({"view": 1, "nodes": [{"id": "n0", "address": "127.0.0.1:0", "capacity": CAPACITY}]}))
        log = pathlib.Path(folder, "node.log")
        command = [str(kvistd), "--cluster", str(cluster), "--node", "n0", "--http", "127.0.0.1:0"]
        with log.open("w", encoding="utf-8") as errors, subprocess.Popen(command, stderr=errors) as process:
            try:
                _wait_until_ready(process, pathlib.Path(f"{cluster}.d/n0.http"), log)
                yield Nodes(cluster=cluster)
            finally:
                process.terminate()
                try:
                    process.wait(END_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()


def _is_ready(http: pathlib.Path) -> bool:
    try:
        address = http.read_text(encoding="utf-8").strip()
        with urllib.request.urlopen(f"http://{address}/readyz", timeout=5) as answer:
            return answer.read() == b"ready\n"
    except (OSError, ValueError):  # not there yet, or half written
        return False


def _wait_until_ready(process: subprocess.Popen, http: pathlib.Path, log: pathlib.Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not _is_ready(http):
        if process.poll() is not None or time.monotonic() > deadline:
            raise NodeError(f"kvistd did not start; its log:\n{log.read_text(encoding='utf-8')}")
        time.sleep(0.02)


def there_and_back(nodes: Nodes, engine: Engine, codec: Judged, tokens: list[int], kv: np.ndarray) -> np.ndarray:
    """kv of `tokens` as the node gives it. Each codec has a namespace of its own: in one, a key names one block."""
    namespace = Namespace(
        model=engine.name, weights_digest=engine.digest, layers=engine.layers, heads=engine.kv_heads, head_dim=engine.head_dim,
        tokens_per_block=TOKENS_PER_BLOCK, tenant_salt=f"kvist eval {codec.spec} {os.urandom(8).hex()}",
    )  # fmt: skip
    back = np.zeros_like(kv)
    with Client(nodes.cluster, namespace, seeds=nodes.seeds, deadline_s=DEADLINE_S, **(codec.put or {})) as client:
        put = client.put(tokens, kv)
        if put.stored != put.blocks:
            raise NodeError(f"{codec.spec}: {put.stored} of {put.blocks} blocks were stored: {put.failure}")
        with client.match(tokens) as match:
            got = client.get(tokens, back, 0, match.blocks)
        client.erase(tokens)
    if got.tokens != len(tokens):
        raise NodeError(f"{codec.spec}: {got.tokens} of {len(tokens)} tokens came back: {got.miss_reason or match.miss_reason}")
    return back
