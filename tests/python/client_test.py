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
import unittest.mock

import kvist
import numpy as np
from calibrate_synthetic import profile as synthetic_profile
from cluster import Cluster
from kvist import _abi
from kvist.calibrate import profile_file

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
        for codec, least_db in (("raw16", None), ("x16", None), ("i8", 35), ("ladder", 15)):
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

    def test_bytes_come_back_as_they_were(self) -> None:
        for dtype in ("f8e4m3", "f8e5m2", "u8"):
            with self.subTest(dtype=dtype):
                ns = dataclasses.replace(namespace("bytes"), dtype=dtype, head_dim=328 if dtype == "u8" else DIM)
                kv = np.random.default_rng(2).integers(0, 256, (2, LAYERS, HEADS, 330, ns.head_dim), np.uint8)
                client = kvist.Client(self.cluster.file, ns, codec="fp8p")
                self.addCleanup(client.close)
                put = client.put(self.tokens, kv)
                self.assertEqual((put.stored, put.plain_bytes), (20, kv[:, :, :, :320].nbytes), put.failure)
                back = np.zeros_like(kv)
                self.assertEqual(client.get(self.tokens, back, 0, 20).blocks, 20)
                np.testing.assert_array_equal(back[:, :, :, :320], kv[:, :, :, :320])
                self.assertTrue(np.all(back[:, :, :, 320:] == 0), "the rest of the prompt is not touched")
                odd = np.zeros(kv.nbytes + 1, np.uint8)[1:].reshape(kv.shape)
                with self.assertRaisesRegex(ValueError, "kv must start at an even address"):
                    client.put(self.tokens, odd)
                with self.assertRaisesRegex(ValueError, f"kv must be a numpy array of uint8 .{dtype} bytes., not uint16"):
                    client.put(self.tokens, kv.astype(np.uint16))
                ladder = kvist.Client(self.cluster.file, ns)
                self.addCleanup(ladder.close)
                with self.assertRaisesRegex(kvist.KvistError, f"ladder takes bf16 and f16, not {dtype}"):
                    ladder.put(self.tokens, kv)

    def test_blocks_of_q_come_back_as_they_decode_here_and_their_profile_with_them(self) -> None:
        profile = kvist.codec.Profile(profile_file.write(synthetic_profile(head_dim=DIM)))
        put = self.client("q", codec="q", profile=profile).put(self.tokens, self.kv)
        self.assertEqual((put.stored, put.failed), (20, 0), put.failure)
        expected = np.zeros_like(self.kv)
        for first in range(0, 320, BLOCK):
            place = np.s_[:, :, :, first : first + BLOCK]
            block = kvist.codec.encode(np.ascontiguousarray(self.kv[place]), "q", first_position=first, profile=profile)
            expected[place] = kvist.codec.decode(block, profile=profile)
        back = np.zeros_like(self.kv)
        self.assertEqual(self.client("q", profile=profile).get(self.tokens, back).blocks, 20)
        np.testing.assert_array_equal(back, expected)

        named = dataclasses.replace(namespace("q"), profile_digest=profile.digest)
        late = kvist.Client(self.cluster.file, named)
        self.addCleanup(late.close)
        first = late.get(self.tokens, np.zeros_like(self.kv))
        self.assertEqual((first.blocks, first.miss_reason), (0, "no_profile"))
        ends, back = time.monotonic() + 20, np.zeros_like(self.kv)
        while late.get(self.tokens, back).blocks < 20:
            self.assertLess(time.monotonic(), ends, "the profile has not come")
        np.testing.assert_array_equal(back, expected)
        self.assertIn("kvist_worker_fetched_profiles_total 1", late.metrics())

    def test_profiles_are_put_and_fetched_by_their_digest(self) -> None:
        profile, client = kvist.codec.Profile(profile_file.write(synthetic_profile(2, head_dim=DIM))), self.client("profiles")
        with self.assertRaisesRegex(kvist.KvistError, f"no node gave profile {profile.digest.hex()}"):
            client.fetch_profile(profile.digest)
        self.assertEqual(client.put_profile(profile), 3)
        fetched = client.fetch_profile(profile.digest)
        self.assertEqual((fetched.digest, bytes(fetched)), (profile.digest, bytes(profile)))

    def test_a_profile_that_does_not_fit_is_refused_by_what_differs(self) -> None:
        profile = kvist.codec.Profile(profile_file.write(synthetic_profile(head_dim=DIM)))
        other = dataclasses.replace(namespace("q"), profile_digest=bytes(15) + b"x")
        with self.assertRaisesRegex(kvist.KvistError, f"the namespace names profile 0+78; the one that was given is {profile.digest.hex()}"):
            kvist.Client(self.cluster.file, other, codec="q", profile=profile)
        wider = dataclasses.replace(namespace("q"), head_dim=128)
        with self.assertRaisesRegex(kvist.KvistError, "of 3 layers, 2 heads and head_dim 64, not 3, 2 and 128"):
            kvist.Client(self.cluster.file, wider, codec="q", profile=profile)
        with self.assertRaisesRegex(kvist.KvistError, "codec q needs a profile"):
            self.client("q", codec="q")

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

    def test_a_node_killed_between_match_and_get_ends_the_run_with_a_reason_in_time(self) -> None:
        client = self.client("killed later", codec="raw16", deadline_s=3)
        self.assertEqual(client.put(self.tokens, self.kv).stored, 20)
        held = {node: self.cluster.metrics(node)['kvist_blocks{tier="host"}'] for node in self.cluster.nodes}
        with client.match(self.tokens) as match:
            self.assertEqual(match.blocks, 20)
            self.cluster.kill(max(held, key=held.get))
            start, back = time.monotonic(), np.zeros_like(self.kv)
            got = client.get(self.tokens, back, 0, match.blocks)
            self.assertLess(time.monotonic() - start, 3 + 1)  # the deadline, and a busy machine's second
        self.assertLess(got.blocks, 20)
        self.assertEqual(got.tokens, got.blocks * BLOCK)
        self.assertEqual(got.miss_reason, "owner_down")
        np.testing.assert_array_equal(back[:, :, :, : got.tokens], self.kv[:, :, :, : got.tokens])

    def test_release_reports_a_dead_node_once_and_the_end_of_with_never(self) -> None:
        client = self.client("release", deadline_s=3)
        client.put(self.tokens, self.kv)
        explicit, scoped = client.match(self.tokens), client.match(self.tokens)
        for node in self.cluster.nodes:
            self.cluster.kill(node)
        with self.assertRaisesRegex(kvist.KvistError, "^node [abc]: ") as raised:
            explicit.release()
        self.assertEqual(raised.exception.code, 14)
        explicit.release()
        with self.assertRaisesRegex(LookupError, "the body's own"), scoped:
            raise LookupError("the body's own")
        self.assertEqual((explicit.match_id, scoped.match_id), (0, 0))

    def test_a_range_of_blocks_is_decoded_at_its_own_tokens(self) -> None:
        client = self.client("range", codec="raw16")
        client.put(self.tokens, self.kv)
        back = np.zeros_like(self.kv)
        got = client.get(self.tokens, back, 3, 7)
        self.assertEqual((got.blocks, got.tokens, got.miss_reason), (4, 4 * BLOCK, ""))
        here = slice(3 * BLOCK, 7 * BLOCK)
        np.testing.assert_array_equal(back[:, :, :, here], self.kv[:, :, :, here])
        back[:, :, :, here] = 0
        self.assertFalse(back.any(), "nothing outside the range is touched")

    def test_a_block_below_what_the_reader_asks_is_a_miss(self) -> None:
        self.client("floor", codec="i8").put(self.tokens, self.kv)
        for options in ({"floor_db": 150.0}, {"min_precision": 16}):
            with self.subTest(**options):
                got = self.client("floor", **options).get(self.tokens, np.zeros_like(self.kv))
                self.assertEqual((got.blocks, got.miss_reason), (0, "precision"))

    def test_stats_name_every_node_and_say_which_does_not_answer(self) -> None:
        self.cluster.kill("b")
        nodes = {node["id"]: node for node in self.client("stats").stats()}
        self.assertEqual({name: node["reachable"] for name, node in nodes.items()}, {"a": True, "b": False, "c": True})
        self.assertTrue(nodes["b"]["error"])

    def test_explain_has_a_word_for_every_block(self) -> None:
        client = self.client("explain")
        client.put(self.tokens, self.kv)
        told = client.explain(self.tokens)
        self.assertEqual(len(told["blocks"]), 20)
        for block in told["blocks"]:
            self.assertIn(block["node"], ("a", "b", "c"))
            self.assertEqual(block["present"], block["miss_reason"] == "")
        self.assertEqual(told["near_namespaces"], [])

    def test_seeds_that_lead_nowhere_are_named(self) -> None:
        with self.assertRaisesRegex(kvist.KvistError, "no seed gave a view of the cluster: 127.0.0.1:1: "):
            kvist.Client(None, namespace("seeds"), seeds=["127.0.0.1:1"], deadline_s=0.3)
        for wrong in ("a:1,b:2", 7, "é:1"):
            with self.assertRaisesRegex(ValueError, "a seed must be host:port"):
                kvist.Client(None, namespace("seeds"), seeds=[wrong])
        with self.assertRaisesRegex(kvist.KvistError, "replicas 4 is not 1 to 3"):
            kvist.Client(self.cluster.file, namespace("seeds"), replicas=4)

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
            (lambda: client.match([2**32]), "a token id is outside 0 to 4294967295: 4294967296"),
            (lambda: client.match([0.5]), "tokens must be one row of integers, not float64"),
            (lambda: client.match([2**64]), "tokens must be one row of integers, not object"),
            (lambda: client.match([[1, 2]]), r"tokens must be one row of integers, not int64 of shape \(1, 2\)"),
            (lambda: client.match([[1], [2, 3]]), "tokens must be one row of integers: .*inhomogeneous"),
            (lambda: client.put(self.tokens, self.kv.tolist()), "kv must be a numpy array of uint16 .* not <class 'list'>"),
            (lambda: client.put(self.tokens, self.kv.astype(">u2")), "kv must be a numpy array of uint16 .* not >u2"),
            (lambda: client.get(self.tokens, self.kv[..., :9]), r"out has shape .*, 9\); the namespace says \(2, 3, 2, tokens, 64\)"),
            (lambda: client.get(self.tokens, self.kv, 2, 1), r"blocks \[2, 1\) are not within"),
            (lambda: client.get(self.tokens, self.kv, -1), "first_block must be an integer from 0 to 4294967295, not -1"),
            (lambda: kvist.Client(self.cluster.file, {"model": "x"}), "namespace must be a kvist.Namespace, not {'model'"),
            (lambda: kvist.Client(self.cluster.file, namespace("x"), floor_db=None), "floor_db must be a number, not None"),
            (lambda: kvist.Client(self.cluster.file, namespace("x"), lease_s="5"), "lease_s must be a number, not '5'"),
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
        for field, value, message in (
            ("tenant_salt", "a\0b", r"must be a str without NUL, not 'a\\x00b'"),
            ("model", "test\0", "must be a str without NUL"),
            ("model", None, "must be a str without NUL, not None"),
            ("rope", "\udcc3\udca9", "is no Unicode text: .*surrogates not allowed"),  # would be the bytes of another text
            ("layers", LAYERS + 2**32, "must be an integer from 0 to 4294967295, not 4294967299"),
            ("tp_rank", 2**32, "must be an integer from 0 to 4294967295"),
            ("heads", -1, "must be an integer from 0 to 4294967295, not -1"),
            ("head_dim", 64.5, "must be an integer from 0 to 4294967295, not 64.5"),
            ("layers", True, "must be an integer from 0 to 4294967295, not True"),
        ):
            wrong = dataclasses.replace(namespace("a"), **{field: value})
            with self.subTest(field=field, value=value), self.assertRaisesRegex(ValueError, f"namespace.{field} {message}"):
                kvist.Client(self.cluster.file, wrong)
        numpy_counts = dataclasses.replace(namespace("a"), layers=np.int64(LAYERS))
        with kvist.Client(self.cluster.file, numpy_counts) as client:
            self.assertEqual(client.keys(self.tokens), self.client("a").keys(self.tokens))

    def test_a_library_that_is_not_ours_is_named(self) -> None:
        with self.assertRaisesRegex(OSError, "libm.so.6 lacks kvist_abi_version, .*an older one"):
            kvist.Client(self.cluster.file, namespace("x"), library="/lib/x86_64-linux-gnu/libm.so.6")

    def test_a_library_of_another_abi_version_is_refused(self) -> None:
        path = self.cluster.file.with_name("libother.so")
        other, ours = _abi.ABI_VERSION + 1, _abi.ABI_VERSION
        functions = "".join(f"unsigned {name}(void) {{ return {other}; }}\n" for name in _abi.PROTOTYPES)
        subprocess.run(["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", path], input=functions, text=True, check=True)
        with self.assertRaisesRegex(OSError, f"libother.so has ABI version {other}, this package speaks {ours}: install both alike"):
            kvist.Client(self.cluster.file, namespace("x"), library=path)

    def test_the_library_is_looked_for_in_the_order_of_the_readme(self) -> None:
        with unittest.mock.patch.dict(os.environ, {"KVIST_LIBRARY": "/elsewhere.so"}):
            with self.assertRaisesRegex(OSError, "libkvist.so is not at /elsewhere.so: build .* or name it with library="):
                kvist.Client(self.cluster.file, namespace("x"))
            with self.assertRaisesRegex(OSError, "libkvist.so is not at /nowhere.so"):
                kvist.Client(self.cluster.file, namespace("x"), library="/nowhere.so")
        package = pathlib.Path(kvist.__file__).resolve().parent
        for unset in ({}, {"KVIST_LIBRARY": ""}):
            with unittest.mock.patch.dict(os.environ, unset, clear=True):
                places = _abi._candidates(None)
            self.assertEqual(places[0], package / "libkvist.so")
            self.assertIn(package.parents[3] / "bazel-bin/services/worker/libkvist.so", places)

    def test_a_client_that_never_began_ends_in_silence(self) -> None:
        code = "import kvist\ntry: kvist.Client()\nexcept TypeError as error: print(error)"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        self.assertIn("missing 2 required positional arguments: 'cluster' and 'namespace'", run.stdout)
        self.assertEqual(run.stderr, "")

    def test_faults_are_the_librarys_sentences(self) -> None:
        with self.assertRaisesRegex(kvist.KvistError, "lzma") as raised:
            kvist.Client(self.cluster.file, namespace("x"), codec="lzma")
        self.assertEqual(raised.exception.code, 3)
        with self.assertRaisesRegex(kvist.KvistError, "nowhere.json"):
            kvist.Client("/nowhere.json", namespace("x"))
        with self.assertRaisesRegex(kvist.KvistError, "floor_db -1 is not 0 to 200"):
            kvist.Client(self.cluster.file, namespace("x"), floor_db=-1)
        with self.assertRaisesRegex(kvist.KvistError, "0 tokens; allowed are multiples of 16"):
            kvist.Client(self.cluster.file, dataclasses.replace(namespace("x"), tokens_per_block=0))

    def test_the_example_worker_runs(self) -> None:
        run = subprocess.run([sys.executable, WORKER, self.cluster.file], capture_output=True, text=True, timeout=60)
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertEqual(run.stdout, "stored 6 blocks, matched 96 tokens, read 6 blocks back\n")


if __name__ == "__main__":
    unittest.main()
