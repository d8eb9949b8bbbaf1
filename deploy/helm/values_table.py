"""The table of values in the chart's README, out of values.yaml and its comments.

A comment line right above a value is its description; `# == Title` begins a part. A value without one is an error, unless it
is a map whose values have theirs: then those are listed.
"""

import dataclasses
import re

import yaml

BEGIN, END = "<!-- values: begin (make chart) -->", "<!-- values: end -->"
_KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z]+):")


class Undocumented(Exception):
    """Values without a comment, by name."""


@dataclasses.dataclass
class Row:
    part: str
    name: str
    about: str


def _rows(text: str) -> list[Row]:
    """A row for each commented value."""
    rows: list[Row] = []
    part, about = "", ""
    path: list[tuple[int, str]] = []  # indents and keys that lead here
    for line in text.splitlines():
        words = line.strip()
        if words.startswith("# == "):
            part = words.removeprefix("# == ")
        elif words.startswith("# "):
            about = words.removeprefix("# ")
        elif match := _KEY.match(line):
            indent = len(match["indent"])
            path = [step for step in path if step[0] < indent] + [(indent, match["key"])]
            if about:
                rows.append(Row(part, ".".join(key for _, key in path), about))
            about = ""
        else:
            about = ""
    return rows


def _uncommented(values: dict, commented: set[str], prefix: str = "") -> list[str]:
    missing: list[str] = []
    for key, value in values.items():
        name = prefix + key
        if name in commented:
            continue
        if isinstance(value, dict) and value:
            missing += _uncommented(value, commented, f"{name}.")
        else:
            missing.append(name)
    return missing


def _default(values: dict, name: str) -> str:
    value = values
    for key in name.split("."):
        value = value[key]
    return yaml.safe_dump(value, default_flow_style=True, width=1000, sort_keys=False).removesuffix("\n...\n").strip()


def names(text: str) -> list[str]:
    """The values that have a line."""
    return [row.name for row in _rows(text)]


def table(text: str) -> str:
    """Markdown: a table for each part."""
    values = yaml.safe_load(text)
    rows = _rows(text)
    missing = _uncommented(values, {row.name for row in rows})
    if missing:
        raise Undocumented(f"values.yaml: no comment above {', '.join(missing)}")
    lines: list[str] = []
    part = None
    for row in rows:
        if row.part != part:
            part = row.part
            lines += ["", f"**{part}**", "", "| value | default | what it is |", "|---|---|---|"]
        about = row.about.replace("|", "\\|")
        lines.append(f"| `{row.name}` | `{_default(values, row.name)}` | {about} |")
    return "\n".join(lines[1:]) + "\n"


def with_table(readme: str, table_text: str) -> str:
    """The README with this table in its place."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table_text}{END}{after}"
