"""Containers of the chart as plain processes of this machine: their own command lines, with names and ports that are real here.

Errors  TimeoutError names what did not come about in time.
"""

import json
import pathlib
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Self

from manifests import Object

POLL = 0.05  # seconds between two looks at a condition


def wait_for(what: str, holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not in {seconds} s: {what}")
        time.sleep(POLL)


def free_port() -> int:
    """For programs that cannot be asked which port the system gave them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def status_of(url: str) -> int:
    """0: nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def command_of(container: Object, programs: dict[str, str], here: dict[str, str]) -> list[str]:
    """What Kubernetes would run, with what is different here: longer names first, since some begin others."""
    command = container["command"] + container.get("args", [])
    changed = []
    for word in command[1:]:
        for there in sorted(here, key=len, reverse=True):
            word = word.replace(there, here[there])
        changed.append(word)
    return [programs.get(command[0], command[0]), *changed]


class Running:
    """A process that ends with its `with` block, as another user if one is named. Its standard error is kept."""

    def __init__(self, command: list[str], log: pathlib.Path, user: int | None = None, group: int | None = None) -> None:
        self._log = log
        with log.open("w", encoding="utf-8") as errors:
            other = {} if user is None else {"user": user, "group": group, "extra_groups": [group]}
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, **other)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def errors(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def event(self, name: str, seconds: float = 30) -> Object:
        """The first such line of a kvistd's log."""

        def lines() -> list[Object]:
            return [entry for line in self.errors().splitlines() if (entry := json.loads(line))["event"] == name]

        wait_for(f"{name} in {self._log}", lambda: bool(lines()) or self.process.poll() is not None, seconds)
        if not lines():
            raise TimeoutError(f"it ended without {name}: {self.errors()}")
        return lines()[0]

    def terminate(self, seconds: float) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def peak_memory(self) -> int:
        """Bytes, the most so far."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) << 10
