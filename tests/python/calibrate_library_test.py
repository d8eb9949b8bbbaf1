"""Goal: the library codes as the calibration's judge does: a profile's quality is that of the blocks it makes.

Method: the library encodes with a profile of a synthetic model; the numpy coder takes the streams from the block, and must read
the same symbols and come to the same bits; and what each chooses for a token's step must agree.
"""

import functools
import struct
import unittest

import numpy as np
from calibrate_synthetic import HEADS, LAYERS, profile, values
from kvist import KvistError, codec
from kvist.calibrate import arithmetic, head_groups, profile_file, reference
from kvist.calibrate.importance import Importance
from kvist.calibrate.profile import HeadGroup
from kvist.models.smollm2 import bf16

HEAD_DIM, TOKENS = 64, 48
WIDTH = HEADS * HEAD_DIM
LOCAL, DEEP = (0, 1, HEAD_DIM, 1), (2, 0, HEAD_DIM, 1)  # arguments of profile()
GROUPS, DEEP_GROUPS = (0, 1, HEAD_DIM, 2), (2, 0, HEAD_DIM, 2)


Kind = tuple[int, int, int, int]


@functools.cache
def opened(kind: Kind) -> codec.Profile:
    return codec.Profile(profile_file.write(profile(*kind)))


def angles(kind: Kind, first_position: int) -> tuple[np.ndarray, np.ndarray]:
    whole = profile(*kind)
    return arithmetic.cos_sin(first_position + np.arange(TOKENS), whole.turns, whole.facts.rope_factor)


def heads_of(rows: np.ndarray) -> np.ndarray:
    """[layers, tokens, d] as [layers, heads, tokens, head_dim]."""
    return rows.reshape(LAYERS, TOKENS, HEADS, HEAD_DIM).swapaxes(1, 2)


def pages_of(rows: np.ndarray, turn: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """K | V before RoPE, [layers, tokens, 2 d], as an engine has them: bf16 bits [2, layers, heads, tokens, head_dim]."""
    keys = arithmetic.rope(heads_of(rows[..., :WIDTH]), turn, 1)
    return bf16.from_float(np.ascontiguousarray(np.stack([keys, heads_of(rows[..., WIDTH:])])))


def rows_of(pages: np.ndarray, turn: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The way back, which loses what bf16 lost."""
    keys, own = bf16.to_float(pages)
    sides = [arithmetic.rope(keys, turn, 1, inverse=True), own]
    return np.concatenate([side.swapaxes(1, 2).reshape(LAYERS, TOKENS, WIDTH) for side in sides], -1)


def stream_of(block: bytes, layer: int) -> bytes:
    """Plane 1 of the layer, by the plane table."""
    offset, size = struct.unpack_from("<II", block, 128 + 16 * (LAYERS + layer))
    return block[offset : offset + size]


def streams_of(block: bytes, layer: int, groups: int) -> list[bytes]:
    """Of each head group: sizes in front of them where there are several."""
    piece = stream_of(block, layer)
    if groups == 1:
        return [piece]
    ends = 4 * groups + np.cumsum([0, *struct.unpack_from(f"<{groups}I", piece)])
    return [piece[first:last] for first, last in zip(ends, ends[1:], strict=False)]


Said = list[tuple[reference.Symbols, reference.Symbols]]


def symbols_of(block: bytes, kind: Kind) -> list[Said]:
    """By head group."""
    groups = profile(*kind).groups
    streams = [streams_of(block, layer, len(groups)) for layer in range(LAYERS)]
    return [[reference.Streams(group).decode(layer, TOKENS, streams[layer][i]) for layer in range(LAYERS)] for i, group in enumerate(groups)]


class LibraryTest(unittest.TestCase):
    def encoded(self, kind: Kind, first_position: int) -> tuple[np.ndarray, bytes]:
        pages = pages_of(values(WIDTH)[:, 500 : 500 + TOKENS], angles(kind, first_position))
        return pages, codec.encode(pages, "q", first_position=first_position, profile=opened(kind))

    def test_numpy_comes_to_the_same_bits_from_a_blocks_streams(self) -> None:
        for kind in (LOCAL, DEEP, GROUPS, DEEP_GROUPS):
            for first_position in (0, 4096):
                _, block = self.encoded(kind, first_position)
                self.assertEqual(codec.describe(block).raised_tiles, 0)
                said = zip(profile(*kind).groups, symbols_of(block, kind), strict=True)
                decoded = head_groups.join([reference.Coder(group, exact=True).decode(symbols) for group, symbols in said])
                sinks = 1 if first_position == 0 else 0  # token 0 of a prompt has a record of its own
                expected = pages_of(decoded, angles(kind, first_position))[:, :, :, sinks:]
                np.testing.assert_array_equal(codec.decode(block, profile=opened(kind))[:, :, :, sinks:], expected)

    def test_steps_and_nearly_all_coefficients_are_those_that_numpy_chooses(self) -> None:
        for kind in (LOCAL, DEEP, DEEP_GROUPS):
            pages, block = self.encoded(kind, 4096)
            rows = rows_of(pages, angles(kind, 4096))
            for i, (group, read) in enumerate(zip(profile(*kind).groups, symbols_of(block, kind), strict=True)):
                self.expect_near(group, head_groups.part(rows, len(profile(*kind).groups), i), read)

    def expect_near(self, group: HeadGroup, rows: np.ndarray, read: Said) -> None:
        chosen = reference.log_steps(Importance.of(group).log_weights(rows), 4096)
        same = [side.k == chosen[1 - key, layer] for layer, sides in enumerate(read) for key, side in enumerate(sides)]
        self.assertGreater(np.mean(same), 0.99)
        own = reference.Coder(group, exact=True).encode(rows, 4096)[0]
        pairs = [(a.q, b.q) for ours, theirs in zip(own, read, strict=True) for a, b in zip(ours, theirs, strict=True)]
        self.assertGreater(np.mean([np.mean(a == b) for a, b in pairs]), 0.97)

    def test_the_library_says_how_many_head_groups_a_profile_has(self) -> None:
        self.assertEqual([opened(kind).facts["groups"] for kind in (LOCAL, GROUPS)], [1, 2])

    def test_a_block_names_its_profile_and_needs_it(self) -> None:
        _, block = self.encoded(LOCAL, 0)
        self.assertEqual(codec.describe(block).profile_digest, opened(LOCAL).digest)
        with self.assertRaisesRegex(KvistError, opened(LOCAL).digest.hex()):
            codec.decode(block)
        with self.assertRaisesRegex(KvistError, opened(DEEP).digest.hex()):
            codec.decode(block, profile=opened(DEEP))


if __name__ == "__main__":
    unittest.main()
