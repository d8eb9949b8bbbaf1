"""E0: tiles whose statistics are known, so that a codec's error can be held against theory."""

import numpy as np

from ..models.smollm2 import bf16
from . import statistics
from .codecs import TOKENS_PER_BLOCK, Judged
from .results import Json, rounded

SEED = 11
LAYERS, HEADS = 2, 2
SIZES = (64, 128)  # of a head
FIRST_POSITION = 1280  # not the first block of a prompt: no sinks


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape)


def _laplace(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.laplace(size=shape)


def _token_norms(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Norms of tokens differ by a factor of a hundred."""
    return rng.standard_normal(shape) * 10 ** rng.uniform(-1, 1, (*shape[:-1], 1))


def _outliers(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """One channel of each head sticks out by fifty sigma in every token."""
    x = rng.standard_normal(shape)
    x[..., 7] += 50
    return x


def _constant(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Every channel of a token has one value."""
    return np.broadcast_to(rng.standard_normal((*shape[:-1], 1)), shape)


SHAPES_OF_TILES = {"normal": _normal, "laplace": _laplace, "token-norms": _token_norms, "outliers": _outliers, "constant": _constant}


def judge(codec: Judged) -> Json:
    """For each kind of tile and head size: the SQNR over all of it, the worst tile's, and the bits."""
    rows = []
    for size in SIZES:
        for kind, draw in SHAPES_OF_TILES.items():
            values = draw(np.random.default_rng(SEED), (2, LAYERS, HEADS, TOKENS_PER_BLOCK, size))
            plain = bf16.from_float(values.astype(np.float32))
            coded = codec.apply(plain, FIRST_POSITION)
            exact, decoded = bf16.to_float(plain), bf16.to_float(coded.kv)
            tiles = np.stack([statistics.sqnr_db(exact[side], decoded[side]) for side in (0, 1)])
            whole = statistics.sqnr_db(exact.reshape(1, 1, -1, size), decoded.reshape(1, 1, -1, size))[0, 0]
            theory = codec.gaussian_db if kind == "normal" else None
            sqnr, worst, expected = rounded(np.array([whole, tiles.min(), np.inf if theory is None else theory]))
            rows.append({"kind": kind, "head_dim": size, "sqnr": sqnr, "worst": worst, "theory": expected, "bits": coded.bits,
                         "raised": coded.raised, "tiles": coded.tiles})
    return {"rows": rows}
