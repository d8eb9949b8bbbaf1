"""Goal: kvistd, as the user of the chart's pods, takes the key as kubelet mounts the chart's Secret, and none that others can read.

Method: files laid out as kubelet does (root's, the group and mode of the rendering, links to a folder that is replaced whole);
the container's own command line, run as its user and group. Only root can do that: for anybody else the test is skipped.
"""

import os
import pathlib
import shutil
import tempfile
import unittest

import certificates
from manifests import Object, flags, node_pod
from processes import Running, command_of

import chart
import manifests

BIN = pathlib.Path(os.environ.get("KVIST_BIN", chart.WORKSPACE / "bazel-bin"))
VALUES = chart.CI / "everything-values.yaml"
MOUNT = "/etc/kvist/tls"


@unittest.skipUnless(os.geteuid() == 0, "only root can give files and processes to other users")
class SecretTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(dir="/tmp")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.folder.chmod(0o755)
        self.kvistd = shutil.copy(BIN / "services/node/kvistd", self.folder)  # where everybody may go
        self.pod = node_pod(manifests.objects(VALUES))
        self.context = self.pod["securityContext"]
        self.issued = certificates.Ca(self.folder / "ca").issue("node")

    def mount(self, mode: int, group: int) -> pathlib.Path:
        """What a pod sees of a Secret."""
        mounted = self.folder / "mounted"
        (mounted / "..data-1").mkdir(parents=True)
        (mounted / "..data").symlink_to("..data-1")
        for source, name in ((self.issued.key, "tls.key"), (self.issued.cert, "tls.crt"), (self.issued.ca, "ca.crt")):
            file = mounted / "..data-1" / name
            file.write_bytes(source.read_bytes())
            os.chown(file, 0, group)
            file.chmod(mode)
            (mounted / name).symlink_to(f"..data/{name}")
        return mounted

    def start(self, mounted: pathlib.Path) -> Running:
        container: Object = self.pod["containers"][0]
        given = flags(container)
        user, group = self.context["runAsUser"], self.context["runAsGroup"]
        profiles = pathlib.Path(self.folder) / "profiles"
        profiles.mkdir(exist_ok=True)
        os.chown(profiles, user, group)
        here = {
            MOUNT: str(mounted),
            "$(POD_NAME)": "kvist-0",
            **dict.fromkeys([given["listen"], given["http"], given["advertise"]], "127.0.0.1:0"),
            "/var/lib/kvist-profiles": str(profiles),
            given["etcd"]: "127.0.0.1:1",  # nobody is there: it serves, and waits for it
            given["capacity"]: "16MiB",
        }
        return Running(command_of(container, {"kvistd": self.kvistd}, here), self.folder / "kvistd.log", user, group)

    def test_the_secret_as_the_chart_mounts_it_is_taken(self) -> None:
        (secret,) = [volume["secret"] for volume in self.pod["volumes"] if volume["name"] == "tls"]
        with self.start(self.mount(secret["defaultMode"], self.context["fsGroup"])) as node:
            self.assertTrue(node.event("serving"))

    def test_a_key_that_others_can_read_is_refused(self) -> None:
        with self.start(self.mount(0o444, self.context["fsGroup"])) as node:
            self.assertEqual(node.process.wait(30), 1)
            self.assertIn("tls.key' is open to others (mode 0444)", node.errors())

    def test_a_key_of_root_alone_is_refused_which_is_why_the_chart_asks_for_a_group(self) -> None:
        with self.start(self.mount(0o440, 0)) as node:
            self.assertEqual(node.process.wait(30), 1)
            self.assertIn("cannot be read (Permission denied)", node.errors())


if __name__ == "__main__":
    unittest.main()
