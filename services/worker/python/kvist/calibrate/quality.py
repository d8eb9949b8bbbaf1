"""The quality that a profile reaches on text that it was not calibrated on: KLD after a coded prefix, and bits of its streams."""

from collections.abc import Callable

import numpy as np

from ..eval import forced
from ..eval.engines import Engine
from ..eval.runs import Run
from ..models.smollm2 import bf16
from . import head_groups
from .fit import Rope
from .profile import Profile
from .reference import Coder
from .statistics import kv_of, rows_of

PREFIXES, JUDGED = (256, 1024), 256
BLOCK, STATE_BITS = 128, 8 * 64  # of each block and layer


def through(coders: list[Coder], kv: np.ndarray, rope: Rope) -> tuple[np.ndarray, float]:
    """(what readers get of the prefix kv, bits a value), by a coder for each head group. Token 0 goes into its record, at 8 bits."""
    rows, groups = rows_of(bf16.to_float(kv), rope), len(coders)
    coded = [coder.encode(head_groups.part(rows, groups, i)) for i, coder in enumerate(coders)]
    back = kv_of(head_groups.join([decoded for _, decoded in coded]), rope, kv.shape[2])
    first = bf16.to_float(kv[:, :, :, :1])
    scale = np.abs(first).max(-1, keepdims=True) / 127 + np.float32(1e-30)
    back[:, :, :, :1] = np.rint(first / scale) * scale
    bits = sum(side.bits for symbols, _ in coded for sides in symbols for side in sides)
    bits += STATE_BITS * groups * len(rows) * -(-rows.shape[1] // BLOCK)
    bits += 8 * kv.shape[1] * 2 * kv.shape[2] * (kv.shape[4] + 1)
    return bf16.from_float(back), bits / kv.size


def judge(profile: Profile, engine: Engine, texts: list[tuple[str, str]], say: Callable[[str], None]) -> list[dict]:
    """A row for each text and prefix."""
    coders, rope = [Coder(group) for group in profile.groups], Rope(profile.facts.rope_style, profile.turns, profile.facts.rope_factor)
    rows = []
    for name, text in texts:
        tokens = engine.encode(text)
        for prefix in PREFIXES:
            run = Run(engine, name, tokens, prefix, JUDGED)
            kv, bits = through(coders, run.kv, rope)
            found = forced.distances(run, kv)
            row = {"text": name, "prefix": prefix, "bits": round(bits, 4), "kld": float(f"{np.mean(found['kld']):.4g}"), "top1": float(np.mean(found["top1"]))}
            rows.append(row)
            say(f"{name} {prefix}: {row['bits']:.3f} b, KLD {row['kld']:.5f}, top-1 {100 * row['top1']:.1f} %")
    return rows
