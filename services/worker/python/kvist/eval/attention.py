"""E1: real tiles under real queries: how far one layer's attention moves when its keys and values went through a codec."""

import numpy as np

from ..models.smollm2 import bf16
from .codecs import Coded
from .results import Json, rounded
from .runs import Run


def _attend(queries: np.ndarray, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(scores, output) over the prefix alone: queries [kv_heads, rows, head_dim], keys and values [kv_heads, tokens, head_dim]."""
    scores = queries @ keys.swapaxes(-1, -2)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return scores, (weights / weights.sum(-1, keepdims=True)) @ values


def judge(run: Run, coded: Coded) -> Json:
    """Relative error of each layer's attention output, the largest error of a logit there, and the raised tiles."""
    result: Json = {"bits": coded.bits, "raised": coded.raised, "tiles": coded.tiles}
    if run.queries is None:
        return result
    exact, decoded = run.wide, bf16.to_float(coded.kv)
    errors, logits = [], []
    for layer, queries in enumerate(run.queries):
        grouped = queries.reshape(exact.shape[2], -1, exact.shape[4])
        scores, output = _attend(grouped, exact[0, layer], exact[1, layer])
        moved_scores, moved_output = _attend(grouped, decoded[0, layer], decoded[1, layer])
        errors.append(np.sqrt(np.sum(np.square(moved_output - output)) / np.sum(np.square(output))))
        logits.append(np.abs(moved_scores - scores).max())
    return {**result, "output_error": rounded(np.array(errors)), "max_logit_error": rounded(np.array(logits))}
