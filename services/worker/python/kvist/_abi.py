"""The C ABI of libkvist.so (services/worker/kvist.h) for ctypes: structs, prototypes, and where the library is."""

import ctypes
import os
import pathlib

ABI_VERSION = 5
ERROR_BYTES = 512


class Namespace(ctypes.Structure):
    _fields_ = [
        ("model", ctypes.c_char_p),
        ("weights_digest", ctypes.c_char_p),
        ("dtype", ctypes.c_char_p),
        ("rope", ctypes.c_char_p),
        ("tenant_salt", ctypes.c_char_p),
        *((name, ctypes.c_uint32) for name in (
            "layers", "heads", "head_dim", "tp_rank", "tp_size", "pp_rank", "pp_size", "tokens_per_block")),
        ("profile_digest", ctypes.POINTER(ctypes.c_uint8)),
    ]


class Options(ctypes.Structure):
    _fields_ = [
        ("cluster_file", ctypes.c_char_p),
        ("codec", ctypes.c_char_p),
        ("floor_db", ctypes.c_float),
        *((name, ctypes.c_uint32) for name in ("min_precision", "deadline_ms", "lease_ms", "threads")),
        ("seeds", ctypes.c_char_p),
        *((name, ctypes.c_uint32) for name in ("replicas", "key_bits", "value_bits")),
        ("tile_bits", ctypes.POINTER(ctypes.c_uint8)),
        ("exact_heads", ctypes.c_uint32),
        ("profile", ctypes.c_void_p),
    ]


class Identity(ctypes.Structure):
    _fields_ = [
        ("size_bytes", ctypes.c_size_t),
        *((name, ctypes.c_char_p) for name in ("cert_file", "key_file", "ca_file", "server_name", "token_file")),
    ]


class MatchResult(ctypes.Structure):
    _fields_ = [
        ("blocks", ctypes.c_uint32),
        ("tokens", ctypes.c_uint32),
        ("match_id", ctypes.c_uint64),
        ("miss_reason", ctypes.c_char * 32),
        ("miss_node", ctypes.c_char * 64),
    ]


class GetResult(ctypes.Structure):
    _fields_ = [
        ("blocks", ctypes.c_uint32),
        ("tokens", ctypes.c_uint32),
        ("fetched_bytes", ctypes.c_uint64),
        ("plain_bytes", ctypes.c_uint64),
        ("fetch_seconds", ctypes.c_double),
        ("decode_seconds", ctypes.c_double),
        ("miss_reason", ctypes.c_char * 32),
    ]


class PutResult(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_uint32) for name in ("blocks", "stored", "present", "failed")),
        ("plain_bytes", ctypes.c_uint64),
        ("stored_bytes", ctypes.c_uint64),
        ("raised_tiles", ctypes.c_uint32),
        ("min_sqnr_db", ctypes.c_float),
        ("encode_seconds", ctypes.c_double),
        ("seconds", ctypes.c_double),
        ("failure", ctypes.c_char * 256),
    ]


class Shape(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_uint32) for name in ("layers", "heads", "tokens", "head_dim")),
        ("dtype", ctypes.c_char_p),
    ]


class EncodeOptions(ctypes.Structure):
    _fields_ = [
        ("size_bytes", ctypes.c_size_t),
        ("codec", ctypes.c_char_p),
        ("floor_db", ctypes.c_float),
        ("first_position", ctypes.c_uint32),
        ("key", ctypes.POINTER(ctypes.c_uint8)),
        ("namespace_digest", ctypes.POINTER(ctypes.c_uint8)),
        *((name, ctypes.c_uint32) for name in ("key_bits", "value_bits")),
        ("tile_bits", ctypes.POINTER(ctypes.c_uint8)),
        ("exact_heads", ctypes.c_uint32),
        ("profile", ctypes.c_void_p),
    ]


class DecodeOptions(ctypes.Structure):
    _fields_ = [("size_bytes", ctypes.c_size_t), ("precision", ctypes.c_uint32), ("profile", ctypes.c_void_p)]


class BlockDescription(ctypes.Structure):
    _fields_ = [
        ("codec", ctypes.c_char * 16),
        ("dtype", ctypes.c_char * 8),
        *((name, ctypes.c_uint32) for name in (
            "codec_version", "layers", "heads", "tokens", "head_dim", "first_position", "precision", "planes",
            "planes_present", "raised_tiles")),
        ("floor_db", ctypes.c_float),
        ("min_sqnr_db", ctypes.c_float),
        ("block_bytes", ctypes.c_uint64),
        ("key", ctypes.c_uint8 * 32),
        ("namespace_digest", ctypes.c_uint8 * 16),
        ("profile_digest", ctypes.c_uint8 * 16),
    ]


class Error(ctypes.Structure):
    _fields_ = [("message", ctypes.c_char * ERROR_BYTES)]


_Tokens = ctypes.POINTER(ctypes.c_uint32)
_Pages = ctypes.POINTER(ctypes.c_uint16)
_Bytes = ctypes.POINTER(ctypes.c_uint8)
_Size = ctypes.POINTER(ctypes.c_size_t)
_Error = ctypes.POINTER(Error)

# name: (result, arguments), in the header's order.
PROTOTYPES = {
    "kvist_abi_version": (ctypes.c_uint32, []),
    "kvist_version": (ctypes.c_char_p, []),
    "kvist_client_create": (
        ctypes.c_int,
        [ctypes.POINTER(Namespace), ctypes.POINTER(Options), ctypes.POINTER(ctypes.c_void_p), _Error],
    ),
    "kvist_client_create_as": (
        ctypes.c_int,
        [ctypes.POINTER(Namespace), ctypes.POINTER(Options), ctypes.POINTER(Identity), ctypes.POINTER(ctypes.c_void_p),
         _Error],
    ),
    "kvist_client_destroy": (None, [ctypes.c_void_p]),
    "kvist_keys": (
        ctypes.c_int,
        [ctypes.c_void_p, _Tokens, ctypes.c_size_t, ctypes.POINTER(ctypes.c_uint8), ctypes.c_size_t,
         ctypes.POINTER(ctypes.c_size_t), _Error],
    ),
    "kvist_match": (ctypes.c_int, [ctypes.c_void_p, _Tokens, ctypes.c_size_t, ctypes.POINTER(MatchResult), _Error]),
    "kvist_release": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_uint64, _Error]),
    "kvist_get": (
        ctypes.c_int,
        [ctypes.c_void_p, _Tokens, ctypes.c_size_t, ctypes.c_uint32, ctypes.c_uint32, _Pages, ctypes.c_size_t,
         ctypes.POINTER(GetResult), _Error],
    ),
    "kvist_put": (
        ctypes.c_int,
        [ctypes.c_void_p, _Tokens, ctypes.c_size_t, _Pages, ctypes.c_size_t, ctypes.POINTER(PutResult), _Error],
    ),
    "kvist_erase": (
        ctypes.c_int, [ctypes.c_void_p, _Tokens, ctypes.c_size_t, ctypes.POINTER(ctypes.c_uint32), _Error],
    ),
    "kvist_explain_json": (
        ctypes.c_int,
        [ctypes.c_void_p, _Tokens, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_size_t),
         _Error],
    ),
    "kvist_stats_json": (
        ctypes.c_int,
        [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_size_t), _Error],
    ),
    "kvist_metrics_text": (
        ctypes.c_int,
        [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_size_t), _Error],
    ),
    "kvist_profile_open": (ctypes.c_int, [_Bytes, ctypes.c_size_t, ctypes.POINTER(ctypes.c_void_p), _Error]),
    "kvist_profile_destroy": (None, [ctypes.c_void_p]),
    "kvist_profile_digest": (ctypes.c_int, [ctypes.c_void_p, _Bytes, _Error]),
    "kvist_profile_json": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, _Size, _Error]),
    "kvist_profile_bytes": (ctypes.c_int, [ctypes.c_void_p, _Bytes, ctypes.c_size_t, _Size, _Error]),
    "kvist_profile_fetch": (ctypes.c_int, [ctypes.c_void_p, _Bytes, ctypes.POINTER(ctypes.c_void_p), _Error]),
    "kvist_profile_put": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint32), _Error]),
    "kvist_profile_tile_bits": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_float, _Bytes, ctypes.c_size_t, _Error]),
    "kvist_encode_bound": (ctypes.c_int, [ctypes.POINTER(Shape), ctypes.POINTER(EncodeOptions), _Size, _Error]),
    "kvist_encode": (
        ctypes.c_int,
        [ctypes.POINTER(Shape), ctypes.POINTER(EncodeOptions), _Pages, _Bytes, ctypes.c_size_t, _Size, _Error],
    ),
    "kvist_describe": (ctypes.c_int, [_Bytes, ctypes.c_size_t, ctypes.POINTER(BlockDescription), _Error]),
    "kvist_decode": (
        ctypes.c_int, [_Bytes, ctypes.c_size_t, ctypes.POINTER(DecodeOptions), _Pages, ctypes.c_size_t, _Error],
    ),
}  # fmt: skip


def _candidates(named: str | os.PathLike[str] | None) -> list[pathlib.Path]:
    if named is not None:
        return [pathlib.Path(named)]
    if os.environ.get("KVIST_LIBRARY"):
        return [pathlib.Path(os.environ["KVIST_LIBRARY"])]
    here = pathlib.Path(__file__).resolve().parent
    # Beside the package when it was installed; below bazel-bin when it is used from a source tree.
    return [here / "libkvist.so", *(p / "bazel-bin/services/worker/libkvist.so" for p in here.parents)]


def find(named: str | os.PathLike[str] | None) -> pathlib.Path:
    """Where libkvist.so is. Raises OSError if it is nowhere."""
    candidates = _candidates(named)
    path = next((p for p in candidates if p.exists()), None)
    if path is None:
        raise OSError(
            f"libkvist.so is not at {candidates[0]}: build //services/worker:libkvist.so, "
            "or name it with library= or KVIST_LIBRARY"
        )
    return path


def load(named: str | os.PathLike[str] | None) -> ctypes.CDLL:
    """Opens libkvist.so. Raises OSError if it cannot be found or speaks another version of the ABI."""
    path = find(named)
    library = ctypes.CDLL(str(path))
    missing = [name for name in PROTOTYPES if not hasattr(library, name)]
    if missing:
        raise OSError(f"{path} lacks {', '.join(missing)}: it is no libkvist.so, or an older one; install both alike")
    for name, (result, arguments) in PROTOTYPES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    version = library.kvist_abi_version()
    if version != ABI_VERSION:
        raise OSError(f"{path} has ABI version {version}, this package speaks {ABI_VERSION}: install both alike")
    return library
