"""Python values for C: what C would cut short or wrap is a ValueError that names the argument."""

import ctypes
from typing import Any

import numpy as np

from . import _abi


class KvistError(Exception):
    """A fault, in the library's own words. `code` is that of gRPC and absl::StatusCode."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code


def call(library: ctypes.CDLL, name: str, *arguments: Any) -> None:
    error = _abi.Error()
    code = getattr(library, name)(*arguments, ctypes.byref(error))
    if code != 0:
        raise KvistError(code, error.message.decode(errors="replace"))


def text(name: str, value: str, errors: str = "strict") -> bytes:
    """For a const char*: C would cut the text at a NUL, and give two tenants one namespace."""
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"{name} must be a str without NUL, not {value!r}")
    try:
        return value.encode(errors=errors)
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is no Unicode text: {error}") from error


def count(name: str, value: int) -> int:
    """For a uint32_t: ctypes would wrap what does not fit, and give two namespaces one key."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= value <= 0xFFFFFFFF:
        raise ValueError(f"{name} must be an integer from 0 to 4294967295, not {value!r}")
    return int(value)


def number(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise ValueError(f"{name} must be a number, not {value!r}")
    return float(value)


def digest(name: str, value: bytes | None, length: int) -> Any:
    """For a const uint8_t* to so many bytes; None is NULL."""
    if value is None:
        return None
    if not isinstance(value, bytes) or len(value) != length:
        raise ValueError(f"{name} must be {length} bytes, not {value!r}")
    return (ctypes.c_uint8 * length).from_buffer_copy(value)


def tile_bits(value: np.ndarray | None, layers: int, heads: int) -> Any:
    """For a const uint8_t* to [layers, 2, heads]; None is NULL."""
    if value is None:
        return None
    bits = np.asarray(value)
    if bits.shape != (layers, 2, heads) or bits.dtype.kind not in "iu" or bits.min() < 0 or bits.max() > 255:
        raise ValueError(f"tile_bits must be [{layers}, 2, {heads}] whole numbers: of each layer's keys and values by head")
    return (ctypes.c_uint8 * bits.size)(*bits.ravel().tolist())


def elements(name: str, kv: np.ndarray, dtype: str) -> None:
    wanted, meaning = (np.uint16, "bf16 or f16 bits") if dtype in ("bf16", "f16") else (np.uint8, f"{dtype} bytes")
    if not isinstance(kv, np.ndarray) or kv.dtype != wanted:
        got = getattr(kv, "dtype", type(kv))
        raise ValueError(f"{name} must be a numpy array of {wanted.__name__} ({meaning}), not {got}")


def pointer(name: str, kv: np.ndarray) -> Any:
    """To the values of a KV array. REQUIRES: elements."""
    if not kv.flags.c_contiguous:
        raise ValueError(f"{name} must be C-contiguous: pass numpy.ascontiguousarray of it")
    if kv.ctypes.data % 2 != 0:
        raise ValueError(f"{name} must start at an even address: pass a copy of it")
    return kv.ctypes.data_as(ctypes.POINTER(ctypes.c_uint16))
