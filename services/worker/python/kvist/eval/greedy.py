"""E4: what the model writes by itself after a quantized prefix, against what it writes after the exact one."""

from .codecs import Coded
from .results import Json
from .runs import Run


class Greedy:
    """One run: the exact text is written once, for all codecs."""

    def __init__(self, run: Run, count: int):
        self._run, self._count = run, count
        self._exact: list[int] | None = None

    def judge(self, coded: Coded) -> Json:
        """first_divergence: tokens that are the same from the start; agreement: share of places with the same token."""
        run = self._run
        if self._exact is None:
            self._exact = run.engine.greedy(run.kv, run.forced[:1], self._count)
        text = run.engine.greedy(coded.kv, run.forced[:1], self._count)
        same = [ours == theirs for ours, theirs in zip(text, self._exact, strict=True)]
        return {
            "first_divergence": same.index(False) if False in same else self._count,
            "agreement": sum(same) / self._count,
            "distinct": len(set(text)) / max(1, len(set(self._exact))),  # far below one: it repeats itself
        }
