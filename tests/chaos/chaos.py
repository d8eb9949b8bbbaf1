"""Chaos with a byte oracle: real kvistd processes and a real etcd, faults while workers read and verify every value.

    build/venv/bin/python tests/chaos/chaos.py [--seconds 20] [SCENARIO ...]

Every node is a process on loopback with ports of its own; the workers are tests/chaos/oracle_worker. Prints a table, writes
build/chaos.json, and exits with 0 if every scenario reached its figure, 1 if not, 2 if it could not be run.
"""
import argparse
import json
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BIN = ROOT / "bazel-bin"
KVISTD, KVIST, WORKER = BIN / "services/node/kvistd", BIN / "services/ctl/kvist", BIN / "tests/chaos/oracle_worker"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Cluster:
    """Nodes and etcd as child processes; everything ends with it."""

    def __init__(self, nodes: int, capacity: str = "256MiB", flags: tuple[str, ...] = ()) -> None:
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="kvist-chaos-"))
        self.capacity, self.flags = capacity, flags
        self.client_port, self.peer_port = free_port(), free_port()
        self.processes: dict[str, subprocess.Popen] = {}
        self.start_etcd()
        for i in range(nodes):
            self.start_node(f"n{i}")
        self.wait_serving(nodes)

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *exc) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, name: str, command: list) -> None:
        log = open(self.folder / f"{name}.log", "ab")
        self.processes[name] = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log)

    def start_etcd(self) -> None:
        client, peer = (f"http://127.0.0.1:{port}" for port in (self.client_port, self.peer_port))
        self.start("etcd", ["/usr/bin/etcd", "--name=e", f"--data-dir={self.folder}/etcd", f"--listen-client-urls={client}",
                            f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}",
                            f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=e={peer}"])

    def start_node(self, name: str) -> None:
        (self.folder / f"{name}.log").unlink(missing_ok=True)
        self.start(name, [KVISTD, "--etcd", f"127.0.0.1:{self.client_port}", "--node", name, "--listen", "127.0.0.1:0", "--http",
                          "127.0.0.1:0", "--capacity", self.capacity, "--no-prefault", "--enable-test-faults", "--join-ramp", "5s",
                          "--join-window", "5s", *self.flags])

    def field(self, name: str, what: str, seconds: float = 30) -> str:
        """A field of the node's "serving" log line."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for line in (self.folder / f"{name}.log").read_text(errors="replace").splitlines():
                if '"event":"serving"' in line:
                    return json.loads(line)[what]
            time.sleep(0.02)
        raise SystemExit(f"{name} does not start: {(self.folder / f'{name}.log').read_text()[-500:]}")

    def nodes(self) -> list[str]:
        return [name for name, process in self.processes.items() if name != "etcd" and process.poll() is None]

    def seeds(self) -> str:
        return ",".join(self.field(name, "address") for name in self.nodes())

    def states(self) -> dict[str, str]:
        out = subprocess.run([KVIST, "stats", "--json", "--node", self.seeds(), "--deadline", "2s"], capture_output=True, text=True, check=False).stdout
        try:
            return {node["id"]: node["state"] for node in json.loads(out)}
        except ValueError:
            return {}

    def wait_serving(self, count: int, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while sum(state == "serving" for state in self.states().values()) != count:
            if time.monotonic() > end:
                raise SystemExit(f"not {count} nodes serve within {seconds} s: {self.states()}")
            time.sleep(0.2)

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()

    def signal(self, name: str, number: int) -> None:
        self.processes[name].send_signal(number)

    def metric(self, name: str, metric: str) -> float:
        with urllib.request.urlopen(f"http://{self.field(name, 'http')}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        return sum(float(value) for value in re.findall(rf"^{metric}(?:\{{[^}}]*\}})? (\S+)$", text, re.M))

    def post(self, name: str, path: str) -> str:
        request = urllib.request.Request(f"http://{self.field(name, 'http')}{path}", method="POST", data=b"")
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()

    def worker(self, *flags) -> subprocess.Popen:
        return subprocess.Popen([str(WORKER), "--seeds", self.seeds(), *map(str, flags)], stdout=subprocess.PIPE, text=True)

    def fill(self, *flags) -> dict:
        return finish(self.worker("--fill-only", *flags))[-1]


def finish(worker: subprocess.Popen) -> list[dict]:
    out, _ = worker.communicate(timeout=900)
    lines = [json.loads(line) for line in out.splitlines()]
    if not lines or not lines[-1]["final"]:
        raise SystemExit(f"the worker ended without its last line (exit {worker.returncode})")
    return lines


def rate(lines: list[dict]) -> float:
    return lines[-1]["hits"] / max(1, lines[-1]["reads"])


def between(lines: list[dict], first: float, last: float) -> float:
    """Hit rate between two points in time of a run."""
    start = {"seconds": 0, "hits": 0, "reads": 0}
    a = [line for line in [start, *lines] if line["seconds"] >= first][0]
    b = [line for line in lines if line["seconds"] <= last][-1]
    if b["reads"] == a["reads"]:
        raise SystemExit(f"no reads between second {first} and {last}: give more --seconds")
    return (b["hits"] - a["hits"]) / (b["reads"] - a["reads"])


PROMPTS = ["--prompts", 2000, "--blocks", 1, "--layers", 2]


def stall(line: dict) -> float:
    return max(line["longest_match_s"], line["longest_get_s"])


def kill_one(seconds: int) -> list[tuple]:
    """Kill one of four, RF 1."""
    with Cluster(4) as cluster:
        cluster.fill(*PROMPTS)
        worker = cluster.worker(*PROMPTS, "--read-only", "--seconds", seconds, "--deadline", "1s")
        time.sleep(seconds / 4)
        cluster.kill("n1")
        last = finish(worker)[-1]
        beyond = sum(count for owner, count in last["misses_by_owner"].items() if owner != "n1")
        reads = sum(count for owner, count in last["reads_by_owner"].items() if owner != "n1")
        return [("kill one of four, RF 1: misses beyond its share", beyond / reads, "<", 0.01, last),
                ("kill one of four, RF 1: longest stall / deadline", stall(last) / 1.0, "<", 2.0, last)]


def stop_one(seconds: int) -> list[tuple]:
    """Stop one of four for a while."""
    with Cluster(4) as cluster:
        cluster.fill(*PROMPTS)
        worker = cluster.worker(*PROMPTS, "--read-only", "--seconds", seconds, "--deadline", "1s")
        time.sleep(seconds / 4)
        cluster.signal("n1", signal.SIGSTOP)
        time.sleep(seconds / 2)
        cluster.signal("n1", signal.SIGCONT)
        last = finish(worker)[-1]
        return [("stop one of four: longest stall / deadline", stall(last) / 1.0, "<=", 1.05, last)]


def flip(seconds: int) -> list[tuple]:
    """Bits flipped in 64 resting blocks."""
    with Cluster(4, flags=("--scrub-rate", "0")) as cluster:
        small = ["--prompts", 64, "--blocks", 1, "--layers", 2]
        cluster.fill(*small)
        for name in cluster.nodes():
            cluster.post(name, "/test/flip?blocks=64&seed=1")
        last = finish(cluster.worker(*small, "--read-only", "--seconds", max(3, seconds // 4)))[-1]
        return [("bits flipped in 64 resting blocks: wrong values delivered", last["wrong"], "<=", 0, last)]


def kill_replicated(seconds: int) -> list[tuple]:
    """Kill one of four, RF 2."""
    with Cluster(4) as cluster:
        cluster.fill(*PROMPTS, "--replicas", 2)
        time.sleep(3)
        worker = cluster.worker(*PROMPTS, "--replicas", 2, "--read-only", "--seconds", seconds, "--deadline", "1s")
        time.sleep(seconds / 3)
        cluster.kill("n1")
        lines = finish(worker)
        fall = between(lines, 0, seconds / 3 - 1) - between(lines, seconds / 3, seconds)
        return [("kill one of four, RF 2: hit rate falls by", fall, "<", 0.01, lines[-1])]


def etcd_dead(seconds: int) -> list[tuple]:
    """Reads and writes while etcd is dead."""
    with Cluster(4) as cluster:
        cluster.fill(*PROMPTS)
        before = rate(finish(cluster.worker(*PROMPTS, "--read-only", "--seconds", 3)))
        cluster.kill("etcd")
        lines = finish(cluster.worker(*PROMPTS, "--read-only", "--seconds", seconds))
        return [("reads while etcd is dead: success lost", before - rate(lines), "<=", 0.0, lines[-1])]


def add_one(seconds: int) -> list[tuple]:
    """Add a fourth node under load."""
    with Cluster(3) as cluster:
        cluster.fill(*PROMPTS)
        worker = cluster.worker(*PROMPTS, "--read-only", "--seconds", seconds + 10)
        time.sleep(5)
        cluster.start_node("n3")
        lines = finish(worker)
        before = between(lines, 0, 4)
        worst = min(between(lines, second, second + 2) for second in range(5, seconds + 7))
        return [("add a fourth node: hit rate falls by, worst 2 s", before - worst, "<=", 0.02, lines[-1])]


def drain_one(seconds: int) -> list[tuple]:
    """Drain one of four with half-full stores."""
    with Cluster(4, capacity="16MiB", flags=("--drain-budget", "16MiB")) as cluster:
        half = ["--prompts", 1900, "--blocks", 1, "--layers", 2]
        cluster.fill(*half)
        before = finish(cluster.worker(*half, "--read-only", "--seconds", 4))[-1]
        drained = subprocess.run([KVIST, "drain", "n1", "--node", cluster.seeds()], check=False)
        after = finish(cluster.worker(*half, "--read-only", "--seconds", 4))[-1]
        share = before["reads_by_owner"].get("n1", 0) / before["reads"]
        had = 1 - before["misses_by_owner"].get("n1", 0) / before["reads_by_owner"]["n1"]
        lost = before["hits"] / before["reads"] - after["hits"] / after["reads"]
        kept = 1 - lost / (share * had)
        return [("drain one of four: hits on its blocks kept", kept if drained.returncode == 0 else 0, ">=", 0.9, after)]


def hot(seconds: int) -> list[tuple]:
    """One hot prefix, 32 clients, four nodes."""
    with Cluster(4) as cluster:
        one = ["--prompts", 1, "--blocks", 8, "--layers", 16]
        cluster.fill(*one)
        finish(cluster.worker(*one, "--read-only", "--clients", 32, "--seconds", 6))
        start = {name: cluster.metric(name, "kvist_sent_bytes_total") for name in cluster.nodes()}
        last = finish(cluster.worker(*one, "--read-only", "--clients", 32, "--seconds", seconds))[-1]
        sent = {name: cluster.metric(name, "kvist_sent_bytes_total") - start[name] for name in cluster.nodes()}
        return [("one hot prefix, 32 clients: largest share of the bytes", max(sent.values()) / sum(sent.values()), "<=", 0.4, last)]


def overload(seconds: int) -> list[tuple]:
    """200 clients against four nodes that take few reads at once."""
    with Cluster(4) as cluster:
        big = ["--prompts", 400, "--blocks", 1, "--layers", 16]
        cluster.fill(*big)
        peak = max(finish(cluster.worker(*big, "--read-only", "--clients", n, "--seconds", seconds // 2))[-1]["hits"] / (seconds // 2)
                   for n in (4, 16))
        last = finish(cluster.worker(*big, "--read-only", "--clients", 200, "--seconds", seconds, "--deadline", "5s"))[-1]
        return [("200 clients: goodput / peak", last["hits"] / seconds / peak, ">=", 0.8, last),
                ("200 clients: reads that ran into their deadline", last["misses"].get("deadline", 0), "<=", 0, last)]


SCENARIOS = [kill_one, stop_one, flip, kill_replicated, etcd_dead, add_one, drain_one, hot, overload]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("scenarios", nargs="*")
    arguments = parser.parse_args()
    chosen = [s for s in SCENARIOS if not arguments.scenarios or s.__name__ in arguments.scenarios]
    if not chosen:
        print(f"no such scenario; there are {', '.join(s.__name__ for s in SCENARIOS)}", file=sys.stderr)
        return 2
    rows = []
    for scenario in chosen:
        for what, figure, relation, reach, last in scenario(arguments.seconds):
            ok = {"<": figure < reach, "<=": figure <= reach, ">=": figure >= reach}[relation] and last["wrong"] == 0
            rows.append({"what": what, "figure": figure, "relation": relation, "reach": reach, "ok": ok, "worker": last})
            print(f"{what:62} {figure:8.4f} {relation:2} {reach:<6} {'ok' if ok else 'MISSED'}", flush=True)
    reads, wrong = sum(r["worker"]["reads"] for r in rows), sum(r["worker"]["wrong"] for r in rows)
    print(f"{reads} verified reads, {wrong} wrong")
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "chaos.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
