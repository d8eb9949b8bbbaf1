"""Kvist in front of your eyes: a real model's KV goes into three nodes, quantized, and comes back in another process.

Starts three kvistd processes; session A computes and stores a long prompt; session B, a new process per codec, asks another
question over the same document without computing it again; session C does so after one node was killed. Prints one table, then
what the nodes' /metrics say. Exits with 1, and says why, if anything deviates from what is promised.
"""

import argparse
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

from cluster import Cluster, end_with_parent

ROOT = pathlib.Path(__file__).resolve().parents[2]
CAPACITIES = {"a": "96MiB", "b": "128MiB", "c": "64MiB"}
CODECS = ("raw16", "i8", "ladder")
MOST_KLD = {"raw16": 0.0, "i8": 0.0005, "ladder": 0.01}
SESSION_SECONDS = 600
MOST_STORE_SECONDS = 20  # match and get, whatever the nodes do: a session gives each of the two calls 10 s
TOKENS_PER_BLOCK = 128


def title(text: str) -> None:
    print(f"\n== {text}", flush=True)


def run_session(cluster: Cluster, folder: pathlib.Path, name: str, codec: str | None = None) -> dict:
    """A process of its own; its figures."""
    command = [sys.executable, str(ROOT / "examples/demo/session.py"), name, "--cluster", str(cluster.file), "--out", str(folder)]
    command += ["--codec", codec] if codec else []
    subprocess.run(command, check=True, timeout=SESSION_SECONDS, preexec_fn=end_with_parent())
    return json.loads((folder / f"{name}{f'-{codec}' if codec else ''}.json").read_text(encoding="utf-8"))


def fullest_node(cluster: Cluster) -> str:
    return max(cluster.nodes, key=lambda node: cluster.metrics(node)['kvist_used_bytes{tier="host"}'])


def print_table(a: dict, sessions: dict[str, dict]) -> None:
    head = ("codec", "reused", "bf16 MB", "stored MB", "ratio", "fetched MB", "TTFT s", "with Kvist", "KLD", "top-1", "same text")
    rows = []
    for codec, b in sessions.items():
        put = a["codecs"][codec]
        rows.append((
            codec,
            f"{b['reused_tokens']}/{b['prompt_tokens']}",
            f"{put['plain_bytes'] / 1e6:.1f}",
            f"{put['stored_bytes'] / 1e6:.1f}",
            f"{put['stored_bytes'] / put['plain_bytes']:.3f}",
            f"{b['fetched_bytes'] / 1e6:.1f}",
            f"{b['recompute_seconds']:.2f}",
            f"{b['kvist_seconds']:.2f}",
            f"{b['kld']:.2g}",
            f"{100 * b['top1']:.1f} %",
            "yes" if b["same_text"] else "no",
        ))
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def sum_of(metrics: dict[str, float], name: str) -> float:
    return sum(value for series, value in metrics.items() if series.split("{")[0] == name)


def print_metrics(cluster: Cluster) -> None:
    print(f"{'node':>4}  {'blocks':>6}  {'used MB':>8}  {'of MB':>6}  {'pinned':>6}  {'hits':>5}  {'misses':>6}  {'hit rate':>8}  "
          f"{'in MB':>6}  {'out MB':>6}")
    for node in cluster.nodes:
        if not cluster.alive(node):
            print(f"{node:>4}  killed")
            continue
        m = cluster.metrics(node)
        hits, misses = sum_of(m, "kvist_hit_blocks_total"), sum_of(m, "kvist_missed_blocks_total")
        rate = f"{100 * hits / (hits + misses):.1f} %" if hits + misses else "-"
        print(f"{node:>4}  {sum_of(m, 'kvist_blocks'):6.0f}  {sum_of(m, 'kvist_used_bytes') / 1e6:8.1f}  "
              f"{sum_of(m, 'kvist_capacity_bytes') / 1e6:6.1f}  {sum_of(m, 'kvist_pinned_bytes'):6.0f}  {hits:5.0f}  {misses:6.0f}  "
              f"{rate:>8}  {sum_of(m, 'kvist_received_bytes_total') / 1e6:6.1f}  {sum_of(m, 'kvist_sent_bytes_total') / 1e6:6.1f}")


def deviations(a: dict, sessions: dict[str, dict], c: dict) -> list[str]:
    wrong = []
    if a["tokens"] < 1500:
        wrong.append(f"the prompt has {a['tokens']} tokens, fewer than 1500")
    for codec, b in sessions.items():
        if b["reused_tokens"] != b["reusable_tokens"]:
            wrong.append(f"{codec}: {b['reused_tokens']} tokens were reused, the prompts share {b['reusable_tokens']} in whole blocks")
        if not b["store_seconds"] <= MOST_STORE_SECONDS:
            wrong.append(f"{codec}: match and get took {b['store_seconds']:.1f} s, promised are at most {MOST_STORE_SECONDS}")
        if not b["kld"] <= MOST_KLD[codec]:
            wrong.append(f"{codec}: mean KLD is {b['kld']:.6f}, promised is at most {MOST_KLD[codec]}")
    if not sessions["raw16"]["bit_identical"]:
        wrong.append("raw16: the pages that came back are not bit-identical to those recomputed")
    if not sessions["raw16"]["same_text"]:
        wrong.append("raw16: the text differs from that of full recompute")
    if not c["reused_tokens"] < sessions["raw16"]["reused_tokens"]:
        wrong.append(f"after a node died {c['reused_tokens']} tokens came back, no fewer than before")
    if c["reused_tokens"] % TOKENS_PER_BLOCK != 0:
        wrong.append(f"after a node died {c['reused_tokens']} tokens came back, no whole number of blocks")
    if c["miss_reason"] != "owner_down":
        wrong.append(f"after a node died the next block was missed because of {c['miss_reason']!r}, not 'owner_down'")
    if not c["store_seconds"] <= MOST_STORE_SECONDS:
        wrong.append(f"after a node died match and get took {c['store_seconds']:.1f} s, promised are at most {MOST_STORE_SECONDS}")
    if not c["same_text"]:
        wrong.append("after a node died the answer differs from that of full recompute")
    return wrong


def demonstrate(kvistd: pathlib.Path, folder: pathlib.Path) -> int:
    title("Three nodes, one static cluster file")
    with Cluster(kvistd, folder, CAPACITIES) as cluster:
        cluster.wait_until_ready()
        for node in cluster.nodes:
            print(f"    node {node}: {cluster.address(node)}, {CAPACITIES[node]}")
        title("Session A: prefill, answer, put the prompt's blocks with each codec")
        a = run_session(cluster, folder, "a")
        sessions = {}
        for codec in CODECS:
            title(f"Session B, a new process: the same document, another question, from {codec} blocks")
            sessions[codec] = run_session(cluster, folder, "b", codec)
        victim = fullest_node(cluster)
        before = {node: cluster.metrics(node) for node in cluster.nodes}
        cluster.kill(victim)
        title(f"Session C: node {victim} was killed (SIGKILL)")
        c = run_session(cluster, folder, "c")
        title("What it costs and what it gives (TTFT: seconds to the first token; KLD, top-1: 64 tokens against full recompute)")
        print_table(a, sessions)
        title("What the nodes' /metrics say")
        print_metrics(cluster)
        killed = before[victim]
        print(f"     ({victim} held {sum_of(killed, 'kvist_blocks'):.0f} blocks, {sum_of(killed, 'kvist_used_bytes') / 1e6:.1f} MB)")
    wrong = deviations(a, sessions, c)
    (ROOT / "build").mkdir(exist_ok=True)
    results = {"a": a, "b": sessions, "c": c, "deviations": wrong}
    (ROOT / "build/demo.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    title("Deviations" if wrong else "Everything is as promised")
    for sentence in wrong:
        print(f"    {sentence}")
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kvistd", type=pathlib.Path, default=ROOT / "bazel-bin/services/node/kvistd", help="the node's program")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: nodes and folder go in every case
    folder = pathlib.Path(tempfile.mkdtemp(prefix="kvist-demo-"))
    try:
        return demonstrate(arguments.kvistd, folder)
    except subprocess.TimeoutExpired as late:
        print(f"a session hung: it was ended after {late.timeout:.0f} s", file=sys.stderr)
    except (subprocess.CalledProcessError, RuntimeError, OSError) as failed:
        print(f"the demo failed: {failed}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
