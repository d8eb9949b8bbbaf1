"""Plots as SVG text: nothing is loaded from anywhere, so that a page stays one file."""

import html
import math
from collections.abc import Sequence

WIDTH, HEIGHT = 860, 480
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 20, 50
OURS, OTHERS, GRID = "#0b6e4f", "#8a8d91", "#e3e5e8"
SERIES = ("#0b6e4f", "#c2410c", "#1d4ed8", "#a21caf", "#a16207", "#0e7490", "#4d7c0f", "#be123c", "#334155", "#7c3aed")


def _text(x: float, y: float, words: str, anchor: str = "middle", size: int = 12, colour: str = "#333", turn: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}"{turn}>{html.escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str = GRID) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _svg(width: float, height: float, parts: Sequence[str], label: str) -> str:
    return (f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img" aria-label="{html.escape(label)}" '
            f'font-family="system-ui, sans-serif">{"".join(parts)}</svg>')  # fmt: skip


class _Axes:
    """x linear, y logarithmic, both with a little room."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float], x_name: str, y_name: str):
        self._x0, self._x1 = (0, max(xs) * 1.05) if min(xs) >= 0 else (min(xs), max(xs))
        self._low, self._high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))
        self._high = max(self._high, self._low + 1)
        self._names = (x_name, y_name)

    def x(self, value: float) -> float:
        return LEFT + (value - self._x0) / (self._x1 - self._x0) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return TOP + (self._high - math.log10(value)) / (self._high - self._low) * (HEIGHT - TOP - BOTTOM)

    def parts(self) -> list[str]:
        drawn = []
        for power in range(self._low, self._high + 1):
            y = self.y(10.0**power)
            drawn += [_line(LEFT, y, WIDTH - RIGHT, y), _text(LEFT - 8, y + 4, f"1e{power}", "end")]
        step = 10 ** math.floor(math.log10(self._x1 - self._x0))
        step = step if (self._x1 - self._x0) / step >= 4 else step / 4 if step / 4 == round(step / 4) else step / 5
        tick = math.ceil(self._x0 / step) * step
        while tick <= self._x1:
            drawn += [_line(self.x(tick), TOP, self.x(tick), HEIGHT - BOTTOM), _text(self.x(tick), HEIGHT - BOTTOM + 18, f"{tick:g}")]
            tick += step
        middle = (TOP + HEIGHT - BOTTOM) / 2
        return [*drawn, _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, self._names[0]),
                _text(16, middle, self._names[1], turn=f' transform="rotate(-90 16 {middle:.0f})"')]  # fmt: skip


_Box = tuple[float, float, float, float]  # left, top, right, bottom
LETTER, LINE = 6.4, 12.0


def _place(x: float, y: float, name: str, taken: list[_Box]) -> tuple[float, float, str]:
    """Where a dot's name stands: the first place around it that covers no other name or dot; (x, baseline, anchor)."""
    width = LETTER * len(name)
    spots = [(dx, dy) for reach in range(1, 5) for dy in (0, -11 * reach, 11 * reach) for dx in (8 * reach, -8 * reach)]
    for dx, dy in spots:
        left = x + dx if dx > 0 else x + dx - width
        box = (left, y + dy - LINE / 2, left + width, y + dy + LINE / 2)
        inside = box[0] > LEFT and box[2] < WIDTH - RIGHT and box[1] > TOP
        if inside and not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
            taken.append(box)
            return x + dx, y + dy + 4, "start" if dx > 0 else "end"
    return x + 8, y + 4, "start"


def frontier(points: Sequence[tuple[str, float, float, bool]], kept: Sequence[int], floor: float | None) -> str:
    """(name, bits, KLD, ours) each a dot with its name; those of `kept` joined: nothing is better in both. floor: a dashed line."""
    heights = [p[2] for p in points] + ([floor] if floor else [])
    axes = _Axes([p[1] for p in points], heights, "bits per value, all bytes counted", "mean KLD, nats")
    parts = axes.parts()
    if floor:
        y = axes.y(floor)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#b91c1c" stroke-dasharray="5 4"/>')
        parts.append(_text(LEFT + 6, y - 5, "noise floor: bf16 against f32", "start", 11, "#b91c1c"))
    corners = " ".join(f"{axes.x(points[i][1]):.1f},{axes.y(points[i][2]):.1f}" for i in kept)
    parts.append(f'<polyline points="{corners}" fill="none" stroke="{OURS}" stroke-width="1.5" opacity="0.6"/>')
    taken = [(axes.x(p[1]) - 5, axes.y(p[2]) - 5, axes.x(p[1]) + 5, axes.y(p[2]) + 5) for p in points]
    for name, bits, kld, ours in points:
        x, y, colour = axes.x(bits), axes.y(kld), OURS if ours else OTHERS
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{5 if ours else 4}" fill="{colour}"><title>{html.escape(name)}: '
                     f"{bits:.3f} b, KLD {kld:.3g}</title></circle>")  # fmt: skip
        at_x, at_y, anchor = _place(x, y, name, taken)
        if abs(at_y - 4 - y) > 12:
            parts.append(_line(x, y, at_x, at_y - 4, OTHERS))
        parts.append(_text(at_x, at_y, name, anchor, 11, colour if ours else "#555"))
    return _svg(WIDTH, HEIGHT, parts, "bits against KLD")


def lines(series: dict[str, Sequence[float]], x_name: str, y_name: str, each: int) -> str:
    """Each series a line; its values are `each` positions apart. What is not positive is not drawn."""
    points = {name: [(i * each + each / 2, v) for i, v in enumerate(values) if v > 0] for name, values in series.items()}
    points = {name: values for name, values in points.items() if values}
    if not points:
        return "<p>Exact throughout.</p>"
    drawn = [point for values in points.values() for point in values]
    axes = _Axes([0, *(x for x, _ in drawn)], [y for _, y in drawn], x_name, y_name)
    parts = axes.parts()
    for index, (name, values) in enumerate(points.items()):
        colour = SERIES[index % len(SERIES)]
        dash = ' stroke-dasharray="4 3"' if index >= len(SERIES) else ""
        path = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in values)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"{dash}>'
                     f"<title>{html.escape(name)}</title></polyline>")  # fmt: skip
        y = TOP + 14 + 15 * index
        parts += [f'<line x1="{WIDTH + 6}" y1="{y}" x2="{WIDTH + 26}" y2="{y}" stroke="{colour}" stroke-width="2"{dash}/>',
                  _text(WIDTH + 32, y + 4, name, "start", 11)]  # fmt: skip
    return _svg(WIDTH + 160, max(HEIGHT, TOP + 15 * len(points) + 20), parts, f"{y_name} by {x_name}")


def _shade(value: float | None, low: float, high: float) -> str:
    if value is None:
        return "#f4f4f5"
    share = min(1.0, max(0.0, (value - low) / max(high - low, 1e-9)))
    bad, good = (194, 65, 12), (11, 110, 79)
    mixed = [round(b + (g - b) * share) for b, g in zip(bad, good, strict=True)]
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def heat_map(rows: Sequence[Sequence[float | None]], title: str) -> str:
    """[layers][heads] of decibels: layers across, heads down; exact is blank. The colours go from the least to the most."""
    finite = [value for row in rows for value in row if value is not None]
    low, high = (min(finite), max(finite)) if finite else (0, 1)
    cell, left, top = 18, 40, 26
    parts = [_text(left, 15, f"{title}: {low:.1f} to {high:.1f} dB" if finite else f"{title}: exact", "start", 12)]
    for layer, row in enumerate(rows):
        for head, value in enumerate(row):
            told = "exact" if value is None else f"{value:.2f} dB"
            parts.append(f'<rect x="{left + layer * cell}" y="{top + head * cell}" width="{cell - 1}" height="{cell - 1}" '
                         f'fill="{_shade(value, low, high)}"><title>layer {layer}, head {head}: {told}</title></rect>')  # fmt: skip
    bottom = top + len(rows[0]) * cell
    parts += [_text(left + layer * cell + 8, bottom + 12, str(layer), size=9) for layer in range(0, len(rows), 5)]
    parts += [_text(left - 6, top + head * cell + 13, str(head), "end", 9) for head in range(len(rows[0]))]
    return _svg(left + len(rows) * cell + 10, bottom + 20, parts, title)
