"""Goal: the Python package does what it says on a real cluster, and names every wrong argument before the library is called.

Method: three kvistd processes from one cluster file, random KV put by one client and read by another.
"""

import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest

import kvist
import numpy as np
from cluster import Cluster

LAYERS, HEADS, DIM, BLOCK = 3, 2, 64, 16
KVISTD = pathlib.Path(os.environ["KVIST_KVISTD"])
WORKER = pathlib.Path(__file__).resolve().parents[2] / "examples/worker.py"


def namespace(salt: str) -> kvist.Namespace:
    return kvist.Namespace(model="test", layers=LAYERS, heads=HEADS, head_dim=DIM, tokens_per_block=BLOCK, tenant_salt=salt)


def random_kv(tokens: int, seed: int) -> np.ndarray:
    normal = np.random.default_rng(seed).standard_normal((2, LAYERS, HEADS, tokens, DIM)).astype(np.float32)
    return (normal.view(np.uint32) >> 16).astype(np.uint16)


def widen(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def unaligned(kv: np.ndarray) -> np.ndarray:
    return np.zeros(kv.nbytes + 1, np.uint8)[1:].view(np.uint16).reshape(kv.shape)


class ClusterTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.cluster = Cluster(KVISTD, pathlib.Path(folder.name), {"a": "8MiB", "b": "8MiB", "c": "8MiB"})
        self.enterContext(self.cluster)
        self.cluster.wait_until_ready()
        self.tokens = list(range(10, 10 + 20 * BLOCK + 5))  # 20 full blocks and a rest
        self.kv = random_kv(len(self.tokens), 1)

    def client(self, salt: str, **options) -> kvist.Client:
        client = kvist.Client(self.cluster.file, namespace(salt), **options)
        self.addCleanup(client.close)
        return client

    def test_what_one_client_puts_another_gets(self) -> None:
        for codec, least_db in (("raw16", None), ("i8", 35), ("ladder", 15)):
            with self.subTest(codec=codec):
                put = self.client(codec, codec=codec).put(self.tokens, self.kv)
                self.assertEqual((put.blocks, put.stored, put.failed), (20, 20, 0), put.failure)
                reader = self.client(codec)
                back = np.zeros_like(self.kv)
                with reader.match(self.tokens) as match:
                    self.assertEqual((match.blocks, match.tokens, match.miss_reason), (20, 320, ""))
                    got = reader.get(self.tokens, back, 0, match.blocks)
                self.assertEqual((got.blocks, got.tokens, got.miss_reason), (20, 320, ""))
                self.assertTrue(np.all(back[:, :, :, 320:] == 0), "the rest of the prompt is not touched")
                if least_db is None:
                    np.testing.assert_array_equal(back[:, :, :, :320], self.kv[:, :, :, :320])
                else:
                    truth, error = widen(self.kv[:, :, :, :320]), widen(self.kv[:, :, :, :320]) - widen(back[:, :, :, :320])
                    self.assertGreater(10 * np.log10(np.sum(truth**2) / np.sum(error**2)), least_db)
                    self.assertLess(put.stored_bytes, put.plain_bytes)

    def test_a_second_put_sends_nothing_and_erase_forgets(self) -> None:
        client = self.client("again")
        self.assertEqual(client.put(self.tokens, self.kv).stored, 20)
        self.assertEqual(client.put(self.tokens, self.kv).present, 20)
        self.assertEqual(client.erase(self.tokens), 20)
        match = client.match(self.tokens)
        self.assertEqual((match.blocks, match.miss_reason), (0, "erased"))

    def test_another_namespace_finds_nothing(self) -> None:
        self.client("mine").put(self.tokens, self.kv)
        self.assertEqual(self.client("yours").match(self.tokens).miss_reason, "never_stored")

    def test_a_killed_node_costs_blocks_and_gives_a_reason_in_time(self) -> None:
        client = self.client("kill", codec="raw16", deadline_s=3)
        self.assertEqual(client.put(self.tokens, self.kv).stored, 20)
        held = {node: self.cluster.metrics(node)['kvist_blocks{tier="host"}'] for node in self.cluster.nodes}
        self.cluster.kill(max(held, key=held.get))
        start = time.monotonic()
        back = np.zeros_like(self.kv)
        with client.match(self.tokens) as match:
            got = client.get(self.tokens, back, 0, match.blocks)
        self.assertLess(time.monotonic() - start, 10)
        self.assertLess(match.blocks, 20)
        self.assertEqual(match.miss_reason, "owner_down")
        np.testing.assert_array_equal(back[:, :, :, : got.tokens], self.kv[:, :, :, : got.tokens])

    def test_stats_name_every_node(self) -> None:
        self.assertEqual({node["id"] for node in self.client("stats").stats()}, {"a", "b", "c"})

    def test_metrics_count_what_the_worker_did(self) -> None:
        client = self.client("metrics")
        self.assertIn("kvist_worker_fetched_blocks_total 0", client.metrics())
        client.put(self.tokens, self.kv)
        client.get(self.tokens, np.zeros_like(self.kv))
        client.erase(self.tokens)
        client.match(self.tokens)
        lines = dict(line.rsplit(" ", 1) for line in client.metrics().splitlines() if not line.startswith("#"))
        self.assertEqual(lines["kvist_worker_fetched_blocks_total"], "20")
        self.assertEqual(lines["kvist_worker_stored_blocks_total"], "20")
        self.assertEqual(lines['kvist_worker_misses_total{reason="erased"}'], "1")
        self.assertEqual(lines["kvist_worker_checksum_failures_total"], "0")
        for name in ("encode_seconds", "decode_seconds", "stored_bytes", "fetched_bytes"):
            self.assertGreater(float(lines[f"kvist_worker_{name}_total"]), 0)

    def test_keys_are_chained(self) -> None:
        client = self.client("keys")
        keys = client.keys(self.tokens)
        self.assertEqual(len(keys), 20)
        self.assertTrue(all(len(key) == 32 for key in keys))
        self.assertEqual(client.keys(self.tokens[: 2 * BLOCK]), keys[:2])
        self.assertEqual(client.keys([]), [])
        self.assertNotEqual(client.keys([1] + self.tokens[1:])[19], keys[19])

    def test_wrong_arguments_are_named(self) -> None:
        client = self.client("wrong")
        read_only = np.zeros_like(self.kv)
        read_only.flags.writeable = False
        cases = [
            (lambda: client.put(self.tokens, self.kv.astype(np.float32)), "kv must be a numpy array of uint16"),
            (lambda: client.put(self.tokens, self.kv[0]), "kv has shape"),
            (lambda: client.put(self.tokens, self.kv[:, :, :, :100]), "kv has room for 100 tokens"),
            (lambda: client.put(self.tokens, np.asfortranarray(self.kv)), "must be C-contiguous"),
            (lambda: client.get(self.tokens, read_only), "out is read-only"),
            (lambda: client.get(self.tokens, self.kv, 5, 40), r"blocks \[5, 40\) are not within the prompt's 20"),
            (lambda: client.match([-1, 2]), "a token id is outside"),
            (lambda: client.match([0.5]), "tokens must be one row of integers"),
            (lambda: kvist.Client(self.cluster.file, namespace("x"), deadline_s=0), "deadline_s is 0"),
            (lambda: kvist.Client(self.cluster.file, namespace("x"), threads=-1), "threads must be an integer from 0 to"),
            (lambda: kvist.Client(self.cluster.file, namespace("x"), codec="raw16\0"), "codec must be a str without NUL"),
            (lambda: client.get(self.tokens, self.kv, 0.5, 1), "first_block must be an integer"),
            (lambda: client.put(self.tokens, unaligned(self.kv)), "kv must start at an even address"),
        ]
        for call, message in cases:
            with self.subTest(message), self.assertRaisesRegex(ValueError, message):
                call()
        client.close()
        with self.assertRaisesRegex(ValueError, "this Client is closed"):
            client.match(self.tokens)

    def test_what_c_would_cut_or_wrap_is_refused_since_it_would_name_another_namespace(self) -> None:
        for field, value in (
            ("tenant_salt", "a\0b"),
            ("model", "test\0"),
            ("model", None),
            ("rope", "\udcc3\udca9"),  # would be the bytes of another text
            ("layers", LAYERS + 2**32),
            ("tp_rank", 2**32),
            ("heads", -1),
            ("head_dim", 64.5),
            ("layers", True),
        ):
            wrong = dataclasses.replace(namespace("a"), **{field: value})
            with self.subTest(field=field, value=value), self.assertRaises(ValueError):
                kvist.Client(self.cluster.file, wrong)
        numpy_counts = dataclasses.replace(namespace("a"), layers=np.int64(LAYERS))
        with kvist.Client(self.cluster.file, numpy_counts) as client:
            self.assertEqual(client.keys(self.tokens), self.client("a").keys(self.tokens))

    def test_a_library_that_is_not_ours_is_named(self) -> None:
        with self.assertRaisesRegex(OSError, "libm.so.6 lacks kvist_abi_version, .*an older one"):
            kvist.Client(self.cluster.file, namespace("x"), library="/lib/x86_64-linux-gnu/libm.so.6")

    def test_faults_are_the_librarys_sentences(self) -> None:
        with self.assertRaisesRegex(kvist.KvistError, "lzma") as raised:
            kvist.Client(self.cluster.file, namespace("x"), codec="lzma")
        self.assertEqual(raised.exception.code, 3)
        with self.assertRaisesRegex(kvist.KvistError, "nowhere.json"):
            kvist.Client("/nowhere.json", namespace("x"))
        with self.assertRaisesRegex(OSError, "libkvist.so is not at /nowhere.so"):
            kvist.Client(self.cluster.file, namespace("x"), library="/nowhere.so")

    def test_the_example_worker_runs(self) -> None:
        run = subprocess.run([sys.executable, WORKER, self.cluster.file], capture_output=True, text=True, timeout=60)
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertEqual(run.stdout, "stored 6 blocks, matched 96 tokens, read 6 blocks back\n")


if __name__ == "__main__":
    unittest.main()
