"""Goal: what `kvist eval` says is what it measured. Method: its parts on inputs whose answers are known."""

import json
import math
import pathlib
import re
import struct
import tempfile
import unittest
import xml.etree.ElementTree

import numpy as np
from kvist import codec
from kvist.eval import codecs, dumps, plots, results, statistics, synthetic, texts
from kvist.models.smollm2 import bf16


class TextsTest(unittest.TestCase):
    def test_the_judged_texts_are_those_that_were_defined(self) -> None:
        registers = {text.name: texts.load(text) for text in texts.JUDGED}
        self.assertEqual(set(registers), {"prose", "manual", "code", "json"})
        for text in texts.JUDGED:
            self.assertEqual(len(registers[text.name]), text.length)

    def test_another_document_is_refused_by_its_digest(self) -> None:
        moved = texts.dataclasses.replace(texts.JUDGED[2], offset=texts.JUDGED[2].offset + 1)
        with self.assertRaisesRegex(texts.TextError, "is not that of numpy==2.4.6"):
            texts.load(moved)

    def test_what_is_not_installed_is_named(self) -> None:
        for file in ("/nowhere/book.html", "no_such_package:text.py"):
            missing = texts.dataclasses.replace(texts.JUDGED[0], file=file)
            with self.assertRaisesRegex(texts.TextError, "Debian's anarchism 15.3.*tools/setup"):
                texts.load(missing)

    def test_markup_goes_and_words_stay(self) -> None:
        page = "<head><title>no</title></head><body><h1>A &amp; B</h1><p>one <i>two</i>\n three</p></body>"
        self.assertEqual(texts.strip_html(page), "A & B\none two three\n")
        pod = "=head1 The C<kill> call\n\nX<kill> Use B<< a > b >> or L<perlfunc>.\n\n=over 4\n\n=item one\n"
        self.assertEqual(texts.strip_pod(pod), "The kill call\n\n Use a > b or perlfunc.\n\none\n")


class StatisticsTest(unittest.TestCase):
    def test_kld_and_softmax_of_known_distributions(self) -> None:
        p, q = statistics.log_softmax(np.log([[1.0, 1.0]])), statistics.log_softmax(np.log([[1.0, 3.0]]))
        self.assertAlmostEqual(statistics.kld(p, q)[0], 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75))
        self.assertEqual(statistics.kld(p, p)[0], 0)

    def test_sqnr_of_a_known_error_and_of_none(self) -> None:
        x = np.ones((1, 2, 4, 8))
        y = x.copy()
        y[0, 0] *= 1.1
        np.testing.assert_allclose(statistics.sqnr_db(x, y), [[20, np.inf]])

    def test_an_interval_holds_the_mean_and_pairing_makes_differences_sure(self) -> None:
        noise = np.random.default_rng(1).exponential(size=2048)
        low, high = statistics.interval(noise)
        self.assertTrue(low < noise.mean() < high)
        self.assertAlmostEqual((high - low) / (2 * 1.96 / math.sqrt(2048)), 1, delta=0.25)
        pair = statistics.paired(noise, noise + 0.001)  # far less than the interval of either
        self.assertAlmostEqual(pair["low"], -0.001, 9)
        self.assertAlmostEqual(pair["high"], -0.001, 9)
        self.assertEqual(statistics.interval(noise), (low, high))

    def test_the_frontier_has_what_nothing_beats_in_both(self) -> None:
        self.assertEqual(statistics.frontier([(4, 1.0), (3, 2.0), (5, 1.5), (2, 2.0), (4, 0.5)]), [3, 4])


def demoted(block: bytes, planes: int) -> bytes:
    """The block's first planes: what a store keeps of it. Their end is in the table (kernels/FORMAT.md)."""
    entry = 128 + 16 * (planes * codec.describe(block).layers - 1)
    offset, size = struct.unpack_from("<II", block, entry)
    return block[: offset + size]


class CodecsTest(unittest.TestCase):
    def test_every_default_spec_is_one_and_others_are_refused(self) -> None:
        self.assertEqual([codecs.parse(spec).spec for spec in codecs.DEFAULT], list(codecs.DEFAULT))
        self.assertEqual(codecs.parse("ladder").spec, "ladder:4")
        for wrong in ("zip", "ladder:7", "ladder:4/1", "ladder:4/3/2", "trellis:4", "raw16:2", "nvfp4:1", ""):
            with self.assertRaises(codecs.SpecError):
                codecs.parse(wrong)

    def test_bits_count_every_byte_of_the_blocks(self) -> None:
        kv = bf16.from_float(np.random.default_rng(1).standard_normal((2, 2, 1, 256, 64)).astype(np.float32))
        blocks = [codec.encode(kv[:, :, :, cut : cut + 128].copy(), "ladder", first_position=cut) for cut in (0, 128)]
        coded = codecs.parse("ladder:4").apply(kv, 0)
        self.assertEqual(coded.bits, 8 * sum(map(len, blocks)) / kv.size)
        np.testing.assert_array_equal(coded.kv, np.concatenate([codec.decode(block) for block in blocks], 3))
        narrow = codecs.parse("ladder:2").apply(kv, 0)
        self.assertAlmostEqual(coded.bits - narrow.bits, 2, delta=0.05)
        # The ladder is one code: what is written at 2 bits is what a demoted block of 4 gives.
        kept = [codec.decode(demoted(block, 2)) for block in blocks]
        np.testing.assert_array_equal(narrow.kv, np.concatenate(kept, 3))
        apart = codecs.parse("ladder:4/2").apply(kv, 0)
        np.testing.assert_array_equal(apart.kv, np.stack([coded.kv[0], narrow.kv[1]]))

    def test_a_prefix_of_a_block_decodes_as_the_block_at_that_precision(self) -> None:
        kv = bf16.from_float(np.random.default_rng(2).standard_normal((2, 1, 1, 128, 64)).astype(np.float32))
        block = codec.encode(kv, "ladder")
        for planes in (2, 3, 4):
            kept = demoted(block, planes)
            self.assertEqual(codec.describe(kept).precision, planes)
            np.testing.assert_array_equal(codec.decode(kept), codec.decode(block, planes))

    def test_normal_tiles_have_the_sqnr_of_theory(self) -> None:
        for spec in ("i8", "ladder:8", "ladder:4", "ladder:3", "ladder:2", "trellis:3", "trellis:2"):
            row = synthetic.judge(codecs.parse(spec))["rows"][0]
            self.assertEqual(row["kind"], "normal")
            self.assertAlmostEqual(row["sqnr"], row["theory"], delta=0.4, msg=spec)


class ResultsTest(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.said: list[str] = []
        self.results = results.Results(self.folder, self.said.append)

    def test_what_was_computed_is_read_and_what_differs_is_computed(self) -> None:
        what = {"level": "E2", "codec": "i8", "run": "code 256"}
        self.assertEqual(self.results.get(what, lambda: {"kld": 1}), {"kld": 1})
        self.assertEqual(self.results.get(what, lambda: self.fail("it is there")), {"kld": 1})
        self.assertEqual(self.results.get(what | {"digest": "other"}, lambda: {"kld": 2}), {"kld": 2})
        self.assertEqual(len(self.said), 2)

    def test_a_file_that_was_cut_off_is_computed_anew(self) -> None:
        what = {"level": "E2", "codec": "i8"}
        self.results.get(what, lambda: {"kld": 1})
        (file,) = (self.folder / "results").glob("*.json")
        file.write_text(file.read_text()[:-9])
        self.assertEqual(self.results.get(what, lambda: {"kld": 3}), {"kld": 3})

    def test_infinity_is_null_and_what_is_no_number_is_a_fault(self) -> None:
        self.assertEqual(results.rounded(np.array([[1.23456789, np.inf]])), [[1.23457, None]])
        with self.assertRaises(ArithmeticError):
            results.rounded(np.array([1, np.nan]))


class DumpsTest(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.kv = np.random.default_rng(1).standard_normal((2, 2, 1, 140, 64)).astype(np.float32)

    def safetensors(self, tensors: dict[str, tuple[str, np.ndarray]]) -> pathlib.Path:
        header, body = {"__metadata__": {"format": "pt"}}, b""
        for name, (dtype, values) in tensors.items():
            header[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": [len(body), len(body) + values.nbytes]}
            body += values.tobytes()
        text = json.dumps(header).encode()
        path = self.folder / "kv.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + body)
        return path

    def test_both_kinds_of_file_give_the_same_whole_blocks(self) -> None:
        np.save(self.folder / "kv.npy", self.kv)
        from_npy = dumps.load(self.folder / "kv.npy")
        self.assertEqual(from_npy.shape, (2, 2, 1, 128, 64))
        bits = bf16.from_float(self.kv)
        both = [{"kv": ("F32", self.kv)}, {"k": ("BF16", bits[0]), "v": ("BF16", bits[1])}]
        for tensors in both:
            np.testing.assert_array_equal(dumps.load(self.safetensors(tensors)), from_npy)

    def test_what_is_no_dump_is_refused_with_its_name(self) -> None:
        np.save(self.folder / "flat.npy", self.kv[0])
        np.save(self.folder / "short.npy", self.kv[:, :, :, :100])
        np.save(self.folder / "wide.npy", self.kv.astype(np.float64))
        (self.folder / "torn.safetensors").write_bytes(b"\x10")
        for name, why in (("flat.npy", "shape"), ("short.npy", "100 tokens"), ("wide.npy", "float64"), ("torn.safetensors", "cannot be read"),
                          ("none.npy", "cannot be read"), ("kv.bin", "ends in")):  # fmt: skip
            with self.assertRaisesRegex(dumps.DumpError, f"{name}.*{why}"):
                dumps.load(self.folder / name)


class PlotsTest(unittest.TestCase):
    def drawn(self, svg: str) -> xml.etree.ElementTree.Element:
        return xml.etree.ElementTree.fromstring(svg)

    def test_a_frontier_plot_has_a_dot_for_each_codec_and_joins_the_best(self) -> None:
        points = [("a<b", 4.0, 0.003, True), ("other", 4.5, 0.01, False), ("low", 2.0, 0.1, True)]
        svg = self.drawn(plots.frontier(points, [2, 0], 1e-5))
        self.assertEqual(len(svg.findall("circle")), 3)
        (line,) = svg.findall("polyline")
        dots = {(c.get("cx"), c.get("cy")) for c in svg.findall("circle")}
        self.assertEqual(len(dots & {tuple(corner.split(",")) for corner in line.get("points").split()}), 2)

    def test_more_bits_are_to_the_right_and_more_distance_is_higher(self) -> None:
        svg = self.drawn(plots.frontier([("a", 2.0, 0.1, True), ("b", 4.0, 0.001, True)], [0, 1], None))
        a, b = svg.findall("circle")
        self.assertLess(float(a.get("cx")), float(b.get("cx")))
        self.assertLess(float(a.get("cy")), float(b.get("cy")))

    def test_lines_leave_out_what_a_logarithm_cannot_show(self) -> None:
        svg = self.drawn(plots.lines({"a": [0.1, 0, 0.2], "exact": [0, 0, 0]}, "x", "y", 16))
        (line,) = svg.findall("polyline")
        self.assertEqual(len(line.get("points").split()), 2)
        self.assertEqual(plots.lines({"exact": [0.0]}, "x", "y", 16), "<p>Exact throughout.</p>")

    def test_a_heat_map_has_a_cell_for_each_layer_and_head(self) -> None:
        svg = self.drawn(plots.heat_map([[10.0, 20.0], [15.0, None]], "K"))
        cells = svg.findall("rect")
        told = ["layer 0, head 0: 10.00 dB", "layer 0, head 1: 20.00 dB", "layer 1, head 0: 15.00 dB", "layer 1, head 1: exact"]
        self.assertEqual([cell.find("title").text for cell in cells], told)
        self.assertEqual(len({cell.get("fill") for cell in cells}), 4)
        self.assertTrue(all(re.fullmatch("#[0-9a-f]{6}", cell.get("fill")) for cell in cells))


if __name__ == "__main__":
    unittest.main()
