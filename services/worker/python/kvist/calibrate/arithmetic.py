"""The reader's arithmetic in numpy, bit for bit: fused multiply-add in binary32, and RoPE at any position.

Why  Blocks are decoded alike by every reader, so these are part of the format; what an encoder does besides is free.
"""

import math

import numpy as np

TURN = 2 * math.pi * 2.0**-64
HALF_STEP = np.uint32(0x3F3504F3).view(np.float32)  # 2^-1/2
SIN = [(-1) ** n / math.factorial(2 * n + 1) for n in range(7)]  # to a^13
COS = [(-1) ** n / math.factorial(2 * n) for n in range(7)]  # to a^12


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a b + c of binary32, rounded once. The product is exact in binary64; its sum is rounded to odd, so that the second
    rounding, to binary32, sees on which side of a tie it was."""
    product = a.astype(np.float64) * b
    wide = product + c
    added = wide - product
    error = (product - (wide - added)) + (c - added)
    bits = wide.view(np.int64)
    even = (error != 0) & (bits & 1 == 0)
    odd = np.where(even, bits + np.where((error > 0) == (wide > 0), 1, -1), bits)
    return odd.view(np.float64).astype(np.float32)


def accumulate(start: np.ndarray, source: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """start + source @ matrix, a row of the matrix at a time; sources of 0 are passed over, which changes no bit but a -0's."""
    total = np.array(start, np.float32)
    for i in range(source.shape[1]):
        used = np.flatnonzero(source[:, i])
        if len(used):
            total[used] = fma(source[used, i, None], matrix[i], total[used])
    return total


def step_of(theta: float, k: np.ndarray) -> np.ndarray:
    """theta 2^(-k/2), as the reader rounds it."""
    odd = np.where(k & 1, HALF_STEP, np.float32(1))
    return np.ldexp(np.float32(theta) * odd, -(k >> 1)).astype(np.float32)


def turns_of(inverse_frequencies: np.ndarray) -> np.ndarray:
    """What a pair turns by a position, 2^64 to the circle."""
    return np.array([round(float(f) / (2 * math.pi) * 2**64) % 2**64 for f in inverse_frequencies], np.uint64)


def _horner(coefficients: list[float], square: np.ndarray) -> np.ndarray:
    total = np.full_like(square, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = total * square + coefficient
    return total


def cos_sin(positions: np.ndarray, turns: np.ndarray, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """[positions, pairs] each, binary32."""
    phase = positions.astype(np.uint64)[:, None] * turns
    quadrant = (phase + np.uint64(1 << 61)) >> np.uint64(62)
    angle = (phase - (quadrant << np.uint64(62))).view(np.int64).astype(np.float64) * TURN
    square = angle * angle
    sin, cos = _horner(SIN, square) * angle, _horner(COS, square)
    which = quadrant.astype(np.int64) % 4
    cosine = np.choose(which, [cos, -sin, -cos, sin]).astype(np.float32) * np.float32(factor)
    sine = np.choose(which, [sin, cos, -sin, -cos]).astype(np.float32) * np.float32(factor)
    return cosine, sine


def _pairs(x: np.ndarray, style: int) -> tuple[np.ndarray, np.ndarray]:
    half = x.shape[-1] // 2
    return (x[..., :half], x[..., half:]) if style == 1 else (x[..., 0::2], x[..., 1::2])


def rope(x: np.ndarray, angles: tuple[np.ndarray, np.ndarray], style: int, inverse: bool = False) -> np.ndarray:
    """x [..., tokens, head_dim] turned, or turned back; each operation rounded by itself. style as in a profile."""
    if style == 0:
        return x
    cos, sin = angles
    if inverse:
        square = cos * cos + sin * sin  # of the factor
        cos, sin = cos / square, -sin / square
    result = np.empty_like(x)
    (a, b), (first, second) = _pairs(x, style), _pairs(result, style)
    first[...] = a * cos - b * sin
    second[...] = b * cos + a * sin
    return result
