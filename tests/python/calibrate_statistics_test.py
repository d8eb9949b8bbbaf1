"""Goal: statistics say what a model's gradients say, and the command refuses what it cannot do. Method: a model that is none,
whose gradients are drawn from a known metric; SmolLM2's gradients by jax, and by torch,
where it is installed, those of a random Llama with YaRN, against their own forward passes."""

import contextlib
import importlib.util
import io
import pathlib
import tempfile
import unittest
from unittest import mock

import numpy as np
from kvist import codec
from kvist.calibrate import __main__ as command
from kvist.calibrate import arithmetic, fit, head_groups, profile_file, statistics, texts
from kvist.calibrate.fit import AFTER_START, Rope
from kvist.calibrate.gradients import Gradients
from kvist.eval.engines import Engine
from kvist.eval.statistics import log_softmax
from kvist.eval.texts import TextError
from kvist.models.smollm2 import bf16

SEED = 11
LAYERS, HEADS, HEAD_DIM = 2, 2, 4
WIDTH = HEADS * HEAD_DIM
ROPE = Rope(1, arithmetic.turns_of(np.array([1.0, 0.25])), 1.5)


class NoModel:
    """Engine and Gradients in one. Token 7 matters nine times as much as any other."""

    name, digest, layers, kv_heads, head_dim = "none", "0", LAYERS, HEADS, HEAD_DIM
    rope = ROPE

    def __init__(self) -> None:
        self.looks = 0
        self.root = np.random.default_rng(SEED).standard_normal((2, LAYERS, WIDTH, WIDTH)) / np.sqrt(WIDTH)
        self._tokens: list[int] = []

    def prefill(self, tokens: list[int], wide: bool = False) -> np.ndarray:
        self._tokens = tokens
        return bf16.from_float(np.random.default_rng(len(tokens)).standard_normal((2, LAYERS, HEADS, len(tokens), HEAD_DIM)))

    def of(self, kv: np.ndarray, following: list[int], samples: int, random: np.random.Generator) -> np.ndarray:
        self.looks += 1
        tokens = np.array(self._tokens[: kv.shape[3]])
        normal = random.standard_normal((samples, 2, LAYERS, len(tokens), WIDTH)) * np.where(tokens == 7, 3, 1)[:, None]
        wide = np.einsum("sjltd,jlde->sjlte", normal, self.root) * np.sqrt(len(following))
        before = wide.reshape(*wide.shape[:4], HEADS, HEAD_DIM).swapaxes(3, 4).astype(np.float32)
        # A gradient by what RoPE and its factor made, of one by what was before them.
        angles = arithmetic.cos_sin(np.arange(len(tokens)), ROPE.turns, 1.0)
        before[:, 0] = arithmetic.rope(before[:, 0], angles, ROPE.style) / np.float32(ROPE.factor)
        before.setflags(write=False)  # as what jax gives
        return before


def passages() -> list[statistics.Passage]:
    random = np.random.default_rng(SEED)
    return statistics.plan([("a", random.integers(0, 40, 6000).tolist()), ("b", random.integers(0, 40, 6000).tolist())], 6 * statistics.PASSAGE)


class PlanTest(unittest.TestCase):
    def test_passages_do_not_overlap_and_texts_take_turns(self) -> None:
        planned = statistics.plan([("a", list(range(9000))), ("b", list(range(20000, 26000)))], 9 * statistics.PASSAGE)
        self.assertEqual([p.text for p in planned], ["a", "b"] * 4 + ["a"])
        seen = [token for p in planned for token in p.tokens]
        self.assertEqual(len(seen), 9 * statistics.PASSAGE)
        self.assertEqual(len(set(seen)), len(seen))

    def test_a_text_that_is_too_short_is_refused_with_the_number_needed(self) -> None:
        with self.assertRaisesRegex(TextError, "'b' has 3839 tokens; 3840 are needed of it for 7680 in all"):
            statistics.plan([("a", [0] * 9000), ("b", [0] * 3839)], 6 * statistics.PASSAGE)


class GatheringTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder, self.said = pathlib.Path(folder.name), []

    def gather(self, model: NoModel, groups: int = 1) -> statistics.Statistics:
        return statistics.gather(model, model, passages(), groups, self.folder, self.said.append)

    def test_the_metric_and_the_weights_are_those_that_gradients_were_drawn_from(self) -> None:
        model = NoModel()
        found = self.gather(model)
        true = model.root.swapaxes(-1, -2) @ model.root
        loudness = 1 + 8 / 40  # of the mean token
        np.testing.assert_allclose(found.fisher[:, :, 0], true * loudness, atol=0.05 * np.abs(true).max())
        kept = np.concatenate([p.tokens[AFTER_START : statistics.PREFIX] for p in passages()])
        self.assertEqual(found.weights.shape, (2, LAYERS, 1, len(kept)))
        np.testing.assert_allclose(found.weights.mean(-1), 1, atol=1e-5)
        ratio = found.weights[..., kept == 7].mean(-1) / found.weights[..., kept != 7].mean(-1)
        np.testing.assert_allclose(ratio, 9, rtol=0.15)

    def test_of_head_groups_only_what_is_theirs_is_kept(self) -> None:
        model = NoModel()
        found, each = self.gather(model, HEADS), HEAD_DIM
        true = model.root.swapaxes(-1, -2) @ model.root * (1 + 8 / 40)
        self.assertEqual(found.fisher.shape, (2, LAYERS, HEADS, each, each))
        for i in range(HEADS):
            here = slice(i * each, (i + 1) * each)
            np.testing.assert_allclose(found.fisher[:, :, i], true[:, :, here, here], atol=0.05 * np.abs(true).max())
        kept = np.concatenate([p.tokens[AFTER_START : statistics.PREFIX] for p in passages()])
        ratio = found.weights[..., kept == 7].mean(-1) / found.weights[..., kept != 7].mean(-1)
        self.assertEqual(ratio.shape, (2, LAYERS, HEADS))
        np.testing.assert_allclose(ratio, 9, rtol=0.2)
        looks = model.looks
        self.gather(model)  # of one group: other statistics
        self.assertEqual(model.looks, 2 * looks)

    def test_values_are_those_before_rope_and_go_back(self) -> None:
        found, kv = self.gather(NoModel()), bf16.to_float(NoModel().prefill([0] * statistics.PREFIX))
        rows = statistics.rows_of(kv, ROPE)
        np.testing.assert_allclose(found.values[:, : rows.shape[1] - AFTER_START], rows[:, AFTER_START:], atol=4e-3)
        np.testing.assert_allclose(statistics.kv_of(rows, ROPE, HEADS), kv, atol=1e-5)

    def test_a_run_that_was_ended_goes_on_where_it_was(self) -> None:
        first = NoModel()
        whole = self.gather(first)
        newest = max(self.folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        newest.write_bytes(newest.read_bytes()[:1000])  # cut off by a crash
        again = NoModel()
        resumed = self.gather(again)
        self.assertEqual(again.looks, 2)  # of the one passage, near and short; every third is also looked at from a repetition
        self.assertGreater(first.looks, 12)
        for name in ("values", "fisher", "weights"):
            np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))
        self.assertIn("[6/6] b", self.said)


class TextsTest(unittest.TestCase):
    def test_the_registers_are_those_that_were_defined_and_long_enough(self) -> None:
        for name, text in texts.registers("default"):
            self.assertGreaterEqual(len(text), 4 * 3 * statistics.PASSAGE, name)  # three passages, at four characters a token

    def test_no_register_and_no_document_is_both_calibrated_and_judged(self) -> None:
        calibrated, judged = texts.CALIBRATED, texts.judged.JUDGED
        self.assertFalse({text.name for text in calibrated} & {text.name for text in judged})
        self.assertFalse({text.file for text in calibrated} & {text.file for text in judged})

    def test_a_file_that_is_also_judged_on_is_refused(self) -> None:
        judged = texts.judged.path_of(texts.judged.JUDGED[2]).resolve()
        with self.assertRaisesRegex(TextError, "must not be one that the profile is judged on"):
            texts.refuse_judged([judged], [])
        with self.assertRaisesRegex(TextError, "must not be one"):
            texts.refuse_judged([pathlib.Path("/a")], [pathlib.Path("/a")])

    def test_an_unknown_register_is_named(self) -> None:
        with self.assertRaisesRegex(TextError, "poems: no register; there are glossary, verse"):
            texts.registers("verse,poems")


class CommandTest(unittest.TestCase):
    def run_with(self, *arguments: str) -> tuple[int, str]:
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            return command.main([*arguments, "--out", "/nowhere/x.kvp"]), said.getvalue()

    def test_wrong_flags_are_all_named(self) -> None:
        code, said = self.run_with("--tokens", "100", "--reset", "1", "--inverse-step", "0")
        self.assertEqual(code, 2)
        for flag in ("--text or --registers", "--tokens: 100 is under 7680", "--reset: 0 or 2 to 254", "--inverse-step: must be"):
            self.assertIn(flag, said)

    def test_a_text_that_is_too_short_is_refused_with_the_number_needed(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "short.txt"
            path.write_text("A word. " * 100, encoding="utf-8")
            code, said = self.run_with("--text", str(path), "--tokens", "7680")
        self.assertEqual(code, 1)
        self.assertRegex(said, r"'short' has \d+ tokens; 7680 are needed of it")

    def test_a_model_or_a_group_that_the_library_will_not_take_is_refused_before_any_work(self) -> None:
        for heads, head_dim, asked, said in ((8, 128, "8", "m has 8 KV heads of 128: groups may have 1, 2, 4, not 8"), (2, 72, "1", "m has heads of 72; codec q takes 64, 80")):
            with mock.patch.object(command.engines, "open_engine", return_value=mock.Mock(kv_heads=heads, head_dim=head_dim, encode=None)) as opened:
                opened.return_value.name = "m"
                code, words = self.run_with("--registers", "verse", "--group-heads", asked)
            self.assertEqual(code, 1)
            self.assertIn(said, words)

    @unittest.skipIf(importlib.util.find_spec("torch"), "torch is installed")
    def test_models_of_hugging_face_are_refused_without_torch(self) -> None:
        code, said = self.run_with("--model", "some/model", "--text", __file__)
        self.assertEqual(code, 1)
        self.assertIn("need torch", said)


def expect_derivatives(test: unittest.TestCase, engine: Engine, gradients: Gradients, kv: np.ndarray, following: list[int]) -> None:
    """Of the same draws by the engine's own logits: the answers, and by how much their probability changes along the gradient."""
    drawn = gradients.of(kv, following, 1, np.random.default_rng(SEED))[0]
    draws = np.random.default_rng(SEED).random((1, len(following)), np.float32)[0]
    shares = np.exp(log_softmax(engine.logits(kv, following)))
    answers = [int(np.searchsorted(np.cumsum(row), draw * row.sum())) for row, draw in zip(shares, draws, strict=True)]
    direction = drawn / np.linalg.norm(drawn)
    step = np.float32(1e-2)
    said = [log_softmax(engine.logits(kv + sign * step * direction, following))[np.arange(4), answers].sum() for sign in (1, -1)]
    test.assertAlmostEqual((said[0] - said[1]) / (2 * step) / np.linalg.norm(drawn), 1, delta=0.03)


@unittest.skipUnless(importlib.util.find_spec("jax"), "jax is not installed")
class JaxTest(unittest.TestCase):
    def test_gradients_are_those_of_the_models_own_forward_pass(self) -> None:
        from kvist.calibrate.jax_gradients import JaxGradients
        from kvist.eval.smollm2_engine import SmolLM2Engine

        engine = SmolLM2Engine()
        gradients = JaxGradients(engine)
        tokens = engine.encode("The capital of France is Paris, and the capital of Spain is Madrid.")
        kv, following = bf16.to_float(engine.prefill(tokens[:8])), tokens[8:12]
        expect_derivatives(self, engine, gradients, kv, following)


def random_llama(**sizes: object) -> Engine:
    import torch
    import transformers
    from kvist.eval.hugging_face import HuggingFaceEngine

    torch.manual_seed(SEED)
    config = transformers.LlamaConfig(vocab_size=64, intermediate_size=64, num_hidden_layers=2, max_position_embeddings=256, initializer_range=0.3, **sizes)
    with tempfile.TemporaryDirectory() as folder, mock.patch("transformers.AutoTokenizer.from_pretrained"):
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
        return HuggingFaceEngine(folder)


@unittest.skipUnless(importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"), "torch is not installed")
class TorchTest(unittest.TestCase):
    def test_gradients_are_those_of_the_models_own_forward_pass(self) -> None:
        from kvist.calibrate.torch_gradients import TorchGradients

        scaling = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
        engine = random_llama(hidden_size=32, num_attention_heads=2, num_key_value_heads=1, rope_scaling=scaling)
        gradients = TorchGradients(engine)
        self.assertAlmostEqual(gradients.rope.factor, 0.1 * np.log(4) + 1, places=5)
        kv, following = engine.prefill(list(range(8)), wide=True), list(range(8, 12))
        expect_derivatives(self, engine, gradients, kv, following)

    def test_a_wide_model_gets_head_groups_that_the_library_codes_with(self) -> None:
        from kvist.calibrate.torch_gradients import TorchGradients

        engine = random_llama(hidden_size=64, num_attention_heads=8, num_key_value_heads=8, head_dim=128)
        gradients, groups = TorchGradients(engine), head_groups.count("wide", engine.kv_heads, engine.head_dim, 0)
        random, small = np.random.default_rng(SEED), {"PREFIX": 64, "SHORT": 32, "FOLLOWING": 16, "PASSAGE": 80, "PILOTS": 2, "DRAWS": 1}
        with tempfile.TemporaryDirectory() as folder, mock.patch.multiple(statistics, **small):
            planned = statistics.plan([("a", random.integers(0, 64, 1000).tolist())], 8 * small["PASSAGE"])
            found = statistics.gather(engine, gradients, planned, groups, pathlib.Path(folder), lambda _: None)
        settings = fit.Settings(source_layers=1)
        facts = fit.facts_of(engine.layers, engine.kv_heads, engine.head_dim, groups, gradients.rope, settings)
        made = fit.fit(found.values, found.fisher, found.weights, facts, gradients.rope, settings, {"model": "wide"})
        opened = codec.Profile(profile_file.write(made))
        self.assertEqual((opened.facts["heads"], opened.facts["groups"]), (8, 4))
        kv = engine.prefill(planned[0].tokens[:64])
        block = codec.encode(kv, "q", profile=opened)
        self.assertEqual(codec.describe(block).raised_tiles, 0)
        exact, got = bf16.to_float(kv), bf16.to_float(codec.decode(block, profile=opened))
        self.assertLess(np.square(got - exact).mean() / np.square(exact).mean(), 0.1)
        self.assertLess(len(block), kv.nbytes / 3)


if __name__ == "__main__":
    unittest.main()
