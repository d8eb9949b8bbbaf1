"""Reads q blocks and profiles: FORMAT.md, "q" and "Profile files", in plain Python beside format_reader.py.

Goal    To be wrong where FORMAT.md is wrong: it follows the page, not the implementation.
"""
import hashlib
import math
import os
import struct
import sys
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from format_reader import f32, from_bits, int8, log_scale, narrow, need  # noqa: E402

SIDES = (1, 0)  # V, then K
ROOT_HALF = from_bits(0x3F3504F3)


def fma(a, b, c):
    """a * b + c with one rounding: the product is exact in binary64; the sum is rounded to odd there, then to binary32."""
    product = a * b
    total = product + c
    if total == 0 or math.isinf(total) or math.isnan(total):
        return f32(total)
    rest = total - product
    error = (product - (total - rest)) + (c - rest)
    if error != 0:
        bits = struct.unpack("<q", struct.pack("<d", total))[0]
        if bits & 1 == 0:
            bits += 1 if (error > 0) == (total > 0) else -1
        total = struct.unpack("<d", struct.pack("<q", bits))[0]
    return f32(total)


class Cursor:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, form):
        size = struct.calcsize("<" + form)
        need(self.at + size <= len(self.data), "cut")
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += size
        return values

    def matrix(self, rows, columns):
        if rows == 0:
            return []
        of_row = [log_scale(u) for u in self.take("%dB" % rows)]
        of_column = [log_scale(u) for u in self.take("%dB" % columns)]
        codes = self.take("%db" % (rows * columns))
        return [[f32(f32(codes[r * columns + c] * of_row[r]) * of_column[c]) for c in range(columns)] for r in range(rows)]

    def bf16(self, count):
        return [from_bits(bits << 16) for bits in self.take("%dH" % count)]


class Side:
    pass


class HeadGroup:
    """Some heads: tables and layers, as of a model that has no others."""

    def __init__(self, profile, body):
        self.profile, self.heads = profile, profile.heads // profile.group_count
        self.width = self.heads * profile.dim
        self.classes = [self._class(body.take("17H")) for _ in range(48)]
        self.steps, self.shifts = [None, None], [None, None]
        for kv in SIDES:
            self.steps[kv], self.shifts[kv] = body.take("32H"), body.take("8H")
            need(sum(self.steps[kv]) == sum(self.shifts[kv]) == 4096, "frequencies")
        self.sides = [self._layer(body, layer) for layer in range(profile.layers)]
        own = 1 + 2 * self.heads + 4 * self.width
        self.importance = body.take("%dH" % (profile.layers * (2 * self.width + 2 * (own + 17 + self.heads))))

    @staticmethod
    def _class(f):
        symbols = [f[abs(q)] for q in range(-15, 16)] + [f[16]]
        need(sum(symbols) == 4096 and min(symbols) > 0, "frequencies")
        return symbols

    def _layer(self, body, layer):
        sides, profile = [None, None], self.profile
        for kv in SIDES:
            side = sides[kv] = Side()
            blocks = 2 * min(profile.before, layer - profile.last_reset(layer)) + (profile.key_from_value if kv == 0 else 0)
            side.mean = body.bf16(self.width)
            side.predictor = body.matrix(blocks * self.width, self.width)
            side.synthesis = body.matrix(self.width, self.width)
            (side.rows,) = body.take("H")
            side.base = body.take("%db" % self.width)
        return sides


class Profile:
    def __init__(self, data):
        self.digest = hashlib.sha256(data).digest()[:16]
        file = Cursor(data)
        (magic, version, self.style, self.before, self.key_from_value, self.resets, self.heads, self.dim, self.group_count,
         self.layers, self.theta, self.factor) = file.take("8sHBBBBHHHIff")
        need(magic == b"KVISTPRF" and version == 2, "magic or version")
        need(self.group_count >= 1 and self.heads % self.group_count == 0, "head groups")
        self.turns = file.take("%dQ" % (self.dim // 2))
        self.notes = file.take("%ds" % file.take("I")[0])[0]
        (size,) = file.take("I")
        need(file.at + size == len(data), "bytes of the body")
        body = Cursor(zlib.decompress(data[file.at:]))
        self.groups = [HeadGroup(self, body) for _ in range(self.group_count)]
        need(body.at == len(body.data), "bytes of the body")

    def last_reset(self, layer):
        return layer - layer % self.resets if self.resets else 0


class Rans:
    def __init__(self, stream):
        need(len(stream) >= 64 and len(stream) % 2 == 0, "stream")
        self.states = list(struct.unpack_from("<16I", stream))
        self.words = [word for (word,) in struct.iter_unpack("<H", stream[64:])][::-1]

    def _refill(self, lane, state):
        if state < 2**16:
            need(self.words, "stream ends too early")
            state = state << 16 | self.words.pop()
        self.states[lane] = state

    def symbol(self, lane, frequencies):
        state = self.states[lane]
        m, start = state % 4096, 0
        for symbol, frequency in enumerate(frequencies):
            if m < start + frequency:
                self._refill(lane, frequency * (state // 4096) + m - start)
                return symbol
            start += frequency

    def raw(self, lane, bits):
        state = self.states[lane]
        self._refill(lane, state >> bits)
        return state % 2**bits

    def finish(self):
        need(not self.words and self.states == [2**16] * 16, "stream does not end where it began")


def escape(rans, lane):
    sign_and_length = rans.raw(lane, 5)
    length = sign_and_length >> 1
    magnitude = 15 + 2**length + rans.raw(lane, length)
    return -magnitude if sign_and_length & 1 else magnitude


def streams(piece, count):
    """The piece of a layer as a stream for each head group."""
    if count == 1 or not piece:
        return [piece] * count
    need(len(piece) >= 4 * count, "table of streams")
    at, out = 4 * count, []
    for size in struct.unpack_from("<%dI" % count, piece):
        out.append(piece[at:at + size])
        at += size
    need(at == len(piece), "table of streams")
    return out


def coefficients(group, layer, tokens, stream):
    """[side] of lists of (k, q of the coded rows), by token."""
    sides = group.sides[layer]
    if not stream:
        return [[(0, [0] * sides[kv].rows) for _ in range(tokens)] for kv in (0, 1)]
    rans, out = Rans(stream), [[], []]
    for kv in SIDES:
        for _ in range(tokens // 16):
            k = [rans.symbol(lane, group.steps[kv]) - 8 for lane in range(16)]
            e = [rans.symbol(lane, group.shifts[kv]) - 3 for lane in range(16)]
            q = [[] for _ in range(16)]
            for c in range(sides[kv].rows):
                symbols = []
                for lane in range(16):
                    chosen = max(0, min(47, sides[kv].base[c] + 2 * k[lane] + e[lane]))
                    symbols.append(rans.symbol(lane, group.classes[chosen]) if chosen else 15)
                for lane in range(16):
                    q[lane].append(escape(rans, lane) if symbols[lane] == 31 else symbols[lane] - 15)
            out[kv] += zip(k, q)
    rans.finish()
    return out


def reconstruct(profile, side, sources, k, q):
    sums = [0.0] * len(side.mean)
    for value, row in zip(sources, side.predictor):
        if value == 0:
            continue
        sums = [fma(value, a, s) for a, s in zip(row, sums)]
    step = f32(f32(profile.theta * (ROOT_HALF if k % 2 else 1.0)) * 2.0 ** -(k // 2))
    for c, row in zip(q, side.synthesis):
        if c:
            z = f32(c * step)
            sums = [fma(z, a, s) for a, s in zip(row, sums)]
    return sums


def cos_sin(profile, position, turns):
    phase = position * turns % 2**64
    quadrant = (phase + 2**61) % 2**64 >> 62
    r = (phase - (quadrant << 62)) % 2**64
    a = float(r - 2**64 if r >> 63 else r) * (float.fromhex("0x1.921fb54442d18p+2") * 2.0**-64)
    w, sin, cos = a * a, 0.0, 0.0
    for n in (6, 5, 4, 3, 2, 1, 0):
        sin = sin * w + (-1) ** n / math.factorial(2 * n + 1)
        cos = cos * w + (-1) ** n / math.factorial(2 * n)
    sin *= a
    cos, sin = [(cos, sin), (-sin, cos), (-cos, -sin), (sin, -cos)][quadrant]
    return f32(f32(cos) * profile.factor), f32(f32(sin) * profile.factor)


def turned(profile, row, position):
    if profile.style == 0:
        return row
    out = list(row)
    for i, turns in enumerate(profile.turns):
        a, b = (i, i + profile.dim // 2) if profile.style == 1 else (2 * i, 2 * i + 1)
        cos, sin = cos_sin(profile, position, turns)
        out[a] = f32(f32(row[a] * cos) - f32(row[b] * sin))
        out[b] = f32(f32(row[b] * cos) + f32(row[a] * sin))
    return out


def rows_of_tile(block, profile, layer, kv, head, mode, record, values):
    """The tile's 16-bit values, by token; takes its record off the front of `record`. values: of its head group, by side and token."""
    plain = {0: 1 if block.first_position == 0 else 0, 1: block.tokens, 2: 0}[mode]
    index, place = divmod(head, profile.heads // profile.group_count)
    mean = profile.groups[index].sides[layer][kv].mean
    for t in range(block.tokens):
        if mode == 2:
            yield list(record.take("%dH" % block.dim))
        elif t < plain:
            (scale,), codes = record.take("B"), record.take("%dB" % block.dim)
            yield [narrow(f32(int8(code) * log_scale(scale)), block.dtype) for code in codes]
        else:
            channels = range(place * block.dim, (place + 1) * block.dim)
            row = [f32(values[index][kv][t][c] + mean[c]) for c in channels]
            if kv == 0:
                row = turned(profile, row, block.first_position + t)
            yield [0x7FFF if math.isnan(x) else narrow(x, block.dtype) for x in row]


def values_of(group, layer, tokens, stream, before):
    """[side][token] of the group's centred values; before: those of the layers that predict, the latest first."""
    coded, values = coefficients(group, layer, tokens, stream), [None, None]
    for kv in SIDES:
        values[kv] = []
        for t in range(tokens):
            sources = [x for earlier in before for side in (0, 1) for x in earlier[side][t]]
            if kv == 0 and group.profile.key_from_value:
                sources += values[1][t]
            values[kv].append(reconstruct(group.profile, group.sides[layer][kv], sources, *coded[kv][t]))
    return values


def decode(block, profile, first=0, last=None):
    """Values of layers [first, last) as lists of 16-bit patterns, [kv][layer][head][token][channel] flattened."""
    last = block.layers if last is None else last
    need(block.codec == "q" and block.profile == profile.digest, "profile digest")
    need((block.layers, block.heads, block.dim) == (profile.layers, profile.heads, profile.dim), "profile shape")
    need(block.code_bits == (profile.resets or 255), "layers between resets")
    history, tiles = [[] for _ in profile.groups], {}
    for layer in range(profile.last_reset(first), last):
        count = min(profile.before, layer - profile.last_reset(layer))
        for index, stream in enumerate(streams(block.piece(1, layer), profile.group_count)):
            group = profile.groups[index]
            history[index].insert(0, values_of(group, layer, block.tokens, stream, history[index][:count]))
        if layer < first:
            continue
        values = [of_group[0] for of_group in history]
        side = block.piece(0, layer)
        need(len(side) >= 4 * block.heads, "side")
        record = Cursor(side[4 * block.heads:])
        for i in range(2 * block.heads):
            need(side[i] in (0, 1, 2), "mode")
            kv, head = divmod(i, block.heads)
            tiles[kv, layer, head] = list(rows_of_tile(block, profile, layer, kv, head, side[i], record, values))
        need(record.at == len(record.data), "side")
    return [x for key in sorted(tiles) for row in tiles[key] for x in row]
