"""Reads version-1 blocks: FORMAT.md in plain Python, standard library only, no code shared with the C++ readers.

Goal    To be wrong where FORMAT.md is wrong: it follows the page, not the implementation.
Units   as in FORMAT.md. Values are lists of 16-bit patterns (8-bit of fp8p), [kv][layer][head][token][channel] flattened.
"""
import hashlib
import struct

from xxh3 import xxh3_64

CODECS = {1: "raw16", 2: "i8", 3: "ladder", 4: "x16", 5: "fp8p", 6: "trellis", 7: "q"}
# By the bits of a code.
PLANES = {"raw16": {16: 1}, "i8": {8: 2}, "ladder": {2: 2, 3: 3, 4: 4, 8: 5}, "x16": {16: 3}, "fp8p": {8: 1}, "trellis": {2: 2, 3: 3},
          "q": {layers_between_resets: 2 for layers_between_resets in range(1, 256)}}
DTYPES = {1: "bf16", 2: "f16", 3: "f8e4m3", 4: "f8e5m2", 5: "u8"}
MANTISSAS = [0x3F800000, 0x3F8B95C2, 0x3F9837F0, 0x3FA5FED7, 0x3FB504F3, 0x3FC5672A, 0x3FD744FD, 0x3FEAC0C7]
ROOTS = {16: 0x3E800000, 32: 0x3E3504F3, 64: 0x3E000000, 128: 0x3DB504F3, 256: 0x3D800000}
SIGNS = hashlib.sha256(b"kvist.rotation.v1").digest()
LEVELS = {
    4: [-127, -96, -75, -58, -44, -31, -18, -6, 6, 18, 31, 44, 58, 75, 96, 127],
    3: [-107, -107, -67, -67, -38, -38, -12, -12, 12, 12, 38, 38, 67, 67, 107, 107],
    2: [-84] * 4 + [-26] * 4 + [26] * 4 + [84] * 4,
}
BASES_8 = [-128, -64, -49, -38, -29, -21, -14, -7, 0, 7, 14, 21, 29, 38, 49, 64]
STEPS_8 = [64, 15, 11, 9, 8, 7, 7, 7, 7, 7, 7, 8, 9, 11, 15, 64]
OUTER_PARTS = [3, 9, 16, 23, 30, 38, 47, 56, 66, 77, 90, 105, 122, 143, 172, 217]
ROTATED = ("ladder", "trellis")
STATES = {
    3: [-3, -92, 12, -55, 28, -35, 50, -19, 56, -18, 103, 2, -74, 18, -46, 34, -36, 39, -19, 71, -5, 127, 13, -71, 13,
        -56, 29, -32, 47, -17, 81, -3, -126, 0, -61, 20, -45, 37, -24, 57, -19, 66, -4, -102, 11, -70, 30, -41, 31, -35,
        51, -15, 79, 0, -83, 14, -57, 18, -38, 40, -23, 63, -5, 93],
    2: [-4, 78, -44, 32, -90, 3, 46, -34, 13, -78, -22, 54, -59, 23, 84, -14, 34, -47, -4, 92, -32, 41, -88, 4, 54, -24,
        14, -75, -14, 71, -54, 22, -126, -5, 37, -43, 3, 105, -33, 42, -70, 15, 59, -22, 21, -57, -13, 68, -40, 31,
        -106, -2, 45, -36, 5, 127, -20, 59, -63, 15, 76, -14, 25, -57],
}
TRELLIS_UNITS = {(3, True): 0x3CBC59AB, (3, False): 0x3CBE6EAD, (2, True): 0x3CAC8334, (2, False): 0x3CB39AAB}
HEADER = struct.Struct("<8sHBBBBBBIHHII32s16s16sQHHIQQ")


class FormatError(Exception):
    pass


def need(condition, message):
    if not condition:
        raise FormatError(message)


def f32(x):
    """One binary32 rounding. A binary64 product or sum of two binary32 values, rounded again, is rounded right."""
    return struct.unpack("<f", struct.pack("<f", x))[0]


def from_bits(bits):
    return struct.unpack("<f", struct.pack("<I", bits))[0]


UNIT = from_bits(0x3CB1F41A)
UNIT_8 = from_bits(0x3A1A9542)


def level_8(code):
    cell, i = code >> 4, code & 15
    part = OUTER_PARTS[i] if cell == 15 else 256 - OUTER_PARTS[15 - i] if cell == 0 else 16 * i + 8
    return 256 * BASES_8[cell] + STEPS_8[cell] * part


def log_scale(u):
    return from_bits(MANTISSAS[u % 8]) * 2.0 ** (u // 8 - 16)


def narrow(x, dtype):
    if dtype == "bf16":
        bits = struct.unpack("<I", struct.pack("<f", x))[0]
        return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 & 0xFFFF
    if abs(x) >= 65520:
        return 0xFC00 if x < 0 else 0x7C00
    return struct.unpack("<H", struct.pack("<e", x))[0]


def int16(x):
    return (x + 0x8000 & 0xFFFF) - 0x8000


def int8(x):
    return x - 256 if x > 127 else x


def rotation_blocks(dim):
    return {80: [64, 16], 96: [64, 32]}.get(dim, [dim])


def transform(row, dim):
    """The +-1 Walsh-Hadamard matrix of each block, by its definition's fast form, in exact integers."""
    out, first = [], 0
    for length in rotation_blocks(dim):
        block = row[first:first + length]
        half = 1
        while half < length:
            for i in range(length):
                if i & half == 0:
                    block[i], block[i + half] = block[i] + block[i + half], block[i] - block[i + half]
            half *= 2
        out += block
        first += length
    return out


def norms(dim):
    roots = [from_bits(ROOTS[length]) for length in rotation_blocks(dim) for _ in range(length)]
    return [-root if SIGNS[d // 8] >> d % 8 & 1 else root for d, root in enumerate(roots)]


def plane_value(row, dim, bits, channel):
    first = channel // 64 * 64
    n = min(64, dim - first)
    i = channel - first
    position = 2 * i if i < n // 2 else 2 * (i - n // 2) + 1
    run = n * bits // 8
    byte = row[first * bits // 8 + position % run]
    return byte >> position // run * bits & (1 << bits) - 1


def nibble(row, dim, channel):
    first = channel // 64 * 64
    half, i = min(64, dim - first) // 2, channel - first
    return row[first // 2 + i % half] >> 4 * (i >= half) & 15


class Block:
    def __init__(self, data):
        need(len(data) >= 128, "header")
        need(data[:8] == b"KVISTBLK", "magic")
        fields = HEADER.unpack(data[:128])
        need(fields[1] == 1, "version")
        need(xxh3_64(data[:120]) == fields[21], "header checksum")
        (_, _, codec, codec_version, dtype, planes, code_bits, flags, self.layers, self.heads, self.dim, self.tokens,
         self.first_position, self.key, self.namespace, self.profile, block_bytes, self.floor, self.sqnr, self.raised,
         table_sum, _) = fields
        need(codec in CODECS and codec_version == 1, "codec")
        need(dtype in DTYPES, "dtype")
        self.codec, self.dtype = CODECS[codec], DTYPES[dtype]
        need(PLANES[self.codec].get(code_bits) == planes, "planes")
        self.planes, self.code_bits, self.mixed = planes, code_bits, self.codec in ROTATED and flags & 4 != 0
        need(1 <= self.layers <= 1024 and 1 <= self.heads <= 256, "shape")
        need((self.codec == "fp8p") == (dtype >= 3), "dtype")
        dims = range(16, 1025, 8) if self.dtype == "u8" else (64, 80, 96, 128, 256)
        need(self.tokens in range(16, 257, 16) and self.dim in dims, "shape")
        self.sinks = 4 if self.codec in ROTATED and self.first_position == 0 else 0
        need(flags == (1 if self.sinks else 0) | (2 if self.raised else 0) | (4 if self.mixed else 0), "flags")
        need(self.codec != "q" or any(self.profile), "profile digest")
        need(self.raised <= 2 * self.layers * self.heads and self.sqnr >= self.floor, "quality")
        end = 128 + 16 * planes * self.layers
        need(len(data) >= end and xxh3_64(data[128:end]) == table_sum, "table checksum")
        self.pieces = []
        for i in range(planes * self.layers):
            offset, size, checksum = struct.unpack_from("<IIQ", data, 128 + 16 * i)
            need(offset == (end + 63) // 64 * 64, "table")
            end = offset + size
            self.pieces.append((offset, size, checksum))
        need(end == block_bytes and len(data) <= end, "block bytes")
        self.data = data

    def piece(self, plane, layer):
        offset, size, checksum = self.pieces[plane * self.layers + layer]
        need(offset + size <= len(self.data), "absent plane")
        piece = self.data[offset:offset + size]
        need(xxh3_64(piece) == checksum, "plane checksum")
        return piece

    def decode(self, precision, rotated=False):
        need(self.codec != "q", "a q block needs its profile: q/q_reader.py")
        tiles = [[None] * self.layers for _ in range(2 * self.heads)]
        for layer in range(self.layers):
            for i, values in enumerate(self._decode_layer(layer, precision, rotated)):
                tiles[i][layer] = values
        order = [(kv, layer, head) for kv in (0, 1) for layer in range(self.layers) for head in range(self.heads)]
        return [v for kv, layer, head in order for v in tiles[kv * self.heads + head][layer]]

    def _decode_layer(self, layer, precision, rotated):
        count, elements = 2 * self.heads, self.tokens * self.dim
        side = self.piece(0, layer)
        if self.codec == "raw16":
            need(not rotated and len(side) == 2 * count * elements, "values")
            return [list(struct.unpack_from("<%dH" % elements, side, 2 * i * elements)) for i in range(count)]
        if self.codec == "fp8p":
            need(not rotated and len(side) == count * elements, "values")
            return [list(side[i * elements:(i + 1) * elements]) for i in range(count)]
        need(len(side) >= 2 * count, "side")
        if self.codec == "x16":
            need(not rotated, "x16 read rotated")
            return self._decode_x16(side[:count], side[2 * count:], self.piece(1, layer), self.piece(2, layer))
        modes, at = [byte & 15 for byte in side[:count]], 2 * count
        for mode, lacks in zip(modes, (byte >> 4 for byte in side[:count])):
            need(mode in ((0, 2) if self.codec == "i8" else (0, 1, 2)), "mode")
            need(lacks <= (self.planes - 2 if self.mixed and mode == 0 else 0), "mode")
        need(self.codec != "trellis" or precision == self.code_bits, "precision")
        # Code planes that a tile has.
        has = [self.planes - 1 - (byte >> 4) if byte & 15 == 0 else 0 for byte in side[:count]]
        wanted = PLANES[self.codec][precision] - 1
        codes = self._codes(layer, [min(planes, wanted) for planes in has], has, wanted)
        tiles = []
        for i, mode in enumerate(modes):
            size = self._record_bytes(mode, i < self.heads)
            record, at = side[at:at + size], at + size
            need(len(record) == size, "side size")
            tiles.append(self._decode_tile(mode, i < self.heads, record, codes[i], rotated))
        need(at == len(side), "side size")
        return tiles

    def _codes(self, layer, read, has, wanted):
        """By tile: its bytes in each plane that is read of it."""
        rows, codes = self.tokens - self.sinks, [[] for _ in has]
        widths = [self.dim] if self.codec == "i8" else [self.dim // 4, self.dim // 8, self.dim // 8, self.dim // 2]
        for p in range(wanted):
            plane, size, seen = self.piece(1 + p, layer), rows * widths[p], 0
            need(len(plane) == size * sum(planes > p for planes in has), "plane size")
            for i, planes in enumerate(has):
                if planes > p:
                    codes[i] += [plane[seen * size:(seen + 1) * size]] * (read[i] > p)
                    seen += 1
        return codes

    def _decode_x16(self, modes, records, low, codes):
        elements, tiles = self.tokens * self.dim, []
        need(len(low) == modes.count(0) * elements and len(codes) == len(low) // 2, "plane size")
        for mode in modes:
            need(mode in (0, 2), "mode")
            if mode == 2:
                need(len(records) >= 2 * elements, "side size")
                tiles.append(list(struct.unpack_from("<%dH" % elements, records)))
                records = records[2 * elements:]
                continue
            need(len(records) >= 17, "side size")
            n = struct.unpack_from("<H", records, 15)[0]
            need(len(records) >= 17 + n, "side size")
            code = [nibble(codes[t * self.dim // 2:], self.dim, d) for t in range(self.tokens) for d in range(self.dim)]
            need(code.count(15) == n, "escapes")
            escaped = iter(records[17:17 + n])
            exponents = [next(escaped) if c == 15 else records[c] for c in code]
            tiles.append([e << 7 | b >> 1 | (b & 1) << 15 for e, b in zip(exponents, low)])
            records, low, codes = records[17 + n:], low[elements:], codes[elements // 2:]
        need(not records, "side size")
        return tiles

    def _record_bytes(self, mode, is_key):
        if mode == 2:
            return 2 * self.tokens * self.dim
        if mode == 1:
            return self.tokens * (1 + self.dim)
        if self.codec == "i8":
            return self.tokens
        return self.tokens - self.sinks + self.dim + (self.dim + 1 if is_key else 0) + self.sinks * (1 + self.dim)

    def _decode_tile(self, mode, is_key, record, codes, rotated):
        dim = self.dim
        if mode == 2:
            need(not rotated, "raw16 tile read rotated")
            return list(struct.unpack("<%dH" % (self.tokens * dim), record))
        if self.codec == "i8":
            scales = [log_scale(u) for u in record]
            return [narrow(f32(int8(c) * scales[i // dim]), self.dtype) for i, c in enumerate(codes[0])]
        zeros = [0.0] * dim
        if mode == 1:
            return self._wide_rows(record, self.tokens, rotated)
        k = {256: 0, 128: 1}.get(dim, 2)
        rows = self.tokens - self.sinks
        channel = record[rows:rows + dim]
        need(max(channel) <= 128, "channel scale")
        a = [int(log_scale(u) * 2 ** (7 + k) + 0.5) for u in channel]
        means, at = zeros, rows + dim
        if is_key:
            w = [int8(c) * a[d] for d, c in enumerate(record[at:at + dim])]
            unit = log_scale(record[at + dim]) * 2.0 ** -(7 + k)
            if rotated:
                means = [f32(x * unit) for x in w]
            else:
                means = [f32(f32(x * n) * unit) for x, n in zip(transform(w, dim), norms(dim))]
            at += dim + 1
        out = self._wide_rows(record[at:], self.sinks, rotated)
        if self.codec == "trellis":
            return out + self._trellis_rows(codes, a, record, is_key, means, rotated)
        for row in range(rows):
            code = [plane_value(codes[0][row * dim // 4:], dim, 2, d) << 2 for d in range(dim)]
            for p in range(1, min(len(codes), 3)):
                bits = codes[p][row * dim // 8:(row + 1) * dim // 8]
                code = [c | plane_value(bits, dim, 1, d) << 2 - p for d, c in enumerate(code)]
            if len(codes) == 4:
                low = [plane_value(codes[3][row * dim // 2:(row + 1) * dim // 2], dim, 4, d) for d in range(dim)]
                v = [level_8(c << 4 | low[d]) * (a[d] << 6 - k) + 16384 >> 15 for d, c in enumerate(code)]
                out += self._finish(v, f32(log_scale(record[row]) * UNIT_8), means, rotated, int)
            else:
                v = [LEVELS[len(codes) + 1][c] * a[d] + 64 >> 7 for d, c in enumerate(code)]
                out += self._finish(v, f32(log_scale(record[row]) * (UNIT * 2.0 ** -k)), means, rotated)
        return out

    def _trellis_rows(self, codes, a, record, is_key, means, rotated):
        dim, rows, bits, k, out = self.dim, self.tokens - self.sinks, len(codes) + 1, {256: 0, 128: 1}.get(self.dim, 2), []
        all_codes = []
        for row in range(rows):
            code = [plane_value(codes[0][row * dim // 4:], dim, 2, d) for d in range(dim)]
            if bits == 3:
                code = [c * 2 + plane_value(codes[1][row * dim // 8:], dim, 1, d) for d, c in enumerate(code)]
            all_codes.append(code)
        unit = from_bits(TRELLIS_UNITS[bits, is_key])
        for row in range(rows):
            v = []
            for d in range(dim):
                last = [all_codes[(row - back) % rows][d] for back in range(6 // bits)]
                state = sum(c << bits * back for back, c in enumerate(last))
                v.append(STATES[bits][state] * a[d] + 64 >> 7)
            out += self._finish(v, f32(log_scale(record[row]) * (unit * 2.0 ** -k)), means, rotated)
        return out

    def _wide_rows(self, record, count, rotated):
        out, size = [], 1 + self.dim
        for row in (record[t * size:(t + 1) * size] for t in range(count)):
            out += self._finish([int8(c) for c in row[1:]], log_scale(row[0]), [0.0] * self.dim, rotated)
        return out

    def _finish(self, v, scale, means, rotated, wrap=int16):
        if rotated:
            values = [f32(x * scale) for x in v]
        else:
            values = [f32(f32(wrap(x) * n) * scale) for x, n in zip(transform(v, self.dim), norms(self.dim))]
        return [narrow(f32(x + m), self.dtype) for x, m in zip(values, means)]


def string(text):
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<I", len(raw)) + raw


def namespace_digest(n):
    shape = struct.pack("<III", n["layers"], n["heads"], n["head_dim"])
    ranks = struct.pack("<IIIII", n["tp_rank"], n["tp_size"], n["pp_rank"], n["pp_size"], n["tokens_per_block"])
    encoding = (b"kvist.namespace.v1" + string(n["model"]) + string(n["weights_digest"]) + string(n["dtype"]) + shape +
                string(n["rope"]) + ranks + bytes.fromhex(n["profile_digest"]) + string(n["tenant_salt"]))
    return hashlib.sha256(encoding).digest()


def block_key(namespace, parent, tokens, extra_keys):
    return hashlib.sha256(b"kvist.key.v1" + namespace + parent + struct.pack("<I", len(tokens)) +
                          struct.pack("<%dI" % len(tokens), *tokens) + struct.pack("<I", len(extra_keys)) +
                          b"".join(string(extra) for extra in extra_keys)).digest()


def engine_key(namespace, engine_hash):
    return hashlib.sha256(b"kvist.key.engine.v1" + namespace + string(engine_hash)).digest()
