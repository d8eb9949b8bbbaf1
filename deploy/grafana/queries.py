"""What the boards ask of Prometheus: their queries with the variables filled in, and the answers. No Grafana is needed."""

import json
import math
import pathlib
import urllib.error
import urllib.parse
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent


class Refused(RuntimeError):
    """Prometheus's own sentence, and the query."""


def load() -> dict[str, dict]:
    """All boards, by the names of their files."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(HERE.glob("*.json"))}


def fill(expression: str, variables: dict[str, str]) -> str:
    """`variables` without the dollar. Longer names first, so that none is taken for the beginning of another."""
    for name in sorted(variables, key=len, reverse=True):
        expression = expression.replace(f"${name}", variables[name])
    if "$" in expression.replace("$\"", ""):
        raise ValueError(f"a variable is left in: {expression}")
    return expression


def ask(prometheus: str, path: str, **parameters: str) -> dict:
    url = f"{prometheus}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        raise Refused(f"{error.read().decode()} for {parameters}") from None


def query_range(prometheus: str, expression: str, start: float, end: float, step: float) -> list[tuple[dict, list[tuple[float, float]]]]:
    """Series as labels and points; points that are no number are left out, and series without any."""
    data = ask(prometheus, "query_range", query=expression, start=f"{start:.3f}", end=f"{end:.3f}", step=f"{step:.3f}")
    series = []
    for one in data["result"]:
        points = [(float(when), float(value)) for when, value in one["values"]]
        points = [(when, value) for when, value in points if math.isfinite(value)]
        if points:
            series.append((one["metric"], points))
    return series


def legend(form: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        form = form.replace("{{" + name + "}}", value)
    return form
