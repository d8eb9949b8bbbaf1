"""From texts to what a profile is fitted to: keys and values, their Fisher metric, and how much each token of each layer matters.

Shapes  values [layers, tokens, 2 d] f16, K | V before RoPE; of each head group, of d / groups = w channels, fisher
        [2, layers, groups, w, w] and weights [2, layers, groups, tokens]: mean 1.
Units   a passage is 1,280 tokens. Its first 1,024 are looked at from the 256 that follow; its first 256 from the 256 after those;
        and in every third passage the first 1,024 from a text that repeats some of them: importance at mixed distances, and for
        those that copy. Tokens 0 to 3 are left out: they have rules of their own.
Why     Weights are measured in a metric that the first few passages give, so that gradients, 50 MB a draw, are never kept. A
        passage is a file when it is done, named by a digest of all that it follows from: a run that was ended goes on there.
"""

import dataclasses
import hashlib
import os
import pathlib
import time
import zipfile
from collections.abc import Callable

import numpy as np

from ..eval.engines import Engine
from ..eval.texts import TextError
from ..models.smollm2 import bf16
from . import arithmetic
from .fit import AFTER_START, Rope
from .gradients import Gradients

PROTOCOL = 1  # raise it when a passage gives other numbers than before
PREFIX, SHORT, FOLLOWING = 1024, 256, 256
PASSAGE = PREFIX + FOLLOWING
PILOTS, PILOT_DRAWS, DRAWS, RECALL_DRAWS, RECALL_SHARE = 6, 1, 3, 1, 0.5
FLOOR = 2e-3


@dataclasses.dataclass(frozen=True)
class Passage:
    text: str
    tokens: list[int]


@dataclasses.dataclass(frozen=True)
class Statistics:
    values: np.ndarray
    fisher: np.ndarray
    weights: np.ndarray


def plan(texts: list[tuple[str, list[int]]], total: int) -> list[Passage]:
    """Passages of `total` tokens, as many of each text as of the others, spread over it; they do not overlap."""
    needed = max(PILOTS, -(-total // PASSAGE))
    each, more = divmod(needed, len(texts))
    passages: list[list[Passage]] = []
    for place, (name, tokens) in enumerate(texts):
        count = each + (place < more)
        if len(tokens) < count * PASSAGE:
            raise TextError(f"text {name!r} has {len(tokens)} tokens; {count * PASSAGE} are needed of it for {needed * PASSAGE} in all: "
                            "give a longer text, more texts, or fewer --tokens")  # fmt: skip
        stride = (len(tokens) - PASSAGE) // max(1, count - 1)
        passages.append([Passage(name, tokens[i * stride : i * stride + PASSAGE]) for i in range(count)])
    # In turn, so that the first passages are of different texts.
    return [text[i] for i in range(each + 1) for text in passages if i < len(text)]


def rows_of(kv: np.ndarray, rope: Rope) -> np.ndarray:
    """[layers, tokens, 2 d], K | V before RoPE, of kv [2, layers, heads, tokens, head_dim] at position 0 on."""
    angles = arithmetic.cos_sin(np.arange(kv.shape[3]), rope.turns, rope.factor)
    sides = (arithmetic.rope(kv[0], angles, rope.style, inverse=True), kv[1])
    return np.concatenate([side.swapaxes(1, 2).reshape(len(side), kv.shape[3], -1) for side in sides], 2)


def kv_of(rows: np.ndarray, rope: Rope, heads: int) -> np.ndarray:
    """The inverse of rows_of."""
    angles = arithmetic.cos_sin(np.arange(rows.shape[1]), rope.turns, rope.factor)
    k, v = (side.reshape(*rows.shape[:2], heads, -1).swapaxes(1, 2) for side in np.split(rows, 2, 2))
    return np.stack([arithmetic.rope(k, angles, rope.style), v])


def _inverse_roots(fisher: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(fisher.astype(np.float64))
    values = np.maximum(values, FLOOR * values.mean(-1, keepdims=True) + 1e-30)
    return ((vectors / np.sqrt(values)[..., None, :]) @ vectors.swapaxes(-1, -2)).astype(np.float32)


class _Gathering:
    def __init__(self, engine: Engine, gradients: Gradients, groups: int, folder: pathlib.Path, say: Callable[[str], None]):
        self._engine, self._gradients, self._groups, self._folder, self._say = engine, gradients, groups, folder, say
        folder.mkdir(parents=True, exist_ok=True)

    def passage(self, passage: Passage, roots: np.ndarray, metric: str, recall: bool) -> dict[str, np.ndarray]:
        return self._kept(["passage", metric, recall], passage.tokens, lambda: self._measure(passage.tokens, roots, recall), passage.text)

    def pilot(self, passages: list[Passage]) -> tuple[np.ndarray, str]:
        """(inverse roots of the metric that weights are measured in, its name)."""
        found = []
        for passage in passages:
            found.append(self._kept(["pilot"], passage.tokens, lambda tokens=passage.tokens: self._look_ahead(tokens), f"{passage.text}, pilot"))
        name = hashlib.sha256(b"".join(np.asarray(p.tokens, np.uint32).tobytes() for p in passages)).hexdigest()
        return _inverse_roots(_by_group(np.mean([one["fisher"] for one in found], 0), self._groups)), name

    def _kept(self, what: list, tokens: list[int], compute: Callable[[], dict[str, np.ndarray]], label: str) -> dict[str, np.ndarray]:
        """The result, from disk if it is there."""
        cut = [] if self._groups == 1 else [self._groups]
        follows_from = repr([PROTOCOL, self._engine.digest, DRAWS, *what, *cut, tokens])
        path = self._folder / f"{hashlib.sha256(follows_from.encode()).hexdigest()[:32]}.npz"
        try:
            with path.open("rb") as file, np.load(file) as kept:
                return dict(kept)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):  # not there, or cut off by a crash of the machine
            pass
        start = time.perf_counter()
        result = compute()
        beside = path.with_suffix(f".{os.getpid()}.npz")
        np.savez(beside, **result)
        beside.replace(path)
        self._say(f"{label}: {time.perf_counter() - start:.0f} s")
        return result

    def _look(self, kv: np.ndarray, following: list[int], draws: int) -> np.ndarray:
        """[draws, layers, tokens, 2 d]: gradients by the rows before RoPE, for each token that follows."""
        rope = self._gradients.rope
        random = np.random.default_rng([PROTOCOL, kv.shape[3], *following[:8]])
        found = self._gradients.of(kv, following, draws, random)
        # RoPE is a rotation times its factor: its derivative, turned around, is its inverse times the factor's square.
        share = np.array([rope.factor**2, 1], np.float32).reshape(2, 1, 1, 1, 1) / np.float32(np.sqrt(len(following)))
        return np.stack([rows_of(one * share, rope) for one in found])

    def _look_ahead(self, tokens: list[int]) -> dict[str, np.ndarray]:
        kv = bf16.to_float(self._engine.prefill(tokens[:PREFIX]))
        return {"fisher": _fisher([self._look(kv, tokens[PREFIX:PASSAGE], PILOT_DRAWS)], self._groups)}

    def _measure(self, tokens: list[int], roots: np.ndarray, recall: bool) -> dict[str, np.ndarray]:
        kv = bf16.to_float(self._engine.prefill(tokens[:PREFIX]))
        looks = [
            (self._look(kv, tokens[PREFIX:PASSAGE], DRAWS), 1.0),
            (self._look(kv[:, :, :, :SHORT], tokens[SHORT : SHORT + FOLLOWING], DRAWS), 1.0),
        ]
        fisher = _fisher([found for found, _ in looks], self._groups)
        if recall:
            looks.append((self._look(kv, tokens[SHORT : SHORT + FOLLOWING], RECALL_DRAWS), RECALL_SHARE))
        total, seen = np.zeros((2, kv.shape[1], self._groups, PREFIX)), np.zeros(PREFIX)
        for found, share in looks:
            total[..., : found.shape[2]] += share * _energies(found, roots)
            seen[: found.shape[2]] += share
        values = rows_of(kv, self._gradients.rope)[:, AFTER_START:].astype(np.float16)
        return {"values": values, "weights": (total / seen)[..., AFTER_START:].astype(np.float32), "fisher": fisher}


def _by_group(fisher: np.ndarray, groups: int) -> np.ndarray:
    """[2, layers, groups, w, w]; of one group, passages say [2, layers, d, d]."""
    return fisher.reshape(*fisher.shape[:2], groups, *fisher.shape[-2:])


def _sides(rows: np.ndarray, groups: int) -> np.ndarray:
    """[..., 2, groups, w] of rows [..., 2 d]."""
    return rows.reshape(*rows.shape[:-1], 2, groups, -1)


def _fisher(looks: list[np.ndarray], groups: int) -> np.ndarray:
    """[2, layers, groups, w, w] float32: the mean over tokens; sides K, V. What groups have to do with each other is never asked."""
    layers, width = looks[0].shape[1], looks[0].shape[3] // 2 // groups
    total = np.zeros((2, layers, groups, width, width), np.float64)
    for found in looks:
        for side, layer, group in np.ndindex(2, layers, groups):
            rows = _sides(found[:, layer, AFTER_START:], groups)[:, :, side, group].reshape(-1, width)
            total[side, layer, group] += rows.T @ rows / len(found)
    return (total / sum(found.shape[2] - AFTER_START for found in looks)).astype(np.float32)


def _energies(found: np.ndarray, roots: np.ndarray) -> np.ndarray:
    """[2, layers, groups, tokens]: a token's squared gradient in the metric, mean over draws and components."""
    groups = roots.shape[2]
    result = np.empty((2, found.shape[1], groups, found.shape[2]))
    for side, layer, group in np.ndindex(2, found.shape[1], groups):
        turned = _sides(found[:, layer], groups)[:, :, side, group] @ roots[side, layer, group]
        result[side, layer, group] = np.square(turned).mean((0, 2))
    return result


def gather(engine: Engine, gradients: Gradients, passages: list[Passage], groups: int, folder: pathlib.Path, say: Callable[[str], None]) -> Statistics:
    gathering = _Gathering(engine, gradients, groups, folder, say)
    roots, metric = gathering.pilot(passages[:PILOTS])
    tokens = PREFIX - AFTER_START
    values = weights = fisher = None
    for i, passage in enumerate(passages):
        found = gathering.passage(passage, roots, metric, recall=i % 3 == 1)
        of_passage = _by_group(found["fisher"], groups)
        if values is None:
            layers, _, row = found["values"].shape
            values = np.empty((layers, len(passages) * tokens, row), np.float16)
            weights, fisher = np.empty((2, layers, groups, len(passages) * tokens), np.float32), np.zeros(of_passage.shape)
        here = slice(i * tokens, (i + 1) * tokens)
        values[:, here], weights[..., here] = found["values"], found["weights"].reshape(2, layers, groups, tokens)
        fisher += of_passage / len(passages)
        say(f"[{i + 1}/{len(passages)}] {passage.text}")
    weights /= weights.mean(-1, keepdims=True) + 1e-30
    return Statistics(values, fisher, weights)
