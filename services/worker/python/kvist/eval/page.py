"""One HTML page that needs nothing beside it: tables and plots of a summary."""

import html
from collections.abc import Sequence

import numpy as np

from . import plots, statistics, tables
from .results import Json

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1f2328}
table{border-collapse:collapse;font-size:13px;margin:.5rem 0 1.5rem}td,th{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #e3e5e8}
td:first-child,th:first-child{text-align:left}.ours{font-weight:600}svg{display:block;margin:.5rem 0;max-width:100%;height:auto}
details{margin:.3rem 0}p.small{color:#57606a;font-size:13px}"""

LEAST_KLD = 1e-8  # below it a distance is rounding: a logarithm needs an end
POSITIONS = 16  # tokens in one point of a line


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], ours: set[str]) -> str:
    def row(cells: Sequence[str]) -> str:
        mark = ' class="ours"' if cells[0] in ours else ""
        return f"<tr{mark}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"

    heads = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(row(cells) for cells in rows)}</tbody></table>"


def _level(level: str, rows: dict[str, Json], ours: set[str]) -> str:
    if level == "E0":
        head, lines = tables.synthetic_cells(rows)
        return f"<h2>E0: synthetic tiles, SQNR in dB</h2>{_table(head, lines, ours)}"
    about, columns = tables.COLUMNS[level]
    cells = [[spec, *(show(row) for _, show in columns)] for spec, row in rows.items()]
    return f"<h2>{level}: {html.escape(about)}</h2>{_table(['codec', *(name for name, _ in columns)], cells, ours)}"


def _frontier(summary: Json, rows: dict[str, Json], ours: set[str]) -> str:
    exact = [spec for spec, row in rows.items() if row["kld"] <= LEAST_KLD]
    points = [(spec, row["bits"], row["kld"], spec in ours) for spec, row in rows.items() if spec not in exact]
    if not points:
        return ""
    left_out = f" Exact, and so not on a logarithm: {html.escape(', '.join(exact))}." if exact else ""
    kept = statistics.frontier([(bits, kld) for _, bits, kld, _ in points])
    floor = max(summary["floor"], LEAST_KLD) if "floor" in summary else None
    return ("<h2>Bits against distance</h2><p class=small>Green: Kvist's codecs; grey: baselines. The line joins what nothing else beats in "
            f"both.{left_out}</p>{plots.frontier(points, kept, floor)}")  # fmt: skip


def _binned(values: Sequence[float | None], each: int) -> list[float]:
    whole = len(values) // each * each
    filled = np.array([0.0 if value is None else value for value in values[:whole]])
    return filled.reshape(-1, each).mean(-1).tolist()


def _positions(rows: dict[str, Json]) -> str:
    klds = {spec: _binned(row["kld_by_position"], POSITIONS) for spec, row in rows.items() if "kld_by_position" in row}
    errors = {spec: _binned(row["error_by_token"], POSITIONS) for spec, row in rows.items()}
    parts = ["<h2>Error by position</h2>"]
    if klds:
        parts += ["<p>KLD of judged tokens, by their place after the prefix.</p>",
                  plots.lines(klds, "tokens after the prefix", "mean KLD", POSITIONS)]  # fmt: skip
    parts += ["<p>Relative error of keys and values, by the token's place in the longest prefix.</p>",
              plots.lines(errors, "token of the prefix", "error / energy", POSITIONS)]  # fmt: skip
    return "".join(parts)


def _heat(rows: dict[str, Json]) -> str:
    parts = ["<h2>SQNR by layer and head</h2>"]
    for spec, row in rows.items():
        maps = plots.heat_map(row["heat_k"], "K") + plots.heat_map(row["heat_v"], "V")
        parts.append(f"<details><summary>{html.escape(spec)}</summary>{maps}</details>")
    return "".join(parts)


def _against(pairs: Sequence[Json]) -> str:
    cells = [[p["codec"], f"{p['rival']} ({p['rival_bits']:.2f} b)", f"{p['difference']:+.6f}", f"{p['low']:+.2g} to {p['high']:+.2g}"]
             for p in pairs]  # fmt: skip
    head = ["codec", "best baseline of at most half a bit more", "difference of mean KLD", "95 % interval"]
    return f"<h2>Head to head</h2><p class=small>Below zero: Kvist's is better. Tokens are paired.</p>{_table(head, cells, set())}"


def page(report: Json) -> str:
    summary, about = report["summary"], report["about"]
    ours = {codec["codec"] for codec in summary["codecs"] if codec["ours"]}
    levels = summary["levels"]
    rows = levels.get("E2") or levels.get("dump") or {}
    title = f"kvist eval: {about['model']}"
    settings = "; ".join(f"{name}: {value}" for name, value in about.items())
    parts = [f"<h1>{html.escape(title)}</h1><p class=small>{html.escape(settings)}</p>"]
    if "E2" in levels:
        parts.append(_frontier(summary, rows, ours))
    parts += [_level(level, levels[level], ours) for level in ("E2", "dump", "node", "recall", "E3", "E4", "E1", "E0") if level in levels]
    if summary.get("against"):
        parts.append(_against(summary["against"]))
    if rows:
        parts += [_positions(rows), _heat(rows)]
    return (f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style></head>'
            f"<body>{''.join(parts)}</body></html>\n")  # fmt: skip
