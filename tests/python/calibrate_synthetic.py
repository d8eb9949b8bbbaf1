"""A model that is none: keys and values of three layers that resemble each other, with a metric and weights; and its profiles."""

import functools

import numpy as np
from kvist.calibrate import arithmetic, fit
from kvist.calibrate.profile import Profile

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
def profile(source_layers: int = 0, reset: int = 0, head_dim: int = HEAD_DIM) -> Profile:
    width, turns = HEADS * head_dim, arithmetic.turns_of(10000.0 ** (-np.arange(0, head_dim, 2) / head_dim))
    settings = fit.Settings(source_layers, reset, THETA)
    guess = fit.guess_of(values(width), weights(width), HEADS)
    return fit.fit(values(width), fisher(width), weights(width), guess, fit.Rope(1, turns), settings, {"model": "none"})
