"""How much a token's keys and values matter, guessed from them alone: what decides the step that they are coded with.

Shapes  rows [tokens, 2 d] of a layer and head group, K | V, before RoPE; log weights [2, layers, tokens], K then V; mean weight 1.
Why     The true weight, what the token's gradients of later answers say, is known in calibration only; the encoder sees keys and
        values. Two log-linear stages: from the layer's own row (head energies, values, squares), then from what the layers around
        it say. Fitted by Fisher scoring with one Hessian throughout, on a part of the tokens: the weights of a stage are few,
        and A^T A over all tokens of all layers was most of the time.
"""

import dataclasses

import numpy as np

from .profile import NEIGHBOURS, HeadGroup

CLIP = 6  # deviations
MOST_TOKENS = 24000  # that a layer's fit looks at
# Chosen on passages left out; with less, the fit gains on its own passages and loses on others (README.md).
FIRST_RIDGE, SECOND_RIDGE = 2000.0, 30.0
ROUNDS = 6
LOWEST, HIGHEST = -9.0, 12.0  # of a log weight


def features(rows: np.ndarray, mean: np.ndarray, deviation: np.ndarray, heads: int) -> np.ndarray:
    """[tokens, 1 + 2 heads + 4 d]: 1, log energies of K heads and V heads, the clipped row, its squares."""
    x = rows.astype(np.float32)
    energy = np.log((x.reshape(len(x), 2 * heads, -1) ** 2).sum(-1) + 1e-6) - 5
    z = np.clip((x - mean) / deviation, -CLIP, CLIP)
    return np.concatenate([np.ones((len(x), 1), np.float32), energy, z, z * z], 1)


def second_features(first: np.ndarray, layer: int, side: int) -> np.ndarray:
    """[tokens, SECOND] from the first stage's [2, layers, tokens]."""
    layers = first.shape[1]
    columns = [np.ones(first.shape[2], np.float32), first[side, layer], first[1 - side, layer], first[0].mean(0), first[1].mean(0)]
    for offset in NEIGHBOURS:
        near = min(max(layer + offset, 0), layers - 1)
        columns += [first[0, near], first[1, near]]
    return np.stack(columns, 1)


@dataclasses.dataclass(frozen=True)
class Importance:
    """What an encoder needs to guess. Sides are K, V."""

    heads: int
    mean: np.ndarray  # [layers, 2 d], K | V
    deviation: np.ndarray  # the same
    first: np.ndarray  # [2, layers, first_width]
    second: np.ndarray  # [2, layers, SECOND]

    @staticmethod
    def of(group: HeadGroup) -> "Importance":
        layers = group.layers
        return Importance(
            group.facts.heads,
            np.array([np.concatenate([layer.k.mean, layer.v.mean]) for layer in layers]),
            np.array([layer.deviation for layer in layers]),
            np.array([[layer.k.first for layer in layers], [layer.v.first for layer in layers]]),
            np.array([[layer.k.second for layer in layers], [layer.v.second for layer in layers]]),
        )

    def log_weights(self, values: np.ndarray) -> np.ndarray:
        """[2, layers, tokens] of values [layers, tokens, 2 d]."""
        stage = np.empty((2, *values.shape[:2]), np.float32)
        for layer, rows in enumerate(values):
            seen = features(rows, self.mean[layer], self.deviation[layer], self.heads)
            stage[:, layer] = np.clip(self.first[:, layer] @ seen.T, LOWEST, HIGHEST)
        layers = range(len(values))
        both = [[second_features(stage, layer, side) @ self.second[side, layer] for layer in layers] for side in range(2)]
        return np.clip(np.array(both, np.float32), LOWEST, HIGHEST)


class LogLinear:
    """Weights b with weight ~ exp(seen @ b): quasi-likelihood of a variance that grows with the mean's square."""

    def __init__(self, seen: np.ndarray, ridge: float, free: int):
        penalty = np.full(seen.shape[1], ridge)
        penalty[:free] *= 1e-5
        self._seen = seen
        self._inverse = np.linalg.inv((seen.T @ seen).astype(np.float64) + np.diag(penalty))

    def _level(self, weight: np.ndarray, b: np.ndarray) -> None:
        """Moves the constant so that the mean ratio is 1."""
        b[0] += np.log(np.mean(weight * np.exp(-np.clip(self._seen @ b.astype(np.float32), LOWEST, HIGHEST))))

    def fit(self, weight: np.ndarray) -> np.ndarray:
        weight = weight + 1e-3 * weight.mean() + 1e-30
        b = self._inverse @ (self._seen.T @ np.log(weight))
        self._level(weight, b)
        for _ in range(ROUNDS):
            now = np.clip(self._seen @ b.astype(np.float32), LOWEST, HIGHEST)
            aim = now + np.clip(weight * np.exp(-now) - 1, -1, 6)
            b = 0.5 * b + 0.5 * self._inverse @ (self._seen.T @ aim)
            self._level(weight, b)
        return b.astype(np.float32)


def fit(values: np.ndarray, weights: np.ndarray, means: np.ndarray, deviations: np.ndarray, heads: int) -> tuple[np.ndarray, np.ndarray]:
    """(first [2, layers, ...], second [2, layers, SECOND]) from values [layers, tokens, 2 d] and true weights [2, layers, tokens]."""
    stride = -(-values.shape[1] // MOST_TOKENS)
    true = weights[:, :, ::stride].astype(np.float32)
    first, stage = [], np.empty(true.shape, np.float32)
    for layer, rows in enumerate(values):
        seen = features(rows[::stride], means[layer], deviations[layer], heads)
        model = LogLinear(seen, FIRST_RIDGE, 1 + 2 * heads)
        first.append([model.fit(true[side, layer]) for side in range(2)])
        stage[:, layer] = np.clip(np.stack(first[-1]) @ seen.T, LOWEST, HIGHEST)
    second = [[LogLinear(second_features(stage, layer, side), SECOND_RIDGE, 2).fit(true[side, layer]) for layer in range(len(values))]
              for side in range(2)]  # fmt: skip
    return np.array(first).swapaxes(0, 1), np.array(second)
