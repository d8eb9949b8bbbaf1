"""A Kvist cluster on this host as plain processes: etcd, nodes and a Prometheus that scrapes them.

All state is in one folder: state.json, logs, etcd's and Prometheus's data. A process is ours if its pid and its start time
are those of state.json, so that nobody else's is ever ended. Every wait has a deadline.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Sequence

ROOT = pathlib.Path(__file__).resolve().parents[2]
START_SECONDS, STOP_SECONDS = 60, 20


class Fault(RuntimeError):
    """A sentence for people."""


def wait_for(what: str, holds: Callable[[], bool], seconds: float, log: pathlib.Path | None = None) -> None:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            tail = "" if log is None else f"; the end of {log}:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise Fault(f"not within {seconds:.0f} s: {what}{tail}")
        time.sleep(0.05)


def http(url: str, seconds: float = 5) -> str:
    with urllib.request.urlopen(url, timeout=seconds) as response:
        return response.read().decode()


def answers(url: str, expected: str = "") -> bool:
    try:
        return expected in http(url, 2)
    except OSError:
        return False


def free_port(wanted: int | None) -> int:
    """`wanted` if it is free, else one that the system chooses."""
    for port in (wanted, 0) if wanted else (0,):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return probe.getsockname()[1]
    raise Fault("no free port on 127.0.0.1")


def started_at(pid: int) -> str | None:
    """Field 22 of /proc/PID/stat; None if the process is gone or has ended."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


@dataclasses.dataclass(frozen=True)
class Options:
    kvistd: pathlib.Path
    nodes: int = 3
    capacity: str = "256MiB"
    scrape: str = "5s"
    usual_ports: bool = True  # 2379, 7101.., 8101.., 9090 where they are free
    flags: dict[str, Sequence[str]] = dataclasses.field(default_factory=dict)  # more flags, by node
    programs: dict[str, pathlib.Path] = dataclasses.field(default_factory=dict)  # another kvistd, by node


class LocalCluster:
    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self._file = folder / "state.json"
        self.state: dict = json.loads(self._file.read_text()) if self._file.exists() else {}
        self._children: list[subprocess.Popen] = []

    # --- What there is ---

    @property
    def nodes(self) -> dict[str, dict]:
        return self.state["nodes"]

    @property
    def prometheus(self) -> str:
        return f"http://127.0.0.1:{self.state['prometheus']}"

    def seeds(self) -> list[str]:
        return [f"127.0.0.1:{node['data']}" for node in self.nodes.values()]

    def metrics(self, node: str) -> str:
        return http(f"http://127.0.0.1:{self.nodes[node]['http']}/metrics")

    def alive(self, name: str) -> bool:
        process = self.state.get("processes", {}).get(name)
        return process is not None and started_at(process["pid"]) == process["start"]

    def running(self) -> list[str]:
        return [name for name in self.state.get("processes", {}) if self.alive(name)]

    # --- Up ---

    def up(self, options: Options) -> None:
        """Starts what is not running; what runs is left alone."""
        if not self.state:
            self._choose(options)
        self._start("etcd", self._etcd_command())
        wait_for("etcd is healthy", lambda: answers(f"{self._etcd()}/health", '"true"'), START_SECONDS, self._log("etcd"))
        for name in self.nodes:
            self._start(name, self._node_command(name, options))
        for name, node in self.nodes.items():
            wait_for(f"{name} is ready", lambda port=node["http"], name=name: self._ready(name, port), START_SECONDS, self._log(name))
        self._write_prometheus_config(options)
        self._start("prometheus", self._prometheus_command())
        wait_for("Prometheus scrapes every node", self._all_scraped, START_SECONDS, self._log("prometheus"))

    def _choose(self, options: Options) -> None:
        port = (lambda wanted: free_port(wanted)) if options.usual_ports else (lambda _: free_port(None))
        self.folder.mkdir(parents=True, exist_ok=True)
        names = [f"n{i}" for i in range(1, options.nodes + 1)]
        self.state = {"etcd": port(2379), "etcd_peer": port(2380), "prometheus": port(9090), "processes": {},
                      "nodes": {name: {"data": port(7100 + i), "http": port(8100 + i)} for i, name in enumerate(names, 1)}}
        self._save()

    def _save(self) -> None:
        self._file.write_text(json.dumps(self.state, indent=1) + "\n")

    def _log(self, name: str) -> pathlib.Path:
        return self.folder / f"{name}.log"

    def _etcd(self) -> str:
        return f"http://127.0.0.1:{self.state['etcd']}"

    def _etcd_command(self) -> list:
        peer = f"http://127.0.0.1:{self.state['etcd_peer']}"
        return [_program("etcd", "etcd-server"), "--name=e", f"--data-dir={self.folder}/etcd", f"--listen-client-urls={self._etcd()}",
                f"--advertise-client-urls={self._etcd()}", f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=e={peer}"]

    def _node_command(self, name: str, options: Options) -> list:
        node = self.nodes[name]
        return [options.programs.get(name, options.kvistd), "--etcd", f"127.0.0.1:{self.state['etcd']}", "--node", name, "--listen",
                f"127.0.0.1:{node['data']}", "--http", f"127.0.0.1:{node['http']}", "--capacity", options.capacity, "--no-prefault",
                "--join-ramp", "2s", "--join-window", "2s", "--drain-deadline", "1s", "--drain", "1s", *options.flags.get(name, ())]

    def _prometheus_command(self) -> list:
        return [_program("prometheus", "prometheus"), f"--config.file={self.folder}/prometheus.yaml",
                f"--storage.tsdb.path={self.folder}/tsdb", f"--web.listen-address=127.0.0.1:{self.state['prometheus']}", "--log.level=warn"]

    def _write_prometheus_config(self, options: Options) -> None:
        targets = [{"targets": [f"127.0.0.1:{node['http']}"], "labels": {"instance": name}} for name, node in self.nodes.items()]
        config = {"global": {"scrape_interval": options.scrape, "evaluation_interval": options.scrape},
                  "rule_files": [str(path) for path in sorted((ROOT / "deploy/prometheus").glob("*.yaml"))],
                  "scrape_configs": [{"job_name": "kvist", "static_configs": targets}]}
        (self.folder / "prometheus.yaml").write_text(json.dumps(config, indent=1) + "\n")  # JSON is YAML

    def _start(self, name: str, command: list) -> None:
        if self.alive(name):
            return
        with self._log(name).open("ab") as log:
            # A session of its own: it outlives this program and the terminal.
            process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       start_new_session=True, cwd=self.folder)
        self._children.append(process)
        self.state["processes"][name] = {"pid": process.pid, "start": started_at(process.pid)}
        self._save()

    def _ready(self, name: str, port: int) -> bool:
        if not self.alive(name):
            raise Fault(f"{name} has ended; its log is {self._log(name)}:\n{self._log(name).read_text(errors='replace')[-2000:]}")
        return answers(f"http://127.0.0.1:{port}/readyz", "ready")

    def _all_scraped(self) -> bool:
        try:
            up = json.loads(http(f"{self.prometheus}/api/v1/query?query=up"))["data"]["result"]
        except OSError:
            return False
        return sum(series["value"][1] == "1" for series in up) == len(self.nodes)

    # --- Down ---

    def down(self) -> None:
        """Ends all of it, nodes before etcd so that they can leave, and removes the folder."""
        order = ["prometheus", *self.state.get("nodes", {}), "etcd"]
        for group in (order[:1], order[1:-1], order[-1:]):
            running = [name for name in group if self.alive(name)]
            for name in running:
                os.kill(self.state["processes"][name]["pid"], signal.SIGTERM)
            end = time.monotonic() + STOP_SECONDS
            for name in running:
                self._await_end(name, end)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.state = {}

    def _await_end(self, name: str, end: float) -> None:
        pid = self.state["processes"][name]["pid"]
        while self.alive(name):
            if time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
                end += STOP_SECONDS
            time.sleep(0.02)
        for child in self._children:
            child.poll()  # those that this program has started itself


def _program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise Fault(f"there is no {name} here: install the Debian package {package} (tools/setup does)")
    return found
