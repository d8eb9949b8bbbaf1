"""Goal: with a certificate of the cluster's CA the Python client does what it does without TLS; without one it gets misses and
sentences, never blocks, and never waits longer than its deadline.

Method: real kvistd processes with mutual TLS; certificates made by this test.
"""

import os
import pathlib
import tempfile
import time
import unittest

import certificates
import kvist
import numpy as np
from cluster import Cluster

BLOCK, BLOCKS = 16, 6
KVISTD = pathlib.Path(os.environ["KVIST_KVISTD"])
NAMESPACE = kvist.Namespace(model="test", layers=1, heads=1, head_dim=64, tokens_per_block=BLOCK)


def tls_of(files: certificates.Files, **more: str) -> kvist.Tls:
    return kvist.Tls(cert=files.cert, key=files.key, ca=files.ca, **more)


class TlsTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.ca = certificates.Ca(self.folder / "ca")
        self.worker = tls_of(self.ca.issue("worker", names=["DNS:worker"], usages=["clientAuth"]))
        self.tokens = list(range(BLOCK * BLOCKS))
        bits = np.random.default_rng(1).standard_normal((2, 1, 1, len(self.tokens), 64)).astype(np.float32).view(np.uint32)
        self.kv = (bits >> 16).astype(np.uint16)

    def start(self, nodes: int = 2, names: tuple[str, ...] = ("IP:127.0.0.1",)) -> Cluster:
        flags = self.ca.issue("node", names=names).flags()
        cluster = Cluster(KVISTD, self.folder, dict.fromkeys("abc"[:nodes], "8MiB"), flags)
        self.enterContext(cluster)
        cluster.wait_until_ready()
        return cluster

    def client(self, cluster: Cluster, tls: kvist.Tls | None, **options) -> kvist.Client:
        client = kvist.Client(cluster.file, NAMESPACE, codec="raw16", tls=tls, **options)
        self.addCleanup(client.close)
        return client

    def from_seed(self, seed: str) -> kvist.Client:
        """A client of a node that knows all addresses by now: with ports of the system's choice, a static file tells of them
        only when each node has published its own."""
        deadline = time.monotonic() + 30
        while True:
            client = kvist.Client(None, NAMESPACE, seeds=[seed], tls=self.worker)
            self.addCleanup(client.close)
            nodes = client.stats()
            if all(node["reachable"] for node in nodes):
                return client
            self.assertLess(time.monotonic(), deadline, nodes)
            time.sleep(0.05)

    def test_what_one_client_puts_another_that_starts_from_a_seed_gets(self) -> None:
        cluster = self.start()
        put = self.client(cluster, self.worker).put(self.tokens, self.kv)
        self.assertEqual((put.stored, put.failed), (BLOCKS, 0), put.failure)
        with self.from_seed(cluster.address("a")) as reader:
            back = np.zeros_like(self.kv)
            with reader.match(self.tokens) as match:
                self.assertEqual((match.blocks, match.miss_reason), (BLOCKS, ""))
                got = reader.get(self.tokens, back, 0, match.blocks)
            self.assertEqual((got.blocks, got.miss_reason), (BLOCKS, ""))
        np.testing.assert_array_equal(back, self.kv)

    def test_without_a_good_certificate_nodes_are_as_down_in_time(self) -> None:
        cluster = self.start(nodes=1)
        self.client(cluster, self.worker).put(self.tokens, self.kv)
        other = certificates.Ca(self.folder / "other").issue("worker")
        stranger = kvist.Tls(cert=other.cert, key=other.key, ca=self.worker.ca)
        distrustful = kvist.Tls(cert=self.worker.cert, key=self.worker.key, ca=other.ca)
        for name, tls in (("none", None), ("of another CA", stranger), ("that trusts another CA", distrustful)):
            with self.subTest(certificate=name):
                start = time.monotonic()
                client = self.client(cluster, tls, deadline_s=3)
                match = client.match(self.tokens)
                self.assertEqual((match.blocks, match.miss_reason), (0, "owner_down"))
                with self.assertRaisesRegex(kvist.KvistError, "no seed gave a view of the cluster: .*TLS"):
                    kvist.Client(None, NAMESPACE, seeds=[cluster.address("a")], tls=tls, deadline_s=3)
                self.assertLess(time.monotonic() - start, 3 + 3 + 2)  # a deadline each, and a busy machine's second

    def test_a_node_is_known_by_the_name_that_is_given(self) -> None:
        cluster = self.start(nodes=1, names=("DNS:kvist.example",))
        by_address = self.client(cluster, self.worker, deadline_s=3)
        self.assertEqual(by_address.match(self.tokens).miss_reason, "owner_down")
        named = kvist.Tls(self.worker.cert, self.worker.key, self.worker.ca, server_name="kvist.example")
        self.assertEqual(self.client(cluster, named).match(self.tokens).miss_reason, "never_stored")

    def test_files_that_are_wrong_are_named(self) -> None:
        cluster = self.folder / "cluster.json"
        cluster.write_text('{"view": 1, "nodes": [{"id": "a", "address": "127.0.0.1:1", "capacity": "8MiB"}]}', encoding="utf-8")
        good, elsewhere = self.worker, self.ca.issue("elsewhere")
        open_to_all = self.folder / "open.key"
        open_to_all.write_bytes(pathlib.Path(good.key).read_bytes())
        open_to_all.chmod(0o644)
        for tls, message in (
            (kvist.Tls("/nowhere.crt", good.key, good.ca), r"the TLS certificate file '/nowhere.crt' cannot be read \(No such"),
            (kvist.Tls(good.cert, elsewhere.key, good.ca), "elsewhere.key' does not belong to the certificate in '.*worker.crt'"),
            (kvist.Tls(good.cert, open_to_all, good.ca), r"open.key' is open to others \(mode 0644\)"),
            (kvist.Tls(good.cert, good.key, ""), "TLS needs a certificate, its key and a CA; missing: CA"),
        ):
            with self.subTest(message), self.assertRaisesRegex(kvist.KvistError, message) as raised:
                kvist.Client(cluster, NAMESPACE, tls=tls)
            self.assertEqual(raised.exception.code, 3)

    def test_arguments_that_are_no_files_are_named_before_the_library_is_called(self) -> None:
        good = self.worker
        for tls, message in (
            ({"cert": good.cert}, "tls must be a kvist.Tls, not {'cert'"),
            (kvist.Tls(None, good.key, good.ca), "tls.cert must be the path of a file, not None"),
            (kvist.Tls(good.cert, "a\0b", good.ca), r"tls.key must be a str without NUL, not 'a\\x00b'"),
            (kvist.Tls(good.cert, good.key, good.ca, server_name=None), "tls.server_name must be a str without NUL, not None"),
        ):
            with self.subTest(message), self.assertRaisesRegex(ValueError, message):
                kvist.Client("cluster.json", NAMESPACE, tls=tls)


if __name__ == "__main__":
    unittest.main()
