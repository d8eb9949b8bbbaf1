"""Goal: values that are wrong, or contradict each other, are refused before anything is installed, with a sentence that says
what to change.

Method: each file ci/invalid-*.yaml names in its first lines (`# expect:`) what is to be said; both releases of Helm must say it.
"""

import unittest

import manifests  # noqa: F401  finds the chart's modules

import chart

EXPECT = "# expect: "


class RefuseTest(unittest.TestCase):
    def test_every_wrong_file_of_ci_is_refused_in_its_words(self) -> None:
        for release in (3, 4):
            for values in chart.bad_values():
                lines = values.read_text(encoding="utf-8").splitlines()
                expected = [line.removeprefix(EXPECT) for line in lines if line.startswith(EXPECT)]
                with self.subTest(release=release, values=values.name):
                    self.assertTrue(expected, "it does not say what is expected")
                    with self.assertRaises(chart.Refused) as refused:
                        chart.render(release, chart.CHART, values)
                    for sentence in expected:
                        self.assertIn(sentence, str(refused.exception))

    def test_every_sentence_of_the_template_is_expected_by_some_file(self) -> None:
        template = (chart.CHART / "templates" / "validate.yaml").read_text(encoding="utf-8")
        expected = "\n".join(path.read_text(encoding="utf-8") for path in chart.bad_values())
        sentences = [line.split('"')[1] for line in template.splitlines() if "$wrong = append" in line]
        self.assertGreater(len(sentences), 10)
        # Before the first figure that printf fills in, and after it.
        for sentence in sentences:
            parts = [part for part in sentence.replace("%d", "%s").split("%s") if len(part) > 12]
            self.assertTrue(all(part in expected for part in parts), sentence)


if __name__ == "__main__":
    unittest.main()
