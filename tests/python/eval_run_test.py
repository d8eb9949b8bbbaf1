"""Goal: a whole evaluation, its files, its resuming and its way through a real node. Method: a model of two layers that answers in
microseconds, and the command itself on dumps."""

import contextlib
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: more threads than cores to spare are far slower than one

import numpy as np  # noqa: E402
from kvist.eval import __main__ as command  # noqa: E402
from kvist.eval import codecs, engines, judge, node, page, retrieval, summary, tables  # noqa: E402
from kvist.eval.results import Results  # noqa: E402
from kvist.models.smollm2 import bf16  # noqa: E402

VOCABULARY = 96
SPECS = ("raw16", "i8", "ladder:2", "kivi2")


class TinyEngine:
    """Letters are tokens; one attention over each layer's KV gives the logits."""

    name, digest, layers, kv_heads, head_dim = "tiny", "0", 2, 1, 64

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        self._keys = rng.standard_normal((2, self.layers, VOCABULARY, self.head_dim)).astype(np.float32)
        self._out = rng.standard_normal((self.head_dim, VOCABULARY)).astype(np.float32)

    def encode(self, text: str) -> list[int]:
        return [ord(letter) % VOCABULARY for letter in text]

    def decode(self, tokens: list[int]) -> str:
        return " ".join(map(str, tokens))

    def prefill(self, tokens: list[int], wide: bool = False) -> np.ndarray:
        kv = self._keys[:, :, None, tokens]
        return kv if wide else bf16.from_float(kv)

    def queries(self, kv: np.ndarray, tokens: list[int]) -> np.ndarray:
        return self._keys[0][:, None, tokens] * np.float32(self.head_dim**-0.5)

    def logits(self, kv: np.ndarray, tokens: list[int], every: bool = True) -> np.ndarray:
        wide = kv if kv.dtype == np.float32 else bf16.to_float(kv)
        out = np.zeros((len(tokens), self.head_dim), np.float32)
        for layer, queries in enumerate(self.queries(kv, tokens)):
            weights = np.exp(queries[0] @ wide[0, layer, 0].T)
            out += weights / weights.sum(-1, keepdims=True) @ wide[1, layer, 0]
        return out @ self._out

    def greedy(self, kv: np.ndarray, tokens: list[int], count: int) -> list[int]:
        said = list(tokens)
        for _ in range(count):
            said.append(int(self.logits(kv, said[-1:])[-1].argmax()))
        return said[len(tokens) :]


def plan(**changes: object) -> judge.Plan:
    text = "".join(chr(33 + i) for i in np.random.default_rng(9).integers(0, 90, 900))
    settings = {"levels": judge.LEVELS, "prefixes": (128, 512), "judged": 64, "greedy_tokens": 8, **changes}
    return judge.Plan(TinyEngine(), [codecs.parse(spec) for spec in SPECS], [("letters", text)], **settings)


class EvaluateTest(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.enterContext(contextlib.redirect_stderr(io.StringIO()))

    def evaluate(self, wanted: judge.Plan) -> tuple[dict, Results]:
        results = Results(self.folder)
        return summary.summarize(judge.evaluate(wanted, results), wanted.codecs), results

    def test_exact_is_exact_at_every_level_and_fewer_bits_are_further_away(self) -> None:
        levels = self.evaluate(plan())[0]["levels"]
        exact = {level: rows["raw16"] for level, rows in levels.items()}
        self.assertEqual((exact["E2"]["kld"], exact["E2"]["top1"], exact["E2"]["ppl_change"]), (0, 1, 0))
        self.assertEqual((exact["E1"]["output_error"], exact["E1"]["max_logit_error"]), (0, 0))
        self.assertEqual((exact["recall"]["recall_kld"], exact["E3"]["log_likelihood_change"]), (0, 0))
        self.assertEqual((exact["E4"]["first_divergence"], exact["E4"]["agreement"]), (8, 1))
        distances = [levels["E2"][spec]["kld"] for spec in ("raw16", "i8", "ladder:2")]
        self.assertEqual(distances, sorted(distances))
        self.assertGreater(distances[2], 10 * distances[1])
        errors = [levels["E1"][spec]["output_error"] for spec in ("i8", "ladder:2")]
        self.assertLess(errors[0], errors[1])

    def test_a_second_run_computes_nothing_and_says_the_same(self) -> None:
        first, computed = self.evaluate(plan())
        self.assertEqual(computed.computed, computed.total)
        second, resumed = self.evaluate(plan())
        self.assertEqual((resumed.computed, resumed.total), (0, computed.total))
        self.assertEqual(first, second)

    def test_another_codec_computes_only_its_own(self) -> None:
        self.evaluate(plan(levels=("E2",)))
        more = plan(levels=("E2",))
        more.codecs.append(codecs.parse("ladder:3"))
        self.assertEqual(self.evaluate(more)[1].computed, 2)  # a run for each of two prefixes

    def test_a_hit_through_a_real_node_is_what_was_decoded_here(self) -> None:
        with node.own_node(node.find_kvistd()) as nodes:
            rows = self.evaluate(plan(levels=("E2",), prefixes=(256,), nodes=nodes))[0]["levels"]
        self.assertEqual(set(rows["node"]), {"raw16", "i8", "ladder:2"})  # a node has no baselines
        for spec, row in rows["node"].items():
            self.assertTrue(row["same_as_local"])
            self.assertEqual(row["kld"], rows["E2"][spec]["kld"])

    def test_the_tables_and_the_page_show_every_codec_and_load_nothing(self) -> None:
        told = self.evaluate(plan())[0]
        text = tables.text(told)
        html = page.page({"about": {"model": "tiny <1>"}, "summary": told})
        for spec in SPECS:
            self.assertIn(spec, text)
            self.assertIn(f"<td>{spec}</td>", html)
        self.assertIn("kvist eval: tiny &lt;1&gt;", html)
        self.assertGreaterEqual(html.count("<svg"), 3 + 2 * len(SPECS))
        self.assertNotRegex(html, r"(?i)(https?:|src=|href=|<script|@import|url\()")
        self.assertEqual(json.loads(json.dumps(told)), told)

    def test_a_text_that_is_too_short_is_refused_with_the_number(self) -> None:
        with self.assertRaisesRegex(Exception, "900 tokens; a prefix of 1024 and 64 judged ones need 1089"):
            self.evaluate(plan(prefixes=(1024,)))


class RetrievalTest(unittest.TestCase):
    def test_needles_lie_at_their_depths_in_a_prefix_of_the_length(self) -> None:
        engine = TinyEngine()
        for case in retrieval.cases():
            tokens = retrieval.prefix(engine, case, [1] * 2000, 1024)
            self.assertEqual(len(tokens), 1024)
            text = "".join(map(chr, tokens))
            for depth, needle in case.needles:
                found = text.find("".join(map(chr, engine.encode(needle))))
                self.assertAlmostEqual(found / 1024, depth, delta=0.2, msg=case.name)

    def test_five_passkeys_and_four_codes_are_asked_for(self) -> None:
        questions = [question for case in retrieval.cases() for question in case.questions]
        self.assertEqual(len(questions), 5 + 4)
        for case in retrieval.cases():
            for question in case.questions:
                self.assertTrue(any(question.answer.strip() in needle for _, needle in case.needles))


class CommandTest(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def run_it(self, *arguments: str) -> tuple[int, str, str]:
        out, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            code = command.main([*arguments, "--out", str(self.folder / "out")])
        return code, out.getvalue(), errors.getvalue()

    def test_dumps_give_a_table_json_and_a_page(self) -> None:
        np.save(self.folder / "kv.npy", np.random.default_rng(1).standard_normal((2, 2, 1, 256, 64)).astype(np.float32))
        code, out, _ = self.run_it("--dump", str(self.folder / "kv.npy"), "--codecs", "i8,ladder:3,nvfp4")
        self.assertEqual(code, 0)
        self.assertRegex(out, r"ladder:3 +3\.\d+ +14\.\d +14\.\d")
        report = json.loads((self.folder / "out/eval.json").read_text())
        self.assertEqual(list(report["summary"]["levels"]["dump"]), ["i8", "ladder:3", "nvfp4"])
        self.assertIn("SQNR by layer and head", (self.folder / "out/eval.html").read_text())

    def test_all_wrong_flags_are_named_at_once(self) -> None:
        code, _, errors = self.run_it("--levels", "E2,E7", "--prefixes", "100", "--judged", "1")
        self.assertEqual(code, 2)
        for part in ("E7 is none of", "100 is no multiple of 128", "--judged"):
            self.assertIn(part, errors)

    def test_faults_say_what_to_do(self) -> None:
        for arguments, why in (
            (("--codecs", "zip"), "zip is no codec; there are raw16, x16, i8, ladder, trellis"),
            (("--registers", "poetry"), "poetry: no register; there are prose, manual, code, json"),
            (("--text", str(self.folder / "none.txt")), "none.txt cannot be read"),
            (("--dump", "kv.bin"), "ends in .npy or .safetensors"),
        ):
            code, _, errors = self.run_it(*arguments)
            self.assertEqual(code, 1)
            self.assertIn(why, errors)

    def test_a_hugging_face_model_without_torch_says_what_to_install(self) -> None:
        program = (
            "import importlib.util, sys\n"
            "find = importlib.util.find_spec\n"
            "importlib.util.find_spec = lambda name, *rest: None if name in ('torch', 'transformers') else find(name, *rest)\n"
            "from kvist.eval import __main__\n"
            f"sys.exit(__main__.main(['--model', 'some/model', '--registers', 'code', '--out', {str(self.folder)!r}]))\n"
        )
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=os.environ, check=False)
        self.assertEqual(ended.returncode, 1)
        self.assertRegex(ended.stderr, re.escape("need torch and transformers: pip install torch transformers"))

    def test_an_engine_is_what_its_protocol_says(self) -> None:
        asked = [name for name in vars(engines.Engine) if not name.startswith("_")]
        self.assertEqual([name for name in asked if not hasattr(TinyEngine, name)], [])


if __name__ == "__main__":
    unittest.main()
