"""What others do to KV, re-implemented from their descriptions, in numpy, for comparison alone; nothing of it is served.

Each takes K or V of one block, float32 [layers, heads, tokens, head_dim], and returns (decoded values, bits per value), with every
scale, offset and index counted. K is after RoPE.
"""

from collections.abc import Callable

import numpy as np

Coder = Callable[[np.ndarray], tuple[np.ndarray, float]]

TINY = np.float32(1e-30)
OUTLIERS = 0.01
OUTLIER_BITS = 32  # a value of 16 bits and its place
# The 16 levels of NF4 (QLoRA): quantiles of the normal distribution, from -1 to 1.
NF4 = np.array([-1, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0, 0.0795803, 0.1609302, 0.2461123,
                0.33791524, 0.44070983, 0.562617, 0.72295684, 1], np.float32)  # fmt: skip
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)


def _f16(x: np.ndarray) -> np.ndarray:
    return np.clip(x, -65504, 65504).astype(np.float16).astype(np.float32)


def _nearest(levels: np.ndarray, x: np.ndarray) -> np.ndarray:
    return levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, x)]


def _grouped(x: np.ndarray, axis: int, size: int) -> np.ndarray:
    """x with `axis` last and cut into groups: [..., groups, size]. _ungrouped is its inverse."""
    moved = np.moveaxis(x, axis, -1)
    return moved.reshape(*moved.shape[:-1], -1, size)


def _ungrouped(groups: np.ndarray, axis: int) -> np.ndarray:
    return np.moveaxis(groups.reshape(*groups.shape[:-2], -1), -1, axis)


def e4m3(x: np.ndarray) -> np.ndarray:
    """x rounded to FP8 e4m3: 3 bits of mantissa, least exponent -6, at most 448."""
    exponent = np.maximum(np.floor(np.log2(np.maximum(np.abs(x), TINY))), -6)
    step = np.exp2(exponent - 3)
    return np.clip(np.rint(x / step) * step, -448, 448).astype(np.float32)


def symmetric(x: np.ndarray, bits: int, axis: int, size: int) -> tuple[np.ndarray, float]:
    """Integers of both signs, a 16-bit scale for each group."""
    groups, most = _grouped(x, axis, size), 2 ** (bits - 1) - 1
    scale = np.maximum(_f16(np.abs(groups).max(-1, keepdims=True) / most), np.float32(6e-8))
    return _ungrouped(np.clip(np.rint(groups / scale), -most, most) * scale, axis), bits + 16 / size


def asymmetric(x: np.ndarray, bits: int, axis: int, size: int) -> tuple[np.ndarray, float]:
    """Integers from the least value up, a 16-bit scale and a 16-bit offset for each group."""
    groups, most = _grouped(x, axis, size), 2**bits - 1
    low = _f16(groups.min(-1, keepdims=True))
    scale = np.maximum(_f16((groups.max(-1, keepdims=True) - low) / most), np.float32(6e-8))
    return _ungrouped(np.clip(np.rint((groups - low) / scale), 0, most) * scale + low, axis), bits + 32 / size


def int8(x: np.ndarray) -> tuple[np.ndarray, float]:
    return symmetric(x, 8, -1, x.shape[-1])


def int4(x: np.ndarray) -> tuple[np.ndarray, float]:
    return asymmetric(x, 4, -1, 32)


def fp8(x: np.ndarray) -> tuple[np.ndarray, float]:
    """One 32-bit scale a head."""
    scale = np.maximum(np.abs(x).max((-2, -1), keepdims=True) / 448, TINY)
    return e4m3(x / scale) * scale, 8 + 32 / (x.shape[-2] * x.shape[-1])


def nvfp4(x: np.ndarray) -> tuple[np.ndarray, float]:
    """e2m1 in groups of 16 with an e4m3 scale each, below a 32-bit scale of the whole tensor."""
    whole = np.maximum(np.abs(x).max() / (448 * 6), TINY)
    groups = _grouped(x, -1, 16)
    scale = np.maximum(e4m3(np.abs(groups).max(-1, keepdims=True) / 6 / whole) * whole, TINY)
    decoded = np.sign(groups) * _nearest(E2M1, np.abs(groups / scale)) * scale
    return _ungrouped(decoded, -1), 4 + 8 / 16 + 32 / x.size


def kivi_keys(bits: int) -> Coder:
    """Per channel, over groups of 32 tokens."""
    return lambda x: asymmetric(x, bits, -2, 32)


def kivi_values(bits: int) -> Coder:
    """Per token, over groups of 32 channels."""
    return lambda x: asymmetric(x, bits, -1, 32)


def kvquant(axis: int) -> Coder:
    """4 bits at the quantiles of a normal; the largest 1 % of each vector apart, exact: per channel (K) or per token (V)."""

    def code(x: np.ndarray) -> tuple[np.ndarray, float]:
        rows = np.moveaxis(x, axis, -1)
        kept = max(1, round(OUTLIERS * rows.shape[-1]))
        middle = np.median(rows, -1, keepdims=True)
        limit = np.partition(np.abs(rows - middle), -kept - 1, -1)[..., -kept - 1, None]
        outlier = np.abs(rows - middle) > limit
        scale = np.maximum(_f16(limit), np.float32(6e-8))
        decoded = np.where(outlier, _f16(rows), _nearest(NF4, np.clip((rows - _f16(middle)) / scale, -1, 1)) * scale + _f16(middle))
        return np.moveaxis(decoded, -1, axis), 4 + 32 / rows.shape[-1] + OUTLIER_BITS * float(outlier.mean())

    return code


def hadamard(x: np.ndarray) -> np.ndarray:
    """The orthonormal Walsh-Hadamard transform of the last axis: its own inverse. REQUIRES: a power of two."""
    y, half = x.reshape(-1, x.shape[-1]), 1
    while half < x.shape[-1]:
        pairs = y.reshape(-1, x.shape[-1] // (2 * half), 2, half)
        y = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], 2)
        half *= 2
    return y.reshape(x.shape) / np.float32(np.sqrt(x.shape[-1]))


def _deviation(x: np.ndarray, axis: int) -> np.ndarray:
    """Of rows that do not vary: 1."""
    deviation = x.std(axis, keepdims=True)
    return np.where(deviation > 1e-6, deviation, np.float32(1))


def kvarn(bits: int, axis: int) -> Coder:
    """KVarN-like: rotated, deviations of channels and tokens made alike in turn, then integers along `axis` with 16-bit scale and
    offset for each row of it, and a 16-bit deviation for each column."""

    def code(x: np.ndarray) -> tuple[np.ndarray, float]:
        y = hadamard(x)
        channel, token = np.ones_like(y[..., :1, :]), np.ones_like(y[..., :1])
        for _ in range(8):
            channel *= _deviation(y / (channel * token), -2)
            token *= _deviation(y / (channel * token), -1)
        # Their product alone is determined, and tiles without variation drive them apart: both are to fit 16 bits.
        middle = np.exp(np.mean(np.log(channel), -1, keepdims=True))
        channel = _f16(np.clip(channel / middle, 0.01, 100))
        token = np.maximum(_f16(_deviation(y / channel, -1)), np.float32(6e-8))
        even, most = y / (channel * token), 2**bits - 1
        low = even.min(axis, keepdims=True)
        scale = np.maximum((even.max(axis, keepdims=True) - low) / most, TINY)
        decoded = (np.clip(np.rint((even - low) / scale), 0, most) * scale + low) * channel * token
        along, across = x.shape[axis], x.shape[-1 if axis == -2 else -2]
        return hadamard(decoded), bits + (2 * 16 * across + 16 * along) / (along * across)

    return code


# name: (coder of K, coder of V)
BASELINES: dict[str, tuple[Coder, Coder]] = {
    "int8": (int8, int8),
    "fp8": (fp8, fp8),
    "int4-g32": (int4, int4),
    "nvfp4": (nvfp4, nvfp4),
    "kivi4": (kivi_keys(4), kivi_values(4)),
    "kivi2": (kivi_keys(2), kivi_values(2)),
    "kvquant4": (kvquant(-2), kvquant(-1)),
    "kvarn-k4v4": (kvarn(4, -2), kvarn(4, -1)),
    "kvarn-k4v2": (kvarn(4, -2), kvarn(2, -1)),
    "kvarn-k2v2": (kvarn(2, -2), kvarn(2, -1)),
}
