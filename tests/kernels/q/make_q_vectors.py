"""Writes q_vectors.json: run once, by hand, when codec q grows (python3 tests/kernels/q/make_q_vectors.py).

Method  Profiles and blocks are put together from random numbers, not by an encoder, so that every field takes values that no
        encoder would choose. What they decode to comes from q_reader.py. The seed is fixed.
"""
import hashlib
import json
import os
import random
import struct
import zlib

import q_reader
from format_reader import HEADER, Block
from vectors import encode
from xxh3 import xxh3_64

RANDOM = random.Random(20261129)

# name, heads, head_dim, dtype, layers, tokens, first position, RoPE style, factor, layers before, K from V, resets, modes, head groups
VECTORS = [
    ("LOCAL, bf16 64, sink", 1, 64, "bf16", 2, 16, 0, 1, 1.0, 0, 1, 1, [0], 1),
    ("DEEP, f16 64, later, all modes", 1, 64, "f16", 4, 16, 4096, 1, 1.25, 2, 1, 0, [0, 0, 0, 0, 1, 2, 0, 0], 1),
    ("pairs of neighbours, bf16 80, resets", 1, 80, "bf16", 3, 32, 100000, 2, 1.0, 1, 0, 2, [0], 1),
    ("two heads, no RoPE, f16 64, an empty stream", 2, 64, "f16", 2, 16, 0, 0, 1.0, 1, 1, 0, [0, 0, 0, 0, 2, 2, 2, 2], 1),
    ("LOCAL, two head groups of two, bf16 64, sink", 4, 64, "bf16", 2, 16, 0, 1, 1.0, 0, 0, 1, [0] * 8 + [0, 1, 2, 2, 0, 0, 2, 2], 2),
    ("DEEP, two head groups, f16 64", 2, 64, "f16", 2, 16, 4096, 2, 1.0, 1, 1, 0, [0, 0, 0, 0, 2, 1, 2, 0], 2),
]


def frequencies(count):
    cuts = sorted(RANDOM.sample(range(1, 4096), count - 1))
    return [b - a for a, b in zip([0] + cuts, cuts + [4096])]


def class_frequencies():
    f = [RANDOM.randint(1, 100) for _ in range(15)]
    escape = RANDOM.randint(1, 200)
    return [4096 - 2 * sum(f) - escape] + f + [escape]


def matrix(rows, columns, size):
    if rows == 0:
        return b""
    scales = bytes(RANDOM.randint(size - 8, size + 8) for _ in range(rows)) + bytes(RANDOM.randint(120, 136) for _ in range(columns))
    return scales + bytes(RANDOM.choice((0, 0, 0, 0, 1, 1, 255, 254, 3, 129)) for _ in range(rows * columns))


def make_group(heads, dim, layers, before, key_from_value, resets):
    width = heads * dim
    body = b"".join(struct.pack("<17H", *class_frequencies()) for _ in range(48))
    for _ in q_reader.SIDES:
        body += struct.pack("<32H", *frequencies(32)) + struct.pack("<8H", *frequencies(8))
    bf16 = lambda: RANDOM.choice((0x3F80, 0xBF00, 0, 0x4049, 0x8000))
    for layer in range(layers):
        since = layer % resets if resets else layer
        for kv in q_reader.SIDES:
            sources = (2 * min(before, since) + (key_from_value if kv == 0 else 0)) * width
            body += struct.pack("<%dH" % width, *(bf16() for _ in range(width)))
            body += matrix(sources, width, 56) + matrix(width, width, 104)
            body += struct.pack("<H", RANDOM.choice((width, width - 5, 3)))
            body += bytes(RANDOM.choice((0, 5, 12, 20, 30, 47, 60, 246)) for _ in range(width))
    return body + bytes(2 * layers * (2 * width + 2 * (1 + 2 * heads + 4 * width + 17 + heads)))


def make_profile(heads, dim, layers, style, factor, before, key_from_value, resets, groups):
    body = b"".join(make_group(heads // groups, dim, layers, before, key_from_value, resets) for _ in range(groups))
    head = struct.pack("<8sHBBBBHHHIff", b"KVISTPRF", 2, style, before, key_from_value, resets, heads, dim, groups, layers, 0.07, factor)
    turns = struct.pack("<%dQ" % (dim // 2), *(RANDOM.getrandbits(64) >> RANDOM.randint(2, 40) for _ in range(dim // 2)))
    notes, packed = b"{}", zlib.compress(body, 9)
    return head + turns + struct.pack("<I", len(notes)) + notes + struct.pack("<I", len(packed)) + packed


def make_stream(group, layer, tokens):
    steps = []

    def symbol(lane, table, value):
        steps.append((lane, table[value], sum(table[:value]), 12))

    for kv in q_reader.SIDES:
        side = group.sides[layer][kv]
        for _ in range(tokens // 16):
            k = [RANDOM.choice((-8, -7, -1, 0, 0, 1, 2, 5, 23)) for _ in range(16)]
            e = [RANDOM.randint(-3, 4) for _ in range(16)]
            for values, table, least in ((k, group.steps[kv], -8), (e, group.shifts[kv], -3)):
                for lane in range(16):
                    symbol(lane, table, values[lane] - least)
            for c in range(side.rows):
                escapes = []
                for lane in range(16):
                    chosen = max(0, min(47, side.base[c] + 2 * k[lane] + e[lane]))
                    if chosen == 0:
                        continue
                    value = RANDOM.choice((15, 15, 15, 14, 16, 17, 0, 30, 31 if RANDOM.random() < 0.2 else 15))
                    symbol(lane, group.classes[chosen], value)
                    if value == 31:
                        escapes.append(lane)
                for lane in escapes:
                    length = RANDOM.choice((0, 1, 2, 3, 7, 15))
                    steps.append((lane, 1, length << 1 | RANDOM.getrandbits(1), 5))
                    steps.append((lane, 1, RANDOM.randrange(2**length), length))
    return encode(steps)


def make_piece(profile, layer, tokens, tiles):
    """All groups' streams; of a group whose tiles are all of mode 2 an empty one."""
    each, streams = profile.heads // profile.group_count, []
    for index, group in enumerate(profile.groups):
        own = [tiles[kv * profile.heads + index * each + i] for kv in (0, 1) for i in range(each)]
        streams.append(b"" if set(own) == {2} else make_stream(group, layer, tokens))
    if len(streams) == 1 or not any(streams):
        return b"".join(streams)
    return struct.pack("<%dI" % len(streams), *map(len, streams)) + b"".join(streams)


def make_record(dim, tokens, sinks, mode):
    if mode == 2:
        return b"".join(struct.pack("<H", RANDOM.getrandbits(16) & 0xBBFF) for _ in range(tokens * dim))
    rows = tokens if mode == 1 else sinks
    return b"".join(bytes([RANDOM.randint(90, 140)]) + RANDOM.randbytes(dim) for _ in range(rows))


def make_block(profile, dtype, tokens, first_position, modes):
    heads, dim, layers = profile.heads, profile.dim, profile.layers
    sides, streams, raised = [], [], 0
    for layer in range(layers):
        tiles = [modes[(2 * heads * layer + i) % len(modes)] for i in range(2 * heads)]
        records = (make_record(dim, tokens, first_position == 0, mode) for mode in tiles)
        sides.append(bytes(tiles) + RANDOM.randbytes(2 * heads) + b"".join(records))
        streams.append(make_piece(profile, layer, tokens, tiles))
        raised += sum(mode != 0 for mode in tiles)
    body, table, start = b"", b"", 128 + 32 * layers
    for piece in sides + streams:
        body += bytes(-(start + len(body)) % 64)
        table += struct.pack("<IIQ", start + len(body), len(piece), xxh3_64(piece))
        body += piece
    dtypes = {"bf16": 1, "f16": 2}
    header = HEADER.pack(b"KVISTBLK", 1, 7, 1, dtypes[dtype], 2, profile.resets or 255, 2 if raised else 0, layers, heads,
                         dim, tokens, first_position, RANDOM.randbytes(32), RANDOM.randbytes(16), profile.digest,
                         start + len(body), 0, 20 * 256 + 7, raised, xxh3_64(table), 0)[:120]
    return header + struct.pack("<Q", xxh3_64(header)) + table + body


def vector(name, heads, dim, dtype, layers, tokens, first_position, style, factor, before, key_from_value, resets, modes, groups):
    data = make_profile(heads, dim, layers, style, factor, before, key_from_value, resets, groups)
    profile = q_reader.Profile(data)
    block = make_block(profile, dtype, tokens, first_position, modes)
    values = q_reader.decode(Block(block), profile)
    return {"name": name, "profile": data.hex(), "block": block.hex(), "sha256": digest(values),
            "first": ["%04x" % v for v in values[:4]], "last": ["%04x" % v for v in values[-4:]]}


def digest(values):
    return hashlib.sha256(struct.pack("<%dH" % len(values), *values)).hexdigest()


if __name__ == "__main__":
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "q_vectors.json"), "w") as out:
        json.dump([vector(*v) for v in VECTORS], out, indent=1)
        out.write("\n")
