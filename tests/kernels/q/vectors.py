#!/usr/bin/env python3
"""Prints the known vectors of rope_test.cc and rans_test.cc, computed here from FORMAT.md alone."""
import struct
from fractions import Fraction
from math import factorial, pi


def cos_sin(position, turns, factor):
    phase = position * turns % 2**64
    quadrant = (phase + 2**61) % 2**64 >> 62
    angle = float((phase - (quadrant << 62) + 2**63) % 2**64 - 2**63) * (2 * pi * 2.0**-64)
    square = angle * angle
    sin = cos = 0.0
    for n in range(6, -1, -1):  # Horner
        sin = sin * square + (-1) ** n * float(Fraction(1, factorial(2 * n + 1)))
        cos = cos * square + (-1) ** n * float(Fraction(1, factorial(2 * n)))
    sin *= angle
    pair = [(cos, sin), (-sin, cos), (-cos, -sin), (sin, -cos)][quadrant]
    narrow = lambda x: struct.unpack("<f", struct.pack("<f", x))[0]
    return [struct.unpack("<I", struct.pack("<f", narrow(x) * factor))[0] for x in pair]


def encode(steps):
    """steps: (lane, frequency, start, bits) in the order of decoding."""
    states, words = [2**16] * 16, []
    for lane, frequency, start, bits in reversed(steps):
        if states[lane] >= frequency << (32 - bits):
            words.insert(0, states[lane] % 2**16)
            states[lane] >>= 16
        states[lane] = states[lane] // frequency * 2**bits + states[lane] % frequency + start
    return b"".join(struct.pack("<I", s) for s in states) + b"".join(struct.pack("<H", w) for w in words)


def main():
    for position in (0, 1, 7, 100_003, 2**32 - 1):
        for inverse in (1.0, 10000.0**-0.5, 1e-6):
            turns = round(Fraction(inverse) / Fraction(2 * pi) * 2**64)
            for factor in (1.0, 1.25):
                cos, sin = cos_sin(position, turns, factor)
                print(f"    {{{position}u, 0x{turns:x}u, {factor}f, 0x{cos:08x}, 0x{sin:08x}}},")
    frequencies = [1, 15, 80, 4000]
    steps = []
    for i in range(160):
        symbol = (i * i // 7) % 4
        steps.append((i % 16, frequencies[symbol], sum(frequencies[:symbol]), 12))
        if symbol == 0:
            steps.append((i % 16, 1, i % 32, 5))
    print(encode(steps).hex())


if __name__ == "__main__":
    main()
