"""Hosts of a cluster on one machine: network namespaces on one bridge; addresses of loopback where those cannot be made.

A network named kvistc-PID-... belongs to the process PID. It goes with it; what a killed run left behind, the next run takes away.
"""
import contextlib
import ctypes
import http.client
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable

PREFIX = "kvistc-"
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def end_with_parent() -> Callable[[], None]:
    """For Popen's preexec_fn: the kernel kills the child when the thread that started it ends, whatever ended it."""
    parent = os.getpid()

    def in_child() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before we asked
            os._exit(1)

    return in_child


def sh(*command: object, stdin: str | None = None) -> None:
    subprocess.run([str(word) for word in command], check=True, input=stdin, text=True, capture_output=True)


class Host:
    """One machine of the cluster."""

    def __init__(self, name: str, address: str, namespace: str | None = None):
        self.name, self.address, self.namespace = name, address, namespace

    def command(self, command: list) -> list[str]:
        enter = ["nsenter", f"--net=/run/netns/{self.namespace}"] if self.namespace else []
        return enter + [str(word) for word in command]

    def start(self, command: list, output, errors) -> subprocess.Popen:
        return subprocess.Popen(self.command(command), stdout=output, stderr=errors, stdin=subprocess.DEVNULL,
                                preexec_fn=end_with_parent())

    def run(self, command: list, seconds: float = 60) -> subprocess.CompletedProcess:
        return subprocess.run(self.command(command), capture_output=True, text=True, timeout=seconds, check=False)

    def connect(self, address: str, port: int, seconds: float = 5) -> socket.socket:
        """A connection from this host. A thread enters the namespace for it; its socket stays there."""
        result: list = []

        def in_thread() -> None:
            try:
                if self.namespace:
                    with open(f"/run/netns/{self.namespace}", "rb") as space:
                        if _libc.setns(space.fileno(), _CLONE_NEWNET) != 0:
                            raise OSError(ctypes.get_errno(), "setns")
                result.append(socket.create_connection((address, port), seconds))
            except OSError as error:
                result.append(error)

        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join()
        if isinstance(result[0], OSError):
            raise result[0]
        return result[0]

    def http(self, method: str, path: str, port: int, seconds: float = 5) -> str:
        """Asks this host's own HTTP server."""
        connection = http.client.HTTPConnection(self.address, port, timeout=seconds)
        connection.sock = self.connect(self.address, port, seconds)
        with contextlib.closing(connection):
            connection.request(method, path)
            answer = connection.getresponse()
            text = answer.read().decode()
        if answer.status != 200:
            raise OSError(f"{method} {path} of {self.name}: status {answer.status}: {text}")
        return text


class Loopback:
    """Hosts as addresses of 127.0.0.0/8, chosen at chance: runs do not meet. Links can only be spoilt by proxies."""

    real = False

    def __init__(self) -> None:
        self._net = f"127.{random.randrange(64, 250)}.{random.randrange(1, 250)}"
        self._hosts = 0

    def add(self, name: str) -> Host:
        self._hosts += 1
        return Host(name, f"{self._net}.{self._hosts}")

    def spoil(self, cuts: list[tuple[Host, Host]], loss: list[tuple[Host, Host, float]]) -> None:
        raise NotImplementedError("no packets to drop without network namespaces")

    def limit(self, host: Host, megabits: int) -> None:
        """There is no link to limit."""

    def close(self) -> None:
        pass


class Namespaces:
    """Hosts as network namespaces, joined by a bridge in a namespace of its own: nothing of it touches the machine's network."""

    real = True

    def __init__(self) -> None:
        self._owned = f"{PREFIX}{os.getpid()}-"
        self._switch = self._space("switch")
        self._hosts = 0
        try:
            sh("ip", "netns", "add", self._switch)
            sh("ip", "-n", self._switch, "link", "add", "bridge", "type", "bridge")
            sh("ip", "-n", self._switch, "link", "set", "bridge", "up")
            self.spoil([], [])
        except BaseException:
            self.close()
            raise

    def _space(self, name: str) -> str:
        return self._owned + name

    def add(self, name: str) -> Host:
        self._hosts += 1
        host = Host(name, f"10.77.0.{self._hosts}", self._space(name))
        port = f"port{self._hosts}"
        sh("ip", "netns", "add", host.namespace)
        sh("ip", "-n", self._switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
        sh("ip", "-n", self._switch, "link", "set", port, "master", "bridge", "up")
        sh("ip", "-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            sh("ip", "-n", host.namespace, "link", "set", device, "up")
        return host

    def spoil(self, cuts: list[tuple[Host, Host]], loss: list[tuple[Host, Host, float]]) -> None:
        """From now on these links, and no others, are cut both ways or lose a part of their packets."""
        rules = []
        for a, b in cuts:
            rules += [f"ip saddr {a.address} ip daddr {b.address} drop", f"ip saddr {b.address} ip daddr {a.address} drop"]
        for a, b, part in loss:
            drop = f"numgen random mod 1000 < {round(part * 1000)} drop"
            rules += [f"ip saddr {a.address} ip daddr {b.address} {drop}", f"ip saddr {b.address} ip daddr {a.address} {drop}"]
        table = ["table bridge kvist", "delete table bridge kvist", "table bridge kvist {", "chain forward {",
                 "type filter hook forward priority 0", *rules, "}", "}"]
        sh("nsenter", f"--net=/run/netns/{self._switch}", "nft", "-f", "-", stdin="\n".join(table) + "\n")

    def limit(self, host: Host, megabits: int) -> None:
        """What the host sends leaves at this rate."""
        sh("tc", "-n", host.namespace, "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", f"{megabits}mbit", "burst", "128k",
           "latency", "200ms")

    def close(self) -> None:
        for space in _spaces():
            if space.startswith(self._owned):
                subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)


def _spaces() -> list[str]:
    folder = pathlib.Path("/run/netns")
    return [space.name for space in folder.glob(f"{PREFIX}*")] if folder.is_dir() else []


def _alive(pid: str) -> bool:
    try:
        return b"chaos" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def remove_stale() -> None:
    """Ends what runs in namespaces of runs that are gone, and takes the namespaces away."""
    for space in _spaces():
        if _alive(space.removeprefix(PREFIX).split("-")[0]):
            continue
        pids = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True, check=False).stdout.split()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)


def make_network(wanted: str = "auto") -> tuple[Loopback | Namespaces, str]:
    """A network and a sentence about it. `wanted`: auto, namespaces (or raise), loopback."""
    if wanted == "loopback":
        return Loopback(), "hosts are addresses of loopback, as asked"
    missing = [tool for tool in ("ip", "nft", "tc", "nsenter") if shutil.which(tool) is None]
    try:
        if missing:
            raise OSError(f"no {', '.join(missing)}")
        remove_stale()
        return Namespaces(), "hosts are network namespaces"
    except (OSError, subprocess.CalledProcessError) as error:
        why = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[0]
        if wanted == "namespaces":
            raise RuntimeError(f"network namespaces cannot be made here: {why}") from error
        return Loopback(), f"hosts are addresses of loopback: network namespaces cannot be made here ({why})"
