"""Goes through runs, codecs and levels, and gathers the results of each: found[level][codec][run]."""

import dataclasses
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator

from ..models.smollm2 import bf16
from . import attention, forced, greedy, retrieval, synthetic
from .codecs import Judged
from .engines import Engine
from .node import Nodes, there_and_back
from .results import Json, Results
from .runs import Run

LEVELS = ("E0", "E1", "E2", "E3", "E4")
HAYSTACKS = 2  # texts in which E3 hides its needles
FLOOR = "bf16 against f32"  # stands where a codec's spec does

Found = dict[str, dict[str, dict[str, Json]]]


@dataclasses.dataclass(frozen=True)
class Plan:
    engine: Engine
    codecs: list[Judged]
    texts: list[tuple[str, str]]
    levels: tuple[str, ...] = LEVELS
    prefixes: tuple[int, ...] = (256, 1024)
    judged: int = 256
    greedy_tokens: int = 128
    nodes: Nodes | None = None  # None = no blocks go through a node


@dataclasses.dataclass(frozen=True)
class _Step:
    """One result: what it follows from, and how it is computed."""

    level: str
    codec: str
    run: str
    what: Json
    compute: Callable[[], Json]


def evaluate(plan: Plan, results: Results) -> Found:
    found: Found = defaultdict(lambda: defaultdict(dict))
    tokens = [(name, plan.engine.encode(text)) for name, text in plan.texts]
    runs = [Run(plan.engine, name, ids, prefix, plan.judged) for prefix in plan.prefixes for name, ids in tokens]
    groups = [_synthetic(plan)]
    groups += [_of_run(plan, run) for run in runs]
    if "E3" in plan.levels:
        groups += [_needle(plan, case, name, hay) for name, hay in tokens[:HAYSTACKS] for case in retrieval.cases()]
    steps = [list(group) for group in groups]
    results.total = sum(len(group) for group in steps)
    for group in steps:
        for step in group:
            what = {"level": step.level, "codec": step.codec, "run": step.run, **step.what}
            found[step.level][step.codec][step.run] = results.get(what, step.compute)
        for run in runs:
            run.forget()
    print(f"{results.total} results, {results.computed} computed now", file=sys.stderr)
    return found


def _synthetic(plan: Plan) -> Iterator[_Step]:
    if "E0" in plan.levels:
        for codec in (codec for codec in plan.codecs if not codec.of_one_model):
            yield _Step("E0", codec.spec, "synthetic", {"digest": codec.digest()}, lambda codec=codec: synthetic.judge(codec))


def _of_run(plan: Plan, run: Run) -> Iterator[_Step]:
    """All levels of one codec before the next: they share its decoded prefix."""
    model = {"model": plan.engine.name, "weights": plan.engine.digest, "tokens": run.tokens_digest, "judged": plan.judged}
    if "E2" in plan.levels:
        yield _Step("E2", FLOOR, run.name, model, lambda: forced.noise_floor(run))
    writes = greedy.Greedy(run, plan.greedy_tokens)
    for codec in plan.codecs:
        what = {**model, "digest": codec.digest()}
        if "E1" in plan.levels:
            yield _Step("E1", codec.spec, run.name, what, lambda codec=codec: attention.judge(run, run.coded(codec)))
        if "E2" in plan.levels:
            yield _Step("E2", codec.spec, run.name, what, lambda codec=codec: _forced(run, codec))
        if "E3" in plan.levels and run.prefix == max(plan.prefixes) and run.prefix >= 2 * forced.RECALLED:
            yield _Step("recall", codec.spec, run.name, what, lambda codec=codec: forced.recall(run, run.coded(codec).kv))
        if "E4" in plan.levels and run.prefix == min(plan.prefixes):
            written = {**what, "tokens written": plan.greedy_tokens}
            yield _Step("E4", codec.spec, run.name, written, lambda codec=codec: writes.judge(run.coded(codec)))
        if plan.nodes and codec.put:
            yield _Step("node", codec.spec, run.name, what, lambda codec=codec: _hit(plan, run, codec))


def _forced(run: Run, codec: Judged) -> Json:
    coded = run.coded(codec)
    return {
        "bits": coded.bits,
        "raised": coded.raised,
        "tiles": coded.tiles,
        **forced.distances(run, coded.kv),
        **forced.tensor_errors(run.wide, bf16.to_float(coded.kv)),
    }


def _hit(plan: Plan, run: Run, codec: Judged) -> Json:
    """Cold against hit: the same judgement of pages that came out of a node."""
    pages = there_and_back(plan.nodes, plan.engine, codec, run.before, run.kv)
    return {"same_as_local": bool((pages == run.coded(codec).kv).all()), **forced.distances(run, pages)}


def _needle(plan: Plan, case: retrieval.Case, hay_name: str, hay: list[int]) -> Iterator[_Step]:
    haystack = retrieval.Haystack(plan.engine, case, hay, max(plan.prefixes))
    asked = [dataclasses.astuple(question) for question in case.questions]
    for codec in plan.codecs:
        what = {"weights": plan.engine.digest, "tokens": haystack.tokens, "asked": asked, "digest": codec.digest()}
        yield _Step("E3", codec.spec, f"{case.name} in {hay_name}", what, lambda codec=codec: haystack.judge(codec))
