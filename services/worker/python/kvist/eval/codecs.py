"""What is judged: Kvist's codecs, through the library that encodes for nodes, and the baselines. One table, by name of family.

A spec is FAMILY or FAMILY:OPTION, "ladder:3" for example; an option may name a profile's file. To add a codec, add its family to FAMILIES and, if it is to be judged
when nobody says which, its specs to DEFAULT.
"""

import dataclasses
import functools
import hashlib
import math
import pathlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from .. import _abi, codec
from ..models import smollm2
from ..models.smollm2 import bf16
from . import baselines

TOKENS_PER_BLOCK = 128
PROFILES = {"smollm2": pathlib.Path(smollm2.__file__).with_name("local.kvp")}


class SpecError(Exception):
    """A codec spec that names nothing: the message says what there is."""


@dataclasses.dataclass(frozen=True)
class Coded:
    """A prefix that was encoded and decoded again."""

    kv: np.ndarray  # uint16, bf16 bits, the shape that went in
    bits: float  # per value, every byte of the blocks counted
    raised: int = 0  # tiles kept at a higher precision than the codec's
    tiles: int = 0


class Judged(Protocol):
    spec: str
    ours: bool  # else a baseline
    put: dict[str, Any] | None  # what a Client is told of the codec; None = no node has it
    of_one_model: bool  # it has a profile: tiles of any other shape are not for it
    gaussian_db: float | None  # what theory says of N(0, 1), if it does

    def digest(self) -> str:
        """Changes when results would."""

    def apply(self, kv: np.ndarray, first_position: int) -> Coded:
        """kv: uint16 [2, layers, heads, tokens, head_dim]; tokens are whole blocks."""


@functools.cache
def _digest(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _blocks(kv: np.ndarray) -> list[np.ndarray]:
    if kv.shape[3] % TOKENS_PER_BLOCK:
        raise ValueError(f"{kv.shape[3]} tokens are no whole number of blocks of {TOKENS_PER_BLOCK}")
    cuts = range(0, kv.shape[3], TOKENS_PER_BLOCK)
    return [np.ascontiguousarray(kv[:, :, :, cut : cut + TOKENS_PER_BLOCK]) for cut in cuts]


@dataclasses.dataclass(frozen=True)
class BlockCodec:
    """One of Kvist's. key_bits, value_bits: as a Client's."""

    spec: str
    codec: str
    key_bits: int = 0
    value_bits: int = 0
    gaussian_db: float | None = None
    profile: codec.Profile | None = None  # of "q"
    tile_bits: np.ndarray | None = None
    ours: bool = True

    @property
    def of_one_model(self) -> bool:
        return self.profile is not None or self.tile_bits is not None

    @property
    def put(self) -> dict[str, Any]:
        return {"codec": self.codec, "key_bits": self.key_bits, "value_bits": self.value_bits, "tile_bits": self.tile_bits, "profile": self.profile}

    def digest(self) -> str:
        shares = "" if self.tile_bits is None else str(self.tile_bits.tolist())
        return _digest(_abi.find(None)) + ("" if self.profile is None else self.profile.digest.hex()) + shares

    def apply(self, kv: np.ndarray, first_position: int) -> Coded:
        decoded, stored, raised = [], 0, 0
        for index, plain in enumerate(_blocks(kv)):
            block = codec.encode(plain, first_position=first_position + index * TOKENS_PER_BLOCK, **self.put)
            raised += codec.describe(block).raised_tiles
            stored += len(block)
            decoded.append(codec.decode(block, profile=self.profile))
        tiles = 2 * kv.shape[1] * kv.shape[2] * len(decoded)
        return Coded(np.concatenate(decoded, 3), 8 * stored / kv.size, raised, tiles)


@dataclasses.dataclass(frozen=True)
class Baseline:
    spec: str
    coders: tuple[baselines.Coder, baselines.Coder]
    ours: bool = False
    of_one_model: bool = False
    put: dict[str, Any] | None = None
    gaussian_db: float | None = None

    def digest(self) -> str:
        return _digest(pathlib.Path(baselines.__file__))

    def apply(self, kv: np.ndarray, first_position: int) -> Coded:
        decoded, bits = [], []
        for plain in _blocks(kv):
            both = [coder(values) for coder, values in zip(self.coders, bf16.to_float(plain), strict=True)]
            decoded.append(bf16.from_float(np.stack([values for values, _ in both])))
            bits += [cost for _, cost in both]
        return Coded(np.concatenate(decoded, 3), float(np.mean(bits)))


@functools.cache
def _open_profile(name: str) -> codec.Profile:
    """Of a file, or one that the package has."""
    return codec.Profile(PROFILES.get(name, name))


def _calibrated(option: str) -> Judged:
    if not option:
        raise SpecError("q needs a profile: q:FILE, which kvist calibrate makes")
    return BlockCodec(f"q:{pathlib.Path(option).name}", "q", profile=_open_profile(option))


def _shared_out(name: str, mean: str, path: str) -> Judged:
    """Bits by head, as many in the mean, by a profile."""
    try:
        bits = float(mean)
    except ValueError:
        raise SpecError(f"{name}:{mean}@{path} is no codec; there is {name}:MEAN@PROFILE, MEAN bits in the mean over heads") from None
    return BlockCodec(f"{name}:{mean}@{pathlib.Path(path).name}", name, tile_bits=_open_profile(path).tile_bits(name, bits))


def _with_bits(name: str, own: str, errors: dict[int, float]) -> Callable[[str], Judged]:
    """Codecs that take bits of keys and of values: "4" or "4/3", or of each head by a profile: "3.2@FILE". errors: of N(0, 1) by bits,
    with the unbiased gain D / (1 - D)."""

    def make(option: str) -> Judged:
        if "@" in option:
            return _shared_out(name, *option.split("@", 1))
        bits = [int(text) if text.isdigit() else 0 for text in (option or own).split("/")]
        key, value = bits * 2 if len(bits) == 1 else (bits + [0])[:2]
        if len(bits) > 2 or key not in errors or value not in errors:
            have = ", ".join(map(str, errors))
            raise SpecError(f"{name}:{option} is no codec; there are {name}:KEYS/VALUES and {name}:BOTH, each of {have} bits")
        theory = -10 * math.log10((errors[key] + errors[value]) / 2)
        return BlockCodec(f"{name}:{option or own}", name, key, value, theory)

    return make


def _plain(name: str, gaussian_db: float | None) -> Callable[[str], Judged]:
    def make(option: str) -> Judged:
        if option:
            raise SpecError(f"{name} has no option {option!r}")
        return BlockCodec(name, name, gaussian_db=gaussian_db)

    return make


def _i8_gaussian_db() -> float:
    """Uniform quantizer over +-(the largest of 64 normals), whose scale is a grid of eighths of an octave: half a step above on average."""
    x = np.abs(np.random.default_rng(3).standard_normal((20000, 64))).max(-1)
    step = x / 127 * 2 ** (1 / 16)
    return float(-10 * np.log10(np.mean(step**2) / 12))


def _gained(distortion: float) -> float:
    return distortion / (1 - distortion)


# kernels/FORMAT.md, "Levels" and "Trellis". At 8 bits no gain: 43.84 dB of Lloyd-Max less 0.17.
LADDER_ERRORS = {8: 10**-4.367, 4: _gained(0.0095010), 3: _gained(0.034852), 2: _gained(0.120294)}
TRELLIS_ERRORS = {3: _gained(0.021867), 2: _gained(0.078970)}

FAMILIES: dict[str, Callable[[str], Judged]] = {
    "raw16": _plain("raw16", math.inf),
    "x16": _plain("x16", math.inf),
    "i8": _plain("i8", _i8_gaussian_db()),
    "ladder": _with_bits("ladder", "4", LADDER_ERRORS),
    "trellis": _with_bits("trellis", "3/2", TRELLIS_ERRORS),
    "q": _calibrated,
}

LADDERS, TRELLISES = ("ladder:8", "ladder:4", "ladder:3", "ladder:2"), ("trellis:3", "trellis:3/2", "trellis:2")
# Served with a profile; judged with the model that it is of.
OF_SMOLLM2 = ("ladder:4.03@smollm2", "ladder:3.07@smollm2", "ladder:2.07@smollm2",
              "trellis:3.08@smollm2", "trellis:2.57@smollm2", "trellis:2.07@smollm2", "q:smollm2")  # fmt: skip
DEFAULT = ("raw16", "x16", "i8", *LADDERS, *TRELLISES, *baselines.BASELINES)


def parse(spec: str) -> Judged:
    family, _, option = spec.partition(":")
    if family in baselines.BASELINES and not option:
        return Baseline(spec, baselines.BASELINES[family])
    if family not in FAMILIES:
        raise SpecError(f"{spec} is no codec; there are {', '.join([*FAMILIES, *baselines.BASELINES])}")
    return FAMILIES[family](option)
