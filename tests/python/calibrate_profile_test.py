"""Goal: a reader gets the profile that was written, or an error that names what is wrong. Method: small profiles, every field spoilt."""

import dataclasses
import struct
import unittest

import numpy as np
from calibrate_synthetic import HEAD_DIM, LAYERS, WIDTH, profile
from kvist.calibrate import profile_file
from kvist.calibrate.profile import Profile, ProfileError, Side, digest

HEADER_BYTES = profile_file.HEADER.size


def group_of(whole: Profile, **changes: object) -> Profile:
    """The profile with changes to its first head group."""
    return dataclasses.replace(whole, groups=(dataclasses.replace(whole.groups[0], **changes), *whole.groups[1:]))


def side_of(whole: Profile, layer: int, key: bool, **changes: object) -> Profile:
    """The profile with changes to one side of one layer."""
    name = "k" if key else "v"
    side: Side = dataclasses.replace(getattr(whole.groups[0].layers[layer], name), **changes)
    layers = list(whole.groups[0].layers)
    layers[layer] = dataclasses.replace(layers[layer], **{name: side})
    return group_of(whole, layers=tuple(layers))


def tables_of(whole: Profile, **changes: object) -> Profile:
    return group_of(whole, tables=dataclasses.replace(whole.groups[0].tables, **changes))


class RoundTripTest(unittest.TestCase):
    def test_what_is_written_is_read_local_deep_and_with_resets(self) -> None:
        for whole in (profile(), profile(1), profile(2), profile(1, reset=2), profile(groups=2), profile(2, groups=2)):
            content = profile_file.write(whole)
            again = profile_file.read(content)
            self.assertEqual(profile_file.write(again), content)
            self.assertEqual((again.facts, again.about), (whole.facts, whole.about))
            for got, group in zip(again.groups, whole.groups, strict=True):
                for read, written in zip(got.layers, group.layers, strict=True):
                    np.testing.assert_array_equal(read.k.inverse.values(), written.k.inverse.values())
                    np.testing.assert_array_equal(read.v.first, written.v.first)
                    np.testing.assert_array_equal(read.v.sensitivity, written.v.sensitivity)

    def test_predictors_see_the_layers_since_the_last_reset(self) -> None:
        self.assertEqual([profile().facts.source_rows(layer, True) for layer in range(LAYERS)], [0, 0, 0])
        self.assertEqual([profile(2).facts.source_rows(layer, False) for layer in range(LAYERS)], [0, 2 * WIDTH, 4 * WIDTH])
        self.assertEqual([profile(2).facts.source_rows(layer, True) for layer in range(LAYERS)], [WIDTH, 3 * WIDTH, 5 * WIDTH])
        self.assertEqual([profile(1, reset=2).facts.sources(layer) for layer in range(LAYERS)], [0, 1, 0])

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
            ("reset", 255, "resets 255"), ("reset", 1, "resets 1 with 1 source"), ("heads", 0, "heads 0"), ("heads", 65, "65 heads of 8 are 520 channels a group, over 512"),
            ("heads", 257, "heads 257"), ("groups", 0, "head groups 0"), ("groups", 3, "head groups 3 do not divide 2 heads"), ("groups", 2, "1 head groups are not 2"),
            ("head_dim", 7, "head_dim 7"), ("head_dim", 514, "head_dim 514"), ("theta", 0.0, "theta 0.0"), ("theta", float("nan"), "theta nan"),
            ("rope_factor", float("inf"), "rope factor inf"), ("layers", 0, "layers 0"), ("rope_style", 0, "turns are not 0"), ("head_dim", 16, "turns are not"),
        ):  # fmt: skip
            with self.subTest(field=field, value=value):
                whole = profile(1)
                self.refused(dataclasses.replace(whole, facts=dataclasses.replace(whole.facts, **{field: value})), named)

    def test_a_profile_that_would_inflate_to_too_much_is_refused_by_its_numbers_alone(self) -> None:
        facts = dataclasses.replace(profile(2).facts, layers=80, heads=64, head_dim=128, groups=16)
        with self.assertRaisesRegex(ProfileError, "bytes before they are deflated, over 268435456: smaller head groups take less"):
            facts.check()
        dataclasses.replace(facts, source_layers=0, k_from_v=0, reset=1, groups=64).check()

    def test_numbers_of_a_layer_out_of_range_are_named(self) -> None:
        whole = profile(1)
        k = whole.groups[0].layers[1].k
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
            ({"sensitivity": np.float32([1, -1])}, "sensitivity of K of layer 1: -1.0 is below 0"),
            ({"sensitivity": np.float32([1, 1.0001])}, "sensitivity of K of layer 1 is not of bf16"), ({"sensitivity": np.float32([1])}, "sensitivity of K of layer 1 is not float32"),
        ):  # fmt: skip
            with self.subTest(named=named):
                self.refused(side_of(whole, 1, True, **changes), named)

    def test_a_deviation_that_is_not_above_zero_is_named(self) -> None:
        whole = profile()
        first, *others = whole.groups[0].layers
        self.refused(group_of(whole, layers=(dataclasses.replace(first, deviation=0 * first.deviation), *others)), "deviation of layer 0 is not above 0")

    def test_tables_that_do_not_sum_or_lack_a_symbol_are_named(self) -> None:
        whole = profile()
        for name, row in (("coefficients", 47), ("steps", 1), ("shifts", 0)):
            table = getattr(whole.groups[0].tables, name).copy()
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
        self.refused(self.content[:8] + struct.pack("<H", 3) + self.content[10:], "version 3; this program reads 2$")
        self.refused(self.content[:8] + struct.pack("<H", 1) + self.content[10:], "version 1; this program reads 2: make the profile anew with kvist calibrate")

    def test_an_edited_body_is_refused_wherever_it_was_edited(self) -> None:
        body = len(self.content) - 3000
        for place in range(body, len(self.content), 61):
            edited = bytearray(self.content)
            edited[place] ^= 0x10
            self.refused(bytes(edited), "profile: ")

    def test_an_edited_header_is_refused_or_asks_for_another_body(self) -> None:
        for place, value, named in ((10, 9, "rope style 9"), (11, 2, "body is not"), (12, 0, "body is not"), (13, 2, "body is not"), (14, 3, "body is not|turns"),
                                    (18, 2, "body is not"), (18, 3, "head groups 3 do not divide 2"), (20, 2, "body is not"), (23, 0xFF, "layers 4278190083")):  # fmt: skip
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
