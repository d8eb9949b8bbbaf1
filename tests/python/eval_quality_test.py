"""Goal: no served codec falls below what the README of kvist.eval states. Method: the short form of the evaluation on the real model
(one register, a prefix of 256 tokens, 64 judged), held against the README's own table."""

import contextlib
import io
import os
import pathlib
import re
import tempfile
import unittest

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: more threads than cores to spare are far slower than one

import kvist.eval  # noqa: E402
from kvist.eval import codecs, engines, judge, node, summary, texts  # noqa: E402
from kvist.eval.results import Results  # noqa: E402

README = pathlib.Path(kvist.eval.__file__).with_name("README.md")
ROW = re.compile(r"^\| `([\w:/.@]+)` \| ([\d.]+) \| ([\d.]+) \|", re.MULTILINE)


def stated() -> dict[str, tuple[float, float]]:
    """{codec: (bits at most, mean KLD at most)} of the table under "Short form"."""
    section = README.read_text(encoding="utf-8").split("## Short form", 1)[1].split("\n## ", 1)[0]
    return {spec: (float(bits), float(kld)) for spec, bits, kld in ROW.findall(section)}


class QualityTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.bounds = stated()
        (code,) = [text for text in texts.JUDGED if text.name == "code"]
        chosen = [codecs.parse(spec) for spec in cls.bounds]
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()), node.own_node(node.find_kvistd()) as nodes:
            plan = judge.Plan(engines.open_engine("smollm2"), chosen, [("code", texts.load(code))], ("E2",), (256,), 64, nodes=nodes)
            cls.levels = summary.summarize(judge.evaluate(plan, Results(pathlib.Path(folder))), chosen)["levels"]

    def test_every_codec_that_is_served_has_a_row(self) -> None:
        self.assertEqual(set(self.bounds), {spec for spec in codecs.DEFAULT if codecs.parse(spec).ours} | set(codecs.OF_SMOLLM2))

    def test_bits_and_distance_are_at_most_what_is_stated(self) -> None:
        for spec, (bits, kld) in self.bounds.items():
            with self.subTest(spec):
                self.assertLessEqual(self.levels["E2"][spec]["bits"], bits)
                self.assertLessEqual(self.levels["E2"][spec]["kld"], kld)

    def test_a_hit_through_a_node_is_bit_for_bit_what_was_judged(self) -> None:
        self.assertIn("ladder:4", self.levels["node"])
        for spec, row in self.levels["node"].items():
            self.assertTrue(row["same_as_local"], spec)
            self.assertEqual(row["kld"], self.levels["E2"][spec]["kld"])


if __name__ == "__main__":
    unittest.main()
