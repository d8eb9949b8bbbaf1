"""A profile as bytes and back. All little-endian; the body is one zlib stream whose length follows from the header."""

import dataclasses
import json
import struct
import zlib
from typing import Any

import numpy as np

from ..models.smollm2 import bf16
from .matrix import Matrix
from .profile import (CLASSES, MAGNITUDES, MOST_BODY, MOST_JSON, SECOND, SHIFTS, STEPS, VERSION, Facts, HeadGroup, Layer, Profile,
                      ProfileError, Side, Tables, check_turns, first_width)  # fmt: skip

MAGIC = b"KVISTPRF"
HEADER = struct.Struct("<8sHBBBBHHHIff")


class _Cursor:
    def __init__(self, content: bytes, what: str):
        self._content, self._at, self._what = content, 0, what

    def take(self, size: int, field: str) -> bytes:
        if size > len(self._content) - self._at:
            raise ProfileError(f"profile: {self._what} ends within {field}")
        self._at += size
        return self._content[self._at - size : self._at]

    def array(self, kind: Any, shape: tuple[int, ...], field: str) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        return np.frombuffer(self.take(size, field), np.dtype(kind).newbyteorder("<")).reshape(shape).astype(kind)

    def end(self) -> None:
        if left := len(self._content) - self._at:
            raise ProfileError(f"profile: {left} bytes follow {self._what}")


def _matrix_bytes(matrix: Matrix | None) -> bytes:
    return b"" if matrix is None else matrix.row.tobytes() + matrix.column.tobytes() + matrix.code.tobytes()


def _narrow(values: np.ndarray) -> bytes:
    return bf16.from_float(values).astype("<u2").tobytes()


def _group_bytes(group: HeadGroup) -> bytes:
    """What decoding needs first; then the encoder's part, importance."""
    t = group.tables
    parts = [t.coefficients.astype("<u2").tobytes()]
    for side in range(2):
        parts += [t.steps[side].astype("<u2").tobytes(), t.shifts[side].astype("<u2").tobytes()]
    for layer in group.layers:
        for side in (layer.v, layer.k):
            parts += [_narrow(side.mean), _matrix_bytes(side.predictor), _matrix_bytes(side.inverse), struct.pack("<H", side.rows), side.base.tobytes()]
    for layer in group.layers:
        parts.append(_narrow(layer.deviation))
        for side in (layer.v, layer.k):
            parts += [_narrow(side.first), _narrow(side.second), _narrow(side.sensitivity)]
    return b"".join(parts)


def _deflate(body: bytes) -> bytes:
    """Short matches cost more than they save, and rows differ: "filtered" and small blocks are a tenth shorter than the default."""
    stream = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 6, zlib.Z_FILTERED)
    return stream.compress(body) + stream.flush()


def write(profile: Profile) -> bytes:
    profile.check()
    about = json.dumps(profile.about, sort_keys=True, separators=(",", ":")).encode()
    body = _deflate(b"".join(_group_bytes(group) for group in profile.groups))
    if len(about) > MOST_JSON:
        raise ProfileError(f"profile: {len(about)} bytes of JSON, over {MOST_JSON}")
    if len(body) > MOST_BODY:
        raise ProfileError(f"profile: {len(body)} bytes of body, over {MOST_BODY}: larger steps or smaller head groups make it smaller")
    head = HEADER.pack(MAGIC, VERSION, *dataclasses.astuple(profile.facts))
    turns = profile.turns.astype("<u8").tobytes()
    return b"".join([head, turns, struct.pack("<I", len(about)), about, struct.pack("<I", len(body)), body])


def _inflate(body: bytes, size: int) -> bytes:
    """Exactly `size` bytes; never makes more."""
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(body, size)
        ended = stream.eof or (not stream.decompress(stream.unconsumed_tail, 1) and stream.eof)
    except zlib.error as error:
        raise ProfileError(f"profile: the body is damaged: {error}") from error
    if len(content) != size or not ended or stream.unused_data:
        raise ProfileError(f"profile: the body is not {size} bytes, as its shape asks for")
    return content


def _matrix(cursor: _Cursor, rows: int, columns: int, field: str) -> Matrix:
    return Matrix(cursor.array(np.uint8, (rows,), field), cursor.array(np.uint8, (columns,), field), cursor.array(np.int8, (rows, columns), field))


def _bf16(cursor: _Cursor, size: int, field: str) -> np.ndarray:
    return bf16.to_float(cursor.array(np.uint16, (size,), field))


def _tables(cursor: _Cursor) -> Tables:
    coefficients = cursor.array(np.uint16, (CLASSES, 2 + MAGNITUDES), "tables")
    sides = [(cursor.array(np.uint16, (STEPS,), "tables"), cursor.array(np.uint16, (SHIFTS,), "tables")) for _ in range(2)]
    return Tables(coefficients, np.stack([s[0] for s in sides]), np.stack([s[1] for s in sides]))


def _decoding(cursor: _Cursor, facts: Facts, layer: int, key: bool) -> dict[str, Any]:
    d, where = facts.width, f"{'K' if key else 'V'} of layer {layer}"
    mean = _bf16(cursor, d, where)
    rows = facts.source_rows(layer, key)
    predictor = _matrix(cursor, rows, d, where) if rows else None
    inverse = _matrix(cursor, d, d, where)
    used = int(cursor.array(np.uint16, (1,), where)[0])
    return {"mean": mean, "predictor": predictor, "inverse": inverse, "rows": used, "base": cursor.array(np.int8, (d,), where)}


def _importance(cursor: _Cursor, facts: Facts) -> dict[str, Any]:
    first, second = _bf16(cursor, first_width(facts.heads, facts.head_dim), "importance"), _bf16(cursor, SECOND, "importance")
    return {"first": first, "second": second, "sensitivity": _bf16(cursor, facts.heads, "importance")}


def _layers(cursor: _Cursor, facts: Facts) -> tuple[Layer, ...]:
    parts = [[_decoding(cursor, facts, layer, key) for key in (False, True)] for layer in range(facts.layers)]
    layers = []
    for v, k in parts:
        deviation = _bf16(cursor, 2 * facts.width, "importance")
        layers.append(Layer(deviation, Side(**v, **_importance(cursor, facts)), Side(**k, **_importance(cursor, facts))))
    return tuple(layers)


def _about(content: bytes) -> dict[str, Any]:
    try:
        about = json.loads(content)
    except ValueError as error:
        raise ProfileError(f"profile: the JSON is damaged: {error}") from error
    if not isinstance(about, dict):
        raise ProfileError("profile: the JSON is no object")
    return about


def _count(cursor: _Cursor, most: int, what: str) -> int:
    size = int(cursor.array(np.uint32, (1,), what)[0])
    if size > most:
        raise ProfileError(f"profile: {what} says {size}, over {most}")
    return size


def read(content: bytes) -> Profile:
    cursor = _Cursor(content, "the file")
    magic, version, *numbers = HEADER.unpack(cursor.take(HEADER.size, "the header"))
    if magic != MAGIC:
        raise ProfileError("profile: this is no profile: it does not begin with KVISTPRF")
    if version != VERSION:
        todo = ": make the profile anew with kvist calibrate" if version < VERSION else ""
        raise ProfileError(f"profile: version {version}; this program reads {VERSION}{todo}")
    facts = Facts(*numbers)
    facts.check()
    turns = cursor.array(np.uint64, (facts.head_dim // 2,), "turns")
    check_turns(turns, facts)
    about = _about(cursor.take(_count(cursor, MOST_JSON, "JSON bytes"), "JSON"))
    body = cursor.take(_count(cursor, MOST_BODY, "body bytes"), "the body")
    cursor.end()
    inner = _Cursor(_inflate(body, facts.body_bytes()), "the body")
    of_group = facts.of_group()
    groups = tuple(HeadGroup(of_group, _tables(inner), _layers(inner, of_group)) for _ in range(facts.groups))
    inner.end()
    profile = Profile(facts, turns, about, groups)
    profile.check()
    return profile
