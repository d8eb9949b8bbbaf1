"""Results on disk, one small JSON file each, under a digest of everything that they follow from: a second run computes what is missing."""

import hashlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

PROTOCOL = 1  # raise it when a level computes something else than before

Json = dict[str, Any]


class Results:
    def __init__(self, folder: pathlib.Path, say: Callable[[str], None] | None = None):
        self._folder = folder / "results"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._say = say or (lambda line: print(line, file=sys.stderr, flush=True))
        self.total = self.done = self.computed = 0

    def get(self, what: Json, compute: Callable[[], Json]) -> Json:
        """The result of `what`, from disk if it is there. `what` holds all that the result follows from."""
        self.done += 1
        key = hashlib.sha256(json.dumps({"protocol": PROTOCOL, **what}, sort_keys=True).encode()).hexdigest()[:32]
        path = self._folder / f"{key}.json"
        if (kept := self._read(path)) is not None:
            return kept
        start = time.perf_counter()
        result = compute()
        self._write(path, {"what": what, "result": result})
        self.computed += 1
        self._say(f"[{self.done}/{self.total}] {what['level']} {what.get('run', '')} {what['codec']}: "
                  f"{time.perf_counter() - start:.1f} s")
        return result

    @staticmethod
    def _read(path: pathlib.Path) -> Json | None:
        try:
            return json.loads(path.read_text(encoding="utf-8"))["result"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):  # cut off by a crash of the machine: computed anew
            return None

    @staticmethod
    def _write(path: pathlib.Path, content: Json) -> None:
        beside = path.with_suffix(f".{os.getpid()}")
        beside.write_text(json.dumps(content), encoding="utf-8")
        beside.replace(path)


def rounded(values: Any) -> list:
    """Of an array, for JSON: six digits are enough, infinity is null."""
    array = np.asarray(values, np.float64)
    if np.isnan(array).any():
        raise ArithmeticError("a result is not a number: the codec or the model gave NaN")
    if array.ndim > 1:
        return [rounded(row) for row in array]
    return [float(f"{v:.6g}") if np.isfinite(v) else None for v in array]
