"""Gradients of SmolLM2 by jax: the forward pass of models/smollm2 over a given prefix, once more, for its derivative."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..eval.smollm2_engine import SmolLM2Engine
from ..models.smollm2.model import SmolLM2
from . import arithmetic
from .fit import Rope


def _norm(x: Any, weight: Any, epsilon: float) -> Any:
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + epsilon) * weight


def _turn(x: Any, cos: Any, sin: Any) -> Any:
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


class JaxGradients:
    def __init__(self, engine: SmolLM2Engine):
        model = engine.model
        self._heads, self._kv_heads, self._head_dim, self._epsilon = model.heads, model.kv_heads, model.head_dim, model.epsilon
        self._weights = {name: jnp.asarray(value) for name, value in model.stacked().items()}
        self.rope = rope_of(model)

    def of(self, kv: np.ndarray, following: list[int], samples: int, random: np.random.Generator) -> np.ndarray:
        positions = np.arange(kv.shape[3], kv.shape[3] + len(following))
        angles = arithmetic.cos_sin(positions, self.rope.turns, 1.0)
        draws = random.random((samples, len(following)), np.float32)
        return np.asarray(self._drawn(jnp.asarray(kv), jnp.asarray(following), angles, jnp.asarray(draws)))

    def logits(self, kv: Any, tokens: Any, angles: Any) -> Any:
        """After each of `tokens`, which follow the prefix kv."""
        weights = self._weights
        blocked = jnp.arange(kv.shape[3] + len(tokens))[None] > (kv.shape[3] + jnp.arange(len(tokens)))[:, None]
        mask = jnp.where(blocked, jnp.float32(-1e30), 0)
        layers = {name: value for name, value in weights.items() if name not in ("embedding", "norm")}
        step = functools.partial(self._layer, mask=mask, angles=angles)
        x, _ = jax.lax.scan(step, weights["embedding"][tokens], (layers, kv[0], kv[1]))
        return _norm(x, weights["norm"], self._epsilon) @ weights["embedding"].T

    def _layer(self, x: Any, inputs: Any, mask: Any, angles: Any) -> tuple[Any, None]:
        weight, keys, values = inputs
        n, heads, kv_heads = len(x), self._heads, self._kv_heads
        rows = (_norm(x, weight["attention_norm"], self._epsilon) @ weight["qkv"].T).reshape(n, -1, self._head_dim).swapaxes(0, 1)
        q, k, v = rows[:heads], rows[heads : heads + kv_heads], rows[heads + kv_heads :]
        keys, values = jnp.concatenate([keys, _turn(k, *angles)], 1), jnp.concatenate([values, v], 1)
        queries = (_turn(q, *angles) * self._head_dim**-0.5).reshape(kv_heads, heads // kv_heads, n, -1)
        shares = jax.nn.softmax(jnp.einsum("hgtd,hsd->hgts", queries, keys) + mask, -1)
        attended = jnp.einsum("hgts,hsd->hgtd", shares, values).reshape(heads, n, -1).swapaxes(0, 1).reshape(n, -1)
        x = x + attended @ weight["output"].T
        gate, up = jnp.split(_norm(x, weight["ffn_norm"], self._epsilon) @ weight["gate_up"].T, 2, -1)
        return x + (jax.nn.silu(gate) * up) @ weight["down"].T, None

    @functools.partial(jax.jit, static_argnums=0)
    def _drawn(self, kv: Any, tokens: Any, angles: Any, draws: Any) -> Any:
        logits, backward = jax.vjp(lambda kv: self.logits(kv, tokens, angles), kv)
        shares = jax.nn.softmax(logits, -1)
        below = jnp.cumsum(shares, -1)

        def one(draw: Any) -> Any:
            answer = (below < draw[:, None] * below[:, -1:]).sum(-1)
            # The derivative of log p(answer) by the logits.
            return backward(jax.nn.one_hot(answer, shares.shape[-1]) - shares)[0]

        return jax.lax.map(one, draws)


def rope_of(model: SmolLM2) -> Rope:
    return Rope(1, arithmetic.turns_of(model.rope_base ** (-np.arange(0, model.head_dim, 2) / model.head_dim)))
