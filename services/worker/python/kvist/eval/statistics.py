"""Distances between distributions, and how sure a mean of them is. Log-probabilities are [tokens, vocabulary], distances in nats."""

import numpy as np

RESAMPLES = 2000
RUN_OF_TOKENS = 32  # neighbours share their context: they are drawn together
SEED = 7


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True, dtype=np.float64)).astype(shifted.dtype)


def kld(reference: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """KL(reference || judged) of each token; rounding may not make it negative."""
    return np.maximum(np.sum(np.exp(reference) * (reference - judged), -1, dtype=np.float64), 0)


def sqnr_db(original: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Of each [layer, head]: arrays are [layers, heads, tokens, head_dim]. Exact is infinite."""
    energy = np.sum(original * original, (-2, -1), dtype=np.float64)
    error = np.sum(np.square(decoded - original), (-2, -1), dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error == 0, np.inf, 10 * np.log10(energy / error))


def draws(tokens: int) -> np.ndarray:
    """[RESAMPLES, tokens / RUN_OF_TOKENS] indices of runs of tokens: the same for every codec, so that differences are paired."""
    runs = tokens // RUN_OF_TOKENS
    return np.random.default_rng(SEED).integers(0, runs, (RESAMPLES, runs))


def _resampled(values: np.ndarray) -> np.ndarray:
    """Means of the resamples."""
    runs = len(values) // RUN_OF_TOKENS
    if runs < 2:
        return np.full(RESAMPLES, values.mean())
    means = values[: runs * RUN_OF_TOKENS].reshape(runs, RUN_OF_TOKENS).mean(-1)
    return means[draws(len(values))].mean(-1)


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over tokens."""
    low, high = np.percentile(_resampled(values), (2.5, 97.5))
    return float(low), float(high)


def paired(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """Of the difference of means, tokens paired: below zero throughout = ours is better."""
    low, high = interval(ours - theirs)
    return {"difference": float(np.mean(ours - theirs)), "low": low, "high": high}


def frontier(points: list[tuple[float, float]]) -> list[int]:
    """Which (bits, distance) no other point beats in both."""
    best, kept = np.inf, []
    for index in sorted(range(len(points)), key=lambda i: points[i]):
        if points[index][1] < best:
            best = points[index][1]
            kept.append(index)
    return kept
