"""Rendered objects as Python sees them, and what the tests ask of them. Each rendering is made once."""

import functools
import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "deploy" / "helm"))

import chart  # noqa: E402
import yaml  # noqa: E402

Object = dict[str, Any]
WORKLOADS = ("StatefulSet", "DaemonSet")


@functools.cache
def rendered(release: int, values: pathlib.Path) -> str:
    with chart.WithExampleFiles() as copy:
        return chart.render(release, copy, values)


@functools.cache
def objects(values: pathlib.Path) -> list[Object]:
    """Not to be changed: whoever asks again gets the same."""
    return [item for item in yaml.safe_load_all(rendered(3, values)) if item]


def name_of(item: Object) -> str:
    return f"{item['kind']}/{item['metadata']['name']}"


def only(items: list[Object], kind: str, component: str | None = None) -> Object:
    """The one object of this kind and component."""
    (item,) = [
        item
        for item in items
        if item["kind"] == kind and component in (None, item["metadata"]["labels"].get("app.kubernetes.io/component"))
    ]
    return item


def pods(items: list[Object]) -> list[tuple[str, Object, Object]]:
    """Of every object that runs one: its name, the pod's labels, the pod's spec."""
    found = []
    for item in items:
        if item["kind"] == "Pod":
            found.append((name_of(item), item["metadata"]["labels"], item["spec"]))
        elif item["kind"] in WORKLOADS:
            template = item["spec"]["template"]
            found.append((name_of(item), template["metadata"]["labels"], template["spec"]))
    return found


def containers(spec: Object) -> list[Object]:
    return spec.get("initContainers", []) + spec["containers"]


def node_pod(items: list[Object]) -> Object:
    (workload,) = [
        item
        for item in items
        if item["kind"] in WORKLOADS and item["metadata"]["labels"]["app.kubernetes.io/component"] == "node"
    ]
    return workload["spec"]["template"]["spec"]


def flags(container: Object) -> dict[str, str]:
    """--name=value as a map; of a flag without a value, the empty text."""
    return {flag.removeprefix("--").partition("=")[0]: flag.partition("=")[2] for flag in container["args"]}


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


_QUANTITIES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_SIZES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def _scaled(text: str, units: dict[str, int]) -> float:
    number = text.rstrip("".join(set("".join(units))))
    return float(number) * units[text.removeprefix(number)]


def quantity(text: str | int) -> float:
    """Of Kubernetes."""
    return _scaled(str(text), _QUANTITIES)


def size(text: str) -> float:
    """Of kvistd."""
    return _scaled(text, _SIZES)
