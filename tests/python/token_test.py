"""Goal: a Python client is known by the bearer token in its file, follows that file when it is replaced, and is told in a
sentence when nodes do not know it.

Method: a real kvistd with TLS, an access file and the hashes of two tokens; the CA's file is all of TLS that clients have.
"""

import hashlib
import json
import os
import pathlib
import tempfile
import time
import unittest

import certificates
import kvist
import numpy as np
from cluster import Cluster

BLOCK, BLOCKS = 16, 4
KVISTD = pathlib.Path(os.environ["KVIST_KVISTD"])
NAMESPACE = kvist.Namespace(model="test", layers=1, heads=1, head_dim=64, tokens_per_block=BLOCK)
WRITER, READER = "writer-of-team-a-0123456789", "reader-of-team-b-0123456789"


class TokenTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.ca = certificates.Ca(self.folder / "ca")
        issued = self.ca.issue("node")
        self.tls = kvist.Tls(ca=issued.ca)
        access = {
            "tenants": {"team-a": {}, "team-b": {}},
            "identities": [
                {"identity": "token:a", "tenant": "team-a", "role": "writer"},
                {"identity": "token:b", "tenant": "team-b", "role": "reader"},
            ],
        }
        (self.folder / "access.json").write_text(json.dumps(access), encoding="utf-8")
        lines = [f"{name} sha256:{hashlib.sha256(token.encode()).hexdigest()}\n" for name, token in (("a", WRITER), ("b", READER))]
        flags = [*issued.flags(), f"--access={self.folder}/access.json", f"--tokens={self.file('tokens', ''.join(lines))}"]
        self.cluster = Cluster(KVISTD, self.folder, {"n": "8MiB"}, flags)
        self.enterContext(self.cluster)
        self.cluster.wait_until_ready()
        self.tokens = list(range(BLOCK * BLOCKS))
        self.kv = np.full((2, 1, 1, len(self.tokens), 64), 0x3F80, np.uint16)

    def file(self, name: str, text: str) -> pathlib.Path:
        """Replaces a file that its owner alone may read."""
        fresh = self.folder / f"{name}.next"
        fresh.write_text(text, encoding="utf-8")
        fresh.chmod(0o600)
        return fresh.rename(self.folder / name)

    def client(self, token: pathlib.Path | None, **options) -> kvist.Client:
        client = kvist.Client(self.cluster.file, NAMESPACE, codec="raw16", token_file=token, **({"tls": self.tls} | options))
        self.addCleanup(client.close)
        return client

    def test_a_token_is_enough_and_what_it_may_not_do_is_said(self) -> None:
        writer = self.client(self.file("mine", WRITER + "\n"))
        put = writer.put(self.tokens, self.kv)
        self.assertEqual((put.stored, put.failed), (BLOCKS, 0), put.failure)
        self.assertEqual(writer.match(self.tokens).blocks, BLOCKS)
        reader = self.client(self.file("theirs", READER))
        self.assertEqual((reader.match(self.tokens).blocks, reader.match(self.tokens).miss_reason), (0, "never_stored"))
        with self.assertRaisesRegex(kvist.KvistError, "'token:b' is a reader of tenant 'team-b'; writing needs the role") as raised:
            reader.put(self.tokens, self.kv)
        self.assertEqual(raised.exception.code, 7)

    def test_without_a_token_or_with_an_unknown_one_a_client_is_told_why(self) -> None:
        seeds = {"seeds": [self.cluster.address("n")], "deadline_s": 3}
        nameless = self.ca.issue("worker", names=["DNS:worker.example"])
        with self.assertRaisesRegex(kvist.KvistError, "the access file does not know 'dns:worker.example'"):
            kvist.Client(None, NAMESPACE, tls=kvist.Tls(nameless.cert, nameless.key, nameless.ca), **seeds)
        with self.assertRaisesRegex(kvist.KvistError, "the token is not known"):
            kvist.Client(None, NAMESPACE, tls=self.tls, token_file=self.file("unknown", "0123456789" * 4), **seeds)

    def test_the_file_is_followed_when_it_is_replaced(self) -> None:
        mine = self.file("mine", READER)
        client = self.client(mine)
        self.assertFalse(self.stores(client))
        self.file("mine", WRITER)
        deadline = time.monotonic() + 20
        while not self.stores(client):
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)

    def stores(self, client: kvist.Client) -> bool:
        try:
            return client.put(self.tokens, self.kv).stored == BLOCKS
        except kvist.KvistError as fault:
            self.assertEqual(fault.code, 7)
            return False

    def test_files_that_are_wrong_are_named(self) -> None:
        short, open_to_all = self.file("short", "0123"), self.file("open", WRITER)
        open_to_all.chmod(0o644)
        for file, message in (
            ("/nowhere/token", r"the token file '/nowhere/token' cannot be read \(No such file"),
            (short, "short' holds no token: it has one line of 16 to 512 characters"),
            (open_to_all, r"open' is open to others \(mode 0644\)"),
        ):
            with self.subTest(message), self.assertRaisesRegex(kvist.KvistError, message):
                self.client(file)
        with self.assertRaisesRegex(ValueError, "token_file must be the path of a file, not 7"):
            self.client(7)
        with self.assertRaisesRegex(kvist.KvistError, "missing: certificate key"):
            self.client(None)  # a CA alone is for who shows a token


if __name__ == "__main__":
    unittest.main()
