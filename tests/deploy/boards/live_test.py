"""Goal: what the boards, rules and runbooks speak of is there. Method: three real nodes (one over an emulated GPU), a real etcd,
mutual TLS, a real Prometheus that scrapes them every second, workers that read and store through the real client for a while; then
every query of every panel is asked and must answer. The boards drawn from the answers are among the test's outputs.

Arguments: kvistd, kvistd over an emulated GPU, kvist, libkvist.so, a libnccl.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import certificates
import draw
import load
import queries
import yaml
from local_cluster import Fault, LocalCluster, Options, wait_for

ROOT = pathlib.Path(__file__).resolve().parents[3]
KVISTD, EMULATED, KVIST, LIBRARY, NCCL = (pathlib.Path(word).resolve() for word in sys.argv[1:6])
OUTPUTS = pathlib.Path(os.environ.get("TEST_UNDECLARED_OUTPUTS_DIR") or tempfile.mkdtemp(prefix="kvist-boards-"))
LOAD_SECONDS, MOST_LOADS = 25, 6  # a busy machine needs more than one until memory is full
VARIABLES = {"__rate_interval": "5s", "job": "kvist", "instance": ".*", "kv_namespace": ".*"}
NAME = re.compile(r"\b((?:kvist|process)_[a-z0-9_]+)\b")
LABELS = re.compile(r'"[^"]*"|\{\{[^}]*\}\}')

# Of nodes with an access file alone, which these cannot have: one has device memory. tenants_test.py sees to them.
OF_TENANTS = re.compile("kvist_(tenant|access)_")
# Exported, and on no board, each with its reason. None at present.
OFF_THE_BOARDS: dict[str, str] = {}


def exported(expositions: list[str]) -> dict[str, str]:
    """Families and their types."""
    return dict(match for text in expositions for match in re.findall(r"^# TYPE (\S+) (\w+)$", text, re.M))


def family(name: str, families: dict[str, str]) -> str:
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    return base if families.get(base) == "histogram" else name


def names_in(text: str) -> set[str]:
    return {name for name in NAME.findall(LABELS.sub("", text)) if ":" not in name}


class LiveTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="kvl-")  # short: a socket's path has 107 bytes at most
        cls.cluster = LocalCluster(pathlib.Path(cls.folder.name) / "up")
        cls.addClassCleanup(cls.folder.cleanup)
        cls.addClassCleanup(cls.cluster.down)
        device = ("--device-capacity", "8MiB", "--device-staging", "8MiB", "--device-socket", f"{cls.folder.name}/gpu.sock", "--nccl", NCCL)
        cls.tls = certificates.Ca(pathlib.Path(cls.folder.name) / "ca").issue("all")
        flags = {"n1": cls.tls.flags(), "n2": cls.tls.flags(), "n3": [*cls.tls.flags(), *device]}
        cls.cluster.up(Options(KVISTD, capacity="12MiB", scrape="1s", usual_ports=False, programs={"n3": EMULATED}, flags=flags))
        serves = 'kvist_state{state="serving"} 1'
        wait_for("all nodes serve", lambda: all(serves in cls.cluster.metrics(node) for node in cls.cluster.nodes), 60)
        cls.start = time.time()
        cls.work()
        cls.end = time.time()
        # The last samples of the load are in once every node was scraped after it.
        wait_for("Prometheus has seen the end of the load", lambda: cls.scraped_since(cls.end), 30)
        cls.expositions = [cls.cluster.metrics(node) for node in cls.cluster.nodes]
        cls.families = exported(cls.expositions)
        cls.boards = {name: board for name, board in queries.load().items() if name != "tenants"}

    @classmethod
    def work(cls):
        """Runs the load until blocks were evicted and used again, and looks at it with `kvist top` while it runs."""
        results: list[dict] = []
        tls = load.kvist.Tls(cls.tls.cert, cls.tls.key, cls.tls.ca)

        def loads() -> None:
            for _ in range(MOST_LOADS):
                results.append(load.run(cls.cluster.seeds(), LOAD_SECONDS, ["ladder", "i8", "raw16"], pause=0.02, systems=12,
                                        fresh=0.3, library=LIBRARY, tls=tls))
                if cls.sum_of("kvist_eviction_age_seconds_count") > 10 and cls.sum_of("kvist_reuse_gap_seconds_count") > 10:
                    return

        thread = threading.Thread(target=loads)
        thread.start()
        cls.top = subprocess.run([KVIST, "top", "--once", "--interval", "2s", "--node", cls.cluster.seeds()[0], *cls.tls.flags()],
                                 capture_output=True, text=True, timeout=60, check=False)
        thread.join()
        if not results or 0 in results[-1].values():
            raise RuntimeError(f"the load did nothing: {results}")
        print(f"load: {results}")

    @classmethod
    def sum_of(cls, metric: str) -> float:
        return sum(float(value) for node in cls.cluster.nodes
                   for value in re.findall(rf"^{metric}(?:\{{[^}}]*\}})? (\S+)$", cls.cluster.metrics(node), re.M))

    @classmethod
    def scraped_since(cls, when: float) -> bool:
        last = queries.ask(cls.cluster.prometheus, "query", query='min(timestamp(kvist_ready{job="kvist"}))')["result"]
        return bool(last) and float(last[0]["value"][1]) > when

    def ask(self, expression: str) -> list:
        return queries.query_range(self.cluster.prometheus, queries.fill(expression, VARIABLES), self.start, self.end, 1)

    def test_every_query_of_every_panel_has_data_and_the_boards_can_be_drawn(self):
        empty, asked = [], 0
        for name, board in self.boards.items():
            series_of = {}
            for panel in board["panels"]:
                series_of[panel["id"]] = []
                for target in panel["targets"]:
                    series = self.ask(target["expr"])
                    asked += 1
                    if not series:
                        empty.append(f"{name}: {panel['title']}: {target['expr']}")
                    series_of[panel["id"]] += [(queries.legend(target["legendFormat"], labels), points) for labels, points in series]
            picture = OUTPUTS / f"{name}.png"
            draw.draw(board, series_of, self.start, self.end, picture)
            self.assertGreater(picture.stat().st_size, 5000)
        self.assertEqual(empty, [])
        self.assertGreater(asked, 100)

    def test_every_metric_of_boards_rules_and_runbooks_is_exported(self):
        asked = {}
        for board in self.boards.values():
            for panel in board["panels"]:
                for target in panel["targets"]:
                    asked.update(dict.fromkeys(names_in(target["expr"]), panel["title"]))
        for path in (ROOT / "deploy/prometheus").glob("*.yaml"):
            for group in yaml.safe_load(path.read_text())["groups"]:
                for rule in group["rules"]:
                    plain = re.sub(r"\b(?:job|instance)\w*:[\w:]+", "", rule["expr"])
                    asked.update(dict.fromkeys(names_in(plain), path.name))
        for path in (ROOT / "deploy/runbooks").glob("*.md"):
            asked.update(dict.fromkeys(names_in(path.read_text()), path.name))
        workers = (ROOT / "services/worker/metrics.cc").read_text()
        unknown = {name: where for name, where in asked.items()
                   if family(name, self.families) not in self.families and f'"{name}"' not in workers and not OF_TENANTS.match(name)}
        self.assertEqual(unknown, {})

    def test_every_exported_metric_is_on_a_board_or_excused(self):
        shown = {family(name, self.families) for board in self.boards.values() for panel in board["panels"]
                 for target in panel["targets"] for name in names_in(target["expr"])}
        self.assertEqual(set(self.families) - shown, set(OFF_THE_BOARDS))

    def test_promtool_accepts_the_exposition_and_it_is_small_and_quick(self):
        for text in self.expositions:
            checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=30, check=False)
            self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)
            self.assertLess(len(text), 1 << 20)
            helped = set(re.findall(r"^# HELP (\S+) \S", text, re.M))
            self.assertEqual(set(exported([text])) - helped, set(), "without a HELP")
        took = [value for _, points in self.ask('scrape_duration_seconds{job="kvist"}') for _, value in points]
        took.sort()
        print(f"{len(took)} scrapes: least {took[0] * 1e3:.1f} ms, median {took[len(took) // 2] * 1e3:.1f} ms; "
              f"{len(self.expositions[0])} bytes")
        self.assertLess(took[0], 0.02)  # what a scrape costs; the rest is what else the machine does

    def test_rules_evaluate_and_recorded_series_have_data(self):
        groups = queries.ask(self.cluster.prometheus, "rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        self.assertEqual([rule["name"] for rule in rules if rule["health"] == "err"], [])
        recorded = [rule["name"] for rule in rules if rule["type"] == "recording"]
        self.assertGreater(len(recorded), 10)
        # They are evaluated every 15 s, and look back for minutes.
        missing = set(recorded)

        def all_have_data() -> bool:
            now = time.time()
            missing.difference_update([name for name in missing if queries.query_range(self.cluster.prometheus, name, self.start, now, 1)])
            return not missing

        try:
            wait_for("recorded series have data", all_have_data, 45)
        except Fault:
            self.fail(f"recorded, and without data: {sorted(missing)}")
        firing = [rule["name"] for rule in rules if rule["type"] == "alerting" and rule["state"] == "firing"]
        self.assertEqual(firing, [], "nothing is wrong with this cluster")

    def test_top_shows_the_nodes_at_work(self):
        self.assertEqual(self.top.returncode, 0, self.top.stderr)
        (OUTPUTS / "top.txt").write_text(self.top.stdout)
        self.assertIn("3 of 3 nodes answer", self.top.stdout)
        rows = {line.split()[0]: line for line in self.top.stdout.splitlines() if line.strip()}
        for node in self.cluster.nodes:
            self.assertIn("serving", rows[node])
            self.assertRegex(rows[node], r"\[#+-*\] [\d.]+ %")
        self.assertRegex(rows["all"], r"\d+\.\d %.*[KM]iB/s")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
