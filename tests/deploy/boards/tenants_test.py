"""Goal: the board of the tenants, and what rules and runbooks say of access, speak of what is there. Method: two real nodes with
mutual TLS and an access file, a real etcd and Prometheus, and workers of two tenants that are known by their certificates.

Arguments: kvistd, libkvist.so.
"""

import json
import os
import pathlib
import re
import sys
import tempfile
import threading
import time
import unittest

import certificates
import draw
import load
import queries
from local_cluster import LocalCluster, Options, wait_for

ROOT = pathlib.Path(__file__).resolve().parents[3]
KVISTD, LIBRARY = (pathlib.Path(word).resolve() for word in sys.argv[1:3])
OUTPUTS = pathlib.Path(os.environ.get("TEST_UNDECLARED_OUTPUTS_DIR") or tempfile.mkdtemp(prefix="kvist-tenants-"))
LOAD_SECONDS = 12
VARIABLES = {"__rate_interval": "5s", "job": "kvist", "instance": ".*"}
OF_TENANTS = re.compile(r"\bkvist_(?:tenant|access)_[a-z0-9_]+\b")
ACCESS = {
    "tenants": {"team-a": {"host_bytes": "6MiB", "share": 2, "requests": 64}, "team-b": {}},
    "identities": [
        {"identity": "dns:nodes.example", "role": "node"},
        {"identity": "dns:*.team-a.example", "tenant": "team-a", "role": "writer"},
        {"identity": "dns:*.team-b.example", "tenant": "team-b", "role": "writer"},
    ],
}


class TenantsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory(prefix="kvt-")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        cls.ca = certificates.Ca(cls.folder / "ca")
        (cls.folder / "access.json").write_text(json.dumps(ACCESS), encoding="utf-8")
        nodes = cls.ca.issue("nodes", ["IP:127.0.0.1", "DNS:nodes.example"])
        flags = [*nodes.flags(), f"--access={cls.folder}/access.json"]
        cls.cluster = LocalCluster(cls.folder / "up")
        cls.addClassCleanup(cls.cluster.down)
        cls.cluster.up(Options(KVISTD, nodes=2, capacity="12MiB", scrape="1s", usual_ports=False, flags={"n1": flags, "n2": flags}))
        serves = 'kvist_state{state="serving"} 1'
        wait_for("all nodes serve", lambda: all(serves in cls.cluster.metrics(node) for node in cls.cluster.nodes), 60)
        cls.start = time.time()
        cls.work()
        cls.end = time.time()
        wait_for("Prometheus has seen the end of the load", cls.scraped, 30)

    @classmethod
    def work(cls) -> None:
        """Both tenants ask for the same prompts."""
        results: dict[str, dict] = {}

        def worker(tenant: str) -> None:
            issued = cls.ca.issue(tenant, [f"DNS:worker.{tenant}.example"], ["clientAuth"])
            tls = load.kvist.Tls(issued.cert, issued.key, issued.ca)
            results[tenant] = load.run(cls.cluster.seeds(), LOAD_SECONDS, ["ladder"], pause=0.02, systems=6, fresh=0.3,
                                       library=LIBRARY, tls=tls)

        threads = [threading.Thread(target=worker, args=[tenant]) for tenant in ACCESS["tenants"]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if len(results) < len(threads) or any(0 in one.values() for one in results.values()):
            raise RuntimeError(f"the load did nothing: {results}")
        print(f"load: {results}")

    @classmethod
    def scraped(cls) -> bool:
        last = queries.ask(cls.cluster.prometheus, "query", query='min(timestamp(kvist_ready{job="kvist"}))')["result"]
        return bool(last) and float(last[0]["value"][1]) > cls.end

    def test_every_query_of_every_panel_has_data_of_both_tenants_and_the_board_can_be_drawn(self) -> None:
        board, series_of = queries.load()["tenants"], {}
        for panel in board["panels"]:
            series_of[panel["id"]] = []
            for target in panel["targets"]:
                expression = queries.fill(target["expr"], VARIABLES)
                series = queries.query_range(self.cluster.prometheus, expression, self.start, self.end, 1)
                tenants = {labels["tenant"] for labels, _ in series if "tenant" in labels}
                with self.subTest(panel=panel["title"]):
                    self.assertTrue(series)
                    bounded = {"team-a"} if "quota" in target["expr"] else set(ACCESS["tenants"])
                    self.assertEqual(tenants, bounded if "tenant" in target["legendFormat"] else set())
                series_of[panel["id"]] += [(queries.legend(target["legendFormat"], labels), points) for labels, points in series]
        draw.draw(board, series_of, self.start, self.end, OUTPUTS / "tenants.png")
        self.assertGreater((OUTPUTS / "tenants.png").stat().st_size, 5000)

    def test_what_is_exported_of_tenants_is_on_the_board_and_what_is_spoken_of_is_exported(self) -> None:
        exported = {name for node in self.cluster.nodes for name in OF_TENANTS.findall(self.cluster.metrics(node))}
        board = json.dumps(queries.load()["tenants"])
        self.assertEqual(exported, set(OF_TENANTS.findall(board)))
        for path in [*(ROOT / "deploy/prometheus").glob("*.yaml"), *(ROOT / "deploy/runbooks").glob("*.md")]:
            self.assertLessEqual(set(OF_TENANTS.findall(path.read_text(encoding="utf-8"))), exported, path.name)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
