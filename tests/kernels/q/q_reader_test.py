"""Goal    FORMAT.md's codec q can be read from the page alone: the plain-Python reader agrees with the vectors and refuses bad
        blocks and profiles.
Method  Every vector is decoded and hashed, a part of one too; then a profile and a stream are changed and cut."""
import hashlib
import json
import os
import struct
import sys
import unittest
import zlib

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, ".."))
from format_reader import Block, FormatError  # noqa: E402
from q_reader import Profile, Rans, decode, fma, streams  # noqa: E402

with open(os.path.join(HERE, "q_vectors.json")) as vectors_file:
    VECTORS = json.load(vectors_file)


def read(vector):
    return Block(bytes.fromhex(vector["block"])), Profile(bytes.fromhex(vector["profile"]))


class QReader(unittest.TestCase):
    def test_every_block_decodes_to_its_vector(self):
        for vector in VECTORS:
            with self.subTest(name=vector["name"]):
                values = decode(*read(vector))
                self.assertEqual(hashlib.sha256(struct.pack("<%dH" % len(values), *values)).hexdigest(), vector["sha256"])

    def test_the_sum_of_a_product_is_rounded_once(self):
        self.assertEqual(fma(1.0 + 2.0**-20, 1.0 + 2.0**-20, -1.0), 2.0**-19 + 2.0**-40)
        self.assertEqual(fma(2.0**-12, 2.0**-12, 1.0), 1.0)
        # A little less than half a unit; rounding to binary64 first would make it half, and that to even one unit.
        self.assertEqual(fma(8.0 * (1 + 2.0**-23), 8.0 * (1 - 2.0**-23), 2.0**30 + 2.0**7), 2.0**30 + 2.0**7)

    def test_an_edited_profile_is_another(self):
        block, _ = read(VECTORS[0])
        edited = bytearray(bytes.fromhex(VECTORS[0]["profile"]))
        edited[24] ^= 1  # theta
        with self.assertRaisesRegex(FormatError, "profile digest"):
            decode(block, Profile(bytes(edited)))

    def test_a_table_of_streams_that_does_not_fill_its_piece_is_refused(self):
        piece = struct.pack("<3I", 2, 0, 4) + b"aabbbb"
        self.assertEqual(streams(piece, 3), [b"aa", b"", b"bbbb"])
        self.assertEqual(streams(b"", 3), [b""] * 3)
        for wrong in (piece[:11], piece[:-1], piece + b"c"):
            with self.assertRaisesRegex(FormatError, "table of streams"):
                streams(wrong, 3)

    def test_cut_profiles_and_streams_are_refused(self):
        profile = bytes.fromhex(VECTORS[0]["profile"])
        for size in range(0, len(profile), 301):
            with self.assertRaises((FormatError, zlib.error)):
                Profile(profile[:size])
        with self.assertRaisesRegex(FormatError, "does not end where it began"):
            Rans(struct.pack("<16I", *range(2**16, 2**16 + 16))).finish()
        Rans(struct.pack("<16I", *[2**16] * 16)).finish()


if __name__ == "__main__":
    unittest.main()
