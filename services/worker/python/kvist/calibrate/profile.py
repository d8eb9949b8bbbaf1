"""The profile of codec q: what calibration found out about one model, written and read. README.md of this folder has the layout.

Shapes  d = heads * head_dim; a token's row of a layer is K | V, [2 d]. Layers hold V first, then K: the order of decoding.
Errors  ProfileError names the field that is out of its limits; sizes are checked before anything of that size is made.
Why     A reader must get the encoder's numbers or an error, never others: the digest, the first 16 bytes of the file's SHA-256,
        stands in every block's header and in the namespace. A profile never changes; another calibration is another profile.
"""

import dataclasses
import hashlib
from typing import Any

import numpy as np

from .matrix import Matrix

VERSION = 1
CLASSES, MAGNITUDES = 48, 15
SHIFTS, STEPS = 8, 32  # symbols e + 3 and k + 8
TOTAL = 4096  # of a table's frequencies
ROPE_STYLES = {0: "none", 1: "halves", 2: "interleaved"}
NEIGHBOURS = (-3, -2, -1, 1, 2, 3)  # layers whose importance a second stage sees
SECOND = 5 + 2 * len(NEIGHBOURS)

MOST_LAYERS, MOST_HEADS, MOST_WIDTH = 1024, 512, 512
HEAD_DIMS = (64, 80, 96, 128, 256)  # of blocks
MOST_JSON, MOST_BODY, MOST_INFLATED = 1 << 20, 64 << 20, 512 << 20


class ProfileError(ValueError):
    """The profile is out of its limits, cut off or edited: the message names the field."""


def first_width(heads: int, head_dim: int) -> int:
    """Weights of the first stage: 1, the log energy of each head of K and V, the row, its squares."""
    return 1 + 2 * heads + 4 * heads * head_dim


@dataclasses.dataclass(frozen=True)
class Side:
    """V or K of one layer. mean and the weights are float32 that bf16 holds exactly."""

    mean: np.ndarray  # [d]
    predictor: Matrix | None  # [sources d, d]; None: there are no sources
    inverse: Matrix  # [d, d], rows by falling variance
    rows: int  # of inverse, that decoding uses
    base: np.ndarray  # int8 [d], class of each component at step theta
    first: np.ndarray  # [first_width], importance of a token from its row
    second: np.ndarray  # [SECOND], from those of the layers around
    sensitivity: float = 0.0  # what errors as large as the values would cost answers; bf16 holds it exactly


@dataclasses.dataclass(frozen=True)
class Layer:
    deviation: np.ndarray  # [2 d] of the rows, K | V, as importance needs it; float32 that bf16 holds exactly
    v: Side
    k: Side


@dataclasses.dataclass(frozen=True)
class Tables:
    """Frequencies, uint16, each row summing to TOTAL."""

    coefficients: np.ndarray  # [CLASSES, 2 + MAGNITUDES]: of 0, of +-1 to +-15 (each sign), of the escape
    steps: np.ndarray  # [2, STEPS], V then K
    shifts: np.ndarray  # [2, SHIFTS]


@dataclasses.dataclass(frozen=True)
class Profile:
    rope_style: int
    source_layers: int  # 0, 1, 2
    k_from_v: int
    reset: int  # layers between resets; 1: every layer by itself; 0: never
    heads: int
    head_dim: int
    theta: float  # the step of a token of importance 1
    rope_factor: float
    turns: np.ndarray  # uint64 [head_dim / 2], 2^64 to the circle and position
    about: dict[str, Any]
    tables: Tables
    layers: tuple[Layer, ...]

    @property
    def width(self) -> int:
        return self.heads * self.head_dim

    def sources(self, layer: int) -> int:
        """Layers before `layer` that predict it: those since the last reset."""
        return min(self.source_layers, layer % self.reset if self.reset else layer)

    def source_rows(self, layer: int, key: bool) -> int:
        return (2 * self.sources(layer) + (key and self.k_from_v)) * self.width

    def check(self) -> None:
        check_shape(self)
        d, weights = self.width, first_width(self.heads, self.head_dim)
        check_turns(self.turns, self.head_dim, self.rope_style)
        _check_tables(self.tables)
        for index, layer in enumerate(self.layers):
            _bf16(layer.deviation, (2 * d,), f"deviation of layer {index}")
            _require(bool((layer.deviation > 0).all()), f"deviation of layer {index} is not above 0")
            for name, side in (("V", layer.v), ("K", layer.k)):
                where = f"of {name} of layer {index}"
                _bf16(side.mean, (d,), f"mean {where}")
                _bf16(side.first, (weights,), f"importance {where}")
                _bf16(side.second, (SECOND,), f"second importance {where}")
                _bf16(np.float32([side.sensitivity]), (1,), f"sensitivity {where}")
                _require(side.sensitivity >= 0, f"sensitivity {where}: {side.sensitivity} is below 0")
                sources = self.source_rows(index, name == "K")
                _require((side.predictor is None) == (sources == 0), f"predictor {where}: it has {sources} sources")
                if side.predictor is not None:
                    _check_matrix(side.predictor, (sources, d), f"predictor {where}")
                _check_matrix(side.inverse, (d, d), f"inverse {where}")
                _require(1 <= side.rows <= d, f"rows {where}: {side.rows} is not in 1 to {d}")
                _require(side.base.shape == (d,) and side.base.dtype == np.int8, f"base classes {where} are not int8 [{d}]")


def _require(held: bool, wrong: str) -> None:
    if not held:
        raise ProfileError(f"profile: {wrong}")


def check_model(name: str, heads: int, head_dim: int) -> None:
    """Before hours of work: what the library will take."""
    _require(head_dim in HEAD_DIMS, f"{name} has heads of {head_dim}; codec q takes {', '.join(map(str, HEAD_DIMS))}")
    _require(heads * head_dim <= MOST_WIDTH, f"{name} has {heads} KV heads of {head_dim}, {heads * head_dim} channels a layer; codec q takes at most {MOST_WIDTH}: "
             "ladder and trellis need no profile")  # fmt: skip


def check_shape(p: Any) -> None:
    """All that sizes follow from, and the other numbers of the header; `p` has layers as a count or as themselves."""
    layers = p.layers if isinstance(p.layers, int) else len(p.layers)
    _require(p.rope_style in ROPE_STYLES, f"rope style {p.rope_style} is none of 0, 1, 2")
    _require(p.source_layers in (0, 1, 2), f"source layers {p.source_layers} is none of 0, 1, 2")
    _require(p.k_from_v in (0, 1), f"K from V {p.k_from_v} is neither 0 nor 1")
    _require(0 <= p.reset <= 254, f"layers between resets {p.reset} is not in 0 to 254")
    _require((p.reset == 1) == (p.source_layers == 0), f"layers between resets {p.reset} with {p.source_layers} source layers: 1 means none")
    _require(1 <= p.heads <= MOST_HEADS, f"heads {p.heads} is not in 1 to {MOST_HEADS}")
    _require(2 <= p.head_dim <= MOST_WIDTH and p.head_dim % 2 == 0, f"head_dim {p.head_dim} is not even, in 2 to {MOST_WIDTH}")
    _require(p.heads * p.head_dim <= MOST_WIDTH, f"heads * head_dim {p.heads * p.head_dim} is over {MOST_WIDTH}")
    _require(1 <= layers <= MOST_LAYERS, f"layers {layers} is not in 1 to {MOST_LAYERS}")
    for name, value in (("theta", p.theta), ("rope factor", p.rope_factor)):
        _require(np.isfinite(value) and 2.0**-60 <= value <= 2.0**60, f"{name} {value} is not in 2^-60 to 2^60")


def check_turns(turns: np.ndarray, head_dim: int, rope_style: int) -> None:
    _require(turns.dtype == np.uint64 and turns.shape == (head_dim // 2,), f"turns are not uint64 [{head_dim // 2}]")
    _require(rope_style != 0 or not turns.any(), "turns are not 0 although there is no rope")


def _bf16(values: np.ndarray, shape: tuple[int, ...], what: str) -> None:
    _require(values.dtype == np.float32 and values.shape == shape, f"{what} is not float32 {list(shape)}")
    _require(bool(np.isfinite(values).all()), f"{what} is not finite")
    _require(not (np.ascontiguousarray(values).view(np.uint32) & 0xFFFF).any(), f"{what} is not of bf16")


def _check_matrix(matrix: Matrix, shape: tuple[int, int], what: str) -> None:
    _require(matrix.code.shape == shape and matrix.code.dtype == np.int8, f"{what} is not int8 {list(shape)}")
    _require(matrix.row.shape == shape[:1] and matrix.row.dtype == np.uint8, f"{what}: scales of rows are not uint8 [{shape[0]}]")
    _require(matrix.column.shape == shape[1:] and matrix.column.dtype == np.uint8, f"{what}: scales of columns are not uint8 [{shape[1]}]")
    _require(int(matrix.code.min()) > -128, f"{what} has the code -128")


def _check_tables(tables: Tables) -> None:
    shapes = {"coefficients": (CLASSES, 2 + MAGNITUDES), "steps": (2, STEPS), "shifts": (2, SHIFTS)}
    for name, shape in shapes.items():
        table = getattr(tables, name)
        _require(table.dtype == np.uint16 and table.shape == shape, f"table of {name} is not uint16 {list(shape)}")
        _require(bool((table >= 1).all()), f"table of {name} has a frequency of 0")
        wide = table.astype(np.int64)
        sums = wide.sum(1) + (wide[:, 1:-1].sum(1) if name == "coefficients" else 0)
        wrong = np.flatnonzero(sums != TOTAL)
        _require(not len(wrong), f"table of {name}: row {wrong[:1].tolist()} does not sum to {TOTAL}")


def digest(file: bytes) -> bytes:
    """What names a profile."""
    return hashlib.sha256(file).digest()[:16]
