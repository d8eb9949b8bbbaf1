"""python -m kvist.eval: judges codecs on a model and texts; prints tables, writes eval.json and eval.html under --out."""

import argparse
import contextlib
import json
import pathlib
import sys
from collections.abc import Iterator

from .. import KvistError
from . import codecs, dumps, engines, judge, node, page, summary, tables, texts
from .results import Results

FAULTS = (codecs.SpecError, dumps.DumpError, engines.EngineError, node.NodeError, texts.TextError, KvistError, OSError, ArithmeticError)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kvist eval", description="Measures what codecs do to a model's answers.")
    parser.add_argument("--model", default="smollm2", help='"smollm2" (own numpy forward), or a Hugging Face model or folder')
    parser.add_argument("--dump", type=pathlib.Path, nargs="+", default=[], help="instead of a model: KV in .npy or .safetensors files")
    parser.add_argument("--text", type=pathlib.Path, nargs="+", default=[], help="UTF-8 files; default: the four judged registers")
    parser.add_argument("--registers", default="", help="of the judged registers only these, for example code,json")
    known, with_profile = ", ".join(codecs.DEFAULT), ", ".join(codecs.OF_SMOLLM2)
    parser.add_argument("--codecs", default="", metavar="SPECS",
                        help=f"with commas; default: all of {known}; with SmolLM2 {with_profile} too. A profile of your own: q:FILE, ladder:3@FILE")
    parser.add_argument("--levels", default="E0,E1,E2,E3,E4", help="with commas")
    parser.add_argument("--prefixes", type=_numbers, default=(256, 1024), help="tokens, multiples of 128, with commas")
    parser.add_argument("--judged", type=int, default=256, help="tokens after each prefix")
    parser.add_argument("--greedy-tokens", type=int, default=128, help="of E4")
    parser.add_argument("--through-node", action="store_true", help="also put blocks into a kvistd of this machine, and get them")
    parser.add_argument("--node", default="", help="the same through a node that runs: host:port")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("kvist-eval"), help="folder of results; a second run resumes there")
    return parser


def _check(given: argparse.Namespace) -> None:
    wrong = [f"--levels: {level} is none of {', '.join(judge.LEVELS)}" for level in given.levels.split(",") if level not in judge.LEVELS]
    wrong += [f"--prefixes: {p} is no multiple of {codecs.TOKENS_PER_BLOCK}" for p in given.prefixes if p <= 0 or p % codecs.TOKENS_PER_BLOCK]
    wrong += [f"--{name}: must be at least 2" for name in ("judged", "greedy_tokens") if getattr(given, name) < 2]
    if wrong:
        raise ValueError("\n".join(wrong))


def _specs(given: argparse.Namespace) -> list[str]:
    if given.codecs:
        return given.codecs.split(",")
    return [*codecs.DEFAULT, *(codecs.OF_SMOLLM2 if given.model == "smollm2" and not given.dump else ())]


def _texts(given: argparse.Namespace) -> list[tuple[str, str]]:
    if given.text:
        read = [texts.of_file(path) for path in given.text]
        if len({name for name, _ in read}) < len(read):
            raise texts.TextError("two of the texts have one name: each register needs its own")
        return read
    names = [text.name for text in texts.JUDGED]
    asked = given.registers.split(",") if given.registers else names
    if unknown := [name for name in asked if name not in names]:
        raise texts.TextError(f"{', '.join(unknown)}: no register; there are {', '.join(names)}")
    return [(text.name, texts.load(text)) for text in texts.JUDGED if text.name in asked]


@contextlib.contextmanager
def _node(given: argparse.Namespace) -> Iterator[node.Nodes | None]:
    if given.node or not given.through_node:
        yield node.Nodes(seeds=(given.node,)) if given.node else None
        return
    with node.own_node(node.find_kvistd()) as nodes:
        yield nodes


def _report(given: argparse.Namespace) -> dict:
    judged = list({codec.spec: codec for codec in map(codecs.parse, _specs(given))}.values())
    results = Results(given.out)
    if given.dump:
        found = dumps.evaluate(given.dump, judged, results)
        return {"about": {"model": ", ".join(path.name for path in given.dump)}, "summary": summary.summarize(found, judged)}
    judged_texts = _texts(given)
    engine = engines.open_engine(given.model)
    with _node(given) as nodes:
        plan = judge.Plan(engine, judged, judged_texts, tuple(given.levels.split(",")), given.prefixes, given.judged, given.greedy_tokens, nodes)
        found = judge.evaluate(plan, results)
    about = {
        "model": engine.name,
        "weights": engine.digest,
        "texts": ", ".join(name for name, _ in judged_texts),
        "prefixes": ", ".join(map(str, given.prefixes)),
        "judged tokens": given.judged,
        "tokens per block": codecs.TOKENS_PER_BLOCK,
    }
    return {"about": about, "summary": summary.summarize(found, judged)}


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    try:
        _check(given)
        report = _report(given)
    except ValueError as wrong:
        print(f"kvist eval: wrong flags\n{wrong}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("kvist eval: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except FAULTS as failed:
        print(f"kvist eval: {failed}", file=sys.stderr)
        return 1
    print(tables.text(report["summary"]))
    (given.out / "eval.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (given.out / "eval.html").write_text(page.page(report), encoding="utf-8")
    print(f"written: {given.out / 'eval.json'}, {given.out / 'eval.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
