"""Goal: the demo's figures are what they are called. Method: distributions whose KLD is known, and bf16 by its definition."""

import unittest

import numpy as np
import quality
from kvist.models.smollm2 import bf16


class QualityTest(unittest.TestCase):
    def test_kld_of_known_distributions(self) -> None:
        p, q = np.log([[0.5, 0.5], [0.9, 0.1]]), np.log([[0.25, 0.75], [0.9, 0.1]])
        expected = (0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)) / 2
        self.assertAlmostEqual(quality.mean_kld(p, q), expected, 12)
        self.assertEqual(quality.mean_kld(p, p), 0)

    def test_top1_counts_equal_choices(self) -> None:
        p, q = np.log([[0.6, 0.4], [0.1, 0.9]]), np.log([[0.4, 0.6], [0.2, 0.8]])
        self.assertEqual(quality.top1_agreement(p, q), 0.5)

    def test_bf16_rounds_to_nearest_even_and_back_exactly(self) -> None:
        bits = np.arange(0, 0x7F80, 7, np.uint16)
        np.testing.assert_array_equal(bf16.from_float(bf16.to_float(bits)), bits)
        halfway = np.array([0x3F808000, 0x3F818000, 0x3F808001], np.uint32).view(np.float32)
        np.testing.assert_array_equal(bf16.from_float(halfway), [0x3F80, 0x3F82, 0x3F81])


if __name__ == "__main__":
    unittest.main()
