"""Sixteen interleaved rANS coders over one run of 16-bit words, as codec q's streams are. Plain Python: a reference, not fast."""

import struct

import numpy as np

LANES, BITS, LOW = 16, 12, 1 << 16


class StreamError(ValueError):
    """The stream is cut off, too long, or no encoder made it."""


class Table:
    def __init__(self, frequencies: np.ndarray):
        self.frequency = [int(f) for f in frequencies]
        self.start = [0, *np.cumsum(frequencies, dtype=np.int64)[:-1].tolist()]
        self.symbol = np.repeat(np.arange(len(frequencies)), frequencies).tolist()


class Encoder:
    """Symbols in the order of decoding."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, int, int, int]] = []

    def symbol(self, lane: int, table: Table, symbol: int) -> None:
        self._steps.append((lane, BITS, table.frequency[symbol], table.start[symbol]))

    def raw(self, lane: int, bits: int, value: int) -> None:
        self._steps.append((lane, bits, 1, value))

    def finish(self) -> bytes:
        states, words = [LOW] * LANES, []
        for lane, bits, frequency, start in reversed(self._steps):
            state = states[lane]
            if state >= frequency << (32 - bits):
                words.append(state & 0xFFFF)
                state >>= 16
            states[lane] = (state // frequency << bits) + state % frequency + start
        return struct.pack(f"<{LANES}I{len(words)}H", *states, *reversed(words))


class Decoder:
    def __init__(self, stream: bytes):
        if len(stream) < 4 * LANES or len(stream) % 2:
            raise StreamError("the stream ends within its states")
        self._states = list(struct.unpack_from(f"<{LANES}I", stream))
        self._words = struct.unpack_from(f"<{(len(stream) - 4 * LANES) // 2}H", stream, 4 * LANES)
        self._next = 0

    def _refill(self, lane: int, state: int) -> None:
        if state < LOW:
            if self._next == len(self._words):
                raise StreamError("the stream ends too early")
            state = state << 16 | self._words[self._next]
            self._next += 1
        self._states[lane] = state

    def symbol(self, lane: int, table: Table) -> int:
        state = self._states[lane]
        low = state & ((1 << BITS) - 1)
        symbol = table.symbol[low]
        self._refill(lane, table.frequency[symbol] * (state >> BITS) + low - table.start[symbol])
        return symbol

    def raw(self, lane: int, bits: int) -> int:
        state = self._states[lane]
        self._refill(lane, state >> bits)
        return state & ((1 << bits) - 1)

    def finish(self) -> None:
        if self._next < len(self._words) or any(state != LOW for state in self._states):
            raise StreamError("the stream is longer than its symbols, or no encoder made it")
