"""A worker's client: finds, fetches and stores the KV of prompts, from and into numpy arrays.

Shapes  KV arrays are uint16 [2, layers, heads, tokens, head_dim]: bf16 or f16 bits, K then V, K after RoPE, C-contiguous.
        Of the dtypes of one byte (f8e4m3, f8e5m2, u8 for opaque bytes; codec fp8p) they are uint8.
Threads a Client may be used from any number of threads; the GIL is free while the library works.
Errors  ValueError: an argument, named before the library is called. KvistError: a fault. A miss is a result, not an error.
"""

import contextlib
import ctypes
import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import _abi, _checks
from . import codec as codec_module
from ._checks import KvistError

Tokens = Sequence[int] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Namespace:
    """Everything that makes KV differ (kernels/FORMAT.md, "Namespaces"). layers, heads, head_dim: of this rank's slice."""

    model: str
    layers: int
    heads: int
    head_dim: int
    weights_digest: str = ""
    dtype: str = "bf16"
    rope: str = ""
    tenant_salt: str = ""
    tp_rank: int = 0
    tp_size: int = 1
    pp_rank: int = 0
    pp_size: int = 1
    tokens_per_block: int = 128
    profile_digest: bytes | None = None  # 16 bytes, of the profile that blocks of "q" need; None = that of Client(profile=), or none


@dataclasses.dataclass(frozen=True)
class Tls:
    """TLS, from PEM files that are looked at again every 10 s. `ca`: the CAs of the nodes' certificates. `cert`: a certificate
    that clients may use, then those between it and its CA; `key`: its key, which only its owner may read; both may be left out
    where a token is shown. `server_name`: what a node's certificate has to name; "" = the host of its address."""

    cert: str | os.PathLike[str] = ""
    key: str | os.PathLike[str] = ""
    ca: str | os.PathLike[str] = ""
    server_name: str = ""


@dataclasses.dataclass
class Match:
    """The leading blocks of a prompt that the cluster holds, leased until release(), the end of `with`, or the lease's."""

    blocks: int
    tokens: int
    miss_reason: str  # of the first block that is missing: "never_stored", "owner_down", "overloaded", ...; "" if none is
    miss_node: str  # its owner
    match_id: int
    _client: "Client" = dataclasses.field(repr=False)

    def release(self) -> None:
        """Ends the leases, once. KvistError: a node did not hear of it; its leases there end by themselves."""
        match_id, self.match_id = self.match_id, 0
        if match_id:
            self._client._release(match_id)

    def __enter__(self) -> "Match":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(KvistError):  # a node that died since is a miss of get, no fault of this block
            self.release()


@dataclasses.dataclass(frozen=True)
class GetResult:
    blocks: int  # leading blocks of the range that were delivered
    tokens: int  # that they hold
    fetched_bytes: int
    plain_bytes: int
    fetch_seconds: float  # wall time
    decode_seconds: float  # CPU time over all threads
    miss_reason: str  # of the next block; "" if all came


@dataclasses.dataclass(frozen=True)
class PutResult:
    blocks: int
    stored: int  # now
    present: int  # already
    failed: int
    plain_bytes: int
    stored_bytes: int
    raised_tiles: int
    min_sqnr_db: float
    encode_seconds: float  # CPU time over all threads
    seconds: float  # wall time
    failure: str  # the first, "" if none


def _plain(struct: ctypes.Structure) -> dict[str, Any]:
    values = {name: getattr(struct, name) for name, *_ in struct._fields_}
    return {name: v.decode(errors="replace") if isinstance(v, bytes) else v for name, v in values.items()}


class Client:
    """Talks to the cluster that the static file `cluster` names, or that the nodes `seeds` ("host:port") belong to, in one
    namespace.

    codec: for put: "raw16", "x16" (the same bits in fewer bytes), "i8", "ladder" or "trellis"; "fp8p" for the dtypes of one byte; "q" with a profile.
    profile: that "q" puts and gets with. Without it, what gets need is fetched from the nodes once the namespace names its digest, and
    until then blocks are "no_profile" misses.
    key_bits, value_bits: for put, of a code of "ladder" (2, 3, 4, 8) or "trellis" (2, 3); 0 = the codec's own. tile_bits: the same for each
    tile, [layers, 2, heads], in place of these (kvist.codec.Profile.tile_bits). exact_heads: for put with "ladder" and "trellis", the last heads of keys and of
    values, kept as they are: the rotated part of MLA.
    floor_db, min_precision: for get, what a block must promise or have at least; floor_db is for put the quality that every tile must reach. Times in seconds. `threads` decode and encode. `replicas` nodes keep what is put.
    `tls`: how to speak to nodes that want certificates; None = plaintext. `token_file` holds the bearer token that is shown with
    each call, one line; the file is looked at every second, and only its owner may read it.
    """

    _handle: ctypes.c_void_p | None = None  # here too: __del__ runs even if __init__ never began

    def __init__(
        self,
        cluster: str | os.PathLike[str] | None,
        namespace: Namespace,
        *,
        seeds: Sequence[str] = (),
        replicas: int = 1,
        codec: str = "ladder",
        key_bits: int = 0,
        value_bits: int = 0,
        tile_bits: np.ndarray | None = None,
        exact_heads: int = 0,
        floor_db: float = 0.0,
        min_precision: int = 0,
        deadline_s: float = 5.0,
        lease_s: float = 5.0,
        threads: int = 2,
        profile: codec_module.Profile | None = None,
        tls: Tls | None = None,
        token_file: str | os.PathLike[str] | None = None,
        library: str | os.PathLike[str] | None = None,
    ):
        self._library = _abi.load(library)
        self.namespace, c_namespace = namespace, _c_namespace(namespace)
        options = _abi.Options(
            cluster_file=None if cluster is None else _c_path("cluster", cluster),
            codec=_checks.text("codec", codec),
            key_bits=_checks.count("key_bits", key_bits),
            value_bits=_checks.count("value_bits", value_bits),
            tile_bits=_checks.tile_bits(tile_bits, namespace.layers, namespace.heads),
            exact_heads=_checks.count("exact_heads", exact_heads),
            floor_db=_checks.number("floor_db", floor_db),
            min_precision=_checks.count("min_precision", min_precision),
            deadline_ms=_milliseconds("deadline_s", deadline_s),
            lease_ms=_milliseconds("lease_s", lease_s),
            threads=_checks.count("threads", threads),
            seeds=",".join(_seed(seed) for seed in seeds).encode(),
            replicas=_checks.count("replicas", replicas),
            profile=codec_module.handle_of(profile),
        )
        given = [ctypes.byref(struct) for struct in (c_namespace, options, _c_identity(tls, token_file))]
        handle = ctypes.c_void_p()
        self._call("kvist_client_create_as", *given, ctypes.byref(handle))
        self._handle = handle

    def close(self) -> None:
        """Ends the client; the second time does nothing. REQUIRES: no other thread is in a call of it."""
        if self._handle is not None:
            self._library.kvist_client_destroy(self._handle)
            self._handle = None

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def keys(self, tokens: Tokens) -> list[bytes]:
        """The chained keys of the prompt's full blocks, 32 bytes each."""
        data, n = _tokens(tokens)
        capacity = n // self.namespace.tokens_per_block
        buffer = (ctypes.c_uint8 * max(1, 32 * capacity))()
        count = ctypes.c_size_t()
        self._call("kvist_keys", self._open(), data, n, buffer, capacity, ctypes.byref(count))
        whole = bytes(buffer)
        return [whole[32 * i : 32 * i + 32] for i in range(count.value)]

    def match(self, tokens: Tokens) -> Match:
        """Counts the leading blocks that the cluster holds, and leases them."""
        data, n = _tokens(tokens)
        result = _abi.MatchResult()
        self._call("kvist_match", self._open(), data, n, ctypes.byref(result))
        return Match(**_plain(result), _client=self)

    def get(self, tokens: Tokens, out: np.ndarray, first_block: int = 0, last_block: int | None = None) -> GetResult:
        """Fetches blocks [first_block, last_block) of the prompt and decodes each into `out` at its own tokens.

        The first block that is missing or in doubt ends the run; what lies behind it in `out` may have been written.
        """
        data, n = _tokens(tokens)
        pages, capacity = self._pages("out", out, n, writable=True)
        blocks = n // self.namespace.tokens_per_block
        first_block = _checks.count("first_block", first_block)
        last = blocks if last_block is None else _checks.count("last_block", last_block)
        if not 0 <= first_block <= last <= blocks:
            raise ValueError(f"blocks [{first_block}, {last}) are not within the prompt's {blocks} full blocks")
        result = _abi.GetResult()
        self._call("kvist_get", self._open(), data, n, first_block, last, pages, capacity, ctypes.byref(result))
        return GetResult(**_plain(result))

    def put(self, tokens: Tokens, kv: np.ndarray) -> PutResult:
        """Encodes and stores the full blocks of the prompt that the cluster lacks."""
        data, n = _tokens(tokens)
        pages, capacity = self._pages("kv", kv, n, writable=False)
        result = _abi.PutResult()
        self._call("kvist_put", self._open(), data, n, pages, capacity, ctypes.byref(result))
        return PutResult(**_plain(result))

    def erase(self, tokens: Tokens) -> int:
        """Forgets the prompt's blocks; how many there were."""
        data, n = _tokens(tokens)
        erased = ctypes.c_uint32()
        self._call("kvist_erase", self._open(), data, n, ctypes.byref(erased))
        return erased.value

    def fetch_profile(self, digest: bytes) -> codec_module.Profile:
        """The profile of this digest, from the nodes; if it is the namespace's, get has it from now on."""
        handle = ctypes.c_void_p()
        self._call("kvist_profile_fetch", self._open(), _checks.digest("digest", digest, 16), ctypes.byref(handle))
        return codec_module.Profile._of(self._library, handle)

    def put_profile(self, profile: codec_module.Profile) -> int:
        """Has all nodes keep the profile; how many do. A put of "q" does so by itself, node by node."""
        nodes = ctypes.c_uint32()
        self._call("kvist_profile_put", self._open(), codec_module.handle_of(profile), ctypes.byref(nodes))
        return nodes.value

    def explain(self, tokens: Tokens) -> dict[str, Any]:
        """Block by block where each is or what became of it, and which namespaces almost match (kvist.h says the fields)."""
        return json.loads(self._text("kvist_explain_json", *_tokens(tokens)))

    def stats(self) -> list[dict[str, Any]]:
        """One dict a node: id, address, whether it answers, and its figures."""
        return json.loads(self._text("kvist_stats_json"))

    def metrics(self) -> str:
        """This worker's own metrics in Prometheus text format (kvist_worker_*), to add to what the process exposes."""
        return self._text("kvist_metrics_text")

    def _text(self, function: str, *arguments: Any) -> str:
        needed = ctypes.c_size_t()
        capacity = 1 << 16
        while True:
            buffer = ctypes.create_string_buffer(capacity)
            self._call(function, self._open(), *arguments, buffer, capacity, ctypes.byref(needed))
            if needed.value <= capacity:
                return buffer.value.decode()
            capacity = needed.value

    def _release(self, match_id: int) -> None:
        if self._handle is not None:
            self._call("kvist_release", self._handle, match_id)

    def _open(self) -> ctypes.c_void_p:
        if self._handle is None:
            raise ValueError("this Client is closed")
        return self._handle

    def _call(self, name: str, *arguments: Any) -> None:
        _checks.call(self._library, name, *arguments)

    def _pages(self, name: str, kv: np.ndarray, tokens: int, *, writable: bool) -> tuple[Any, int]:
        ns = self.namespace
        _checks.elements(name, kv, ns.dtype)
        whole = tokens // ns.tokens_per_block * ns.tokens_per_block
        expected = (2, ns.layers, ns.heads, "tokens", ns.head_dim)
        if kv.ndim != 5 or (*kv.shape[:3], kv.shape[4]) != (2, ns.layers, ns.heads, ns.head_dim):
            raise ValueError(f"{name} has shape {kv.shape}; the namespace says {expected}".replace("'", ""))
        if kv.shape[3] < whole:
            raise ValueError(f"{name} has room for {kv.shape[3]} tokens; the prompt's full blocks hold {whole}")
        pages = _checks.pointer(name, kv)
        if writable and not kv.flags.writeable:
            raise ValueError(f"{name} is read-only")
        return pages, kv.shape[3]


def _c_path(name: str, path: str | os.PathLike[str]) -> bytes:
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(f"{name} must be the path of a file, not {path!r}")
    return _checks.text(name, os.fsdecode(path), errors="surrogateescape")


def _seed(seed: str) -> str:
    if not isinstance(seed, str) or not seed.isascii() or "," in seed or "\0" in seed:
        raise ValueError(f"a seed must be host:port, not {seed!r}")
    return seed


def _c_namespace(namespace: Namespace) -> _abi.Namespace:
    if not isinstance(namespace, Namespace):
        raise ValueError(f"namespace must be a kvist.Namespace, not {namespace!r}")
    values = dataclasses.asdict(namespace)
    digest = _checks.digest("namespace.profile_digest", values["profile_digest"], 16)
    checks = {name: _checks.text if kind is ctypes.c_char_p else _checks.count for name, kind in _abi.Namespace._fields_[:-1]}
    return _abi.Namespace(**{name: check(f"namespace.{name}", values[name]) for name, check in checks.items()}, profile_digest=digest)


def _c_identity(tls: Tls | None, token_file: str | os.PathLike[str] | None) -> _abi.Identity:
    identity = _abi.Identity(size_bytes=ctypes.sizeof(_abi.Identity))
    if token_file is not None:
        identity.token_file = _c_path("token_file", token_file)
    if tls is None:
        return identity
    if not isinstance(tls, Tls):
        raise ValueError(f"tls must be a kvist.Tls, not {tls!r}")
    for file in ("cert", "key", "ca"):
        setattr(identity, f"{file}_file", _c_path(f"tls.{file}", getattr(tls, file)))
    identity.server_name = _checks.text("tls.server_name", tls.server_name)
    return identity


def _milliseconds(name: str, seconds: float) -> int:
    if not 0 < _checks.number(name, seconds) <= 600:
        raise ValueError(f"{name} is {seconds}; allowed are more than 0 and at most 600 seconds")
    return max(1, round(seconds * 1000))


def _tokens(tokens: Tokens) -> tuple[Any, int]:
    try:
        array = np.asarray(tokens)
    except ValueError as error:
        raise ValueError(f"tokens must be one row of integers: {error}") from error
    if array.size == 0:
        array = array.astype(np.uint32)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"tokens must be one row of integers, not {array.dtype} of shape {array.shape}")
    if array.size and (array.min() < 0 or array.max() > 0xFFFFFFFF):
        raise ValueError(f"a token id is outside 0 to 4294967295: {array.min()} to {array.max()}")
    array = np.ascontiguousarray(array, np.uint32)
    pointer = array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint32))
    return pointer, array.size
