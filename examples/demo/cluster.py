"""Three real kvistd processes on this host, from one static cluster file; and what their /metrics say."""

import json
import pathlib
import signal
import subprocess
import time
import urllib.request

READY_SECONDS = 30


class Cluster:
    """Starts the nodes; `with` ends them in every case."""

    def __init__(self, kvistd: pathlib.Path, folder: pathlib.Path, capacities: dict[str, str]):
        self.file = folder / "cluster.json"
        nodes = [
            {"id": name, "address": "127.0.0.1:0", "capacity": capacity, "weight": int(capacity.removesuffix("MiB"))}
            for name, capacity in capacities.items()
        ]
        self.file.write_text(json.dumps({"view": 1, "nodes": nodes}, indent=1), encoding="utf-8")
        self._logs = {name: (folder / f"{name}.log").open("w", encoding="utf-8") for name in capacities}
        self._processes = {
            name: subprocess.Popen(
                [kvistd, "--cluster", self.file, "--node", name, "--http", "127.0.0.1:0"], stderr=self._logs[name]
            )
            for name in capacities
        }

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self._processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for log in self._logs.values():
            log.close()

    @property
    def nodes(self) -> list[str]:
        return list(self._processes)

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        for name, process in self._processes.items():
            while not self._is_ready(name):
                if process.poll() is not None or time.monotonic() > deadline:
                    log = pathlib.Path(self._logs[name].name).read_text(encoding="utf-8")
                    raise RuntimeError(f"node {name} is not ready after {READY_SECONDS} s; its log:\n{log}")
                time.sleep(0.02)

    def _is_ready(self, name: str) -> bool:
        try:
            return self._http(name, "/readyz") == "ready\n"
        except OSError:
            return False

    def _http(self, name: str, path: str) -> str:
        address = pathlib.Path(f"{self.file}.d/{name}.http").read_text(encoding="utf-8").strip()
        with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as response:
            return response.read().decode()

    def address(self, name: str) -> str:
        return pathlib.Path(f"{self.file}.d/{name}.address").read_text(encoding="utf-8").strip()

    def kill(self, name: str) -> None:
        self._processes[name].send_signal(signal.SIGKILL)
        self._processes[name].wait()

    def alive(self, name: str) -> bool:
        return self._processes[name].poll() is None

    def metrics(self, name: str) -> dict[str, float]:
        """Prometheus text as {"name" or "name{label="value"}": value}."""
        lines = self._http(name, "/metrics").splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {series: float(value) for series, value in pairs}
