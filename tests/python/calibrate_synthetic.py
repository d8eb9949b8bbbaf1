"""A model that is none: keys and values of three layers that resemble each other, with a metric and weights; and its profiles."""

import functools

import numpy as np
from kvist.calibrate import arithmetic, fit
from kvist.calibrate.profile import HeadGroup, Profile

LAYERS, HEADS, HEAD_DIM, TOKENS = 3, 2, 8, 3000
WIDTH = HEADS * HEAD_DIM
THETA = 0.1


@functools.cache
def values(width: int = WIDTH) -> np.ndarray:
    """[layers, tokens, 2 d]: each layer is a mixture of the one before and of something new; K of V."""
    random = np.random.default_rng(1)
    layers = [random.standard_normal((TOKENS, 2 * width))]
    for _ in range(LAYERS - 1):
        mixture = random.standard_normal((2 * width, 2 * width)) / np.sqrt(2 * width)
        layers.append(layers[-1] @ mixture + 0.1 * random.standard_normal((TOKENS, 2 * width)))
    loud = np.exp(random.standard_normal((TOKENS, 1)) / 2)
    return (np.stack(layers) * loud + 0.5).astype(np.float32)


@functools.cache
def fisher(width: int = WIDTH) -> np.ndarray:
    roots = np.random.default_rng(2).standard_normal((2, LAYERS, width, width)) / np.sqrt(width)
    return roots @ roots.swapaxes(-1, -2) + 0.1 * np.eye(width)


@functools.cache
def weights(width: int = WIDTH) -> np.ndarray:
    """Loud tokens matter more."""
    energy = np.square(values(width)[:, :, :width]).mean(-1)
    return np.stack([energy / energy.mean(1, keepdims=True)] * 2)


@functools.cache
def profile(source_layers: int = 0, reset: int = 0, head_dim: int = HEAD_DIM, groups: int = 1) -> Profile:
    width, turns = HEADS * head_dim, arithmetic.turns_of(10000.0 ** (-np.arange(0, head_dim, 2) / head_dim))
    rope, settings, each = fit.Rope(1, turns), fit.Settings(source_layers, reset, THETA), width // groups
    facts = fit.facts_of(LAYERS, HEADS, head_dim, groups, rope, settings)
    blocks = np.stack([fisher(width)[:, :, i * each : (i + 1) * each, i * each : (i + 1) * each] for i in range(groups)], 2)
    shared = np.stack([weights(width)] * groups, 2)
    return fit.fit(values(width), blocks, shared, facts, rope, settings, {"model": "none"})


def group(source_layers: int = 0, reset: int = 0, head_dim: int = HEAD_DIM) -> HeadGroup:
    """All heads in one."""
    return profile(source_layers, reset, head_dim).groups[0]
