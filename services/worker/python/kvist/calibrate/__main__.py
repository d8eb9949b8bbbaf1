"""python -m kvist.calibrate: makes a model's profile of codec q from texts, and judges it on texts that it did not see."""

import argparse
import dataclasses
import pathlib
import sys

import numpy as np

from ..eval import engines
from ..eval import texts as eval_texts
from . import fit, gradients, head_groups, profile_file, quality, statistics, texts
from .profile import ProfileError, digest

FAULTS = (engines.EngineError, eval_texts.TextError, ProfileError, OSError, ArithmeticError)
LOCAL_THETA, DEEP_THETA = 0.65e-4, 0.8e-4


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kvist calibrate", description="Makes the profile of codec q for a model, from texts.")
    parser.add_argument("--model", default="smollm2", help='"smollm2", by jax, or a Hugging Face model or folder, by torch')
    parser.add_argument("--text", type=pathlib.Path, nargs="+", default=[], help="UTF-8 files: what your prompts are like")
    parser.add_argument("--registers", default="", help='in place of files: "default", or names of this package\'s registers, with commas')
    parser.add_argument("--judge", type=pathlib.Path, nargs="+", default=[], help="UTF-8 files that it is judged on; default: kvist eval's registers")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the profile")
    parser.add_argument("--deep", type=int, choices=(0, 1, 2), default=0, help="layers before that predict a layer: smaller blocks, larger profile")
    parser.add_argument("--reset", type=int, default=0, help="of --deep: layers between those that are predicted by none; 0: never")
    parser.add_argument("--tokens", type=int, default=55 * statistics.PASSAGE, help="to calibrate on")
    parser.add_argument("--theta", type=float, default=0, help="step: larger means fewer bits and more error")
    parser.add_argument("--predictor-step", type=float, default=fit.Settings.predictor_step, help="of --deep: larger means a smaller profile and larger blocks")
    parser.add_argument("--inverse-step", type=float, default=fit.Settings.inverse_step, help="the same for transforms")
    parser.add_argument("--group-heads", type=int, default=0, help="KV heads that are coded together: fewer mean a smaller profile and larger blocks; default: about 256 channels")
    parser.add_argument("--work", type=pathlib.Path, default=None, help="folder of statistics, 28 MB a passage of SmolLM2; default: OUT.work")
    return parser


def _wrong(given: argparse.Namespace) -> list[str]:
    wrong = []
    if bool(given.text) == bool(given.registers):
        wrong.append("give either --text or --registers")
    if given.tokens < statistics.PILOTS * statistics.PASSAGE:
        wrong.append(f"--tokens: {given.tokens} is under {statistics.PILOTS * statistics.PASSAGE}")
    if given.reset and (given.deep == 0 or not 2 <= given.reset <= 254):
        wrong.append("--reset: 0 or 2 to 254, with --deep 1 or 2")
    if given.group_heads < 0:
        wrong.append("--group-heads: must be a number above 0")
    wrong += [f"--{name}: must be a number above 0" for name, value in (("predictor-step", given.predictor_step), ("inverse-step", given.inverse_step)) if not value > 0]
    return wrong


def _texts(given: argparse.Namespace) -> list[tuple[str, str]]:
    if given.text:
        read = [eval_texts.of_file(path) for path in given.text]
        texts.refuse_judged([path.resolve() for path in given.text], [path.resolve() for path in given.judge])
        return read
    return texts.registers(given.registers)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _calibrate(given: argparse.Namespace) -> None:
    read = _texts(given)
    judged = [eval_texts.of_file(path) for path in given.judge] or [(text.name, eval_texts.load(text)) for text in eval_texts.JUDGED]
    engine = engines.open_engine(given.model)
    groups = head_groups.count(engine.name, engine.kv_heads, engine.head_dim, given.group_heads)
    passages = statistics.plan([(name, engine.encode(text)) for name, text in read], given.tokens)
    derived = gradients.open_gradients(engine)
    settings = fit.Settings(given.deep, given.reset, given.theta or (DEEP_THETA if given.deep else LOCAL_THETA),
                            predictor_step=given.predictor_step, inverse_step=given.inverse_step)  # fmt: skip
    facts = fit.facts_of(engine.layers, engine.kv_heads, engine.head_dim, groups, derived.rope, settings)
    facts.check()
    work = given.work or given.out.with_name(given.out.name + ".work")
    found = statistics.gather(engine, derived, passages, groups, work, _say)
    about = {
        "model": engine.name,
        "weights": engine.digest,
        "texts": [{"name": name, "sha256": texts.digest(text)} for name, text in read],
        "tokens": len(passages) * statistics.PASSAGE,
        "settings": dataclasses.asdict(settings),
    }
    profile = fit.fit(found.values, found.fisher, found.weights, facts, derived.rope, settings, about, _say)
    reached = quality.judge(profile, engine, judged, _say)
    profile = dataclasses.replace(profile, about={**about, "judged": reached})
    content = profile_file.write(profile)
    beside = given.out.with_name(given.out.name + ".part")
    beside.write_bytes(content)
    beside.replace(given.out)
    bits, kld = (float(np.average([row[name] for row in reached], weights=w)) for name, w in (("bits", [row["prefix"] for row in reached]), ("kld", None)))
    print(f"{given.out}: profile {digest(content).hex()}, {len(content)} bytes; on text not seen {bits:.3f} b a value, mean KLD {kld:.5f}")


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    if wrong := _wrong(given):
        print("kvist calibrate: wrong flags\n" + "\n".join(wrong), file=sys.stderr)
        return 2
    try:
        _calibrate(given)
    except KeyboardInterrupt:
        print("kvist calibrate: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except FAULTS as failed:
        print(f"kvist calibrate: {failed}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
