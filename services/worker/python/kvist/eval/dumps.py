"""KV that somebody dumped, without its model: tensor errors alone.

A .npy file holds one array [2, layers, heads, tokens, head_dim]; a .safetensors file one tensor of that shape, or `k` and `v` of
[layers, heads, tokens, head_dim]. bf16 (or uint16: its bits), f16 and f32; what is not bf16 is rounded to it first.
"""

import hashlib
import json
import pathlib
import struct
from collections import defaultdict

import numpy as np

from ..models.smollm2 import bf16
from . import forced
from .codecs import TOKENS_PER_BLOCK, Judged
from .judge import Found
from .results import Json, Results

DTYPES = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}


class DumpError(Exception):
    """A file that is no dump: the message says what is wrong."""


def read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The format is an 8-byte length, a JSON header, then the tensors' bytes; bf16 comes as uint16 bits, which numpy can hold."""
    content = path.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in DTYPES:
            raise DumpError(f"{path}: tensor {name} is {entry['dtype']}; allowed are {', '.join(DTYPES)}")
        begin, end = entry["data_offsets"]
        tensors[name] = np.frombuffer(content[8 + length + begin : 8 + length + end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def _read(path: pathlib.Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if path.suffix != ".safetensors":
        raise DumpError(f"{path}: a dump ends in .npy or .safetensors")
    tensors = read_safetensors(path)
    if set(tensors) >= {"k", "v"}:
        return np.stack([tensors["k"], tensors["v"]])
    if len(tensors) != 1:
        raise DumpError(f"{path} holds {', '.join(tensors)}: one tensor, or k and v, are needed")
    return next(iter(tensors.values()))


def load(path: pathlib.Path) -> np.ndarray:
    """bf16 bits, cut to whole blocks."""
    try:
        kv = _read(path)
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise DumpError(f"{path} cannot be read: {error}") from error
    if kv.ndim != 5 or kv.shape[0] != 2:
        raise DumpError(f"{path} has shape {kv.shape}, not [2, layers, heads, tokens, head_dim]")
    if kv.dtype not in (np.uint16, np.float16, np.float32):
        raise DumpError(f"{path} is {kv.dtype}; allowed are uint16 (bf16 bits), float16 and float32")
    whole = kv.shape[3] // TOKENS_PER_BLOCK * TOKENS_PER_BLOCK
    if whole == 0:
        raise DumpError(f"{path} has {kv.shape[3]} tokens; a block is {TOKENS_PER_BLOCK}")
    kv = kv[:, :, :, :whole]
    return np.ascontiguousarray(kv) if kv.dtype == np.uint16 else bf16.from_float(kv.astype(np.float32))


def evaluate(paths: list[pathlib.Path], codecs: list[Judged], results: Results) -> Found:
    found: Found = defaultdict(lambda: defaultdict(dict))
    results.total = len(paths) * len(codecs)
    for path in paths:
        kv = load(path)
        digest = hashlib.sha256(kv.tobytes()).hexdigest()
        for codec in codecs:
            what = {"level": "dump", "codec": codec.spec, "run": str(path), "kv": digest, "digest": codec.digest()}
            found["dump"][codec.spec][str(path)] = results.get(what, lambda kv=kv, codec=codec: _judge(kv, codec))
    return found


def _judge(kv: np.ndarray, codec: Judged) -> Json:
    coded = codec.apply(kv, 0)
    errors = forced.tensor_errors(bf16.to_float(kv), bf16.to_float(coded.kv))
    return {"bits": coded.bits, "raised": coded.raised, "tiles": coded.tiles, **errors}
