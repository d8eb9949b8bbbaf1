"""The profile of codec q: what calibration found out about one model, written and read. README.md of this folder has the layout.

Shapes  d = heads of a group * head_dim; a token's row of a layer is K | V, [2 d]. Layers hold V first, then K: the order of decoding.
Errors  ProfileError names the field that is out of its limits; sizes are checked before anything of that size is made.
Why     A reader must get the encoder's numbers or an error, never others: the digest, the first 16 bytes of the file's SHA-256,
        stands in every block's header and in the namespace. A profile never changes; another calibration is another profile.
        Matrices grow with the square of their channels: a wide layer's heads are cut into groups, each coded as a model of its own.
"""

import dataclasses
import hashlib
from typing import Any

import numpy as np

from .matrix import Matrix

VERSION = 2
CLASSES, MAGNITUDES = 48, 15
SHIFTS, STEPS = 8, 32  # symbols e + 3 and k + 8
TOTAL = 4096  # of a table's frequencies
ROPE_STYLES = {0: "none", 1: "halves", 2: "interleaved"}
NEIGHBOURS = (-3, -2, -1, 1, 2, 3)  # layers whose importance a second stage sees
SECOND = 5 + 2 * len(NEIGHBOURS)

MOST_LAYERS, MOST_HEADS, MOST_WIDTH = 1024, 256, 512  # the last of a group
MOST_JSON, MOST_BODY, MOST_INFLATED = 1 << 20, 64 << 20, 256 << 20


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
    sensitivity: np.ndarray  # float32 [heads], what errors as large as a head's values would cost answers; bf16 holds it exactly


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
class Facts:
    """The numbers of the header, in its order; of all heads or, as of_group gives them, of one group's."""

    rope_style: int
    source_layers: int  # 0, 1, 2
    k_from_v: int
    reset: int  # layers between resets; 1: every layer by itself; 0: never
    heads: int
    head_dim: int
    groups: int  # of heads
    layers: int
    theta: float  # the step of a token of importance 1
    rope_factor: float

    @property
    def width(self) -> int:
        return self.heads * self.head_dim

    def of_group(self) -> "Facts":
        """As of a model that has one group's heads alone."""
        return dataclasses.replace(self, heads=self.heads // self.groups, groups=1)

    def sources(self, layer: int) -> int:
        """Layers before `layer` that predict it: those since the last reset."""
        return min(self.source_layers, layer % self.reset if self.reset else layer)

    def source_rows(self, layer: int, key: bool) -> int:
        return (2 * self.sources(layer) + (key and self.k_from_v)) * self.width

    def body_bytes(self) -> int:
        """Before it is deflated."""
        if self.groups > 1:
            return self.groups * self.of_group().body_bytes()
        d, first = self.width, first_width(self.heads, self.head_dim)
        total = 2 * (CLASSES * (2 + MAGNITUDES) + 2 * (STEPS + SHIFTS))
        for layer in range(self.layers):
            total += 4 * d
            for key in (False, True):
                if rows := self.source_rows(layer, key):
                    total += rows + d + rows * d
                total += 2 * d + (2 * d + d * d) + 2 + d + 2 * (first + SECOND + self.heads)
        return total

    def check(self) -> None:
        _require(self.rope_style in ROPE_STYLES, f"rope style {self.rope_style} is none of 0, 1, 2")
        _require(self.source_layers in (0, 1, 2), f"source layers {self.source_layers} is none of 0, 1, 2")
        _require(self.k_from_v in (0, 1), f"K from V {self.k_from_v} is neither 0 nor 1")
        _require(0 <= self.reset <= 254, f"layers between resets {self.reset} is not in 0 to 254")
        _require((self.reset == 1) == (self.source_layers == 0), f"layers between resets {self.reset} with {self.source_layers} source layers: 1 means none")
        _require(1 <= self.heads <= MOST_HEADS, f"heads {self.heads} is not in 1 to {MOST_HEADS}")
        _require(2 <= self.head_dim <= MOST_WIDTH and self.head_dim % 2 == 0, f"head_dim {self.head_dim} is not even, in 2 to {MOST_WIDTH}")
        _require(self.groups >= 1 and self.heads % self.groups == 0, f"head groups {self.groups} do not divide {self.heads} heads")
        width = self.of_group().width
        _require(width <= MOST_WIDTH, f"{self.heads // self.groups} heads of {self.head_dim} are {width} channels a group, over {MOST_WIDTH}")
        _require(1 <= self.layers <= MOST_LAYERS, f"layers {self.layers} is not in 1 to {MOST_LAYERS}")
        for name, value in (("theta", self.theta), ("rope factor", self.rope_factor)):
            _require(np.isfinite(value) and 2.0**-60 <= value <= 2.0**60, f"{name} {value} is not in 2^-60 to 2^60")
        size = self.body_bytes()
        _require(size <= MOST_INFLATED, f"its matrices take {size} bytes before they are deflated, over {MOST_INFLATED}: smaller head groups take less")


@dataclasses.dataclass(frozen=True)
class HeadGroup:
    """What codes some heads, as if the model had no others."""

    facts: Facts  # of these heads
    tables: Tables
    layers: tuple[Layer, ...]

    def check(self) -> None:
        _require(len(self.layers) == self.facts.layers, f"{len(self.layers)} layers are not {self.facts.layers}")
        _check_tables(self.tables)
        for index, layer in enumerate(self.layers):
            _bf16(layer.deviation, (2 * self.facts.width,), f"deviation of layer {index}")
            _require(bool((layer.deviation > 0).all()), f"deviation of layer {index} is not above 0")
            for key, side in ((False, layer.v), (True, layer.k)):
                self._check_side(side, index, key)

    def _check_side(self, side: Side, index: int, key: bool) -> None:
        d, where = self.facts.width, f"of {'K' if key else 'V'} of layer {index}"
        _bf16(side.mean, (d,), f"mean {where}")
        _bf16(side.first, (first_width(self.facts.heads, self.facts.head_dim),), f"importance {where}")
        _bf16(side.second, (SECOND,), f"second importance {where}")
        _bf16(side.sensitivity, (self.facts.heads,), f"sensitivity {where}")
        _require(bool((side.sensitivity >= 0).all()), f"sensitivity {where}: {side.sensitivity.min()} is below 0")
        sources = self.facts.source_rows(index, key)
        _require((side.predictor is None) == (sources == 0), f"predictor {where}: it has {sources} sources")
        if side.predictor is not None:
            _check_matrix(side.predictor, (sources, d), f"predictor {where}")
        _check_matrix(side.inverse, (d, d), f"inverse {where}")
        _require(1 <= side.rows <= d, f"rows {where}: {side.rows} is not in 1 to {d}")
        _require(side.base.shape == (d,) and side.base.dtype == np.int8, f"base classes {where} are not int8 [{d}]")


@dataclasses.dataclass(frozen=True)
class Profile:
    facts: Facts
    turns: np.ndarray  # uint64 [head_dim / 2], 2^64 to the circle and position
    about: dict[str, Any]
    groups: tuple[HeadGroup, ...]

    def check(self) -> None:
        self.facts.check()
        check_turns(self.turns, self.facts)
        _require(len(self.groups) == self.facts.groups, f"{len(self.groups)} head groups are not {self.facts.groups}")
        for group in self.groups:
            _require(group.facts == self.facts.of_group(), "a head group is of other facts")
            group.check()


def _require(held: bool, wrong: str) -> None:
    if not held:
        raise ProfileError(f"profile: {wrong}")


def check_turns(turns: np.ndarray, facts: Facts) -> None:
    pairs = facts.head_dim // 2
    _require(turns.dtype == np.uint64 and turns.shape == (pairs,), f"turns are not uint64 [{pairs}]")
    _require(facts.rope_style != 0 or not turns.any(), "turns are not 0 although there is no rope")


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
