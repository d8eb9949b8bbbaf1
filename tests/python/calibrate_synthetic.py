"""A model that is none: keys and values of three layers that resemble each other, with a metric and weights; and its profiles."""

import functools

import numpy as np
from kvist.calibrate import arithmetic, fit
from kvist.calibrate.profile import Profile

LAYERS, HEADS, HEAD_DIM, TOKENS = 3, 2, 8, 3000
WIDTH = HEADS * HEAD_DIM
THETA = 0.1


@functools.cache
def values() -> np.ndarray:
    """[layers, tokens, 2 d]: each layer is a mixture of the one before and of something new; K of V."""
    random = np.random.default_rng(1)
    layers = [random.standard_normal((TOKENS, 2 * WIDTH))]
    for _ in range(LAYERS - 1):
        mixture = random.standard_normal((2 * WIDTH, 2 * WIDTH)) / np.sqrt(2 * WIDTH)
        layers.append(layers[-1] @ mixture + 0.1 * random.standard_normal((TOKENS, 2 * WIDTH)))
    loud = np.exp(random.standard_normal((TOKENS, 1)) / 2)
    return (np.stack(layers) * loud + 0.5).astype(np.float32)


@functools.cache
def fisher() -> np.ndarray:
    roots = np.random.default_rng(2).standard_normal((2, LAYERS, WIDTH, WIDTH)) / np.sqrt(WIDTH)
    return roots @ roots.swapaxes(-1, -2) + 0.1 * np.eye(WIDTH)


@functools.cache
def weights() -> np.ndarray:
    """Loud tokens matter more."""
    energy = np.square(values()[:, :, :WIDTH]).mean(-1)
    return np.stack([energy / energy.mean(1, keepdims=True)] * 2)


@functools.cache
def profile(source_layers: int = 0, reset: int = 0) -> Profile:
    turns = arithmetic.turns_of(10000.0 ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM))
    settings = fit.Settings(source_layers, reset, THETA)
    guess = fit.guess_of(values(), weights(), HEADS)
    return fit.fit(values(), fisher(), weights(), guess, fit.Rope(1, turns), settings, {"model": "none"})
