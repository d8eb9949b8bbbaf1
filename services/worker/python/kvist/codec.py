"""Encodes and decodes blocks here, without a cluster: to judge a codec, or to look at a block.

Shapes  kv is uint16 [2, layers, heads, tokens, head_dim]: bf16 or f16 bits (of the dtypes of one byte uint8), K then V, K after RoPE, C-contiguous. A block is bytes.
Threads Any number; the GIL is free while the library works.
Errors  ValueError: an argument, named before the library is called. KvistError: the library refused it, or the block is damaged.
"""

import ctypes
import dataclasses
import functools
import json
import math
import os
import pathlib
import weakref
from typing import Any

import numpy as np

from . import _abi, _checks

PathLike = str | os.PathLike[str]


class Profile:
    """What codec "q" knows of one model: the file that `kvist calibrate` makes, by its path or its bytes. Immutable.

    digest: its name, 16 bytes. facts: what it is of (kvist.h, kvist_profile_json). notes: what its file says to people.
    The first encode prepares what only encoding needs, which takes up to seconds. KvistError: a file that is cut, edited or
    of a later version, by the number that is wrong.
    """

    def __init__(self, file: PathLike | bytes, *, library: PathLike | None = None):
        content = file if isinstance(file, bytes) else pathlib.Path(file).read_bytes()
        opened, handle = _library(library), ctypes.c_void_p()
        _checks.call(opened, "kvist_profile_open", *_bytes("profile", content), ctypes.byref(handle))
        self._take(opened, handle)

    @classmethod
    def _of(cls, library: ctypes.CDLL, handle: ctypes.c_void_p) -> "Profile":
        """A handle that the library made; it is the Profile's from now on."""
        profile = cls.__new__(cls)
        profile._take(library, handle)
        return profile

    def _take(self, library: ctypes.CDLL, handle: ctypes.c_void_p) -> None:
        self._end = weakref.finalize(self, library.kvist_profile_destroy, handle)
        self._library, self._handle = library, handle
        digest = (ctypes.c_uint8 * 16)()
        _checks.call(library, "kvist_profile_digest", handle, digest)
        self.digest = bytes(digest)
        self.facts: dict[str, Any] = json.loads(self._json())
        self.notes = self.facts.pop("notes")

    def __bytes__(self) -> bytes:
        """The file."""
        needed = ctypes.c_size_t()
        _checks.call(self._library, "kvist_profile_bytes", self._handle, None, 0, ctypes.byref(needed))
        content = (ctypes.c_uint8 * needed.value)()
        _checks.call(self._library, "kvist_profile_bytes", self._handle, content, len(content), ctypes.byref(needed))
        return bytes(content)

    def tile_bits(self, codec: str, mean_bits: float) -> np.ndarray:
        """[layers, 2, heads], bits of each layer's keys and values by head: mean_bits of a code of "ladder" or "trellis" in the mean,
        more where errors cost answers more. For encode and Client."""
        shape = (self.facts["layers"], 2, self.facts["heads"])
        bits = (ctypes.c_uint8 * math.prod(shape))()
        given = [_checks.text("codec", codec), _checks.number("mean_bits", mean_bits)]
        _checks.call(self._library, "kvist_profile_tile_bits", self._handle, *given, bits, len(bits))
        return np.frombuffer(bits, np.uint8).reshape(shape).copy()

    def _json(self) -> str:
        needed = ctypes.c_size_t()
        _checks.call(self._library, "kvist_profile_json", self._handle, None, 0, ctypes.byref(needed))
        text = ctypes.create_string_buffer(needed.value)
        _checks.call(self._library, "kvist_profile_json", self._handle, text, len(text), ctypes.byref(needed))
        return text.value.decode()

    def __repr__(self) -> str:
        return f"Profile({self.digest.hex()}, {self.facts['layers']} layers of {self.facts['heads']} x {self.facts['head_dim']})"


@dataclasses.dataclass(frozen=True)
class Description:
    """What a block's header says (kernels/FORMAT.md)."""

    codec: str
    dtype: str
    codec_version: int
    layers: int
    heads: int
    tokens: int
    head_dim: int
    first_position: int
    precision: int  # bits per code that the bytes given hold; 0 = not one whole plane of codes
    planes: int
    planes_present: int
    raised_tiles: int
    floor_db: float
    min_sqnr_db: float  # of the worst tile at full precision; inf = exact
    block_bytes: int  # of the whole block
    key: bytes
    namespace_digest: bytes
    profile_digest: bytes


def encode(
    kv: np.ndarray,
    codec: str = "ladder",
    *,
    first_position: int = 0,
    dtype: str = "bf16",
    key_bits: int = 0,
    value_bits: int = 0,
    tile_bits: np.ndarray | None = None,
    exact_heads: int = 0,
    floor_db: float = 0.0,
    key: bytes | None = None,
    namespace_digest: bytes | None = None,
    profile: Profile | None = None,
    library: PathLike | None = None,
) -> bytes:
    """`kv` as one block. first_position: of its first token in its prompt; 0 makes tokens 0 to 3 sinks. key_bits, value_bits, tile_bits, exact_heads: as Client's.
    profile: that "q" needs."""
    _checks.elements("kv", kv, dtype)
    if kv.ndim != 5 or kv.shape[0] != 2:
        raise ValueError(f"kv must be an array [2, layers, heads, tokens, head_dim], not of shape {kv.shape}")
    _, layers, heads, tokens, head_dim = kv.shape
    shape = _abi.Shape(layers=layers, heads=heads, tokens=tokens, head_dim=head_dim, dtype=_checks.text("dtype", dtype))
    options = _abi.EncodeOptions(
        size_bytes=ctypes.sizeof(_abi.EncodeOptions),
        codec=_checks.text("codec", codec),
        key_bits=_checks.count("key_bits", key_bits),
        value_bits=_checks.count("value_bits", value_bits),
        tile_bits=_checks.tile_bits(tile_bits, layers, heads),
        exact_heads=_checks.count("exact_heads", exact_heads),
        floor_db=_checks.number("floor_db", floor_db),
        first_position=_checks.count("first_position", first_position),
        key=_checks.digest("key", key, 32),
        namespace_digest=_checks.digest("namespace_digest", namespace_digest, 16),
        profile=handle_of(profile),
    )
    values = _checks.pointer("kv", kv)
    opened, size = _library(library), ctypes.c_size_t()
    given = [ctypes.byref(shape), ctypes.byref(options)]
    _checks.call(opened, "kvist_encode_bound", *given, ctypes.byref(size))
    block = (ctypes.c_uint8 * size.value)()
    _checks.call(opened, "kvist_encode", *given, values, block, len(block), ctypes.byref(size))
    return ctypes.string_at(block, size.value)


def decode(block: bytes, precision: int = 0, *, profile: Profile | None = None, library: PathLike | None = None) -> np.ndarray:
    """The block's values, its checksums verified. precision: bits per code; 0 = the highest that the bytes hold. profile: the one
    that a block of "q" names (Description.profile_digest)."""
    what = describe(block, library=library)
    element = np.uint16 if what.dtype in ("bf16", "f16") else np.uint8
    kv = np.empty((2, what.layers, what.heads, what.tokens, what.head_dim), element)
    options = _abi.DecodeOptions(
        size_bytes=ctypes.sizeof(_abi.DecodeOptions),
        precision=_checks.count("precision", precision),
        profile=handle_of(profile),
    )
    given = [*_bytes("block", block), ctypes.byref(options), _checks.pointer("kv", kv), kv.size]
    _checks.call(_library(library), "kvist_decode", *given)
    return kv


def describe(block: bytes, *, library: PathLike | None = None) -> Description:
    """What the block's header says. The bytes may stop early, at the end of any plane."""
    raw = _abi.BlockDescription()
    _checks.call(_library(library), "kvist_describe", *_bytes("block", block), ctypes.byref(raw))
    return Description(**{name: _python(getattr(raw, name)) for name, *_ in raw._fields_})


@functools.cache
def _library(named: PathLike | None) -> ctypes.CDLL:
    return _abi.load(named)


def _bytes(name: str, value: bytes) -> tuple[Any, int]:
    if not isinstance(value, bytes):
        raise ValueError(f"{name} must be bytes, not {type(value).__name__}")
    return ctypes.cast(ctypes.c_char_p(value), ctypes.POINTER(ctypes.c_uint8)), len(value)


def handle_of(profile: Profile | None) -> ctypes.c_void_p | None:
    """For the C ABI; the Profile must outlive the call."""
    if profile is not None and not isinstance(profile, Profile):
        raise ValueError(f"profile must be a kvist.codec.Profile, not {type(profile).__name__}")
    return None if profile is None else profile._handle


def _python(value: Any) -> Any:
    if isinstance(value, ctypes.Array):
        return bytes(value)
    return value.decode() if isinstance(value, bytes) else value
