"""Static entropy tables of q: counted, made to sum to 4,096, and what a symbol costs under them."""

import numpy as np

from .profile import CLASSES, MAGNITUDES, SHIFTS, STEPS, TOTAL, Tables

LEAST_K, LEAST_E = -8, -3
RATIO_OF_CLASS_0 = -4  # log2 of a component's deviation to the step; four classes an octave


def classes_of(ratio: np.ndarray) -> np.ndarray:
    """The class of a component whose deviation is `ratio` steps."""
    return np.rint(4 * (np.log2(ratio) - RATIO_OF_CLASS_0))


def classes(base: np.ndarray, k: np.ndarray, e: np.ndarray) -> np.ndarray:
    """[tokens, components], 0 to 47."""
    return np.clip(base.astype(np.int32) + (2 * k + e)[:, None].astype(np.int32), 0, CLASSES - 1)


def escape_bits(magnitude: np.ndarray) -> np.ndarray:
    """nb of |q| = 16 + (2^nb - 1) + bits."""
    return np.floor(np.log2(magnitude - MAGNITUDES)).astype(np.int64)


MOST_MAGNITUDE = MAGNITUDES + 2**16 - 1  # nb has four bits


def frequencies(counts: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """Integers >= 1 in the counts' proportions with sum(copies * frequency) = TOTAL: the largest takes what rounding left."""
    shares = counts / (counts * copies).sum() * (TOTAL - copies.sum())
    result = 1 + np.floor(shares).astype(np.int64)
    left = TOTAL - int((result * copies).sum())
    for i in np.argsort(-(shares % 1)):
        if left >= copies[i] and copies[i] == 2:
            result[i] += 1
            left -= 2
    result[0] += left  # of symbols that occur once: 0 of coefficients, or any
    return result.astype(np.uint16)


def _laplace() -> np.ndarray:
    """What each class would count if components were Laplace-like: holds a class up that calibration hardly saw."""
    width = np.maximum(2.0 ** (np.arange(CLASSES) / 4 + RATIO_OF_CLASS_0), 0.15)[:, None]
    shape = np.exp(-np.arange(MAGNITUDES + 2) / width)
    shape[:, -1:] /= 1 - np.exp(-1 / width)
    return shape / (shape[:, :1] + 2 * shape[:, 1:].sum(1, keepdims=True))


def build(coefficients: np.ndarray, steps: np.ndarray, shifts: np.ndarray) -> Tables:
    """Of counts: [CLASSES, 17] by magnitude (both signs together, the last an escape), [2, STEPS], [2, SHIFTS]."""
    copies = np.array([1] + [2] * MAGNITUDES + [1])
    each = coefficients / copies + 4 * _laplace()
    ones = np.ones
    return Tables(
        np.stack([frequencies(row, copies) for row in each]),
        np.stack([frequencies(row + 0.5, ones(STEPS, int)) for row in steps]),
        np.stack([frequencies(row + 0.5, ones(SHIFTS, int)) for row in shifts]),
    )


def costs(tables: Tables) -> np.ndarray:
    """Bits of a coefficient by class and magnitude, [CLASSES, 17]; the escape's sign and length are in it. Class 0 is free."""
    bits = -np.log2(tables.coefficients / TOTAL)
    bits[:, -1] += 5
    bits[0] = 0
    return bits.astype(np.float32)


def count(class_of: np.ndarray, magnitude: np.ndarray) -> np.ndarray:
    """[CLASSES, 17] of the given coefficients."""
    flat = class_of * (MAGNITUDES + 2) + np.minimum(magnitude, MAGNITUDES + 1)
    return np.bincount(flat.ravel(), minlength=CLASSES * (MAGNITUDES + 2)).reshape(CLASSES, -1)
