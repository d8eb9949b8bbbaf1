"""Goal: the command makes a profile of a real model that nodes and clients take, and says what it reached on text that it did not see.
Method: SmolLM2 by jax, few and short passages of two of the package's own registers; the library codes with it."""

import contextlib
import importlib.util
import io
import os
import pathlib
import tempfile
import unittest
from unittest import mock

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: more threads than cores to spare are far slower than one

import numpy as np  # noqa: E402
from kvist import codec  # noqa: E402
from kvist.calibrate import __main__ as command  # noqa: E402
from kvist.calibrate import quality, statistics  # noqa: E402
from kvist.eval import engines, forced, texts  # noqa: E402
from kvist.eval.codecs import parse  # noqa: E402
from kvist.eval.runs import Run  # noqa: E402

SMALL = {"PREFIX": 192, "SHORT": 64, "FOLLOWING": 32, "PASSAGE": 224, "PILOTS": 2, "PILOT_DRAWS": 1, "DRAWS": 1}
PASSAGES, JUDGED = 10, 64


@unittest.skipUnless(importlib.util.find_spec("jax"), "jax is not installed")
class CommandTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.out = pathlib.Path(folder.name, "small.kvp")
        judged = pathlib.Path(folder.name, "judged.txt")
        judged.write_text(texts.load(texts.JUDGED[0])[:3000], encoding="utf-8")
        cls.asked = ["--registers", "html,faq", "--judge", str(judged), "--tokens", str(PASSAGES * SMALL["PASSAGE"]), "--out", str(cls.out)]
        cls.code, cls.said = cls.run_command()

    @classmethod
    def run_command(cls) -> tuple[int, str]:
        said = io.StringIO()
        with contextlib.ExitStack() as patched:
            for name, value in SMALL.items():
                patched.enter_context(mock.patch.object(statistics, name, value))
            patched.enter_context(mock.patch.object(quality, "PREFIXES", (128,)))
            patched.enter_context(mock.patch.object(quality, "JUDGED", JUDGED))
            patched.enter_context(contextlib.redirect_stderr(said))
            patched.enter_context(contextlib.redirect_stdout(said))
            return command.main(cls.asked), said.getvalue()

    def test_the_profile_says_what_it_is_of_and_what_it_reached_on_text_that_it_did_not_see(self) -> None:
        self.assertEqual(self.code, 0, self.said)
        profile = codec.Profile(self.out)
        self.assertIn(f"profile {profile.digest.hex()}, {self.out.stat().st_size} bytes; on text not seen", self.said)
        self.assertEqual((profile.facts["layers"], profile.facts["heads"], profile.facts["head_dim"]), (30, 3, 64))
        self.assertEqual([text["name"] for text in profile.notes["texts"]], ["html", "faq"])
        (row,) = profile.notes["judged"]
        self.assertEqual((row["text"], row["prefix"]), ("judged", 128))

    def test_the_library_reaches_what_the_profile_says(self) -> None:
        engine = engines.open_engine("smollm2")
        (row,) = codec.Profile(self.out).notes["judged"]
        run = Run(engine, "judged", engine.encode(texts.load(texts.JUDGED[0])[:3000]), 128, JUDGED)
        coded = parse(f"q:{self.out}").apply(run.kv, 0)
        kld = float(np.mean(forced.distances(run, coded.kv)["kld"]))
        self.assertAlmostEqual(coded.bits, row["bits"], delta=0.06 * row["bits"])  # headers, tables of planes, padding
        self.assertAlmostEqual(kld, row["kld"], delta=0.5 * row["kld"])  # of few tokens; sums of floats in another order
        self.assertLess(coded.bits, 4)


if __name__ == "__main__":
    unittest.main()
