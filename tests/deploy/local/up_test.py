"""Goal: `up.py` starts a cluster that works, starts nothing twice, mends what has died, and leaves nothing behind.
Method: the program as a person runs it, in a folder of its own, on ports that the system chooses. Argument: kvistd."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest

from local_cluster import LocalCluster, started_at, wait_for

ROOT = pathlib.Path(__file__).resolve().parents[3]
KVISTD = pathlib.Path(sys.argv[1]).resolve()


class UpTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="kvup-")
        self.folder = pathlib.Path(folder.name) / "up"
        self.addCleanup(folder.cleanup)
        self.addCleanup(lambda: LocalCluster(self.folder).down())

    def run_up(self, act: str, *flags, kvistd: pathlib.Path = KVISTD) -> subprocess.CompletedProcess:
        words = [sys.executable, ROOT / "deploy/local/up.py", act, "--folder", self.folder, "--kvistd", kvistd, "--any-ports",
                 "--capacity", "16MiB", "--scrape", "1s", *flags]
        return subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)

    def processes(self) -> dict[str, dict]:
        return json.loads((self.folder / "state.json").read_text())["processes"]

    def test_a_cluster_comes_up_once_is_mended_and_goes_without_a_trace(self):
        up = self.run_up("up")
        self.assertEqual(up.returncode, 0, up.stderr)
        first = self.processes()
        self.assertEqual(set(first), {"etcd", "n1", "n2", "n3", "prometheus"})
        for words in ("Prometheus  http://127.0.0.1:", "kvist top --node 127.0.0.1:", "load.py --node", "make down", str(self.folder)):
            self.assertIn(words, up.stdout)
        again = self.run_up("up")
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assertEqual(again.stdout, up.stdout)
        self.assertEqual(self.processes(), first)

        os.kill(first["n2"]["pid"], signal.SIGKILL)
        wait_for("n2 is gone", lambda: started_at(first["n2"]["pid"]) is None, 20)
        self.assertIn("has ended", self.run_up("status").stdout)
        mended = self.run_up("up")
        self.assertEqual(mended.returncode, 0, mended.stderr)
        second = self.processes()
        self.assertNotEqual(second.pop("n2"), first.pop("n2"))
        self.assertEqual(second, first)

        pids = [process["pid"] for process in self.processes().values()]
        down = self.run_up("down")
        self.assertEqual(down.returncode, 0, down.stderr)
        self.assertEqual([pid for pid in pids if started_at(pid) is not None], [])
        self.assertFalse(self.folder.exists())
        self.assertIn("nothing runs", self.run_up("status").stdout)
        self.assertEqual(self.run_up("down").returncode, 0, "twice is no fault")

    def test_a_node_that_cannot_start_is_told_with_its_log(self):
        up = self.run_up("up", "--capacity", "a lot")
        self.assertEqual(up.returncode, 1)
        self.assertIn("n1 has ended", up.stderr)
        self.assertIn("a lot", up.stderr)

    def test_a_missing_program_is_named(self):
        up = self.run_up("up", kvistd=pathlib.Path("/nowhere/kvistd"))
        self.assertEqual(up.returncode, 1)
        self.assertIn("there is no /nowhere/kvistd", up.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
