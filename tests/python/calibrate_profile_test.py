"""Goal: a reader gets the profile that was written, or an error that names what is wrong. Method: small profiles, every field spoilt."""

import dataclasses
import struct
import unittest

import numpy as np
from calibrate_synthetic import HEAD_DIM, LAYERS, WIDTH, profile
from kvist.calibrate import profile_file
from kvist.calibrate.profile import Profile, ProfileError, Side, digest

HEADER_BYTES = profile_file.HEADER.size


def side_of(whole: Profile, layer: int, key: bool, **changes: object) -> Profile:
    """The profile with changes to one side of one layer."""
    name = "k" if key else "v"
    side: Side = dataclasses.replace(getattr(whole.layers[layer], name), **changes)
    layers = list(whole.layers)
    layers[layer] = dataclasses.replace(layers[layer], **{name: side})
    return dataclasses.replace(whole, layers=tuple(layers))


def tables_of(whole: Profile, **changes: object) -> Profile:
    return dataclasses.replace(whole, tables=dataclasses.replace(whole.tables, **changes))


class RoundTripTest(unittest.TestCase):
    def test_what_is_written_is_read_local_deep_and_with_resets(self) -> None:
        for whole in (profile(), profile(1), profile(2), profile(1, reset=2)):
            content = profile_file.write(whole)
            again = profile_file.read(content)
            self.assertEqual(profile_file.write(again), content)
            self.assertEqual((again.source_layers, again.reset, again.about), (whole.source_layers, whole.reset, whole.about))
            for read, written in zip(again.layers, whole.layers, strict=True):
                np.testing.assert_array_equal(read.k.inverse.values(), written.k.inverse.values())
                np.testing.assert_array_equal(read.v.first, written.v.first)

    def test_predictors_see_the_layers_since_the_last_reset(self) -> None:
        self.assertEqual([profile().source_rows(layer, True) for layer in range(LAYERS)], [0, 0, 0])
        self.assertEqual([profile(2).source_rows(layer, False) for layer in range(LAYERS)], [0, 2 * WIDTH, 4 * WIDTH])
        self.assertEqual([profile(2).source_rows(layer, True) for layer in range(LAYERS)], [WIDTH, 3 * WIDTH, 5 * WIDTH])
        self.assertEqual([profile(1, reset=2).sources(layer) for layer in range(LAYERS)], [0, 1, 0])

    def test_the_digest_is_of_every_byte(self) -> None:
        content = profile_file.write(profile())
        self.assertEqual(len(digest(content)), 16)
        self.assertNotEqual(digest(content), digest(content[:-1] + bytes([content[-1] ^ 1])))


class LimitsTest(unittest.TestCase):
    def refused(self, whole: Profile, named: str) -> None:
        with self.assertRaisesRegex(ProfileError, named):
            profile_file.write(whole)

    def test_numbers_of_the_header_out_of_range_are_named(self) -> None:
        for field, value, named in (
            ("rope_style", 3, "rope style 3"), ("source_layers", 3, "source layers 3"), ("k_from_v", 2, "K from V 2"),
            ("reset", 255, "resets 255"), ("reset", 1, "resets 1 with 1 source"), ("heads", 0, "heads 0"), ("heads", 65, "head_dim 520 is over 512"),
            ("head_dim", 7, "head_dim 7"), ("head_dim", 514, "head_dim 514"), ("theta", 0.0, "theta 0.0"), ("theta", float("nan"), "theta nan"),
            ("rope_factor", float("inf"), "rope factor inf"), ("layers", (), "layers 0"),
            ("turns", np.zeros(HEAD_DIM, np.uint64), "turns are not"), ("rope_style", 0, "turns are not 0"),
        ):  # fmt: skip
            with self.subTest(field=field, value=value):
                self.refused(dataclasses.replace(profile(1), **{field: value}), named)

    def test_numbers_of_a_layer_out_of_range_are_named(self) -> None:
        whole = profile(1)
        k = whole.layers[1].k
        spoilt = k.mean.copy()
        spoilt[3] = np.nan
        uneven = k.mean.copy()
        uneven[3] = 1.0001
        negative = k.inverse.code.copy()
        negative[0, 0] = -128
        for changes, named in (
            ({"rows": 0}, "rows of K of layer 1: 0"), ({"rows": WIDTH + 1}, "rows of K of layer 1"), ({"mean": spoilt}, "mean of K of layer 1 is not finite"),
            ({"mean": uneven}, "mean of K of layer 1 is not of bf16"), ({"mean": k.mean[1:]}, "mean of K of layer 1 is not float32"),
            ({"predictor": None}, "predictor of K of layer 1"), ({"predictor": k.inverse}, "predictor of K of layer 1 is not int8"),
            ({"inverse": dataclasses.replace(k.inverse, code=negative)}, "inverse of K of layer 1 has the code -128"),
            ({"inverse": dataclasses.replace(k.inverse, row=k.inverse.row[1:])}, "inverse of K of layer 1: scales of rows"),
            ({"inverse": dataclasses.replace(k.inverse, column=k.inverse.column[1:])}, "inverse of K of layer 1: scales of columns"),
            ({"base": k.base.astype(np.int16)}, "base classes of K of layer 1"), ({"first": k.first[1:]}, "importance of K of layer 1"),
            ({"second": k.second[1:]}, "second importance of K of layer 1"),
            ({"sensitivity": -1.0}, "sensitivity of K of layer 1: -1.0 is below 0"), ({"sensitivity": 1.0001}, "sensitivity of K of layer 1 is not of bf16"),
        ):  # fmt: skip
            with self.subTest(named=named):
                self.refused(side_of(whole, 1, True, **changes), named)

    def test_a_deviation_that_is_not_above_zero_is_named(self) -> None:
        whole = profile()
        layers = (dataclasses.replace(whole.layers[0], deviation=0 * whole.layers[0].deviation), *whole.layers[1:])
        self.refused(dataclasses.replace(whole, layers=layers), "deviation of layer 0 is not above 0")

    def test_tables_that_do_not_sum_or_lack_a_symbol_are_named(self) -> None:
        whole = profile()
        for name, row in (("coefficients", 47), ("steps", 1), ("shifts", 0)):
            table = getattr(whole.tables, name).copy()
            table[row, 0] += 1
            self.refused(tables_of(whole, **{name: table}), f"table of {name}: row .{row}. does not sum to 4096")
            table[row, 0] = 0
            self.refused(tables_of(whole, **{name: table}), f"table of {name} has a frequency of 0")


class BadFilesTest(unittest.TestCase):
    def setUp(self) -> None:
        self.content = profile_file.write(profile(1))

    def refused(self, content: bytes, named: str) -> None:
        with self.assertRaisesRegex(ProfileError, named):
            profile_file.read(content)

    def test_a_file_that_ends_anywhere_is_refused(self) -> None:
        for size in [*range(0, 200), *range(200, len(self.content), 97), len(self.content) - 1]:
            self.refused(self.content[:size], "ends within")

    def test_bytes_after_the_profile_are_refused(self) -> None:
        self.refused(self.content + b"\0", "1 bytes follow the file")

    def test_another_kind_of_file_and_another_version_are_named(self) -> None:
        self.refused(b"NOPROFIL" + self.content[8:], "no profile")
        self.refused(self.content[:8] + struct.pack("<H", 2) + self.content[10:], "version 2; this program reads 1")

    def test_an_edited_body_is_refused_wherever_it_was_edited(self) -> None:
        body = len(self.content) - 3000
        for place in range(body, len(self.content), 61):
            edited = bytearray(self.content)
            edited[place] ^= 0x10
            self.refused(bytes(edited), "profile: ")

    def test_an_edited_header_is_refused_or_asks_for_another_body(self) -> None:
        for place, value, named in ((10, 9, "rope style 9"), (11, 2, "body is not"), (12, 0, "body is not"), (13, 2, "body is not"), (14, 3, "body is not|turns"),
                                    (18, 2, "body is not"), (21, 0xFF, "layers 4278190083")):  # fmt: skip
            edited = bytearray(self.content)
            edited[place] = value
            self.refused(bytes(edited), named)

    def test_lengths_that_would_take_all_memory_are_refused_before_they_are_used(self) -> None:
        place = HEADER_BYTES + 8 * (HEAD_DIM // 2)
        self.refused(self.content[:place] + struct.pack("<I", 2**32 - 1) + self.content[place + 4 :], "JSON bytes says 4294967295")

    def test_json_that_is_none_is_refused(self) -> None:
        place = self.content.index(b'{"model"')
        self.refused(self.content[:place] + b"[" + self.content[place + 1 :], "JSON is damaged")


if __name__ == "__main__":
    unittest.main()
