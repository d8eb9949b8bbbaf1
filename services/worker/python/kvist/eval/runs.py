"""One run: a text and a prefix length. Computes its exact KV once, when somebody asks, for all codecs and levels."""

import functools
import hashlib

import numpy as np

from ..models.smollm2 import bf16
from . import statistics
from .codecs import Coded, Judged
from .engines import Engine
from .texts import TextError


class Run:
    def __init__(self, engine: Engine, text_name: str, tokens: list[int], prefix: int, judged: int):
        if len(tokens) < prefix + judged + 1:
            raise TextError(f"text {text_name!r} has {len(tokens)} tokens; a prefix of {prefix} and {judged} judged ones need "
                            f"{prefix + judged + 1}: give a longer text")
        self.engine, self.name = engine, f"{text_name} {prefix}"
        self.text_name, self.prefix, self.judged = text_name, prefix, judged
        self.before = tokens[:prefix]
        self.forced = tokens[prefix : prefix + judged]
        self.following = np.asarray(tokens[prefix + 1 : prefix + judged + 1])  # what each judged position should say
        self._last: tuple[str, Coded] | None = None

    @property
    def tokens_digest(self) -> str:
        ids = np.asarray([*self.before, *self.forced, self.following[-1]], np.uint32)
        return hashlib.sha256(ids.tobytes()).hexdigest()

    @functools.cached_property
    def kv(self) -> np.ndarray:
        return self.engine.prefill(self.before)

    @functools.cached_property
    def wide(self) -> np.ndarray:
        return bf16.to_float(self.kv)

    @functools.cached_property
    def reference(self) -> np.ndarray:
        """Log-probabilities after each judged token, all KV exact."""
        return statistics.log_softmax(self.engine.logits(self.kv, self.forced))

    @functools.cached_property
    def queries(self) -> np.ndarray | None:
        return self.engine.queries(self.kv, self.forced)

    def coded(self, codec: Judged) -> Coded:
        """The prefix through `codec`; the last one is kept, since each level asks for it."""
        if self._last is None or self._last[0] != codec.spec:
            self._last = (codec.spec, codec.apply(self.kv, 0))
        return self._last[1]

    def forget(self) -> None:
        """Gives the memory of everything that was computed back."""
        for name in ("kv", "wide", "reference", "queries"):
            self.__dict__.pop(name, None)
        self._last = None
