"""Fits a profile to calibration tokens: each head group, layer by layer, V then K, on what a reader would have decoded before it.

Shapes  values [layers, tokens, 2 d], K | V before RoPE; fisher [2, layers, d, d], K then V: mean outer product of a token's
        gradients; weights [2, layers, tokens]: how much a token's gradients exceed that mean. Of one group; fit() has them of
        all: values of all heads, fisher [2, layers, groups, d, d] and weights [2, layers, groups, tokens].
Units   theta is a step in the Fisher metric: squared errors there are nats of the answers that follow.
Why     Sources are decoded values, since the reader has no others. A predictor's Gram matrix gets the coder's own noise added:
        decoded values lie in fewer directions than those of unseen text, and least squares (and still more error feedback
        without it) would put anything into the directions that calibration never saw.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..models.smollm2 import bf16
from . import arithmetic, head_groups, importance, matrix, tables
from .matrix import Matrix
from .profile import Facts, HeadGroup, Layer, Profile, Side, Tables
from .reference import ROUND, Coder, log_steps

TOLERANCE = 0.2  # of the mean squared step: error that a coder leaves in each direction
FLOOR = 2e-3  # of the mean eigenvalue: the Fisher metric's least
TABLE_TOKENS = 4000  # that the tables' last count looks at
AFTER_START = 4  # values begin after the tokens that have rules of their own


@dataclasses.dataclass(frozen=True)
class Settings:
    source_layers: int = 0  # 0: LOCAL; 1, 2: DEEP, and K from V
    reset: int = 0  # of DEEP: layers between resets; 0: never
    theta: float = 0.6e-4
    inverse_step: float = 0.05  # of a row of T-, in theta over the row's deviation
    predictor_step: float = 0.05  # of a source's row, in theta over its deviation
    damping: float = 0.05  # of error feedback in predictors
    noise: float = 0.1  # of the step's square, what decoding adds to every direction of a source
    least_row: float = 0.05  # theta: rows of T- that vary less are not decoded


@dataclasses.dataclass(frozen=True)
class Rope:
    style: int
    turns: np.ndarray
    factor: float = 1.0


def narrow(values: np.ndarray) -> np.ndarray:
    """float32 that bf16 holds exactly."""
    return bf16.to_float(bf16.from_float(np.asarray(values, np.float32)))


@dataclasses.dataclass
class _Decoded:
    """A side of a layer as its readers see it, for those that it predicts."""

    values: np.ndarray  # [tokens, d], centred
    noise: np.ndarray  # [d, d], in each direction, of one step's square


def _metric(fisher: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(the metric with its floor, its root, the root's inverse)."""
    values, vectors = np.linalg.eigh(fisher)
    values = np.maximum(values, FLOOR * values.mean() + 1e-30)
    root = np.sqrt(values)
    return (vectors * values) @ vectors.T, (vectors * root) @ vectors.T, (vectors / root) @ vectors.T


def _spectrum(error: np.ndarray, root: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(variances, falling; directions) of what prediction left, in the metric."""
    d = error.shape[1]
    covariance = (error.T @ error).astype(np.float64) / len(error)
    covariance += 1e-4 * np.trace(covariance) / d * np.eye(d)
    variance, vectors = np.linalg.eigh(root @ covariance @ root)
    return np.maximum(variance[::-1], 0), vectors[:, ::-1]


def _predictor(sources: Sequence[_Decoded], x: np.ndarray, root: np.ndarray, step: float, settings: Settings) -> tuple[Matrix, np.ndarray]:
    """The few-bit predictor of x, and what it predicts. step: the mean square of steps."""
    source = np.concatenate([s.values for s in sources], 1)
    d, tokens = x.shape[1], len(x)
    gram = (source.T @ source).astype(np.float64) / tokens
    for i, one in enumerate(sources):
        gram[i * d : (i + 1) * d, i * d : (i + 1) * d] += settings.noise * one.noise
    gram += 1e-7 * np.trace(gram) / len(gram) * np.eye(len(gram))
    best = np.linalg.solve(gram, (source.T @ x).astype(np.float64) / tokens)
    # An error of the predictor is coded with what it left: where that varies much, a little more costs few bits.
    variance, vectors = _spectrum(x - source @ best.astype(np.float32), root)
    turned = root @ vectors
    outputs = (turned * (1 / (1 + variance / (TOLERANCE * step)))) @ turned.T
    rows, columns = (1 / matrix.weight_of_rows(metric, settings.damping) for metric in (gram, outputs))
    few = matrix.quantize(best, settings.predictor_step * settings.theta * rows, columns, (gram, outputs), settings.damping)
    return few, source @ few.values()


def _inverse(error: np.ndarray, metric: np.ndarray, root: np.ndarray, inverse_root: np.ndarray, settings: Settings) -> tuple[Matrix, int]:
    """T- of what prediction left, rows by falling variance, and how many of them are worth decoding."""
    variance, vectors = _spectrum(error, root)
    # A row's error leaks into all other components in proportion to the row's variance.
    step = settings.inverse_step * settings.theta / np.sqrt(variance + settings.theta**2)
    few = matrix.quantize(vectors.T @ inverse_root, step, 1 / np.sqrt(np.diag(metric)))
    return few, max(1, int((np.sqrt(variance) > settings.least_row * settings.theta).sum()))


class _Fit:
    def __init__(self, values: np.ndarray, fisher: np.ndarray, guess: importance.Importance, settings: Settings, sensitivities: np.ndarray):
        self._values, self._fisher, self._guess, self._settings = values, fisher, guess, settings
        self._width, self._sensitivities = values.shape[2] // 2, sensitivities
        self._k = log_steps(guess.log_weights(values), AFTER_START)
        self.counts = np.zeros((tables.CLASSES, tables.MAGNITUDES + 2))

    def layer(self, index: int, before: Sequence[list[_Decoded]]) -> tuple[Layer, list[_Decoded]]:
        """before: the layers that predict, the latest first, each K, V."""
        sources = [one for both in before for one in both]
        v, decoded_v = self._side(index, 1, sources)
        k, decoded_k = self._side(index, 0, sources + ([decoded_v] if self._settings.source_layers else []))
        return Layer(self._guess.deviation[index], v, k), [decoded_k, decoded_v]

    def _side(self, index: int, side: int, sources: Sequence[_Decoded]) -> tuple[Side, _Decoded]:
        settings, columns = self._settings, slice(side * self._width, (side + 1) * self._width)
        mean = self._guess.mean[index, columns]
        x = self._values[index, :, columns].astype(np.float32) - mean
        metric, root, inverse_root = _metric(self._fisher[side, index])
        step = arithmetic.step_of(settings.theta, self._k[side, index])
        square = float(np.square(step, dtype=np.float64).mean())
        predictor, predicted = _predictor(sources, x, root, square, settings) if sources else (None, np.float32(0))
        few, rows = _inverse(x - predicted, metric, root, inverse_root, settings)
        whole = few.values()
        y = (x - predicted) @ np.linalg.inv(whole.astype(np.float64))[:, :rows].astype(np.float32)
        base = np.full(self._width, -128, np.int8)
        base[:rows] = np.clip(tables.classes_of(np.sqrt(np.square(y).mean(0) + 1e-30) / settings.theta), -128, 127)
        q = self._quantize(y, step, base[:rows], self._k[side, index])
        decoded = predicted + (q * step[:, None]) @ whole[:rows]
        noise = square * (whole.T.astype(np.float64) @ whole)
        first, second = self._guess.first[side, index], self._guess.second[side, index]
        return Side(mean, predictor, few, rows, base, first, second, self._sensitivities[side, index]), _Decoded(decoded, noise)

    def _quantize(self, y: np.ndarray, step: np.ndarray, base: np.ndarray, k: np.ndarray) -> np.ndarray:
        """With e = 0; counts every third token."""
        class_of = tables.classes(base, k, np.zeros_like(k))
        magnitude = np.minimum(np.floor(np.abs(y) / step[:, None] + np.float32(ROUND)), tables.MOST_MAGNITUDE).astype(np.int32)
        magnitude[class_of == 0] = 0
        self.counts += tables.count(class_of[::3], magnitude[::3])
        return np.where(y < 0, -magnitude, magnitude).astype(np.float32)


def _flat(k: np.ndarray, counts: np.ndarray) -> Tables:
    """Before e is known: all alike; k as it is."""
    steps = [np.bincount((side - tables.LEAST_K).ravel(), minlength=tables.STEPS) for side in (k[1], k[0])]
    return tables.build(counts, np.array(steps, float), np.ones((2, tables.SHIFTS)))


def _recount(group: HeadGroup, values: np.ndarray) -> Tables:
    """Tables of what the encoder chooses under the first tables, e among it."""
    part = values[:, :: -(-values.shape[1] // TABLE_TOKENS)].astype(np.float32)
    symbols, _ = Coder(group).encode(part, AFTER_START)
    coefficients = np.zeros((tables.CLASSES, tables.MAGNITUDES + 2))
    steps, shifts = np.zeros((2, tables.STEPS)), np.zeros((2, tables.SHIFTS))
    for layer, sides in zip(group.layers, symbols, strict=True):
        for key, (side, said) in enumerate(zip((layer.v, layer.k), sides, strict=True)):
            coefficients += tables.count(tables.classes(side.base[: side.rows], said.k, said.e), np.abs(said.q))
            steps[key] += np.bincount(said.k - tables.LEAST_K, minlength=tables.STEPS)
            shifts[key] += np.bincount(said.e - tables.LEAST_E, minlength=tables.SHIFTS)
    return tables.build(coefficients, steps, shifts)


def sensitivity(values: np.ndarray, fisher: np.ndarray, weights: np.ndarray, heads: int) -> np.ndarray:
    """[2, layers, heads], K then V: what errors as large as a head's values, spread evenly over its channels, would cost answers, in
    the mean over tokens. Up to a factor it is their KLD, and a layer's is the sum of its heads'; layers differ by a factor of a hundred."""
    layers, tokens, width = values.shape[0], values.shape[1], values.shape[2] // 2
    found = np.empty((2, layers, heads))
    for side, layer in np.ndindex(2, layers):
        x = values[layer, :, side * width : (side + 1) * width].astype(np.float32).reshape(tokens, heads, -1)
        energy = np.einsum("thc,thc,t->h", x, x, weights[side, layer].astype(np.float32)) / (tokens * x.shape[2])
        found[side, layer] = energy * np.diag(fisher[side, layer]).reshape(heads, -1).sum(1)
    return found


def guess_of(values: np.ndarray, weights: np.ndarray, heads: int) -> importance.Importance:
    means = narrow(np.array([rows.astype(np.float32).mean(0) for rows in values]))
    deviations = narrow(np.array([rows.astype(np.float32).std(0) for rows in values]) + 1e-6)
    first, second = importance.fit(values, weights, means, deviations, heads)
    return importance.Importance(heads, means, deviations, narrow(first), narrow(second))


def facts_of(layers: int, heads: int, head_dim: int, groups: int, rope: Rope, settings: Settings) -> Facts:
    reset, deep = settings.reset if settings.source_layers else 1, settings.source_layers
    theta = float(np.float32(settings.theta))
    return Facts(rope.style, deep, int(deep > 0), reset, heads, head_dim, groups, layers, theta, rope.factor)


def fit_group(values: np.ndarray, fisher: np.ndarray, weights: np.ndarray, facts: Facts, settings: Settings, say: Callable[[str], None]) -> HeadGroup:
    guess = guess_of(values, weights, facts.heads)
    work = _Fit(values, fisher, guess, settings, narrow(sensitivity(values, fisher, weights, facts.heads)))
    layers, before = [], []
    for index in range(facts.layers):
        layer, decoded = work.layer(index, before[: facts.sources(index)])
        layers.append(layer)
        before = [decoded, *before][: settings.source_layers]
        say(f"layer {index + 1}/{facts.layers}")
    group = HeadGroup(facts, _flat(work._k, work.counts), tuple(layers))
    return dataclasses.replace(group, tables=_recount(group, values))


def fit(values: np.ndarray, fisher: np.ndarray, weights: np.ndarray, facts: Facts, rope: Rope, settings: Settings, about: dict[str, Any],
        say: Callable[[str], None] = lambda _: None) -> Profile:  # fmt: skip
    """say is told of each layer that is done."""
    groups = []
    for i in range(facts.groups):
        where = f"head group {i + 1}/{facts.groups}, " if facts.groups > 1 else ""
        of_group = head_groups.part(values, facts.groups, i), fisher[:, :, i], weights[:, :, i]
        groups.append(fit_group(*of_group, facts.of_group(), settings, lambda line, where=where: say(where + line)))
    return Profile(facts, rope.turns, about, tuple(groups))
