"""Goal    FORMAT.md can be read from the page alone: the plain-Python reader agrees with the test vectors and refuses bad blocks.
Method  Every vector is decoded and hashed; then one block is cut at every length and every bit of header and table is flipped."""
import hashlib
import json
import os
import struct
import unittest

import format_reader
from format_reader import Block, FormatError, block_key, engine_key, namespace_digest
from xxh3 import xxh3_64

HERE = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(HERE, "format_vectors.json")) as vectors_file:
    VECTORS = json.load(vectors_file)


class FormatReader(unittest.TestCase):
    def test_xxh3_gives_its_published_values(self):
        self.assertEqual(xxh3_64(b""), 0x2D06800538D394C2)
        self.assertEqual(xxh3_64(b"a"), 0xE6C632B61E964E1F)
        self.assertEqual(xxh3_64(b"abc"), 0x78AF5F94892F3950)

    def test_every_block_decodes_to_its_vector(self):
        for vector in VECTORS["blocks"]:
            block = Block(bytes.fromhex(vector["hex"]))
            for expected in vector["decoded"]:
                with self.subTest(name=vector["name"], precision=expected["precision"], rotated=expected["rotated"]):
                    values = block.decode(expected["precision"], expected["rotated"])
                    packed = bytes(values) if vector["codec"] == "fp8p" else struct.pack("<%dH" % len(values), *values)
                    self.assertEqual(hashlib.sha256(packed).hexdigest(), expected["sha256"])

    def test_a_lower_precision_is_a_prefix(self):
        vector = next(v for v in VECTORS["blocks"] if v["codec"] == "ladder")
        data = bytes.fromhex(vector["hex"])
        offset, size, _ = Block(data).pieces[2 * Block(data).layers - 1]
        prefix = Block(data[:offset + size])
        self.assertEqual(prefix.decode(2), Block(data).decode(2))
        with self.assertRaisesRegex(FormatError, "absent plane"):
            prefix.decode(3)

    def test_namespaces_and_keys_have_their_digests(self):
        for n in VECTORS["namespaces"]:
            self.assertEqual(namespace_digest(n).hex(), n["digest"])
        for k in VECTORS["keys"]:
            key = block_key(bytes.fromhex(k["namespace"]), bytes.fromhex(k["parent"]), k["tokens"], k["extra_keys"])
            self.assertEqual(key.hex(), k["key"])
        for k in VECTORS["engine_keys"]:
            self.assertEqual(engine_key(bytes.fromhex(k["namespace"]), k["engine_hash"]).hex(), k["key"])

    def test_cut_and_broken_blocks_are_refused(self):
        data = bytes.fromhex(VECTORS["blocks"][2]["hex"])
        prefix = 128 + 16 * len(Block(data).pieces)
        for size in range(len(data)):
            with self.assertRaises(FormatError):
                Block(data[:size]).decode(8)
        for bit in range(8 * prefix):
            broken = bytearray(data)
            broken[bit // 8] ^= 1 << bit % 8
            with self.assertRaises(FormatError):
                Block(bytes(broken))

    def test_the_log_scale_is_a_power_of_two_each_eight_steps(self):
        self.assertEqual(format_reader.log_scale(128), 1.0)
        self.assertEqual(format_reader.log_scale(0), 2.0**-16)
        self.assertAlmostEqual(format_reader.log_scale(255), 2.0**15.875, delta=0.01)


if __name__ == "__main__":
    unittest.main()
