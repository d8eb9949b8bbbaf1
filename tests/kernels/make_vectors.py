"""Writes format_vectors.json: run once, by hand, when the format grows (python3 tests/kernels/make_vectors.py).

Method  Blocks are put together from random bytes, not by an encoder, so that every field takes values that no encoder
        would choose. What they decode to comes from format_reader.py. The seed is fixed: the file does not change by itself.
"""
import hashlib
import json
import os
import random
import struct

import format_reader
from format_reader import HEADER, PLANES, ROTATED, block_key, engine_key, namespace_digest
from xxh3 import xxh3_64

RANDOM = random.Random(20261123)
CODEC_IDS = {name: number for number, name in format_reader.CODECS.items()}
DTYPE_IDS = {name: number for number, name in format_reader.DTYPES.items()}

# name, codec, head_dim, dtype, layers, heads, tokens, first position, mode bytes of the tiles, scales full range or near
# 1, bits of a code where the codec leaves a choice. New ones at the end: the bytes of the others stay.
BLOCKS = [
    ("raw16 bf16", "raw16", 64, "bf16", 2, 1, 16, 0, [2], False),
    ("raw16 f16 80", "raw16", 80, "f16", 1, 1, 16, 32, [2], False),
    ("i8 bf16", "i8", 64, "bf16", 2, 1, 16, 0, [0], False),
    ("i8 f16 80, a raised tile", "i8", 80, "f16", 1, 1, 16, 16, [0, 2], False),
    ("i8 f16, scales of every size", "i8", 256, "f16", 1, 1, 16, 0, [0], True),
    ("ladder bf16 64, sinks", "ladder", 64, "bf16", 2, 1, 16, 0, [0], False),
    ("ladder bf16 64", "ladder", 64, "bf16", 1, 2, 32, 128, [0], False),
    ("ladder f16 64, scales of every size", "ladder", 64, "f16", 1, 1, 16, 0, [0], True),
    ("ladder bf16 80, sinks", "ladder", 80, "bf16", 1, 1, 16, 0, [0], False),
    ("ladder f16 80, a rotated i8 tile", "ladder", 80, "f16", 1, 1, 16, 48, [0, 1], False),
    ("ladder bf16 96", "ladder", 96, "bf16", 1, 1, 16, 256, [0], False),
    ("ladder bf16 128, sinks, rotated i8 and raw16 tiles", "ladder", 128, "bf16", 1, 2, 16, 0, [0, 1, 2, 0], False),
    ("ladder f16 128", "ladder", 128, "f16", 1, 1, 16, 16, [0], False),
    ("ladder bf16 256, sinks", "ladder", 256, "bf16", 1, 1, 16, 0, [0], False),
    ("ladder f16 256, every tile raised", "ladder", 256, "f16", 1, 1, 16, 4096, [1], False),
    ("ladder of 8 bits, bf16 64, sinks", "ladder", 64, "bf16", 1, 1, 16, 0, [0], False, 8),
    ("ladder of 8 bits, f16 80, scales of every size", "ladder", 80, "f16", 1, 1, 16, 16, [0], True, 8),
    ("ladder of 8 bits, bf16 96, sinks, a raw16 tile", "ladder", 96, "bf16", 1, 1, 16, 0, [0, 2], False, 8),
    ("ladder of 8 bits, bf16 128, tiles of 8 to 2 bits", "ladder", 128, "bf16", 1, 2, 16, 0, [0, 16, 32, 48], False, 8),
    ("ladder of 8 bits, f16 256, values of 3 bits", "ladder", 256, "f16", 1, 1, 16, 64, [0, 32], False, 8),
    ("ladder of 4 and 2 bits, bf16 64, a rotated i8 tile", "ladder", 64, "bf16", 2, 2, 16, 0, [0, 1, 32, 32], False, 4),
    ("ladder of 3 bits, f16 64", "ladder", 64, "f16", 1, 1, 16, 32, [0], False, 3),
    ("ladder of 2 bits, bf16 64, sinks", "ladder", 64, "bf16", 1, 1, 16, 0, [0], False, 2),
    ("x16 bf16 64", "x16", 64, "bf16", 2, 1, 16, 0, [0], False),
    ("x16 bf16 80, a raw16 tile", "x16", 80, "bf16", 1, 2, 16, 0, [0, 2, 0, 0], False),
    ("x16 f16 96", "x16", 96, "f16", 1, 1, 16, 64, [0], False),
    ("x16 bf16 128, a tile without escapes", "x16", 128, "bf16", 1, 1, 16, 0, [0, 2], True),
    ("fp8p f8e4m3 64", "fp8p", 64, "f8e4m3", 2, 2, 16, 0, [2], False),
    ("fp8p f8e5m2 80", "fp8p", 80, "f8e5m2", 1, 1, 16, 32, [2], False),
    ("fp8p, rows of 656 bytes", "fp8p", 328, "u8", 1, 1, 16, 0, [2], False),
    ("trellis bf16 64, sinks, values of 2 bits", "trellis", 64, "bf16", 1, 1, 16, 0, [0, 16], False, 3),
    ("trellis f16 80, scales of every size", "trellis", 80, "f16", 1, 1, 16, 16, [0], True, 3),
    ("trellis bf16 96, rotated i8 and raw16 tiles", "trellis", 96, "bf16", 1, 2, 16, 0, [0, 1, 16, 2], False, 3),
    ("trellis f16 128", "trellis", 128, "f16", 1, 1, 32, 32, [0, 16], False, 3),
    ("trellis bf16 256, sinks", "trellis", 256, "bf16", 1, 1, 16, 0, [0], False, 3),
    ("trellis of 2 bits, bf16 64", "trellis", 64, "bf16", 1, 1, 16, 16, [0], False, 2),
]


def random_bytes(count):
    return bytes(RANDOM.getrandbits(8) for _ in range(count))


def scales(count, wide, most=255):
    low, high = (0, most) if wide else (90, min(most, 140))
    return bytes(RANDOM.randint(low, high) for _ in range(count))


def wide_rows(count, dim, wide):
    return b"".join(scales(1, wide) + random_bytes(dim) for _ in range(count))


def record(codec, dim, tokens, sinks, mode, is_key, wide):
    if codec == "fp8p":
        return random_bytes(tokens * dim)
    if mode == 2:  # finite values of either dtype
        return b"".join(struct.pack("<H", RANDOM.getrandbits(16) & 0xBBFF) for _ in range(tokens * dim))
    if mode == 1:
        return wide_rows(tokens, dim, wide)
    if codec == "i8":
        return scales(tokens, wide)
    mean = random_bytes(dim) + scales(1, wide) if is_key else b""
    return scales(tokens - sinks, wide) + scales(dim, wide, 128) + mean + wide_rows(sinks, dim, wide)


def x16_pieces(dim, tokens, tiles, without_escapes):
    elements = tokens * dim
    side, low, codes = bytes(tiles) + random_bytes(len(tiles)), b"", b""
    for mode in tiles:
        if mode == 2:
            side += record("x16", dim, tokens, 0, 2, False, False)
            continue
        packed = random_bytes(elements // 2)
        if without_escapes:
            packed = bytes((b & 15) % 15 | (b >> 4) % 15 << 4 for b in packed)
        escapes = sum((b & 15 == 15) + (b >> 4 == 15) for b in packed)
        side += random_bytes(15) + struct.pack("<H", escapes) + random_bytes(escapes)
        low, codes = low + random_bytes(elements), codes + packed
    return side, low, codes


def make_pieces(codec, dim, layers, heads, tokens, sinks, modes, wide, code_bits):
    planes, raised = [[] for _ in range(PLANES[codec][code_bits])], 0
    for _ in range(layers):
        tiles = [modes[i % len(modes)] for i in range(2 * heads)]
        if codec == "x16":
            for plane, piece in zip(planes, x16_pieces(dim, tokens, tiles, without_escapes=wide)):
                plane.append(piece)
            raised += len(tiles) - tiles.count(0)
            continue
        side = b"".join(record(codec, dim, tokens, sinks, m & 15, i < heads, wide) for i, m in enumerate(tiles))
        planes[0].append(side if codec in ("raw16", "fp8p") else bytes(tiles) + random_bytes(2 * heads) + side)
        for p in range(1, len(planes)):
            elements = sum(m & 15 == 0 and p < len(planes) - (m >> 4) for m in tiles) * (tokens - sinks) * dim
            planes[p].append(random_bytes(elements if codec == "i8" else elements // {1: 4, 4: 2}.get(p, 8)))
        raised += 0 if codec in ("raw16", "fp8p") else sum(m & 15 != 0 for m in tiles)
    return [piece for plane in planes for piece in plane], raised


def own_bits(codec):
    return {"raw16": 16, "i8": 8, "ladder": 4, "x16": 16, "fp8p": 8, "trellis": 3}[codec]


def make_block(codec, dim, dtype, layers, heads, tokens, first_position, modes, wide, code_bits=0):
    code_bits = code_bits or own_bits(codec)
    sinks = 4 if codec in ROTATED and first_position == 0 else 0
    pieces, raised = make_pieces(codec, dim, layers, heads, tokens, sinks, modes, wide, code_bits)
    body, table = b"", b""
    start = 128 + 16 * len(pieces)
    for piece in pieces:
        body += bytes(-(start + len(body)) % 64)
        table += struct.pack("<IIQ", start + len(body), len(piece), xxh3_64(piece))
        body += piece
    flags = (1 if sinks else 0) | (2 if raised else 0) | (4 if any(m >> 4 for m in modes) else 0)
    header = HEADER.pack(b"KVISTBLK", 1, CODEC_IDS[codec], 1, DTYPE_IDS[dtype], PLANES[codec][code_bits], code_bits, flags,
                         layers, heads, dim, tokens, first_position, random_bytes(32), random_bytes(16), bytes(16),
                         start + len(body), 10 * 256, 20 * 256 + 7, raised, xxh3_64(table), 0)[:120]
    return header + struct.pack("<Q", xxh3_64(header)) + table + body


def digest(values, codec):
    packed = bytes(values) if codec == "fp8p" else struct.pack("<%dH" % len(values), *values)
    return hashlib.sha256(packed).hexdigest()


def block_vector(name, codec, *shape):
    data = make_block(codec, *shape)
    block = format_reader.Block(data)
    decoded = []
    for precision in [bits for bits in PLANES[codec] if bits == block.code_bits or codec == "ladder" and bits < block.code_bits]:
        for rotated in [False, True] if codec in ROTATED and 2 not in shape[6] else [False]:
            values = block.decode(precision, rotated)
            decoded.append({"precision": precision, "rotated": rotated, "sha256": digest(values, codec),
                            "first": ["%04x" % v for v in values[:4]], "last": ["%04x" % v for v in values[-4:]]})
    return {"name": name, "codec": codec, "hex": data.hex(), "decoded": decoded}


def namespace_vectors():
    first = {"model": "HuggingFaceTB/SmolLM2-135M-Instruct", "weights_digest": "sha256:" + "ab" * 32, "dtype": "bf16",
             "layers": 30, "heads": 3, "head_dim": 64, "rope": "theta=100000", "tp_rank": 0, "tp_size": 1,
             "pp_rank": 0, "pp_size": 1, "tokens_per_block": 128, "profile_digest": "00" * 16, "tenant_salt": ""}
    second = dict(first, tp_rank=1, tp_size=2, tenant_salt="Grüße, 東京", profile_digest="0f" * 16)
    return [dict(n, digest=namespace_digest(n).hex()) for n in (first, second)]


def key_vectors(namespaces):
    out = []
    for namespace in (bytes.fromhex(n["digest"]) for n in namespaces):
        parent = bytes(32)
        for start, extra in ((0, []), (128, []), (256, ["image:9f3c", "lora:sql"])):
            tokens = [(start + i) * 7919 % 49152 for i in range(128)]
            key = block_key(namespace, parent, tokens, extra)
            out.append({"namespace": namespace.hex(), "parent": parent.hex(), "tokens": tokens, "extra_keys": extra,
                        "key": key.hex()})
            parent = key
    return out


def engine_vectors(namespaces):
    namespace = bytes.fromhex(namespaces[0]["digest"])
    hashes = ["", "0123456789abcdef"]
    return [{"namespace": namespace.hex(), "engine_hash": h, "key": engine_key(namespace, h).hex()} for h in hashes]


def main():
    namespaces = namespace_vectors()
    vectors = {"namespaces": namespaces, "keys": key_vectors(namespaces), "engine_keys": engine_vectors(namespaces),
               "blocks": [block_vector(*block) for block in BLOCKS]}
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "format_vectors.json"), "w") as out:
        json.dump(vectors, out, indent=1, ensure_ascii=False)
        out.write("\n")


if __name__ == "__main__":
    main()
