"""Goal: codec q in numpy is what its specification says. Method: exact arithmetic by fractions, symbols through streams, known models."""

import dataclasses
import unittest
from fractions import Fraction

import numpy as np
from calibrate_synthetic import HEADS, LAYERS, THETA, WIDTH, fisher, group, profile, values, weights
from kvist.calibrate import arithmetic, fit, head_groups, importance, matrix, rans, reference, tables
from kvist.calibrate.profile import MAGNITUDES, TOTAL, ProfileError

SEED = 7
BLOCK = slice(40, 77)  # of 37 tokens: a tail of 5 lanes


def rounded(exact: Fraction) -> np.float32:
    """The nearest binary32 of a fraction in the range of normal numbers, ties to even."""
    near = np.float32(float(exact))
    candidates = [np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf))]
    return min(candidates, key=lambda x: (abs(Fraction(float(x)) - exact), int(x.view(np.uint32)) & 1))


class ArithmeticTest(unittest.TestCase):
    def test_a_fused_multiply_add_is_rounded_once(self) -> None:
        random = np.random.default_rng(SEED)
        a, b = random.standard_normal((2, 3000)).astype(np.float32)
        c = (random.standard_normal(3000) * 2.0 ** random.integers(-40, 10, 3000)).astype(np.float32)
        c[:500] = -(a * b)[:500]  # what is left of a cancellation
        a[-1], b[-1], c[-1] = 1 + 2**-12, 1 + 2**-12, 2.0**-60  # just above a tie: a second rounding would go down
        for x, y, z, got in zip(a, b, c, arithmetic.fma(a, b, c), strict=True):
            exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
            self.assertEqual(got, rounded(exact), (x, y, z))

    def test_cosines_are_right_at_any_position(self) -> None:
        inverse = 10000.0 ** (-np.arange(0, 64, 2) / 64)
        turns = arithmetic.turns_of(inverse)
        for positions in (np.arange(64), np.arange(131000, 131064)):
            cos, sin = arithmetic.cos_sin(positions, turns, 1.0)
            angle = positions[:, None] * inverse
            np.testing.assert_allclose(cos, np.cos(angle), atol=3e-7)
            np.testing.assert_allclose(sin, np.sin(angle), atol=3e-7)

    def test_what_rope_turned_it_turns_back_in_both_styles(self) -> None:
        x = np.random.default_rng(SEED).standard_normal((2, 30, 16)).astype(np.float32)
        angles = arithmetic.cos_sin(np.arange(5, 35), arithmetic.turns_of(0.5 ** np.arange(8)), 1.25)
        for style in (0, 1, 2):
            back = arithmetic.rope(arithmetic.rope(x, angles, style), angles, style, inverse=True)
            np.testing.assert_allclose(back, x, atol=1e-6)
        np.testing.assert_array_equal(arithmetic.rope(x, angles, 1)[..., 0], x[..., 0] * angles[0][:, 0] - x[..., 8] * angles[1][:, 0])
        np.testing.assert_array_equal(arithmetic.rope(x, angles, 2)[..., 0], x[..., 0] * angles[0][:, 0] - x[..., 1] * angles[1][:, 0])

    def test_steps_halve_with_every_second_k(self) -> None:
        k = np.arange(-8, 24)
        np.testing.assert_allclose(arithmetic.step_of(0.75, k), 0.75 * 2.0 ** (-k / 2), rtol=1e-7)


class MatrixTest(unittest.TestCase):
    def test_entries_are_within_half_a_step(self) -> None:
        x = np.random.default_rng(SEED).standard_normal((20, 12))
        few = matrix.quantize(x, np.geomspace(0.05, 0.5, 20), np.geomspace(1e-3, 1e3, 12))
        steps = matrix.scale(few.row)[:, None] * matrix.scale(few.column)
        self.assertTrue((np.abs(few.values() - x) <= steps * 0.5001).all())

    def test_steps_far_outside_of_the_range_of_scales_are_kept_by_columns(self) -> None:
        x = np.random.default_rng(SEED).standard_normal((8, 8)) * 1e-4
        few = matrix.quantize(x, np.full(8, 1e-8), np.full(8, 3e3))
        self.assertLess(np.abs(few.values() - x).max(), 3e-5 * 0.55)

    def test_a_row_that_codes_could_not_reach_gets_a_wider_step(self) -> None:
        x = np.array([[1.0, -1000.0], [0.5, 0.25]])
        few = matrix.quantize(x, np.full(2, 0.01), np.ones(2))
        np.testing.assert_allclose(few.values()[0], x[0], atol=5)
        np.testing.assert_allclose(few.values()[1], x[1], atol=0.006)

    def test_feedback_lowers_the_error_that_the_metrics_see(self) -> None:
        random = np.random.default_rng(SEED)

        def metric(size: int) -> np.ndarray:
            samples = random.standard_normal((500, 3)) @ random.standard_normal((3, size)) + 0.3 * random.standard_normal((500, size))
            return samples.T @ samples / 500

        rows, columns, x = metric(24), metric(10), random.standard_normal((24, 10))
        steps = 0.5 / np.sqrt(np.diag(rows)), 1 / np.sqrt(np.diag(columns))

        def error(few: matrix.Matrix) -> float:
            moved = few.values() - x
            return float(np.trace(moved.T @ rows @ moved @ columns))

        plain = error(matrix.quantize(x, *steps))
        one_side = error(matrix.quantize(x, *steps, (rows, np.diag(np.diag(columns))), 0.01))
        self.assertLess(one_side, 0.7 * plain)
        self.assertLess(error(matrix.quantize(x, *steps, (rows, columns), 0.01)), 0.7 * one_side)


class TablesTest(unittest.TestCase):
    def test_frequencies_follow_the_counts_and_sum_to_4096_whatever_they_are(self) -> None:
        random = np.random.default_rng(SEED)
        counts = random.exponential(size=(48, MAGNITUDES + 2)) * 10.0 ** random.integers(-3, 6, (48, 1))
        built = tables.build(counts, random.exponential(size=(2, 32)) * 1e4, np.zeros((2, 8)))
        wide = built.coefficients.astype(int)
        self.assertTrue((wide.sum(1) + wide[:, 1:-1].sum(1) == TOTAL).all() and (wide >= 1).all())
        self.assertTrue((built.steps.sum(1) == TOTAL).all() and (built.shifts.sum(1) == TOTAL).all())
        np.testing.assert_array_equal(built.shifts, np.full((2, 8), 512))


class CodecTest(unittest.TestCase):
    def test_streams_give_back_every_symbol_and_cost_what_the_tables_say(self) -> None:
        for whole in (group(), group(2)):
            block = values()[:, BLOCK]
            symbols, _ = reference.Coder(whole).encode(block, 40)
            streams = reference.Streams(whole)
            for layer, said in enumerate(symbols):
                stream = streams.encode(layer, said)
                for got, side in zip(streams.decode(layer, block.shape[1], stream), said, strict=True):
                    for name in "keq":
                        np.testing.assert_array_equal(getattr(got, name), getattr(side, name))
                ideal = sum(side.bits for side in said)
                self.assertLess(8 * len(stream) - ideal, 8 * 64)
                self.assertGreater(8 * len(stream) - ideal, 8 * 16)

    def test_magnitudes_beyond_the_tables_escape(self) -> None:
        whole = group()
        streams = reference.Streams(whole)
        said = reference.Coder(whole).encode(values()[:, BLOCK], 40)[0][0]
        q = said[0].q.copy()
        place = np.argwhere(tables.classes(whole.layers[0].v.base[: whole.layers[0].v.rows], said[0].k, said[0].e) > 0)[:6]
        q[tuple(place.T)] = [16, -16, 17, 255, -4000, tables.MOST_MAGNITUDE]
        loud = dataclasses.replace(said[0], q=q)
        got = streams.decode(0, q.shape[0], streams.encode(0, (loud, said[1])))
        np.testing.assert_array_equal(got[0].q, q)

    def test_a_stream_that_is_cut_off_or_longer_is_refused(self) -> None:
        whole = group()
        stream = reference.Streams(whole).encode(0, reference.Coder(whole).encode(values()[:, BLOCK], 40)[0][0])
        for damaged in (stream[:-2], stream[:40], stream + b"\0\0"):
            with self.assertRaises(rans.StreamError):
                reference.Streams(whole).decode(0, 37, damaged)

    def test_what_the_encoder_decodes_is_what_readers_decode(self) -> None:
        block = values()[:, BLOCK]
        for whole in (group(), group(1), group(2), group(1, reset=2)):
            for exact in (False, True):
                coder = reference.Coder(whole, exact)
                symbols, decoded = coder.encode(block, 40)
                np.testing.assert_array_equal(coder.decode(symbols), decoded)
            fast = reference.Coder(whole).decode(symbols)
            np.testing.assert_allclose(fast, decoded, atol=1e-4)

    def test_errors_are_of_the_steps_size_in_the_metric(self) -> None:
        part = slice(100, 1600)
        for whole in (group(), group(2)):
            symbols, decoded = reference.Coder(whole).encode(values()[:, part], 100)
            for layer in range(LAYERS):
                moved = (decoded[layer] - values()[layer, part])[:, :WIDTH]
                steps = arithmetic.step_of(THETA, symbols[layer][1].k)
                ratio = np.einsum("ti,ij,tj->t", moved, fisher()[0, layer], moved) / WIDTH / steps**2
                self.assertLess(ratio.mean(), 0.14)  # a uniform quantizer's is 1/12; T- of few bits and the dead zone add
                self.assertGreater(ratio.mean(), 0.03)

    def test_prediction_saves_bits_where_layers_resemble_each_other(self) -> None:
        bits = {}
        for deep in (0, 1):
            symbols, _ = reference.Coder(group(deep)).encode(values()[:, 100:1600], 100)
            bits[deep] = sum(side.bits for side in symbols[2]) / (1500 * 2 * WIDTH)
        self.assertLess(bits[1], bits[0] - 1)

    def test_the_first_token_is_left_to_its_record(self) -> None:
        symbols, _ = reference.Coder(group()).encode(values()[:, :20], 0)
        for sides in symbols:
            for side in sides:
                self.assertFalse(side.q[0].any())
                self.assertEqual(side.k[0], -8)
                self.assertTrue((side.k[1:4] >= 4).all())

    def test_components_of_class_zero_are_never_sent(self) -> None:
        whole = group()
        quiet = dataclasses.replace(whole.layers[0].v, base=np.full(WIDTH, -128, np.int8))
        whole = dataclasses.replace(whole, layers=(dataclasses.replace(whole.layers[0], v=quiet), *whole.layers[1:]))
        symbols, decoded = reference.Coder(whole).encode(values()[:, BLOCK], 40)
        self.assertFalse(symbols[0][0].q.any())
        np.testing.assert_array_equal(decoded[0, :, WIDTH:], np.broadcast_to(quiet.mean, (37, WIDTH)))


class HeadGroupsTest(unittest.TestCase):
    def test_rows_of_groups_are_those_of_their_heads_and_go_back(self) -> None:
        rows = np.arange(3 * 2 * 24).reshape(3, 2 * 24)  # 6 heads of 4
        parts = [head_groups.part(rows, 3, i) for i in range(3)]
        np.testing.assert_array_equal(parts[1][0], [*range(8, 16), *range(24 + 8, 24 + 16)])
        np.testing.assert_array_equal(head_groups.join(parts), rows)

    def test_each_group_is_what_a_model_of_its_heads_alone_would_get(self) -> None:
        each = WIDTH // 2
        for deep in (0, 2):
            whole = profile(deep, groups=2)
            for i, found in enumerate(whole.groups):
                here = slice(i * each, (i + 1) * each)
                own = head_groups.part(values(), 2, i)
                alone = fit.fit_group(own, fisher()[:, :, here, here], weights(), whole.facts.of_group(), fit.Settings(deep, 0, THETA), lambda _: None)
                np.testing.assert_array_equal(found.tables.coefficients, alone.tables.coefficients)
                for a, b in zip(found.layers, alone.layers, strict=True):
                    np.testing.assert_array_equal(a.k.inverse.code, b.k.inverse.code)
                    np.testing.assert_array_equal(a.v.first, b.v.first)

    def test_a_layers_sensitivity_is_the_sum_of_its_heads(self) -> None:
        by_head = fit.sensitivity(values(), fisher(), weights(), HEADS)
        each = WIDTH // HEADS
        for side, layer in np.ndindex(2, LAYERS):
            x = values()[layer, :, side * WIDTH : (side + 1) * WIDTH].reshape(-1, HEADS, each)
            energy = np.mean(np.square(x) * weights()[side, layer][:, None, None], (0, 2))
            self.assertAlmostEqual(by_head[side, layer].sum() / (np.repeat(energy, each) @ np.diag(fisher()[side, layer])), 1, places=4)
        side = group().layers[1].k
        np.testing.assert_allclose(side.sensitivity, by_head[0, 1], rtol=2**-8)

    def test_groups_are_about_256_channels_or_as_many_heads_as_was_asked_for(self) -> None:
        for heads, head_dim, groups in ((8, 128, 4), (4, 256, 4), (32, 64, 8), (3, 64, 1), (5, 64, 1), (6, 80, 2), (40, 128, 20), (1, 256, 1), (256, 64, 64)):
            self.assertEqual(head_groups.count("m", heads, head_dim, 0), groups, (heads, head_dim))
        self.assertEqual(head_groups.count("m", 8, 128, 4), 2)
        with self.assertRaisesRegex(ProfileError, "m has 8 KV heads of 128: groups may have 1, 2, 4, not 8"):
            head_groups.count("m", 8, 128, 8)
        with self.assertRaisesRegex(ProfileError, "groups may have 1, 3, not 2"):
            head_groups.count("m", 3, 128, 2)
        with self.assertRaisesRegex(ProfileError, "m has heads of 72; codec q takes 64, 80"):
            head_groups.count("m", 2, 72, 0)
        with self.assertRaisesRegex(ProfileError, "m has 512 KV heads; codec q takes at most 256"):
            head_groups.count("m", 512, 64, 0)


class ImportanceTest(unittest.TestCase):
    def test_the_weights_of_loud_tokens_are_found(self) -> None:
        guessed = importance.Importance.of(group()).log_weights(values())
        for layer in range(LAYERS):
            true = np.log(weights()[0, layer])
            self.assertGreater(np.corrcoef(true, guessed[0, layer])[0, 1], 0.95)
            self.assertAlmostEqual(float(np.mean(weights()[0, layer] / np.exp(guessed[0, layer]))), 1, delta=0.1)

    def test_features_are_one_energies_rows_and_squares(self) -> None:
        rows = values()[0, :3]
        seen = importance.features(rows, np.zeros(2 * WIDTH, np.float32), np.ones(2 * WIDTH, np.float32), HEADS)
        self.assertEqual(seen.shape, (3, 1 + 2 * HEADS + 4 * WIDTH))
        np.testing.assert_allclose(seen[:, 1], np.log((rows[:, : WIDTH // HEADS] ** 2).sum(1) + 1e-6) - 5, rtol=1e-5)
        clipped = np.clip(rows, -6, 6)
        np.testing.assert_allclose(seen[:, 1 + 2 * HEADS :], np.concatenate([clipped, clipped**2], 1), rtol=1e-6)


if __name__ == "__main__":
    unittest.main()
