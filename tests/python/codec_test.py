"""Goal: a block can be made, read and looked at without a node. Method: arrays whose blocks are known, and damaged bytes."""

import functools
import hashlib
import math
import pathlib
import tempfile
import unittest

import numpy as np
from calibrate_synthetic import profile as synthetic_profile
from kvist import KvistError, codec
from kvist.calibrate import profile_file
from kvist.models.smollm2 import bf16


@functools.cache
def profile_bytes() -> bytes:
    """Of three layers with two heads of 64, as normal() makes them."""
    return profile_file.write(synthetic_profile(head_dim=64))


def normal(tokens: int = 32, head_dim: int = 64) -> np.ndarray:
    values = np.random.default_rng(1).standard_normal((2, 3, 2, tokens, head_dim))
    return bf16.from_float(values.astype(np.float32))


def sqnr_db(kv: np.ndarray, decoded: np.ndarray) -> float:
    x, y = bf16.to_float(kv).astype(np.float64), bf16.to_float(decoded).astype(np.float64)
    return 10 * math.log10(np.sum(x * x) / np.sum((x - y) ** 2))


class CodecTest(unittest.TestCase):
    def test_raw16_comes_back_as_it_was(self) -> None:
        kv = normal()
        block = codec.encode(kv, "raw16")
        np.testing.assert_array_equal(codec.decode(block), kv)
        self.assertEqual(codec.describe(block).min_sqnr_db, math.inf)

    def test_i8_keeps_what_the_header_promises_in_half_the_bytes(self) -> None:
        kv = normal()
        block = codec.encode(kv, "i8")
        self.assertLess(len(block), 0.55 * kv.nbytes)
        self.assertGreater(sqnr_db(kv, codec.decode(block)), 40)
        self.assertGreaterEqual(codec.describe(block).min_sqnr_db, codec.describe(block).floor_db)

    def test_a_ladder_is_read_at_each_precision_worse_by_steps(self) -> None:
        kv = normal(tokens=128)
        block = codec.encode(kv, "ladder", first_position=128)
        quality = [sqnr_db(kv, codec.decode(block, precision)) for precision in (4, 3, 2)]
        for got, expected in zip(quality, (20.2, 14.6, 8.7), strict=True):
            self.assertAlmostEqual(got, expected, delta=0.6)
        np.testing.assert_array_equal(codec.decode(block), codec.decode(block, 4))

    def test_a_description_says_what_was_encoded(self) -> None:
        key, digest = bytes(range(32)), bytes(range(16))
        block = codec.encode(normal(), "ladder", first_position=256, floor_db=17.0, key=key, namespace_digest=digest)
        what = codec.describe(block)
        self.assertEqual((what.codec, what.dtype, what.precision, what.planes, what.planes_present), ("ladder", "bf16", 4, 4, 4))
        self.assertEqual((what.layers, what.heads, what.tokens, what.head_dim), (3, 2, 32, 64))
        self.assertEqual((what.first_position, what.floor_db, what.block_bytes), (256, 17.0, len(block)))
        self.assertEqual((what.key, what.namespace_digest, what.profile_digest), (key, digest, bytes(16)))

    def test_a_floor_that_cannot_be_kept_raises_tiles(self) -> None:
        block = codec.encode(normal(), "ladder", first_position=32, floor_db=30.0)
        self.assertEqual(codec.describe(block).raised_tiles, 2 * 3 * 2)
        self.assertGreater(sqnr_db(normal(), codec.decode(block)), 30)

    def test_f16_is_not_taken_for_bf16(self) -> None:
        values = np.random.default_rng(2).standard_normal((2, 1, 1, 16, 64)).astype(np.float16)
        block = codec.encode(values.view(np.uint16), "i8", dtype="f16")
        np.testing.assert_allclose(codec.decode(block).view(np.float16), values, atol=0.02)
        self.assertEqual(codec.describe(block).dtype, "f16")

    def test_a_flipped_bit_is_a_fault(self) -> None:
        block = bytearray(codec.encode(normal(), "i8"))
        block[-1] ^= 1
        with self.assertRaisesRegex(KvistError, "checksum"):
            codec.decode(bytes(block))

    def test_bytes_that_are_no_block_are_a_fault(self) -> None:
        for wrong in (b"", b"no block" * 40, codec.encode(normal())[:100]):
            with self.assertRaises(KvistError):
                codec.describe(wrong)

    def test_wrong_arguments_are_named(self) -> None:
        kv = normal()
        with self.assertRaisesRegex(KvistError, "zip"):
            codec.encode(kv, "zip")
        with self.assertRaisesRegex(KvistError, "tokens"):
            codec.encode(np.zeros((2, 1, 1, 17, 64), np.uint16))
        with self.assertRaisesRegex(KvistError, "precision"):
            codec.decode(codec.encode(kv, "i8"), 5)
        for wrong, name in ((kv.astype(np.float32), "uint16"), (kv[:, :, :, ::2], "C-contiguous"), (kv[0], "layers")):
            with self.assertRaisesRegex(ValueError, name):
                codec.encode(wrong)
        with self.assertRaisesRegex(ValueError, "key must be 32 bytes"):
            codec.encode(kv, key=b"short")

    def test_a_profile_is_opened_from_its_bytes_or_its_file_and_says_what_it_is(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "model.kvp")
            path.write_bytes(profile_bytes())
            for profile in (codec.Profile(profile_bytes()), codec.Profile(path), codec.Profile(str(path))):
                self.assertEqual(profile.digest, hashlib.sha256(profile_bytes()).digest()[:16])
                self.assertEqual(profile.notes["model"], "none")
                said = [profile.facts[name] for name in ("layers", "heads", "head_dim", "rope", "file_bytes", "digest")]
                self.assertEqual(said, [3, 2, 64, "halves", len(profile_bytes()), profile.digest.hex()])

    def test_a_profile_that_was_cut_or_edited_is_refused_by_what_is_wrong(self) -> None:
        whole = profile_bytes()
        with self.assertRaisesRegex(KvistError, "not a profile|magic"):
            codec.Profile(b"no profile" * 40)
        with self.assertRaisesRegex(KvistError, "version"):
            codec.Profile(whole[:8] + b"\xff\x7f" + whole[10:])
        for wrong in (b"", whole[:-1], whole + b"x", whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]):
            with self.assertRaisesRegex(KvistError, "profile"):
                codec.Profile(wrong)

    def test_a_profile_gives_bits_to_the_heads_that_need_them_most(self) -> None:
        kv, profile = normal(), codec.Profile(profile_bytes())
        for name, means in (("ladder", (2, 3, 8)), ("trellis", (2, 2.5))):
            for mean in means:
                bits = profile.tile_bits(name, mean)
                self.assertAlmostEqual(bits.mean(), mean, delta=0.17)
                block = codec.encode(kv, name, first_position=32, tile_bits=bits)
                self.assertEqual(codec.describe(block).precision, bits[bits < 8].max() if name == "trellis" else bits.max())
        with self.assertRaisesRegex(KvistError, "mean_bits 1.5; ladder has 2 to 8"):
            profile.tile_bits("ladder", 1.5)
        with self.assertRaisesRegex(KvistError, "codes of i8 all have one length"):
            profile.tile_bits("i8", 8)
        with self.assertRaisesRegex(ValueError, r"tile_bits must be \[3, 2, 2\] whole numbers"):
            codec.encode(kv, "ladder", tile_bits=np.full((3, 2), 3))
        with self.assertRaisesRegex(KvistError, "tile_bits 5; ladder has"):
            codec.encode(kv, "ladder", tile_bits=np.full((3, 2, 2), 5))

    def test_exact_heads_come_back_as_they_were(self) -> None:
        kv = normal()
        decoded = codec.decode(codec.encode(kv, "ladder", exact_heads=1))
        np.testing.assert_array_equal(decoded[:, :, 1], kv[:, :, 1])
        self.assertFalse((decoded[:, :, 0] == kv[:, :, 0]).all())
        with self.assertRaisesRegex(KvistError, "exact_heads 2 of 2; one must be left to code"):
            codec.encode(kv, "ladder", exact_heads=2)

    def test_q_needs_a_profile_of_the_same_shape_and_no_other_codec_takes_one(self) -> None:
        profile = codec.Profile(profile_bytes())
        with self.assertRaisesRegex(KvistError, "q needs a profile"):
            codec.encode(normal(), "q")
        with self.assertRaisesRegex(KvistError, "3 layers, 2 heads and head_dim 64"):
            codec.encode(normal(head_dim=128), "q", profile=profile)
        with self.assertRaisesRegex(KvistError, "ladder needs no profile"):
            codec.encode(normal(), "ladder", profile=profile)
        with self.assertRaisesRegex(ValueError, "kvist.codec.Profile"):
            codec.encode(normal(), "q", profile=profile_bytes())


if __name__ == "__main__":
    unittest.main()
