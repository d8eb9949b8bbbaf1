"""Codec q in numpy: tokens' keys and values to symbols, to a stream, and back. The oracle that profiles are judged with.

Shapes  of one head group: values [layers, tokens, 2 d] float32, K | V of a token, before RoPE; symbols of a side: k, e [tokens], q [tokens, rows].
Units   bits are those that the tables ask for (a stream adds 64 bytes of states a layer and at most 2 bytes a lane).
Why     exact=True predicts with the reader's own arithmetic, an operation at a time; otherwise with BLAS, which differs in the
        last bit and is what a judge of quality needs.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from . import arithmetic, rans, tables
from .importance import Importance
from .profile import MAGNITUDES, SHIFTS, STEPS, HeadGroup, Side

SHARE = 0.7  # of a token's log importance that its step follows
ROUND = 0.46
SINK_K, EARLY_K, EARLY = -8, 4, 4  # of token 0 of a prompt, which has a record of its own; at least, of the tokens after it
_ESCAPE = 2 * MAGNITUDES + 1  # the symbol of what a table has no symbol for; sign, length and bits follow the symbols of all lanes
DROPPED_BITS = 6.0  # what it costs to lose a coefficient of 1 that its class has no symbol for


@dataclasses.dataclass(frozen=True)
class Symbols:
    k: np.ndarray
    e: np.ndarray
    q: np.ndarray
    bits: float


class _Side:
    """A side of a layer, ready to code."""

    def __init__(self, side: Side):
        whole = side.inverse.values()
        self.mean, self.base, self.rows = side.mean, side.base[: side.rows], side.rows
        self.predictor = None if side.predictor is None else side.predictor.values()
        self.inverse = whole[: side.rows]
        self.forward = np.linalg.inv(whole.astype(np.float64))[:, : side.rows].astype(np.float32)


def log_steps(weights: np.ndarray, first_position: int) -> np.ndarray:
    """k from log weights [..., tokens]."""
    k = np.clip(np.rint(SHARE * weights / np.log(2)), tables.LEAST_K, tables.LEAST_K + STEPS - 1).astype(np.int32)
    position = first_position + np.arange(k.shape[-1])
    k = np.where(position < EARLY, np.maximum(k, EARLY_K), k)
    return np.where(position == 0, SINK_K, k)


class Coder:
    def __init__(self, group: HeadGroup, exact: bool = False):
        self._group, self._facts, self._exact = group, group.facts, exact
        self._sides = [(_Side(layer.v), _Side(layer.k)) for layer in group.layers]
        self._costs = tables.costs(group.tables)
        self._k_bits, self._e_bits = (-np.log2(t / tables.TOTAL) for t in (group.tables.steps, group.tables.shifts))

    def encode(self, values: np.ndarray, first_position: int = 0, weights: np.ndarray | None = None) -> tuple[list[tuple[Symbols, Symbols]], np.ndarray]:
        """(V's and K's symbols of each layer, decoded values). weights: log importance [2, layers, tokens], K then V."""
        if weights is None:
            weights = Importance.of(self._group).log_weights(values)
        k = log_steps(weights, first_position)
        symbols: list[list[Symbols]] = [[] for _ in self._sides]

        def choose(layer: int, key: int, prediction: np.ndarray) -> Symbols:
            side, d = self._sides[layer][key], self._facts.width
            x = values[layer, :, :d] if key else values[layer, :, d:]
            chosen = self._quantize(side, key, (x - side.mean - prediction) @ side.forward, k[1 - key, layer], first_position == 0)
            symbols[layer].append(chosen)
            return chosen

        decoded = self._reconstruct(values.shape[1], choose)
        return [(v, k) for v, k in symbols], decoded

    def decode(self, symbols: list[tuple[Symbols, Symbols]]) -> np.ndarray:
        return self._reconstruct(len(symbols[0][0].k), lambda layer, key, _: symbols[layer][key])

    def _reconstruct(self, tokens: int, symbols_of) -> np.ndarray:
        """Layer by layer, V then K, each from what was decoded before it; symbols_of(layer, key, prediction)."""
        facts, d = self._facts, self._facts.width
        decoded = np.empty((len(self._sides), tokens, 2 * d), np.float32)
        centred: list[np.ndarray] = []  # K | V of the layers before, the latest first
        for layer, sides in enumerate(self._sides):
            sources, own = centred[: facts.sources(layer)], []
            for key, side in enumerate(sides):
                seen = sources + (own if key and facts.k_from_v else [])
                prediction = self._predict(side, seen, tokens)
                own.append(self._add(prediction, side, symbols_of(layer, key, prediction)))
                decoded[layer, :, (0 if key else d) : (d if key else 2 * d)] = own[-1] + side.mean
            centred = [np.concatenate(own[::-1], 1), *centred][:2]
        return decoded

    def _predict(self, side: _Side, sources: list[np.ndarray], tokens: int) -> np.ndarray:
        zero = np.zeros((tokens, self._facts.width), np.float32)
        if side.predictor is None:
            return zero
        source = np.concatenate(sources, 1)
        return arithmetic.accumulate(zero, source, side.predictor) if self._exact else source @ side.predictor

    def _add(self, prediction: np.ndarray, side: _Side, symbols: Symbols) -> np.ndarray:
        z = symbols.q.astype(np.float32) * arithmetic.step_of(self._facts.theta, symbols.k)[:, None]
        return arithmetic.accumulate(prediction, z, side.inverse) if self._exact else prediction + z @ side.inverse

    def _quantize(self, side: _Side, key: int, y: np.ndarray, k: np.ndarray, sink: bool) -> Symbols:
        """The e of least cost for each token, then the coefficients that its classes can say."""
        z = np.abs(y) / arithmetic.step_of(self._facts.theta, k)[:, None]
        magnitude = np.minimum(np.floor(z + np.float32(ROUND)), tables.MOST_MAGNITUDE).astype(np.int32)
        if sink:
            magnitude[0] = 0
        column = np.minimum(magnitude, MAGNITUDES + 1)
        lost = DROPPED_BITS * np.minimum(magnitude, 100) ** 2
        totals = []
        for e in range(tables.LEAST_E, tables.LEAST_E + SHIFTS):
            class_of = tables.classes(side.base, k, np.full(len(k), e))
            totals.append(np.where(class_of > 0, self._costs[class_of, column], lost).sum(1) + self._e_bits[key, e - tables.LEAST_E])
        best = np.argmin(totals, 0)
        e = (best + tables.LEAST_E).astype(np.int32)
        class_of = tables.classes(side.base, k, e)
        magnitude[class_of == 0] = 0
        bits = float(self._costs[class_of, np.minimum(magnitude, MAGNITUDES + 1)].sum()) + self._e_bits[key, best].sum()
        escaped = magnitude[magnitude > MAGNITUDES]
        bits += float(tables.escape_bits(escaped).sum()) + self._k_bits[key, k - tables.LEAST_K].sum()
        return Symbols(k, e, np.where(y < 0, -magnitude, magnitude), float(bits))


class Streams:
    """Symbols of a group's layer to its stream and back."""

    def __init__(self, group: HeadGroup):
        t = group.tables
        self._coefficients = [rans.Table(np.concatenate([row[MAGNITUDES:0:-1], row[:-1], row[-1:]])) for row in t.coefficients]
        self._k, self._e = ([rans.Table(row) for row in table] for table in (t.steps, t.shifts))
        self._bases = [(layer.v.base[: layer.v.rows], layer.k.base[: layer.k.rows]) for layer in group.layers]

    @staticmethod
    def _batches(tokens: int) -> Iterator[range]:
        return (range(first, min(first + rans.LANES, tokens)) for first in range(0, tokens, rans.LANES))

    def encode(self, layer: int, sides: tuple[Symbols, Symbols]) -> bytes:
        coder = rans.Encoder()
        for key, (side, base) in enumerate(zip(sides, self._bases[layer], strict=True)):
            class_of = tables.classes(base, side.k, side.e)
            for batch in self._batches(len(side.k)):
                for t in batch:
                    coder.symbol(t % rans.LANES, self._k[key], int(side.k[t]) - tables.LEAST_K)
                for t in batch:
                    coder.symbol(t % rans.LANES, self._e[key], int(side.e[t]) - tables.LEAST_E)
                for c in range(len(base)):
                    for t in batch:
                        if class_of[t, c]:
                            coder.symbol(t % rans.LANES, self._coefficients[class_of[t, c]], self._symbol_of(int(side.q[t, c])))
                    for t in batch:
                        if abs(side.q[t, c]) > MAGNITUDES:
                            self._put_escape(coder, t % rans.LANES, int(side.q[t, c]))
        return coder.finish()

    @staticmethod
    def _symbol_of(q: int) -> int:
        return q + MAGNITUDES if abs(q) <= MAGNITUDES else _ESCAPE

    @staticmethod
    def _put_escape(coder: rans.Encoder, lane: int, q: int) -> None:
        length = (abs(q) - MAGNITUDES).bit_length() - 1
        coder.raw(lane, 5, length << 1 | int(q < 0))
        coder.raw(lane, length, abs(q) - MAGNITUDES - (1 << length))

    def decode(self, layer: int, tokens: int, stream: bytes) -> tuple[Symbols, Symbols]:
        coder, sides = rans.Decoder(stream), []
        for key, base in enumerate(self._bases[layer]):
            k, e, q = np.zeros(tokens, np.int32), np.zeros(tokens, np.int32), np.zeros((tokens, len(base)), np.int32)
            for batch in self._batches(tokens):
                for t in batch:
                    k[t] = coder.symbol(t % rans.LANES, self._k[key]) + tables.LEAST_K
                for t in batch:
                    e[t] = coder.symbol(t % rans.LANES, self._e[key]) + tables.LEAST_E
                class_of = tables.classes(base, k[batch.start : batch.stop], e[batch.start : batch.stop])
                for c in range(len(base)):
                    escaped = []
                    for t in batch:
                        if which := class_of[t - batch.start, c]:
                            symbol = coder.symbol(t % rans.LANES, self._coefficients[which])
                            q[t, c] = symbol - MAGNITUDES
                            if symbol == _ESCAPE:
                                escaped.append(t)
                    for t in escaped:
                        q[t, c] = self._take_escape(coder, t % rans.LANES)
            sides.append(Symbols(k, e, q, 0.0))
        coder.finish()
        return sides[0], sides[1]

    @staticmethod
    def _take_escape(coder: rans.Decoder, lane: int) -> int:
        head = coder.raw(lane, 5)
        magnitude = MAGNITUDES + (1 << (head >> 1)) + coder.raw(lane, head >> 1)
        return -magnitude if head & 1 else magnitude
