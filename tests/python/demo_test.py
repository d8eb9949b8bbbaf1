"""Goal: the demo finds every deviation that it promises to find, and leaves no process and no file behind.

Method: its judge on figures that are right but for one; the real conductor and nodes, ended in the middle of session A.
"""

import copy
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import demo
from cluster import Cluster

KVISTD = pathlib.Path(os.environ["KVIST_KVISTD"])
B = {"reused_tokens": 1664, "reusable_tokens": 1664, "kld": 0.0, "bit_identical": True, "same_text": True, "store_seconds": 0.1}
RIGHT = {
    "a": {"tokens": 1692},
    "sessions": {"raw16": B, "i8": B | {"kld": 0.0004, "same_text": False}, "ladder": B | {"kld": 0.009, "bit_identical": False}},
    "c": {"reused_tokens": 128, "miss_reason": "owner_down", "store_seconds": 0.2, "same_text": True},
}


def processes_of(folder: str) -> list[str]:
    """Command lines on this machine that name the folder."""
    found = []
    for file in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_text(encoding="utf-8", errors="replace").replace("\0", " ")
        except OSError:  # ended since
            continue
        if folder in line:
            found.append(line)
    return found


def none_left(folder: str) -> bool:
    deadline = time.monotonic() + 3  # a session that was forgotten takes longer than that to load its model
    while processes_of(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class JudgeTest(unittest.TestCase):
    def test_right_figures_deviate_in_nothing(self) -> None:
        self.assertEqual(demo.deviations(**RIGHT), [])

    def test_each_wrong_figure_is_one_sentence(self) -> None:
        nan = float("nan")
        for path, value, sentence in (
            (("a", "tokens"), 1499, "fewer than 1500"),
            (("sessions", "ladder", "reused_tokens"), 1536, "ladder: 1536 tokens were reused, the prompts share 1664"),
            (("sessions", "raw16", "bit_identical"), False, "not bit-identical"),
            (("sessions", "raw16", "same_text"), False, "raw16: the text differs"),
            (("sessions", "raw16", "kld"), 1e-12, "raw16: mean KLD"),
            (("sessions", "i8", "kld"), 0.00051, "i8: mean KLD is 0.000510, promised is at most 0.0005"),
            (("sessions", "ladder", "kld"), 0.011, "ladder: mean KLD is 0.011000, promised is at most 0.01"),
            (("sessions", "ladder", "kld"), nan, "ladder: mean KLD is nan"),
            (("sessions", "i8", "store_seconds"), 21.0, "i8: match and get took 21.0 s"),
            (("c", "reused_tokens"), 1664, "1664 tokens came back, no fewer than before"),
            (("c", "reused_tokens"), 100, "no whole number of blocks"),
            (("c", "miss_reason"), "evicted", "because of 'evicted'"),
            (("c", "store_seconds"), 21.0, "after a node died match and get took 21.0 s"),
            (("c", "same_text"), False, "the answer differs"),
        ):
            figures = copy.deepcopy(RIGHT)
            place = figures
            for name in path[:-1]:
                place = place[name]
            place[path[-1]] = value
            with self.subTest(path=path, value=value):
                found = demo.deviations(**figures)
                self.assertEqual(len(found), 1, found)
                self.assertIn(sentence, found[0])


class ConductorTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def demo(self, *arguments: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-u", demo.__file__, *arguments],
            env=os.environ | {"TMPDIR": self.folder},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def demo_in_session_a(self) -> subprocess.Popen:
        process = self.demo("--kvistd", str(KVISTD))
        seen = []
        for line in process.stdout:
            seen.append(line)
            if "Session A" in line:
                break
        self.assertIn("Session A", "".join(seen))
        self.assertGreaterEqual(len(processes_of(self.folder)), 3)
        return process

    def test_ended_by_a_signal_it_leaves_nothing_behind(self) -> None:
        # The line is printed just before the session starts: some of the signals hit the conductor while it forks.
        for end in (signal.SIGINT, signal.SIGTERM) * 4:
            with self.subTest(end.name):
                process = self.demo_in_session_a()
                process.send_signal(end)
                self.assertEqual(process.wait(60), 1)
                self.assertTrue(none_left(self.folder), processes_of(self.folder))
                self.assertIn("interrupted", process.stdout.read())
                self.assertEqual(os.listdir(self.folder), [])

    def test_killed_it_leaves_no_process_behind(self) -> None:
        process = self.demo_in_session_a()
        process.kill()
        process.wait(60)
        self.assertTrue(none_left(self.folder), processes_of(self.folder))

    def test_a_node_program_that_is_not_there_is_a_sentence(self) -> None:
        process = self.demo("--kvistd", "/nonexistent/kvistd")
        output = process.stdout.read()
        self.assertEqual(process.wait(60), 1)
        self.assertRegex(output, "the demo failed: .*/nonexistent/kvistd")
        self.assertNotIn("Traceback", output)

    def test_a_node_that_ends_at_once_is_named_with_its_log(self) -> None:
        cluster = self.enterContext(Cluster(KVISTD, pathlib.Path(self.folder), {"a": "8MiB", "b": "0MiB"}))
        start = time.monotonic()
        with self.assertRaisesRegex(RuntimeError, r"node \w ended with status [1-9]\d*; its log:\n(.|\n)*capacity"):
            cluster.wait_until_ready()
        self.assertLess(time.monotonic() - start, 20)


if __name__ == "__main__":
    unittest.main()
