"""A cluster under test: real kvistd processes and a real etcd on hosts (hosts.py), and everything that can be done to them."""
import contextlib
import dataclasses
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from hosts import Host, end_with_parent, make_network

HERE = pathlib.Path(__file__).resolve().parent
DATA_PORT, PROXY_PORT, HTTP_PORT, ETCD_PORT, ETCD_PEER_PORT = 7070, 7071, 7080, 2379, 2380
ETCD = shutil.which("etcd") or "/usr/bin/etcd"


@dataclasses.dataclass(frozen=True)
class Programs:
    kvistd: pathlib.Path
    kvist: pathlib.Path
    worker: pathlib.Path


class Fault(RuntimeError):
    """The harness could not do what it should: no verdict."""


def wait_for(what: str, holds, seconds: float = 60, pause: float = 0.05) -> None:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise Fault(f"not within {seconds} s: {what}")
        time.sleep(pause)


class Proxy:
    """proxy.py on a host, before that host's node."""

    def __init__(self, host: Host, errors):
        command = host.command([sys.executable, HERE / "proxy.py", host.address, PROXY_PORT, host.address, DATA_PORT])
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                                         preexec_fn=end_with_parent())
        if self._process.stdout.readline() != "ready\n":
            raise Fault(f"the proxy of {host.name} does not start")

    def set(self, **link) -> None:
        self._process.stdin.write(json.dumps(link) + "\n")
        self._process.stdin.flush()
        self._process.stdout.readline()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Worker:
    """An oracle worker under way; its lines are in a file, so that it never waits for us."""

    def __init__(self, name: str, host: Host, command: list, folder: pathlib.Path):
        self.name, self.folder, self._out = name, folder, folder / f"{name}.jsonl"
        with self._out.open("wb") as out, (folder / f"{name}.log").open("wb") as errors:
            self.process = host.start(command, out, errors)

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self._out.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def running(self) -> bool:
        return self.process.poll() is None

    def wait_seconds(self, seconds: float) -> None:
        """Until the worker's own clock says so."""
        wait_for(f"{self.name} runs for {seconds} s",
                 lambda: not self.running() or any(line["seconds"] >= seconds for line in self.lines()), seconds + 60)
        if not self.running():
            raise Fault(f"{self.name} ended too early, with {self.process.returncode}")

    def end(self) -> None:
        """Before its time; `finish` then gives what it has counted."""
        self.process.terminate()

    def finish(self, seconds: float = 3600) -> list[dict]:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise Fault(f"{self.name} does not end") from None
        lines = self.lines()
        if self.process.returncode not in (0, 3) or not lines or not lines[-1]["final"]:
            raise Fault(f"{self.name} ended with {self.process.returncode}, without its last line; see {self._out.with_suffix('.log')}")
        return lines


class Cluster:
    """`with` ends all of it in every case. Logs stay in `logs`."""

    def __init__(self, programs: Programs, logs: pathlib.Path, nodes: int, network: str = "auto", capacity: str = "256MiB",
                 flags: tuple = (), proxied: bool = False):
        self.programs, self.logs, self.capacity, self.flags = programs, logs, capacity, flags
        self.logs.mkdir(parents=True, exist_ok=True)
        self._scratch = pathlib.Path(tempfile.mkdtemp(prefix="kvistc-"))
        self._processes: dict[str, subprocess.Popen] = {}
        self._proxies: dict[str, Proxy] = {}
        self._workers: list[Worker] = []
        self._cuts: set[tuple[str, str]] = set()
        self._loss: dict[tuple[str, str], float] = {}
        self._slow: dict[str, dict] = {}
        self._network, self.network_is = make_network(network)
        try:
            self.hosts = {name: self._network.add(name) for name in ["etcd", "w", *(f"n{i}" for i in range(nodes))]}
            self.start_etcd()
            for name in self.hosts:
                if name.startswith("n"):
                    if proxied:
                        self._proxies[name] = Proxy(self.hosts[name], self._log(f"{name}.proxy"))
                    self.start_node(name)
            self.wait_serving(nodes)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        for process in [*self._processes.values(), *(worker.process for worker in self._workers)]:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
        for proxy in self._proxies.values():
            proxy.close()
        self._network.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    @property
    def real_links(self) -> bool:
        return self._network.real

    def _log(self, name: str):
        return (self.logs / f"{name}.log").open("ab")

    # etcd

    def start_etcd(self) -> None:
        host = self.hosts["etcd"]
        client, peer = f"http://{host.address}:{ETCD_PORT}", f"http://{host.address}:{ETCD_PEER_PORT}"
        command = [ETCD, "--name=e", f"--data-dir={self._scratch}/etcd", f"--listen-client-urls={client}",
                   f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
                   f"--initial-cluster=e={peer}", "--unsafe-no-fsync"]
        self._processes["etcd"] = host.start(command, subprocess.DEVNULL, self._log("etcd"))
        wait_for("etcd is healthy", self._etcd_healthy, 30)

    def _etcd_healthy(self) -> bool:
        try:
            return '"true"' in self.hosts["etcd"].http("GET", "/health", ETCD_PORT, 2)
        except OSError:
            return False

    def wipe_etcd(self) -> None:
        shutil.rmtree(self._scratch / "etcd")

    # nodes

    def add_host(self, name: str) -> None:
        self.hosts[name] = self._network.add(name)

    def start_node(self, name: str, ramp: str = "0s", window: str = "0s") -> None:
        host = self.hosts[name]
        advertise = f"{host.address}:{PROXY_PORT if name in self._proxies else DATA_PORT}"
        command = [self.programs.kvistd, "--etcd", f"{self.hosts['etcd'].address}:{ETCD_PORT}", "--node", name, "--listen",
                   f"{host.address}:{DATA_PORT}", "--advertise", advertise, "--http", f"{host.address}:{HTTP_PORT}", "--capacity",
                   self.capacity, "--weight", 1, "--no-prefault", "--enable-test-faults", "--insecure", "--join-ramp", ramp,
                   "--join-window", window, *self.flags]
        self._processes[name] = host.start(command, subprocess.DEVNULL, self._log(name))

    def kill(self, name: str) -> None:
        self._processes[name].kill()
        self._processes[name].wait()

    def signal(self, name: str, number: int) -> None:
        self._processes[name].send_signal(number)

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def ended_with(self, name: str) -> int | None:
        """The exit status of a node; None while it runs."""
        return self._processes[name].poll()

    def alive(self, name: str) -> bool:
        return name in self._processes and self._processes[name].poll() is None

    def nodes(self) -> list[str]:
        """That run (or are stopped)."""
        return [name for name in self._processes if name != "etcd" and self.alive(name)]

    def seeds(self) -> str:
        port = PROXY_PORT if self._proxies else DATA_PORT
        return ",".join(f"{self.hosts[name].address}:{port}" for name in self.nodes())

    def kvist(self, *words, seconds: float = 60) -> subprocess.CompletedProcess:
        return self.hosts["w"].run([self.programs.kvist, *words, "--node", self.seeds()], seconds)

    def wait_serving(self, count: int, seconds: float = 60) -> None:
        """Until so many nodes serve and all of them have the same view: before that, what one reader stores another may not find."""
        wait_for(f"{count} nodes serve under one view (logs: {self.logs})", lambda: self._agree(count), seconds, 0.2)

    def _agree(self, count: int) -> bool:
        try:
            nodes = json.loads(self.kvist("stats", "--json", "--deadline", "2s").stdout)
        except ValueError:
            return False
        return [node["state"] for node in nodes] == ["serving"] * count and len({node.get("view") for node in nodes}) == 1

    def http(self, name: str, method: str, path: str) -> str:
        return self.hosts[name].http(method, path, HTTP_PORT)

    def metric(self, name: str, metric: str) -> float:
        text = self.http(name, "GET", "/metrics")
        return sum(float(value) for value in re.findall(rf"^{metric}(?:\{{[^}}]*\}})? (\S+)$", text, re.M))

    def flip(self, name: str, blocks: int, seed: int) -> int:
        """Flips one bit in each of so many resting blocks; how many there were."""
        return json.loads(self.http(name, "POST", f"/test/flip?blocks={blocks}&seed={seed}"))["flipped"]

    def peak_bytes(self, name: str) -> int:
        """The most memory that the node has had."""
        status = pathlib.Path(f"/proc/{self.pid(name)}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) * 1024

    # links

    def cut(self, a: str, b: str) -> None:
        """Between two hosts by name, both ways. Without namespaces: of the first, a node, from everybody."""
        self._cuts.add((a, b))
        self._set_links()

    def lose(self, a: str, b: str, part: float) -> None:
        """A part of the packets between two hosts. Without namespaces: chunks of the first, a node, come late."""
        self._loss[a, b] = part
        self._set_links()

    def slow(self, name: str, **link) -> None:
        """The link of a node that has a proxy, in the words of proxy.py."""
        self._slow[name] = link
        self._set_links()

    def heal(self, *hosts: str) -> None:
        """Links of these hosts, or of all."""
        hit = set(hosts or self.hosts)
        self._cuts = {pair for pair in self._cuts if not hit & set(pair)}
        self._loss = {pair: part for pair, part in self._loss.items() if not hit & set(pair)}
        self._slow = {name: link for name, link in self._slow.items() if name not in hit}
        self._set_links()

    def _set_links(self) -> None:
        if self.real_links:
            self._network.spoil([(self.hosts[a], self.hosts[b]) for a, b in self._cuts],
                                [(self.hosts[a], self.hosts[b], part) for (a, b), part in self._loss.items()])
        for name, proxy in self._proxies.items():
            link = dict(self._slow.get(name, {}))
            if not self.real_links:
                link["cut"] = any(name == victim for victim, _ in self._cuts)
                link["stall"] = max([link.get("stall", 0), *(part for (victim, _), part in self._loss.items() if name == victim)])
            proxy.set(**link)

    def limit(self, name: str, megabits: int) -> None:
        """What this host sends leaves at this rate. Without namespaces: nothing."""
        self._network.limit(self.hosts[name], megabits)

    # workers

    def worker(self, *flags) -> Worker:
        name = f"worker{len(self._workers)}"
        worker = Worker(name, self.hosts["w"], [self.programs.worker, "--seeds", self.seeds(), *flags], self.logs)
        self._workers.append(worker)
        return worker

    def fill(self, *flags) -> dict:
        last = self.worker("--fill", *flags).finish()[-1]
        if last["put_failures"] or last["faults"]:
            raise Fault(f"the stores could not be filled: {last['examples']}")
        return last
