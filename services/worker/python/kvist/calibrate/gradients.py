"""What the answers that follow a prefix say about its keys and values: gradients of log p(answer), answers drawn from the model itself.

Shapes  kv float32 [2, layers, heads, tokens, head_dim], K after RoPE; gradients [samples, 2, layers, heads, tokens, head_dim] of it.
Why     The mean outer product of such gradients is the Fisher information: the quadratic form that KLD is, for small errors.
        Drawing answers from the model makes it that; taking the text's own would give another matrix with the same name.
"""

from typing import Protocol

import numpy as np

from ..eval.engines import Engine, EngineError
from .fit import Rope


class Gradients(Protocol):
    rope: Rope

    def of(self, kv: np.ndarray, following: list[int], samples: int, random: np.random.Generator) -> np.ndarray:
        """Of the sum over `following`, tokens after the prefix, of the log-probability of one drawn answer each; `samples` draws."""


def open_gradients(engine: Engine) -> Gradients:
    """Of SmolLM2's own engine by jax, of a Hugging Face engine by torch."""
    if engine.name != "SmolLM2-135M-Instruct":
        from .torch_gradients import TorchGradients

        return TorchGradients(engine)
    try:
        from .jax_gradients import JaxGradients
    except ModuleNotFoundError as missing:
        raise EngineError(f"calibration of SmolLM2 needs {missing.name}: pip install jax") from missing
    return JaxGradients(engine)
