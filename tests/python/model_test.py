"""Goal: the numpy model is a model, and its cache may leave and come back. Method: the real weights, short prompts."""

import unittest

import numpy as np
from kvist.models.smollm2.model import PREFILL_CHUNK, SmolLM2


class ModelTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.model = SmolLM2()

    def test_it_knows_the_capital_of_france(self) -> None:
        tokens = self.model.tokenizer.encode("The capital of France is")
        cache = self.model.new_cache(len(tokens) + 4)
        answer = self.model.generate(self.model.prefill(tokens, cache), cache, len(tokens), 4, stop=False)
        self.assertIn("Paris", self.model.tokenizer.decode(answer))

    def test_a_prefill_resumed_at_a_block_is_the_same_bit_for_bit(self) -> None:
        tokens = list(range(100, 100 + PREFILL_CHUNK + 20))
        whole = self.model.new_cache(len(tokens))
        logits = self.model.prefill(tokens, whole)
        resumed = self.model.new_cache(len(tokens))
        resumed[:, :, :, :PREFILL_CHUNK] = whole[:, :, :, :PREFILL_CHUNK]
        np.testing.assert_array_equal(self.model.prefill(tokens, resumed, PREFILL_CHUNK), logits)
        np.testing.assert_array_equal(resumed, whole)

    def test_chat_turns_survive_the_tokenizer(self) -> None:
        tokens = self.model.tokenizer.chat("Be brief.", "What is 12 + 30?")
        self.assertEqual(self.model.tokenizer.decode(tokens), "system\nBe brief.\nuser\nWhat is 12 + 30?\nassistant\n")


if __name__ == "__main__":
    unittest.main()
