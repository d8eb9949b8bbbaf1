"""Containers of one image by podman and runc, with storage of their own, each as little trusted as Kubernetes can make it.

Errors  subprocess.CalledProcessError, its message with what podman printed; TimeoutError of a condition that did not come about.
"""

import json
import os
import pathlib
import subprocess
import time

# Both limits are to be named: runc may not raise them above those of who starts it.
ENGINE = """[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
"""
LEAST_TRUSTED = ["--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges"]


class Podman:
    """`home`: a short path, since sockets lie below it."""

    def __init__(self, home: pathlib.Path) -> None:
        self._home = home
        (home / "containers.conf").write_text(ENGINE, encoding="utf-8")
        storage = f'[storage]\ndriver = "vfs"\ngraphroot = "{home}/storage"\nrunroot = "{home}/run"\n'
        (home / "storage.conf").write_text(storage, encoding="utf-8")
        settings = {"CONTAINERS_CONF": "containers.conf", "CONTAINERS_STORAGE_CONF": "storage.conf"}
        self._environment = os.environ | {name: str(home / file) for name, file in settings.items()}

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        command = ["podman", f"--tmpdir={self._home}/tmp", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=self._environment, check=False, timeout=120)
        if check and done.returncode != 0:
            raise subprocess.CalledProcessError(done.returncode, f"{command}: {done.stdout}{done.stderr}")
        return done

    def load(self, archive: pathlib.Path) -> str:
        """The image's identity."""
        return self.run("pull", "--quiet", f"oci-archive:{archive}").stdout.split()[-1]

    def run_once(self, options: list[str], image: str, command: list[str]) -> subprocess.CompletedProcess:
        """A container until its command ends."""
        return self.run("run", "--rm", *LEAST_TRUSTED, *options, image, *command, check=False)


class Container:
    """One that runs, without a network, until its `with` block ends."""

    def __init__(self, podman: Podman, options: list[str], image: str, command: list[str]) -> None:
        self._podman = podman
        started = podman.run("run", "--detach", "--network=none", *LEAST_TRUSTED, *options, image, *command)
        self.id = started.stdout.strip()

    def __enter__(self) -> "Container":
        return self

    def __exit__(self, *_: object) -> None:
        self._podman.run("rm", "--force", "--time=0", self.id)

    def log(self) -> str:
        done = self._podman.run("logs", self.id)
        return done.stdout + done.stderr

    def state(self) -> dict:
        return json.loads(self._podman.run("inspect", self.id).stdout)[0]["State"]

    def wait_for_event(self, name: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while f'"event":"{name}"' not in self.log():
            if time.monotonic() > deadline or not self.state()["Running"]:
                raise TimeoutError(f"no {name} of the container: {self.log()}")
            time.sleep(0.05)

    def of_process(self, file: str) -> str:
        """A file of /proc about its first process."""
        return pathlib.Path(f"/proc/{self.state()['Pid']}/{file}").read_text(encoding="utf-8")

    def terminate(self, seconds: int) -> int:
        """SIGTERM, and after these seconds SIGKILL. The exit status."""
        self._podman.run("stop", f"--time={seconds}", self.id)
        return self.state()["ExitCode"]
