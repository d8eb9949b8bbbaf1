"""SmolLM2 by the package's own forward, as an engine."""

import numpy as np

from ..models.smollm2 import weights
from ..models.smollm2.model import PREFILL_CHUNK, SmolLM2


class SmolLM2Engine:
    name = "SmolLM2-135M-Instruct"
    digest = weights.SHA256

    def __init__(self) -> None:
        self.model = SmolLM2()
        self.layers, self.kv_heads, self.head_dim = self.model.layers, self.model.kv_heads, self.model.head_dim

    def encode(self, text: str) -> list[int]:
        return self.model.tokenizer.encode(text)

    def decode(self, tokens: list[int]) -> str:
        return self.model.tokenizer.decode(tokens)

    def prefill(self, tokens: list[int], wide: bool = False) -> np.ndarray:
        cache = self.model.new_cache(len(tokens), np.float32 if wide else np.uint16)
        for first in range(0, len(tokens), PREFILL_CHUNK):
            self.model.forward(tokens[first : first + PREFILL_CHUNK], cache, first)
        return cache

    def _grown(self, kv: np.ndarray, more: int) -> tuple[np.ndarray, int]:
        """A cache with room for `more` tokens, and where they begin."""
        first = kv.shape[3]
        cache = self.model.new_cache(first + more, kv.dtype.type)
        cache[:, :, :, :first] = kv
        return cache, first

    def logits(self, kv: np.ndarray, tokens: list[int], every: bool = True) -> np.ndarray:
        cache, first = self._grown(kv, len(tokens))
        hidden = self.model.forward(tokens, cache, first)
        return self.model.logits(hidden if every else hidden[-1:])

    def queries(self, kv: np.ndarray, tokens: list[int]) -> np.ndarray | None:
        cache, first = self._grown(kv, len(tokens))
        seen: list[np.ndarray] = []
        self.model.observe = lambda _, queries: seen.append(queries)
        try:
            self.model.forward(tokens, cache, first)
        finally:
            self.model.observe = None
        return np.stack(seen)

    def greedy(self, kv: np.ndarray, tokens: list[int], count: int) -> list[int]:
        cache, first = self._grown(kv, len(tokens) + count)
        last = self.model.logits(self.model.forward(tokens, cache, first)[-1:])[0]
        return self.model.generate(last, cache, first + len(tokens), count, stop=False)
