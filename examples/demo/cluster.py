"""Three real kvistd processes on this host, from one static cluster file; and what their /metrics say."""

import ctypes
import json
import os
import pathlib
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Sequence

READY_SECONDS = 30
PR_SET_PDEATHSIG = 1  # prctl(2)

_libc = ctypes.CDLL(None)


def end_with_parent() -> Callable[[], None]:
    """For Popen's preexec_fn: the kernel kills the child when this process ends, whatever ended it.

    A signal that arrives within Popen makes it raise when the child runs already: nobody else would know of that child.
    """
    parent = os.getpid()

    def in_child() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before we asked
            os._exit(1)

    return in_child


class Cluster:
    """Starts the nodes, with `flags` beside their own; `with` ends them in every case."""

    def __init__(self, kvistd: pathlib.Path, folder: pathlib.Path, capacities: dict[str, str], flags: Sequence[str] = ()):
        self.file = folder / "cluster.json"
        nodes = [
            {"id": name, "address": "127.0.0.1:0", "capacity": capacity, "weight": int(capacity.removesuffix("MiB"))}
            for name, capacity in capacities.items()
        ]
        self.file.write_text(json.dumps({"view": 1, "nodes": nodes}, indent=1), encoding="utf-8")
        self._kvistd, self._flags = kvistd, flags
        self._logs = {name: folder / f"{name}.log" for name in capacities}
        self._processes: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> "Cluster":
        try:
            for name, log in self._logs.items():
                command = [self._kvistd, "--cluster", self.file, "--node", name, "--http", "127.0.0.1:0", *self._flags]
                with log.open("w", encoding="utf-8") as errors:
                    self._processes[name] = subprocess.Popen(command, stderr=errors, preexec_fn=end_with_parent())
        except BaseException:
            self.__exit__()
            raise
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

    @property
    def nodes(self) -> list[str]:
        return list(self._processes)

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        for name, process in self._processes.items():
            while not self._is_ready(name):
                ended = process.poll()
                if ended is not None or time.monotonic() > deadline:
                    why = f"is not ready after {READY_SECONDS} s" if ended is None else f"ended with status {ended}"
                    raise RuntimeError(f"node {name} {why}; its log:\n{self._logs[name].read_text(encoding='utf-8')}")
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
        return pathlib.Path(f"{self.file}.d/{name}.address").read_text(encoding="utf-8").split()[0]

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
