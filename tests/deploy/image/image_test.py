#!/usr/bin/python3 -B
"""Goal: the image holds what it says and no more, and serves under the least rights that Kubernetes knows.

Method: deploy/docker/build-image makes it of the programs of this build, by buildah without a daemon; its archive is read, and
podman runs it by runc: read-only, as its own user, without capabilities and without a network. Where this machine cannot run a
container at all, that part is skipped and says why; what runs and then fails is a failure.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from podman import Container, Podman  # noqa: E402: as it lies beside this file

BUILD_IMAGE = HERE.parents[2] / "deploy/docker/build-image"
MOST_BYTES = 150_000_000
USER = 65532
NAME = "kvist-0.nodes:7070"
NAMESPACE = {"model": "image-test", "dtype": "bf16", "layers": 1, "heads": 1, "head_dim": 64, "tokens_per_block": 16}
MEMBERS = {"view": 1, "nodes": [{"id": "kvist-0", "address": NAME, "capacity": "64MiB"}]}
KV = bytes(range(256)) * 32


def build(folder: pathlib.Path) -> pathlib.Path:
    subprocess.run([BUILD_IMAGE, "--programs", os.getcwd(), "--output", folder], check=True, timeout=240)
    (archive,) = folder.glob("*.oci.tar")
    return archive


class Archive:
    """An image as it lies in an OCI archive."""

    def __init__(self, path: pathlib.Path) -> None:
        with tarfile.open(path) as archive:
            def blob(digest: str) -> bytes:
                return archive.extractfile(f"blobs/{digest.replace(':', '/')}").read()

            (entry,) = json.loads(archive.extractfile("index.json").read())["manifests"]
            self.digest = entry["digest"]
            manifest = json.loads(blob(self.digest))
            self.config = json.loads(blob(manifest["config"]["digest"]))["config"]
            self.files: list[tarfile.TarInfo] = []
            for layer in manifest["layers"]:
                with tempfile.TemporaryFile() as unpacked:
                    unpacked.write(blob(layer["digest"]))
                    unpacked.seek(0)
                    with tarfile.open(fileobj=unpacked) as files:
                        self.files += files.getmembers()

    def names(self) -> set[str]:
        return {file.name for file in self.files}


def setUpModule() -> None:
    global HOME, ARCHIVE
    # Not below the tests' own folder: the paths of podman's sockets are short.
    HOME = pathlib.Path(tempfile.mkdtemp(prefix="kvist-image-"))
    unittest.addModuleCleanup(shutil.rmtree, HOME)
    ARCHIVE = build(HOME / "image")


class ImageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.image = Archive(ARCHIVE)

    def test_it_is_smaller_than_150_mb(self) -> None:
        size = sum(file.size for file in self.image.files)
        print(f"{size / 1e6:.1f} MB of files")
        self.assertLess(size, MOST_BYTES)

    def test_its_user_is_not_root(self) -> None:
        self.assertEqual(self.image.config["User"], f"{USER}:{USER}")

    def test_nothing_in_it_can_be_run_but_its_programs_and_the_loader(self) -> None:
        run = {file.name for file in self.image.files if file.isfile() and file.mode & 0o111}
        programs = {name for name in run if ".so" not in name}
        self.assertEqual(programs, {"usr/bin/kvistd", "usr/bin/kvist"})

    def test_no_file_gives_rights_and_none_can_be_written_by_its_user(self) -> None:
        for file in self.image.files:
            if not file.issym():
                self.assertEqual((file.uid, file.gid, file.mode & 0o6022), (0, 0, 0), file.name)

    def test_each_package_of_a_library_is_named_with_its_terms(self) -> None:
        entries = {pathlib.PurePath(name).name for name in self.image.names() if name.startswith("var/lib/dpkg/status.d/")}
        terms = {name.split("/")[3] for name in self.image.names() if name.endswith("/copyright")}
        self.assertLessEqual({"libc6", "libgrpc29", "libstdc++6"}, entries)
        self.assertEqual(entries, terms)

    def test_its_labels_say_which_kvist_it_is(self) -> None:
        shown = subprocess.run(["services/node/kvistd", "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
        labels = self.image.config["Labels"]
        self.assertEqual(shown.split()[-1], labels["org.opencontainers.image.version"])
        self.assertRegex(labels["org.opencontainers.image.revision"], r"^([0-9a-f]{40}(-modified)?|unknown)$")
        self.assertTrue(labels["org.opencontainers.image.licenses"])

    def test_the_same_programs_give_the_same_image(self) -> None:
        self.assertEqual(Archive(build(HOME / "again")).digest, self.image.digest)


CAN_MAKE_GROUPS = """
for group in /sys/fs/cgroup /sys/fs/cgroup/pids; do [ -w $group/cgroup.procs ] && exit; done
echo control groups cannot be made >&2
exit 1
"""


def why_not_run() -> str | None:
    """Why no container can run on this machine; None: it can."""
    if os.getuid() != 0:
        return "this user is not root"
    unshare = ["unshare", "--mount", "--pid", "--ipc", "--net", "--uts", "--fork"]
    command = [HERE / "where_runc_can", *unshare, "sh", "-c", CAN_MAKE_GROUPS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return None if done.returncode == 0 else f"this machine has not what it takes: {done.stderr.strip()}"


class ContainerTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        (HOME / "podman").mkdir()
        cls.podman = Podman(HOME / "podman")
        cls.image = cls.podman.load(ARCHIVE)
        cls.input = HOME / "input"
        cls.input.mkdir()
        (cls.input / "namespace.json").write_text(json.dumps(NAMESPACE), encoding="utf-8")
        (cls.input / "tokens.json").write_text(json.dumps(list(range(32))), encoding="utf-8")
        (cls.input / "kv.bin").write_bytes(KV)

    def node(self) -> Container:
        """As the chart runs one without etcd: a folder that it may write holds the members."""
        state = pathlib.Path(tempfile.mkdtemp(dir=HOME))
        (state / "cluster.json").write_text(json.dumps(MEMBERS), encoding="utf-8")
        os.chown(state, USER, USER)
        self.state = state
        # Its name is found as in a pod: in an /etc/hosts that the machine writes.
        host, port = NAME.split(":")
        (HOME / "hosts").write_text(f"127.0.0.1 localhost {host}\n", encoding="utf-8")
        mounts = [f"{self.input}:/input:ro", f"{state}:/var/lib/kvist", f"{HOME}/hosts:/etc/hosts:ro"]
        self.volumes = [f"--volume={mount}" for mount in mounts]
        container = Container(
            self.podman,
            self.volumes,
            self.image,
            ["kvistd", "--insecure", "--node=kvist-0", f"--listen=0.0.0.0:{port}", "--http=0.0.0.0:9090", f"--advertise={NAME}",
             "--capacity=64MiB", "--cluster=/var/lib/kvist/cluster.json"],
        )
        self.addCleanup(container.__exit__)
        container.wait_for_event("serving")
        return container

    def kvist(self, node: Container, command: str, *more: str) -> None:
        """In a container of its own, as a pod's second. (runc's exec finds another root than the container's in a chroot.)"""
        # No DNS answers here: gRPC's own resolver would wait for one, even for a name of /etc/hosts.
        options = [f"--network=container:{node.id}", "--env=GRPC_DNS_RESOLVER=native", *self.volumes]
        where = [f"--node={NAME}", "--namespace=/input/namespace.json", "--tokens=/input/tokens.json", "--deadline=30s"]
        done = self.podman.run_once(options, self.image, ["kvist", command, *where, *more])
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_it_serves_a_put_and_a_get_and_ends_at_sigterm(self) -> None:
        node = self.node()
        self.kvist(node, "put", "--kv=/input/kv.bin", "--codec=raw16")
        self.kvist(node, "get", "--kv=/var/lib/kvist/out.bin")
        self.assertEqual((self.state / "out.bin").read_bytes(), KV)
        self.assertEqual(node.terminate(30), 0)
        self.assertIn('"event":"stopped"', node.log())

    def test_it_has_no_rights(self) -> None:
        node = self.node()
        status = dict(line.split(":\t", 1) for line in node.of_process("status").splitlines())
        self.assertEqual(status["Uid"].split(), [str(USER)] * 4)
        self.assertEqual(status["Gid"].split(), [str(USER)] * 4)
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            self.assertEqual(int(status[name], 16), 0, name)
        self.assertEqual(status["NoNewPrivs"], "1")
        (root,) = [line for line in node.of_process("mountinfo").splitlines() if line.split()[4] == "/"]
        self.assertEqual(root.split()[5].split(",")[0], "ro")

    def test_it_has_no_shell(self) -> None:
        for shell in ("sh", "/bin/sh", "bash", "busybox"):
            done = self.podman.run_once(["--network=none"], self.image, [shell, "-c", "exit 0"])
            self.assertEqual(done.returncode, 127, done.stderr)


def main() -> None:
    if "--can-run" in sys.argv:
        sys.argv.remove("--can-run")
    elif (reason := why_not_run()) is None:
        again = [sys.executable, "-B", __file__, *sys.argv[1:], "--can-run"]
        os.execv(HERE / "where_runc_can", ["where_runc_can", *again])
    else:
        print(f"SKIPPED: no container was run, since {reason}")
        ContainerTest.__unittest_skip__, ContainerTest.__unittest_skip_why__ = True, reason
    unittest.main(verbosity=2)


if __name__ == "__main__":
    main()
