#!/usr/bin/env python3
"""Puts something on the boards: conversations over a few shared system prompts, read and stored through the real client.

A conversation begins with one of `systems` prompts, and every turn adds blocks to it. A worker matches the prompt, reads
what is there, and stores the rest. Values are random; sizes, sharing and popularity are what matters here.
"""

import argparse
import pathlib
import random
import sys
import threading
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "services/worker/python"))
import kvist  # noqa: E402

TOKENS, LAYERS, HEADS, HEAD_DIM = 64, 4, 2, 64  # of a block: 256 KiB as 16-bit values
SYSTEM_BLOCKS, MOST_TURNS = 6, 5


class Conversations:
    """Which prompts are asked, in an order that a seed fixes."""

    def __init__(self, seed: int, systems: int, fresh: float):
        self._random = random.Random(seed)
        self._systems, self._fresh, self._begun = systems, fresh, []

    def next(self) -> np.ndarray:
        """The tokens of the next prompt: a new conversation, or a turn more of one; late ones are likelier."""
        pick = self._random
        if not self._begun or pick.random() < self._fresh:
            self._begun.append([min(int(pick.paretovariate(1.2)) - 1, self._systems - 1), len(self._begun), 0])
        one = self._begun[-1 - min(int(pick.expovariate(1 / 8)), len(self._begun) - 1)]
        one[2] = min(one[2] + 1, MOST_TURNS)
        system, own, turns = one
        parts = [1 + (np.arange(SYSTEM_BLOCKS * TOKENS) * (system + 3)) % 50000, 1 + (np.arange(turns * TOKENS) * (own + 7) + own) % 50000]
        return np.concatenate(parts).astype(np.uint32)


def work(client: kvist.Client, prompts: Conversations, end: float, pause: float) -> dict[str, int]:
    counts = {"matched": 0, "read": 0, "stored": 0}
    values = np.random.default_rng(1).standard_normal((2, LAYERS, HEADS, (SYSTEM_BLOCKS + MOST_TURNS) * TOKENS, HEAD_DIM))
    plain = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)  # bf16 bits
    while time.monotonic() < end:
        tokens = prompts.next()
        kv = np.ascontiguousarray(plain[:, :, :, : len(tokens)])
        with client.match(tokens) as match:
            counts["matched"] += match.blocks
            if match.blocks > 0:
                counts["read"] += client.get(tokens, np.empty_like(kv), 0, match.blocks).blocks
        if match.tokens < len(tokens):
            counts["stored"] += client.put(tokens, kv).stored
        time.sleep(pause)
    return counts


def run(seeds: list[str], seconds: float, codecs: list[str], *, pause: float, systems: int, fresh: float,
        library: pathlib.Path, tls: kvist.Tls | None = None) -> dict[str, int]:
    """One worker for each codec, each with a namespace of its own. Ends after so many seconds; a fault of one is raised."""
    counts: list[dict[str, int]] = []
    faults: list[BaseException] = []

    def worker(number: int, codec: str) -> None:
        namespace = kvist.Namespace(model=f"load-{codec}", layers=LAYERS, heads=HEADS, head_dim=HEAD_DIM, tokens_per_block=TOKENS)
        try:
            copies = 2 if number == 0 else 1
            with kvist.Client(None, namespace, seeds=seeds, codec=codec, replicas=copies, threads=1, library=library, tls=tls) as client:
                counts.append(work(client, Conversations(number, systems, fresh), time.monotonic() + seconds, pause))
        except BaseException as fault:  # noqa: BLE001: told to whoever called
            faults.append(fault)

    threads = [threading.Thread(target=worker, args=pair) for pair in enumerate(codecs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    return {name: sum(one[name] for one in counts) for name in counts[0]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--node", required=True, help="host:port of any node, or several with commas")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--codecs", default="ladder,i8,raw16", help="one worker for each")
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between two prompts of a worker")
    parser.add_argument("--systems", type=int, default=8, help="system prompts")
    parser.add_argument("--fresh", type=float, default=0.3, help="part of the prompts that begin a conversation")
    parser.add_argument("--library", type=pathlib.Path, default=ROOT / "bazel-bin/services/worker/libkvist.so")
    flags = parser.parse_args()
    print(run(flags.node.split(","), flags.seconds, flags.codecs.split(","), pause=flags.pause, systems=flags.systems, fresh=flags.fresh,
              library=flags.library))
    return 0


if __name__ == "__main__":
    sys.exit(main())
