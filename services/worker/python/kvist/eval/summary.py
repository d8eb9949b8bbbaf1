"""Many results of a codec in one row."""

from collections.abc import Iterable

import numpy as np

from . import statistics
from .codecs import Judged
from .judge import FLOOR, Found
from .results import Json


def _joined(results: dict[str, Json], field: str) -> np.ndarray:
    return np.concatenate([np.asarray(result[field], np.float64) for result in results.values()])


def _finite_mean(values: Iterable) -> float | None:
    """Of decibels; exact ones (null) are left out, and where all are exact there is no mean."""
    flat = [value for value in np.ravel(np.asarray(list(values), dtype=object)) if value is not None]
    return float(np.mean(flat)) if flat else None


def forced_row(results: dict[str, Json]) -> Json:
    kld, nll, exact = (_joined(results, field) for field in ("kld", "nll", "exact_nll"))
    low, high = statistics.interval(kld)
    row = {
        "kld": float(kld.mean()),
        "kld_low": low,
        "kld_high": high,
        "kld_median": float(np.median(kld)),
        "kld_p99": float(np.percentile(kld, 99)),
        "top1": float(_joined(results, "top1").mean()),
        "ppl": float(np.exp(nll.mean())),
        "ppl_change": float(np.exp(nll.mean() - exact.mean()) - 1),
        "kld_by_run": {name: float(np.mean(result["kld"])) for name, result in results.items()},
        "kld_by_position": np.mean([result["kld"] for result in results.values()], 0).tolist(),
    }
    return row


def tensor_row(results: dict[str, Json]) -> Json:
    tokens = [len(result["error_by_token"]) for result in results.values()]  # longer prefixes hold more values
    bits = [result["bits"] for result in results.values()]
    longest = max(results.values(), key=lambda result: len(result["error_by_token"]))
    return {
        "bits": float(np.average(bits, weights=tokens)),
        "raised": sum(result["raised"] for result in results.values()) / max(1, sum(result["tiles"] for result in results.values())),
        "sqnr_k": _finite_mean(result["sqnr_k"] for result in results.values()),
        "sqnr_v": _finite_mean(result["sqnr_v"] for result in results.values()),
        "heat_k": longest["sqnr_k"],
        "heat_v": longest["sqnr_v"],
        "error_by_token": longest["error_by_token"],
    }


def attention_row(results: dict[str, Json]) -> Json:
    row = {"raised": sum(r["raised"] for r in results.values()) / max(1, sum(r["tiles"] for r in results.values()))}
    if all("output_error" in result for result in results.values()):
        row["output_error"] = float(np.mean([result["output_error"] for result in results.values()]))
        row["max_logit_error"] = float(np.max([result["max_logit_error"] for result in results.values()]))
    return row


def retrieval_row(results: dict[str, Json]) -> Json:
    """Of the answers that exact KV finds: the share that is still found."""
    was, now, change = (_joined(results, field) for field in ("exact_found", "found", "log_likelihood_change"))
    return {
        "questions": len(was),
        "exact_found": int(was.sum()),
        "kept": float(now[was > 0].mean()) if was.any() else None,
        "log_likelihood_change": float(change.mean()),
    }


def recall_row(results: dict[str, Json]) -> Json:
    kld = _joined(results, "kld")
    low, high = statistics.interval(kld)
    return {
        "recall_kld": float(kld.mean()),
        "recall_low": low,
        "recall_high": high,
        "copied": float(np.mean([result["copied"] for result in results.values()])),
        "exact_copied": float(np.mean([result["exact_copied"] for result in results.values()])),
    }


def greedy_row(results: dict[str, Json]) -> Json:
    return {
        "first_divergence": float(np.median([result["first_divergence"] for result in results.values()])),
        "agreement": float(np.mean([result["agreement"] for result in results.values()])),
        "distinct": float(np.mean([result["distinct"] for result in results.values()])),
    }


def node_row(results: dict[str, Json]) -> Json:
    return forced_row(results) | {"same_as_local": all(result["same_as_local"] for result in results.values())}


def against_baselines(found: Found, rows: dict[str, Json], codecs: list[Judged]) -> list[Json]:
    """Each of our codecs against the best baseline that takes at most half a bit more: the difference of mean KLD, tokens paired."""
    pairs = []
    for ours in (codec.spec for codec in codecs if codec.ours):
        if rows[ours]["kld"] == 0:  # exact: there is nothing to compare
            continue
        rivals = [c.spec for c in codecs if not c.ours and rows[c.spec]["bits"] <= rows[ours]["bits"] + 0.5]
        if not rivals:
            continue
        rival = min(rivals, key=lambda spec: rows[spec]["kld"])
        both = [_joined(found["E2"][spec], "kld") for spec in (ours, rival)]
        pairs.append({"codec": ours, "rival": rival, "rival_bits": rows[rival]["bits"], "rival_kld": rows[rival]["kld"],
                      **statistics.paired(*both)})  # fmt: skip
    return pairs


ROWS = {
    "dump": tensor_row,
    "E1": attention_row,
    "E2": lambda results: tensor_row(results) | forced_row(results),
    "E3": retrieval_row,
    "recall": recall_row,
    "E4": greedy_row,
    "node": node_row,
}


def summarize(found: Found, codecs: list[Judged]) -> Json:
    """{"codecs": [{"codec", "ours"}], "levels": {level: {codec: row}}, "floor": KLD of the noise floor, "against": pairs}."""
    specs = [codec.spec for codec in codecs]
    levels: dict[str, dict[str, Json]] = {}
    for level, row in ROWS.items():
        kept = {spec: row(found[level][spec]) for spec in specs if spec in found.get(level, {})}
        if kept:
            levels[level] = kept
    if "E0" in found:
        levels["E0"] = {spec: found["E0"][spec]["synthetic"] for spec in specs if spec in found["E0"]}
    summary = {"codecs": [{"codec": codec.spec, "ours": codec.ours} for codec in codecs], "levels": levels}
    if "E2" in levels:
        summary["floor"] = float(_joined(found["E2"][FLOOR], "kld").mean())
        summary["against"] = against_baselines(found, levels["E2"], codecs)
    return summary
