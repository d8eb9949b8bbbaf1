#!/usr/bin/env python3
"""Draws the boards from a Prometheus as PNG files, one for each board: what Grafana would show, without Grafana."""

import argparse
import math
import pathlib
import sys
import time

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import queries  # noqa: E402
from matplotlib.ticker import FuncFormatter, MultipleLocator  # noqa: E402
from PIL import Image  # noqa: E402

ROW_INCHES, WIDTH_INCHES = 2.3, 13.0
COLOURS = 64  # of a picture: a third of the bytes


def scaled(value: float, base: float, suffixes: tuple[str, ...]) -> str:
    step = 0
    while abs(value) >= base and step + 1 < len(suffixes):
        value, step = value / base, step + 1
    return f"{value:.3g}{suffixes[step]}"


def in_unit(value: float, unit: str) -> str:
    match unit:
        case "percentunit":
            return f"{100 * value:.3g} %"
        case "bytes":
            return scaled(value, 1024, (" B", " KiB", " MiB", " GiB", " TiB"))
        case "Bps":
            return scaled(value, 1000, (" B/s", " kB/s", " MB/s", " GB/s"))
        case "s":
            if abs(value) >= 2 * 86400:
                return f"{value / 86400:.3g} d"
            if value == 0 or abs(value) >= 1:
                return f"{value:.3g} s"
            return f"{1e3 * value:.3g} ms" if abs(value) >= 1e-3 else f"{1e6 * value:.3g} us"
        case "dB":
            return f"{value:.3g} dB"
        case "reqps" | "cps":
            return scaled(value, 1000, ("/s", "k/s", "M/s"))
        case _:
            return scaled(value, 1000, ("", "k", "M", "G"))


def answers(prometheus: str, panel: dict, variables: dict[str, str], start: float, end: float, step: float) -> list[tuple[str, list]]:
    """(legend, points) of all queries of a panel."""
    found = []
    for target in panel["targets"]:
        for labels, points in queries.query_range(prometheus, queries.fill(target["expr"], variables), start, end, step):
            found.append((queries.legend(target["legendFormat"], labels), points))
    return found


def draw_stat(axes, panel: dict, series: list) -> None:
    axes.axis("off")
    text = in_unit(series[0][1][-1][1], panel["fieldConfig"]["defaults"]["unit"]) if series else "no data"
    axes.text(0.5, 0.28, text, ha="center", va="center", fontsize=17, color="#2a7d3f")


def draw_lines(axes, panel: dict, series: list, start: float, end: float) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    unit = defaults["unit"]
    stacked = defaults["custom"]["stacking"]["mode"] == "normal"
    if stacked and series:
        times = sorted({when for _, points in series for when, _ in points})
        rows = [[dict(points).get(when, 0.0) for when in times] for _, points in series]
        axes.stackplot([when - start for when in times], rows, labels=[name for name, _ in series], alpha=0.6)
    else:
        for name, points in series:
            axes.plot([when - start for when, _ in points], [value for _, value in points], label=name, linewidth=1)
    top = max(axes.get_ylim()[1], 1.05 * axes.dataLim.y1)  # a line that hardly moves would lie on the edge
    for step in defaults["thresholds"]["steps"][1:]:
        if step["value"] <= top:
            axes.axhline(step["value"], color=step["color"], linewidth=0.8, linestyle="--")
    axes.set_ylim(0, max(top, 1e-9) if "max" not in defaults else defaults["max"] * 1.05)
    if unit == "bytes":
        axes.yaxis.set_major_locator(MultipleLocator(2.0 ** math.ceil(math.log2(max(axes.get_ylim()[1], 1) / 6))))
    axes.set_xlim(0, end - start)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: in_unit(value, unit)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} s"))
    axes.tick_params(labelsize=6)
    axes.grid(alpha=0.25)
    if series and any(name for name, _ in series):
        axes.legend(fontsize=5.5, ncols=2, loc="best", framealpha=0.6)
    if not series:
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", color="grey")


def draw(board: dict, series_of: dict[int, list], start: float, end: float, path: pathlib.Path) -> None:
    """`series_of` panels by id, as `answers` gives them."""
    bottom = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in board["panels"])
    inches = bottom / 8 * ROW_INCHES
    figure = plt.figure(figsize=(WIDTH_INCHES, inches + 0.35), dpi=75)
    for panel in board["panels"]:
        place = panel["gridPos"]
        margin_x, margin_y = 0.55 / WIDTH_INCHES, 0.36 / inches
        rect = (place["x"] / 24 + margin_x, (1 - (place["y"] + place["h"]) / bottom + margin_y * 0.55) * inches / (inches + 0.35),
                place["w"] / 24 - margin_x * 1.25, (place["h"] / bottom - margin_y * 1.45) * inches / (inches + 0.35))
        axes = figure.add_axes(rect)
        axes.set_title(panel["title"], fontsize=8, loc="left")
        if panel["type"] == "stat":
            draw_stat(axes, panel, series_of[panel["id"]])
        else:
            draw_lines(axes, panel, series_of[panel["id"]], start, end)
    figure.text(0.01, 1 - 0.22 / (inches + 0.35), board["title"], fontsize=11, weight="bold")
    figure.savefig(path)
    plt.close(figure)
    Image.open(path).convert("RGB").quantize(COLOURS).save(path, optimize=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prometheus", required=True, help="http://host:port")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the PNG files")
    parser.add_argument("--minutes", type=float, default=5, help="up to now")
    parser.add_argument("--rate-interval", default="30s", help="for $__rate_interval; at least four scrapes")
    parser.add_argument("--job", default=".*")
    parser.add_argument("--instance", default=".*")
    flags = parser.parse_args()
    flags.out.mkdir(parents=True, exist_ok=True)
    end = time.time()
    start = end - 60 * flags.minutes
    step = max(1, math.ceil((end - start) / 300))
    variables = {"__rate_interval": flags.rate_interval, "job": flags.job, "instance": flags.instance, "kv_namespace": ".*"}
    for name, board in queries.load().items():
        series = {panel["id"]: answers(flags.prometheus, panel, variables, start, end, step) for panel in board["panels"]}
        draw(board, series, start, end, flags.out / f"{name}.png")
        print(flags.out / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
