"""The tables for a terminal, from a summary."""

from collections.abc import Callable, Sequence

from .results import Json

Column = tuple[str, Callable[[Json], str]]


def _number(field: str, form: str, times: float = 1, unit: str = "") -> Callable[[Json], str]:
    def show(row: Json) -> str:
        value = row.get(field)
        return "-" if value is None else f"{value * times:{form}}{unit}"

    return show


def _interval(low: str, high: str) -> Callable[[Json], str]:
    return lambda row: f"{row[low]:.2g} to {row[high]:.2g}"


TENSORS: tuple[Column, ...] = (
    ("K dB", _number("sqnr_k", ".1f")),
    ("V dB", _number("sqnr_v", ".1f")),
    ("raised", _number("raised", ".2f", 100, " %")),
)

COLUMNS: dict[str, tuple[str, tuple[Column, ...]]] = {
    "dump": ("dumped KV, errors of tensors alone", (("bits", _number("bits", ".3f")), *TENSORS)),
    "E1": ("real tiles under real queries", (
        ("output error", _number("output_error", ".3f", 100, " %")),
        ("largest logit error", _number("max_logit_error", ".3g")),
        ("raised tiles", _number("raised", ".2f", 100, " %")),
    )),
    "E2": ("text forced upon the model after a quantized prefix: KLD in nats a token", (
        ("bits", _number("bits", ".3f")),
        ("mean KLD", _number("kld", ".6f")),
        ("95 % interval", _interval("kld_low", "kld_high")),
        ("median", _number("kld_median", ".2g")),
        ("p99", _number("kld_p99", ".2g")),
        ("top-1", _number("top1", ".2f", 100, " %")),
        ("PPL", _number("ppl", ".3f")),
        ("PPL change", _number("ppl_change", "+.2f", 100, " %")),
        *TENSORS,
    )),
    "E3": ("facts hidden in the prefix", (
        ("found with exact KV", lambda row: f"{row['exact_found']} of {row['questions']}"),
        ("of those kept", _number("kept", ".0f", 100, " %")),
        ("log-likelihood of the answer", _number("log_likelihood_change", "+.4f")),
    )),
    "recall": ("the continuation repeats the prefix", (
        ("mean KLD", _number("recall_kld", ".6f")),
        ("95 % interval", _interval("recall_low", "recall_high")),
        ("copied", _number("copied", ".2f", 100, " %")),
        ("with exact KV", _number("exact_copied", ".2f", 100, " %")),
    )),
    "E4": ("text that the model writes by itself", (
        ("same tokens from the start, median", _number("first_divergence", ".0f")),
        ("agreement", _number("agreement", ".1f", 100, " %")),
        ("different tokens, of exact's", _number("distinct", ".2f")),
    )),
    "node": ("cold against a hit through a node", (
        ("mean KLD of the hit", _number("kld", ".6f")),
        ("top-1", _number("top1", ".2f", 100, " %")),
        ("pages as decoded here", lambda row: "bit for bit" if row["same_as_local"] else "NO"),
    )),
}  # fmt: skip


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])
             for row in (head, *rows)]  # fmt: skip
    return "\n".join(lines)


def synthetic_cells(rows: dict[str, Json]) -> tuple[list[str], list[list[str]]]:
    """(head, lines), a line a codec: SQNR of each kind of tile at the first head size, and theory beside the first kind."""
    first = next(iter(rows.values()))["rows"]
    size = first[0]["head_dim"]
    kinds = [row["kind"] for row in first if row["head_dim"] == size]

    def db(value: float | None) -> str:
        return "exact" if value is None else f"{value:.2f}"

    lines = []
    for spec, result in rows.items():
        by_kind = {row["kind"]: row for row in result["rows"] if row["head_dim"] == size}
        theory = by_kind["normal"]["theory"]
        lines.append([spec, *(db(by_kind[kind]["sqnr"]) for kind in kinds), "-" if theory is None else f"{theory:.2f}"])
    return ["codec", *kinds, "theory of normal"], lines


def text(summary: Json) -> str:
    parts = []
    for level, rows in summary["levels"].items():
        if level == "E0":
            parts.append(f"E0: synthetic tiles, SQNR in dB\n{grid(*synthetic_cells(rows))}")
            continue
        about, columns = COLUMNS[level]
        lines = [[spec, *(show(row) for _, show in columns)] for spec, row in rows.items()]
        parts.append(f"{level}: {about}\n{grid(['codec', *(name for name, _ in columns)], lines)}")
    if "floor" in summary:
        parts.append(f"noise floor (bf16 against f32 KV, no codec): mean KLD {summary['floor']:.7f}")
    for pair in summary.get("against", []):
        verdict = "better" if pair["high"] < 0 else "worse" if pair["low"] > 0 else "no difference shown"
        parts.append(f"{pair['codec']} against {pair['rival']} ({pair['rival_bits']:.2f} b): {verdict}, KLD {pair['difference']:+.6f} "
                     f"({pair['low']:+.2g} to {pair['high']:+.2g})")
    return "\n\n".join(parts) + "\n"
