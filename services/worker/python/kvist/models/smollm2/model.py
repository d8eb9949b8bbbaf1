"""The forward pass of SmolLM2 (a llama) in numpy, float32, with a KV cache of bf16 bits.

The cache is what an engine would hold in its pages: uint16 [2, layers, kv_heads, tokens, head_dim], K then V, K after RoPE.
Values are rounded to bf16 when they enter it and attention reads them from it, so a cache that was stored and came back
bit-identical gives the same logits, bit for bit, as one that never left. A cache of float32 keeps what bf16 would round.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import bf16, weights
from .tokenizer import ChatTokenizer

PREFILL_CHUNK = 128  # a block of the store: a prefill resumed at a block repeats the same products, bit for bit


@dataclass(frozen=True)
class Layer:
    attention_norm: np.ndarray
    qkv: np.ndarray
    output: np.ndarray
    ffn_norm: np.ndarray
    gate_up: np.ndarray
    down: np.ndarray


def _rms_norm(x: np.ndarray, weight: np.ndarray, epsilon: float) -> np.ndarray:
    return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + epsilon) * weight


def _half_split(weight: np.ndarray, heads: int) -> np.ndarray:
    """GGUF keeps rows of Q and K for interleaved RoPE; this puts them back in the order of halves."""
    head_dim = weight.shape[0] // heads
    return weight.reshape(heads, head_dim // 2, 2, -1).swapaxes(1, 2).reshape(weight.shape)


class SmolLM2:
    def __init__(self) -> None:
        metadata, tensors = weights.read(weights.find())
        self.tokenizer = ChatTokenizer(metadata)
        self._read_shape(metadata)
        self._embedding = tensors["token_embd.weight"]  # tied: also the output
        self._norm = tensors["output_norm.weight"]
        self._layers = [self._layer(tensors, i) for i in range(self.layers)]
        positions = np.arange(self.context)[:, None]
        angles = positions * self.rope_base ** (-np.arange(0, self.head_dim, 2) / self.head_dim)
        self.observe: Callable[[int, np.ndarray], None] | None = None  # is shown each layer's scaled queries after RoPE
        self._cos, self._sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)

    def _read_shape(self, metadata: dict[str, Any]) -> None:
        def field(name: str) -> Any:
            return metadata[f"llama.{name}"]

        self.layers: int = field("block_count")
        self.heads: int = field("attention.head_count")
        self.kv_heads: int = field("attention.head_count_kv")
        self.head_dim: int = field("embedding_length") // self.heads
        self.context: int = field("context_length")
        self.rope_base: float = field("rope.freq_base")
        self.epsilon: float = field("attention.layer_norm_rms_epsilon")

    def _layer(self, tensors: dict[str, np.ndarray], index: int) -> Layer:
        def weight(name: str) -> np.ndarray:
            return tensors[f"blk.{index}.{name}.weight"]

        q, k = _half_split(weight("attn_q"), self.heads), _half_split(weight("attn_k"), self.kv_heads)
        return Layer(
            attention_norm=weight("attn_norm"),
            qkv=np.concatenate([q, k, weight("attn_v")]),
            output=weight("attn_output"),
            ffn_norm=weight("ffn_norm"),
            gate_up=np.concatenate([weight("ffn_gate"), weight("ffn_up")]),
            down=weight("ffn_down"),
        )

    def stacked(self) -> dict[str, np.ndarray]:
        """All weights, for a forward pass in another framework: those of layers as [layers, ...]."""
        layers = {name: np.stack([getattr(layer, name) for layer in self._layers]) for name in Layer.__dataclass_fields__}
        return {**layers, "embedding": self._embedding, "norm": self._norm}

    def new_cache(self, tokens: int, dtype: type = np.uint16) -> np.ndarray:
        return np.zeros((2, self.layers, self.kv_heads, tokens, self.head_dim), dtype)

    def _rope(self, x: np.ndarray, first: int) -> np.ndarray:
        """x: [heads, tokens, head_dim], tokens at positions first, first + 1, ..."""
        cos, sin = self._cos[first : first + x.shape[1]], self._sin[first : first + x.shape[1]]
        a, b = np.split(x, 2, -1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def _attend(self, layer: Layer, index: int, x: np.ndarray, cache: np.ndarray, first: int) -> np.ndarray:
        n, total = len(x), first + len(x)
        projected = _rms_norm(x, layer.attention_norm, self.epsilon) @ layer.qkv.T
        rows = projected.reshape(n, -1, self.head_dim).swapaxes(0, 1)
        q, k, v = np.split(rows, [self.heads, self.heads + self.kv_heads])
        narrow = cache.dtype == np.uint16
        for kv, rows in enumerate((self._rope(k, first), v)):
            cache[kv, index, :, first:total] = bf16.from_float(rows) if narrow else rows
        keys, values = (bf16.to_float(kept) if narrow else kept for kept in cache[:, index, :, :total])
        group = self.heads // self.kv_heads
        rotated = self._rope(q, first) * self.head_dim**-0.5
        if self.observe:
            self.observe(index, rotated)
        queries = rotated.reshape(self.kv_heads, group * n, self.head_dim)
        scores = (queries @ keys.swapaxes(1, 2)).reshape(self.kv_heads, group, n, total)
        if n > 1:
            scores += np.where(np.arange(total)[None] > np.arange(first, total)[:, None], np.float32(-np.inf), np.float32(0))
        scores -= scores.max(-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(-1, keepdims=True)
        attended = scores.reshape(self.kv_heads, group * n, total) @ values
        return attended.reshape(self.heads, n, self.head_dim).swapaxes(0, 1).reshape(n, -1) @ layer.output.T

    def _feed_forward(self, layer: Layer, x: np.ndarray) -> np.ndarray:
        gate, up = np.split(_rms_norm(x, layer.ffn_norm, self.epsilon) @ layer.gate_up.T, 2, -1)
        return (gate / (1 + np.exp(-gate)) * up) @ layer.down.T

    def forward(self, tokens: list[int], cache: np.ndarray, first: int) -> np.ndarray:
        """Runs `tokens` at positions first.. and fills the cache there. Returns their hidden states."""
        x = self._embedding[np.asarray(tokens)]
        for index, layer in enumerate(self._layers):
            x = x + self._attend(layer, index, x, cache, first)
            x = x + self._feed_forward(layer, x)
        return x

    def logits(self, hidden: np.ndarray) -> np.ndarray:
        return _rms_norm(hidden, self._norm, self.epsilon) @ self._embedding.T

    def prefill(self, tokens: list[int], cache: np.ndarray, first: int = 0, progress=None) -> np.ndarray:
        """Runs the prompt from position `first` on in chunks that begin at fixed positions; logits of the next token."""
        hidden = None
        position = first
        while position < len(tokens):
            end = min(len(tokens), (position // PREFILL_CHUNK + 1) * PREFILL_CHUNK)
            hidden = self.forward(tokens[position:end], cache, position)
            position = end
            if progress:
                progress(position, len(tokens))
        return self.logits(hidden[-1:])[0]

    def generate(
        self, next_logits: np.ndarray, cache: np.ndarray, position: int, count: int, stop: bool = True
    ) -> list[int]:
        """Greedy continuation of at most `count` tokens; ends at the end of the turn, unless `stop` is False."""
        tokens: list[int] = []
        for _ in range(count):
            token = int(next_logits.argmax())
            if stop and token == self.tokenizer.end_of_turn:
                break
            tokens.append(token)
            next_logits = self.logits(self.forward([token], cache, position + len(tokens) - 1)[-1:])[0]
        return tokens

    def teacher_forced(self, next_logits: np.ndarray, text: list[int], cache: np.ndarray, position: int) -> np.ndarray:
        """Log-probabilities [len(text), vocabulary] of each next token, given the prompt and the text before it."""
        hidden = self.forward(text[:-1], cache, position)
        logits = np.concatenate([next_logits[None], self.logits(hidden)]).astype(np.float64)
        logits -= logits.max(-1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))
