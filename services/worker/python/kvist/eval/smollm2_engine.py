"""SmolLM2 by the package's own forward, as an engine."""

import numpy as np

from ..models.smollm2 import weights
from ..models.smollm2.model import PREFILL_CHUNK, SmolLM2


class SmolLM2Engine:
    name = "SmolLM2-135M-Instruct"
    digest = weights.SHA256

    def __init__(self) -> None:
        self._model = SmolLM2()
        self.layers, self.kv_heads, self.head_dim = self._model.layers, self._model.kv_heads, self._model.head_dim

    def encode(self, text: str) -> list[int]:
        return self._model.tokenizer.encode(text)

    def decode(self, tokens: list[int]) -> str:
        return self._model.tokenizer.decode(tokens)

    def prefill(self, tokens: list[int], wide: bool = False) -> np.ndarray:
        cache = self._model.new_cache(len(tokens), np.float32 if wide else np.uint16)
        for first in range(0, len(tokens), PREFILL_CHUNK):
            self._model.forward(tokens[first : first + PREFILL_CHUNK], cache, first)
        return cache

    def _grown(self, kv: np.ndarray, more: int) -> tuple[np.ndarray, int]:
        """A cache with room for `more` tokens, and where they begin."""
        first = kv.shape[3]
        cache = self._model.new_cache(first + more, kv.dtype.type)
        cache[:, :, :, :first] = kv
        return cache, first

    def logits(self, kv: np.ndarray, tokens: list[int], every: bool = True) -> np.ndarray:
        cache, first = self._grown(kv, len(tokens))
        hidden = self._model.forward(tokens, cache, first)
        return self._model.logits(hidden if every else hidden[-1:])

    def queries(self, kv: np.ndarray, tokens: list[int]) -> np.ndarray | None:
        cache, first = self._grown(kv, len(tokens))
        seen: list[np.ndarray] = []
        self._model.observe = lambda _, queries: seen.append(queries)
        try:
            self._model.forward(tokens, cache, first)
        finally:
            self._model.observe = None
        return np.stack(seen)

    def greedy(self, kv: np.ndarray, tokens: list[int], count: int) -> list[int]:
        cache, first = self._grown(kv, len(tokens) + count)
        last = self._model.logits(self._model.forward(tokens, cache, first)[-1:])[0]
        return self._model.generate(last, cache, first + len(tokens), count, stop=False)
