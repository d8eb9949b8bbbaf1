"""How far one run's next-token distributions are from another's. Arrays are log-probabilities [tokens, vocabulary]."""

import numpy as np


def mean_kld(reference: np.ndarray, judged: np.ndarray) -> float:
    """Mean over tokens of KL(reference || judged), in nats."""
    return float(np.mean(np.sum(np.exp(reference) * (reference - judged), -1)))


def top1_agreement(reference: np.ndarray, judged: np.ndarray) -> float:
    """Share of tokens whose likeliest next token is the same."""
    return float(np.mean(reference.argmax(-1) == judged.argmax(-1)))
