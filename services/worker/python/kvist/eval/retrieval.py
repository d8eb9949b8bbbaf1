"""E3: a fact is hidden in a quantized prefix and asked for after it. Asked only where exact KV finds the answer.

The hay is a judged text; questions repeat the needle's words, since small models fail at any others. An answer counts as found when each of its tokens is the likeliest one: what greedy decoding would say.
"""

import dataclasses

import numpy as np

from . import statistics
from .codecs import Judged
from .engines import Engine
from .results import Json

DEPTHS = (0.1, 0.3, 0.5, 0.7, 0.9)
PASSKEYS = ("48213", "90576", "13948", "67402", "25831")
CODES = (("Lisbon", "7316"), ("Oslo", "2894"), ("Cairo", "5047"), ("Quito", "8162"))
CODE_DEPTHS = (0.2, 0.4, 0.6, 0.8)


@dataclasses.dataclass(frozen=True)
class Question:
    ask: str
    answer: str


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    needles: tuple[tuple[float, str], ...]  # depth, sentence
    questions: tuple[Question, ...]


def cases() -> list[Case]:
    found = [
        Case(f"passkey at {depth:g}", ((depth, f"\nThe pass key is {key}. Remember it: the pass key is {key}.\n"),),
             (Question("\nThe pass key is", f" {key}"),))
        for depth, key in zip(DEPTHS, PASSKEYS, strict=True)
    ]  # fmt: skip
    needles = tuple((depth, f"\nThe secret code of {city} is {code}. Remember: the secret code of {city} is {code}.\n")
                    for depth, (city, code) in zip(CODE_DEPTHS, CODES, strict=True))  # fmt: skip
    asked = tuple(Question(f"\nThe secret code of {city} is", f" {code}") for city, code in CODES)
    return [*found, Case("key-value", needles, asked)]


def prefix(engine: Engine, case: Case, hay: list[int], length: int) -> list[int]:
    """Exactly `length` tokens: the hay with the needles at their depths."""
    needles = [(depth, engine.encode(text)) for depth, text in case.needles]
    room = length - sum(len(tokens) for _, tokens in needles)
    tokens, taken = [], 0
    for depth, needle in needles:
        cut = round(depth * room)
        tokens += hay[taken:cut] + needle
        taken = cut
    return tokens + hay[taken:room]


class Haystack:
    """One case of one engine: its prefix's exact KV, and what exact KV answers."""

    def __init__(self, engine: Engine, case: Case, hay: list[int], length: int):
        self.case, self._engine = case, engine
        self.tokens = prefix(engine, case, hay, length)
        self._kv: np.ndarray | None = None
        self._exact: list[tuple[bool, float]] = []

    def _answers(self, kv: np.ndarray) -> list[tuple[bool, float]]:
        """For each question: whether the answer is found, and its log-likelihood."""
        answers = []
        for question in self.case.questions:
            ask, answer = self._engine.encode(question.ask), self._engine.encode(question.answer)
            said = statistics.log_softmax(self._engine.logits(kv, ask + answer[:-1]))[len(ask) - 1 :]
            answers.append((bool(np.all(said.argmax(-1) == answer)), float(said[np.arange(len(answer)), answer].sum())))
        return answers

    def judge(self, codec: Judged) -> Json:
        if self._kv is None:
            self._kv = self._engine.prefill(self.tokens)
            self._exact = self._answers(self._kv)
        found = self._answers(codec.apply(self._kv, 0).kv)
        return {
            "exact_found": [was for was, _ in self._exact],
            "found": [now for now, _ in found],
            "log_likelihood_change": [float(f"{now - was:.6g}") for (_, was), (_, now) in zip(self._exact, found, strict=True)],
        }
