"""Goal: the baselines do what their descriptions say, and count what it costs. Method: for each a case computed by hand."""

import unittest

import numpy as np
from kvist.eval import baselines


def row(*values: float, size: int = 64) -> np.ndarray:
    """One layer, head and token: the values, then zeros."""
    return np.array([*values, *[0] * (size - len(values))], np.float32).reshape(1, 1, 1, size)


def tile(tokens: int = 128, size: int = 64, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, 1, tokens, size)).astype(np.float32)


class BaselinesTest(unittest.TestCase):
    def decoded(self, coder: baselines.Coder, x: np.ndarray) -> list[float]:
        return coder(x)[0].ravel().tolist()

    def test_int8_has_a_step_of_the_largest_by_127(self) -> None:
        values, bits = baselines.int8(row(127, 63.4, -0.6))
        self.assertEqual(values.ravel()[:3].tolist(), [127, 63, -1])
        self.assertEqual(bits, 8 + 16 / 64)

    def test_int4_spans_each_group_of_32_from_least_to_most(self) -> None:
        values, bits = baselines.int4(row(*[0] * 30, 15, 7.4, *[30] * 31, 0))
        self.assertEqual(values.ravel()[30:33].tolist(), [15, 7, 30])
        self.assertEqual(bits, 4 + 32 / 32)

    def test_fp8_rounds_to_three_bits_of_mantissa(self) -> None:
        cases = {448: 448, 440: 448, 431: 416, 1.0: 1.0, 1.0625: 1.0, 1.07: 1.125, 2**-9: 2**-9, 2**-11: 0, 500: 448, -3.3: -3.25}
        for value, expected in cases.items():
            self.assertEqual(float(baselines.e4m3(np.float32(value))), expected, value)
        values, bits = baselines.fp8(row(448, 1.07))  # the scale is 1
        self.assertEqual(values.ravel()[:2].tolist(), [448, 1.125])
        self.assertEqual(bits, 8 + 32 / 64)

    def test_nvfp4_has_eight_magnitudes_below_a_scale_of_16(self) -> None:
        # The largest, 6 * 448, makes the tensor's scale 1 and its group's 448; the second group's is 1.
        values, bits = baselines.nvfp4(row(6 * 448, *[0] * 15, 6, 2.4, -0.2, 3.6, 1.2))
        self.assertEqual(values.ravel()[16:21].tolist(), [6, 2, 0, 4, 1])
        self.assertEqual(bits, 4.5 + 32 / 64)

    def test_kivi_takes_channels_of_keys_and_tokens_of_values(self) -> None:
        keys = np.repeat(np.arange(64, dtype=np.float32)[None], 32, 0).reshape(1, 1, 32, 64)  # each channel is constant
        self.assertEqual(self.decoded(baselines.kivi_keys(2), keys), keys.ravel().tolist())
        self.assertNotEqual(self.decoded(baselines.kivi_values(2), keys), keys.ravel().tolist())
        values = row(*range(0, 96, 3)).reshape(1, 1, 1, 64)  # 0, 3, .. 93, then zeros: levels 0 31 62 93
        decoded, bits = baselines.kivi_values(2)(values)
        self.assertEqual(decoded.ravel()[[0, 5, 6, 15, 16, 31]].tolist(), [0, 0, 31, 31, 62, 93])
        self.assertEqual(bits, 2 + 32 / 32)

    def test_kvquant_keeps_the_largest_percent_and_puts_the_rest_at_normal_quantiles(self) -> None:
        x = np.zeros((1, 1, 1, 100), np.float32)
        x[..., :4] = (1000, 1, -1, 0.45)  # the outlier, then what gives the scale 1
        values, bits = baselines.kvquant(-1)(x)
        np.testing.assert_allclose(values.ravel()[:5], [1000, 1, -1, 0.44070983, 0], rtol=1e-6)
        self.assertAlmostEqual(bits, 4 + 32 / 100 + 0.01 * 32)

    def test_the_hadamard_transform_is_orthonormal_and_its_own_inverse(self) -> None:
        np.testing.assert_allclose(baselines.hadamard(row(1, 1)).ravel()[:4], [0.25, 0, 0.25, 0], atol=1e-7)
        np.testing.assert_allclose(baselines.hadamard(baselines.hadamard(tile())), tile(), atol=1e-5)

    def test_kvarn_makes_deviations_alike_so_that_scaled_tokens_cost_nothing(self) -> None:
        even = tile()
        scaled = even * np.geomspace(0.1, 10, 128, dtype=np.float32)[:, None]
        errors = []
        for x in (even, scaled):
            values, bits = baselines.kvarn(4, -1)(x)
            errors.append(np.sum((values - x) ** 2) / np.sum(x**2))
        self.assertAlmostEqual(bits, 4 + (2 * 16 * 128 + 16 * 64) / (128 * 64))
        self.assertLess(abs(errors[1] / errors[0] - 1), 0.15)
        self.assertLess(errors[0], 0.02)

    def test_keys_of_kvarn_have_their_scale_by_channel(self) -> None:
        _, bits = baselines.kvarn(4, -2)(tile())
        self.assertAlmostEqual(bits, 4 + (2 * 16 * 64 + 16 * 128) / (128 * 64))

    def test_tiles_without_variation_stay_finite(self) -> None:
        flat = np.full((1, 1, 128, 64), 3, np.float32)
        for name, coders in baselines.BASELINES.items():
            for coder in coders:
                np.testing.assert_allclose(coder(flat)[0], flat, rtol=0.05, err_msg=name)
                self.assertTrue(np.isfinite(coder(flat * 0)[0]).all(), name)


if __name__ == "__main__":
    unittest.main()
