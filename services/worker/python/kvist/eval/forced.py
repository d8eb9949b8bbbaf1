"""E2: text that is forced upon the model after a quantized prefix; what it would have said, against exact KV. And the same text when
it repeats the prefix (recall), and the noise floor: bf16 KV against KV that was never rounded."""

import numpy as np

from . import statistics
from .results import Json, rounded
from .runs import Run

RECALLED = 256  # tokens of the prefix that the continuation of `recall` repeats


def distances(run: Run, kv: np.ndarray) -> Json:
    """Of each judged token: KLD, whether the likeliest next token is the same, and the negative log-likelihood of the true one."""
    judged = statistics.log_softmax(run.engine.logits(kv, run.forced))
    places = np.arange(len(run.following))
    return {
        "kld": rounded(statistics.kld(run.reference, judged)),
        "top1": [int(same) for same in run.reference.argmax(-1) == judged.argmax(-1)],
        "nll": rounded(-judged[places, run.following]),
        "exact_nll": rounded(-run.reference[places, run.following]),
    }


def tensor_errors(exact: np.ndarray, decoded: np.ndarray) -> Json:
    """exact, decoded: float32 [2, layers, heads, tokens, head_dim]."""
    energy = np.sum(exact * exact, (0, 1, 2, 4), dtype=np.float64)
    error = np.sum(np.square(decoded - exact), (0, 1, 2, 4), dtype=np.float64)
    return {
        "sqnr_k": rounded(statistics.sqnr_db(exact[0], decoded[0])),
        "sqnr_v": rounded(statistics.sqnr_db(exact[1], decoded[1])),
        "error_by_token": rounded(error / np.maximum(energy, 1e-30)),
    }


def noise_floor(run: Run) -> Json:
    """What rounding KV to bf16 does, in place of a codec."""
    unrounded = run.engine.logits(run.engine.prefill(run.before, wide=True), run.forced)
    return {"kld": rounded(statistics.kld(run.reference, statistics.log_softmax(unrounded)))}


def recall(run: Run, kv: np.ndarray) -> Json:
    """The continuation repeats tokens of the prefix, from its middle on: what a codec forgets, the model cannot copy."""
    middle = (run.prefix - RECALLED) // 2
    repeated = run.before[middle : middle + RECALLED]
    exact, judged = (statistics.log_softmax(run.engine.logits(cache, repeated)) for cache in (run.kv, kv))
    nexts, places = np.asarray(repeated[1:]), np.arange(RECALLED - 1)
    return {
        "kld": rounded(statistics.kld(exact, judged)),
        "copied": float(np.mean(judged[places].argmax(-1) == nexts)),
        "exact_copied": float(np.mean(exact[places].argmax(-1) == nexts)),
    }
