"""One worker process of the demo: runs the model, and talks to the cluster through the kvist package.

    session.py a --cluster FILE --out DIR            prefill, answer, put the blocks with every codec
    session.py b --cluster FILE --out DIR --codec C  another question over the same prefix: recompute against Kvist
    session.py c --cluster FILE --out DIR            the same after a node has died

Each prints progress, and writes its figures to DIR/<session>.json. Other processes share nothing with it but the cluster;
b and c read the text of a's prompt, as a second request over the same document would bring it.
"""

import argparse
import json
import os
import pathlib
import sys
import time

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(variable, "2")  # before numpy: a fixed number, so that times compare

import numpy as np  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "services" / "worker" / "python"))

import kvist  # noqa: E402
import quality  # noqa: E402
from kvist.models.smollm2 import weights  # noqa: E402
from kvist.models.smollm2.model import SmolLM2  # noqa: E402

DOCUMENT = pathlib.Path("/usr/share/common-licenses/GPL-3")
DOCUMENT_CHARACTERS = 7_600
SYSTEM = "You are a helpful assistant. Answer from the document."
QUESTION_A = "What is the name of this license?"
QUESTION_B = "What does the license say about warranty?"
ANSWER_TOKENS = 24
JUDGED_TOKENS = 64
TOKENS_PER_BLOCK = 128
CODECS = ("raw16", "i8", "ladder")
DEADLINE_S = 10.0


def say(message: str) -> None:
    print(f"    {message}", flush=True)


class Session:
    def __init__(self, cluster: str):
        self.cluster = cluster
        start = time.perf_counter()
        self.model = SmolLM2()
        say(f"model loaded in {time.perf_counter() - start:.1f} s")

    def prompt(self, question: str) -> list[int]:
        document = DOCUMENT.read_text(encoding="utf-8")[:DOCUMENT_CHARACTERS]
        return self.model.tokenizer.chat(SYSTEM, f"{document}\n\n{question}")

    def client(self, codec: str) -> kvist.Client:
        """A namespace of its own for each codec: in one namespace equal keys are one block, and the first writer's codec."""
        namespace = kvist.Namespace(
            model="SmolLM2-135M-Instruct",
            weights_digest=weights.SHA256,
            dtype="bf16",
            rope=f"rope base {self.model.rope_base}",
            tenant_salt=f"demo {codec}",
            layers=self.model.layers,
            heads=self.model.kv_heads,
            head_dim=self.model.head_dim,
            tokens_per_block=TOKENS_PER_BLOCK,
        )
        return kvist.Client(self.cluster, namespace, codec=codec, deadline_s=DEADLINE_S)

    def recompute(self, tokens: list[int]) -> tuple[np.ndarray, np.ndarray, float]:
        """(cache, logits of the next token, seconds to it) with no store."""
        cache = self.model.new_cache(len(tokens) + JUDGED_TOKENS)
        start = time.perf_counter()
        logits = self.model.prefill(tokens, cache, progress=self._progress)
        return cache, logits, time.perf_counter() - start

    def with_kvist(self, client: kvist.Client, tokens: list[int]) -> dict:
        """The same from the store: match, fetch, decode, and prefill only what was not there."""
        cache = self.model.new_cache(len(tokens) + JUDGED_TOKENS)
        start = time.perf_counter()
        with client.match(tokens[:-1]) as match:  # at least one token must be run to get its logits
            got = client.get(tokens, cache, 0, match.blocks)
        store_seconds = time.perf_counter() - start
        logits = self.model.prefill(tokens, cache, got.tokens)
        seconds = time.perf_counter() - start
        return {"cache": cache, "logits": logits, "seconds": seconds, "store_seconds": store_seconds, "got": got, "match": match}

    @staticmethod
    def _progress(done: int, total: int) -> None:
        if done % 512 == 0 or done == total:
            say(f"prefill {done} of {total} tokens")


def session_a(session: Session) -> dict:
    tokens = session.prompt(QUESTION_A)
    cache, logits, seconds = session.recompute(tokens)
    answer = session.model.generate(logits, cache.copy(), len(tokens), ANSWER_TOKENS)
    text = session.model.tokenizer.decode(answer)
    say(f"{len(tokens)} tokens in {seconds:.2f} s; asked: {QUESTION_A!r}")
    say(f"answered: {text!r}")
    codecs = {}
    for codec in CODECS:
        with session.client(codec) as client:
            put = client.put(tokens, cache)
        if put.stored != put.blocks:
            raise RuntimeError(f"{codec}: {put.stored} of {put.blocks} blocks were stored: {put.failure}")
        worst = "exact" if codec == "raw16" else f"worst tile {put.min_sqnr_db:.1f} dB, {put.raised_tiles} tiles raised"
        say(f"{codec}: {put.blocks} blocks, {put.plain_bytes / 1e6:.1f} MB of bf16 -> {put.stored_bytes / 1e6:.1f} MB stored, {worst}")
        codecs[codec] = {
            "blocks": put.blocks,
            "plain_bytes": put.plain_bytes,
            "stored_bytes": put.stored_bytes,
            "raised_tiles": put.raised_tiles,
        }
    return {"tokens": len(tokens), "answer": text, "codecs": codecs}


def session_b(session: Session, codec: str) -> dict:
    tokens = session.prompt(QUESTION_B)
    cache, logits, recompute_seconds = session.recompute(tokens)
    with session.client(codec) as client:
        run = session.with_kvist(client, tokens)
    got = run["got"]
    say(f"{codec}: {got.tokens} of {len(tokens)} tokens came from the cluster ({got.fetched_bytes / 1e6:.1f} MB); "
        f"first token after {run['seconds']:.2f} s, recomputed after {recompute_seconds:.2f} s")
    # The judge: the text that full recompute would write, and the distributions along it.
    ours = run["cache"]
    truth = session.model.generate(logits, cache.copy(), len(tokens), JUDGED_TOKENS, stop=False)
    mine = session.model.generate(run["logits"], ours.copy(), len(tokens), JUDGED_TOKENS, stop=False)
    reference = session.model.teacher_forced(logits, truth, cache.copy(), len(tokens))
    judged = session.model.teacher_forced(run["logits"], truth, ours.copy(), len(tokens))
    same_pages = bool(np.array_equal(cache[:, :, :, : got.tokens], ours[:, :, :, : got.tokens]))
    answer = session.model.tokenizer.decode(mine)
    say(f"asked: {QUESTION_B!r}")
    say(f"answered: {answer!r}")
    return {
        "codec": codec,
        "prompt_tokens": len(tokens),
        "reused_tokens": got.tokens,
        "reusable_tokens": common_blocks(session) * TOKENS_PER_BLOCK,
        "plain_bytes": got.plain_bytes,
        "fetched_bytes": got.fetched_bytes,
        "recompute_seconds": recompute_seconds,
        "kvist_seconds": run["seconds"],
        "store_seconds": run["store_seconds"],
        "bit_identical": same_pages,
        "kld": quality.mean_kld(reference, judged),
        "top1": quality.top1_agreement(reference, judged),
        "same_text": truth == mine,
    }


def session_c(session: Session) -> dict:
    tokens = session.prompt(QUESTION_B)
    cache, logits, _ = session.recompute(tokens)
    with session.client("raw16") as client:
        run = session.with_kvist(client, tokens)
    got, match = run["got"], run["match"]
    truth = session.model.generate(logits, cache, len(tokens), ANSWER_TOKENS)
    mine = session.model.generate(run["logits"], run["cache"], len(tokens), ANSWER_TOKENS)
    why = got.miss_reason or match.miss_reason
    say(f"{got.tokens} of {len(tokens)} tokens came back in {run['store_seconds']:.2f} s; the next block was missed: {why}")
    say(f"answered: {session.model.tokenizer.decode(mine)!r}")
    return {
        "prompt_tokens": len(tokens),
        "reused_tokens": got.tokens,
        "miss_reason": why,
        "kvist_seconds": run["seconds"],
        "store_seconds": run["store_seconds"],
        "same_text": truth == mine,
    }


def common_blocks(session: Session) -> int:
    """Whole blocks that the two prompts share: what the cluster can give."""
    a, b = session.prompt(QUESTION_A), session.prompt(QUESTION_B)
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return min(same, len(b) - 1) // TOKENS_PER_BLOCK


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("session", choices=["a", "b", "c"])
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--codec", choices=CODECS, default="raw16")
    arguments = parser.parse_args()
    session = Session(arguments.cluster)
    if arguments.session == "a":
        name, figures = "a", session_a(session)
    elif arguments.session == "b":
        name, figures = f"b-{arguments.codec}", session_b(session, arguments.codec)
    else:
        name, figures = "c", session_c(session)
    (arguments.out / f"{name}.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
