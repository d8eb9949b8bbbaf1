"""The chart as files: where it lies, what its values are, and rendering it with a real Helm.

Errors  Refused carries what Helm said, where it does not render.
Time    every call of Helm has a deadline.
"""

import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

CHART = pathlib.Path(__file__).resolve().parent / "kvist"
WORKSPACE = CHART.parent.parent.parent
CI = CHART / "ci"
RELEASE, NAMESPACE = "kvist", "inference"
_DEADLINE = 60.0  # seconds


class Refused(Exception):
    """Helm did not render; the text says why."""


def helm(release: int) -> pathlib.Path:
    """The binary of Helm 3 or 4 that tools/setup installed."""
    folder = pathlib.Path(os.environ.get("KVIST_HELM", WORKSPACE / "build" / "helm"))
    path = folder / f"helm{release}"
    if not path.exists():
        raise FileNotFoundError(f"no {path}: run tools/setup, or set KVIST_HELM to a folder with helm3 and helm4")
    return path


def run(release: int, *arguments: str | os.PathLike) -> str:
    """Its standard output. What it keeps, it keeps in a folder that goes."""
    with tempfile.TemporaryDirectory() as home:
        places = {f"HELM_{kind}_HOME": home for kind in ("CACHE", "CONFIG", "DATA")}
        done = subprocess.run(
            [helm(release), *arguments],
            env=os.environ | places,
            capture_output=True,
            text=True,
            check=False,
            timeout=_DEADLINE,
        )
    if done.returncode != 0:
        raise Refused(done.stdout + done.stderr)
    return done.stdout


def render(release: int, chart: pathlib.Path, *values: pathlib.Path) -> str:
    """All objects, as `helm install` would send them."""
    files = [argument for path in values for argument in ("--values", path)]
    return run(release, "template", RELEASE, chart, "--namespace", NAMESPACE, *files)


def good_values() -> list[pathlib.Path]:
    return sorted(CI.glob("*-values.yaml"))


def bad_values() -> list[pathlib.Path]:
    return sorted(CI.glob("invalid-*.yaml"))


def golden_of(values: pathlib.Path) -> pathlib.Path:
    return CI / "golden" / f"{values.name.removesuffix('-values.yaml')}.yaml"


class WithExampleFiles:
    """A copy of the chart whose rules and boards are the examples of ci/files: golden files that would otherwise change
    with every edit of a board."""

    def __enter__(self) -> pathlib.Path:
        self._folder = tempfile.TemporaryDirectory()
        copy = pathlib.Path(self._folder.name) / CHART.name
        shutil.copytree(CHART, copy, ignore=shutil.ignore_patterns("ci", "files"))
        shutil.copytree(CI / "files", copy / "files")
        return copy

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


def _holds_rules(path: pathlib.Path) -> bool:
    return any(line.startswith("groups:") for line in path.read_text(encoding="utf-8").splitlines())


def shipped_files() -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
    """Pairs of a file of deploy/ and its place in the chart: rule files (those with groups) and boards. Helm reads nothing
    outside of a chart, so they are copied."""
    deploy = CHART.parent.parent
    for path in sorted((deploy / "prometheus").glob("*.y*ml")):
        if _holds_rules(path):
            yield path, CHART / "files" / "rules" / f"{path.stem}.yaml"
    for path in sorted((deploy / "grafana").glob("*.json")):
        yield path, CHART / "files" / "dashboards" / path.name
