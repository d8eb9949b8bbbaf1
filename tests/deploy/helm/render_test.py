"""Goal: the chart renders, the same with Helm 3 and Helm 4, and what is derived in it is fresh.

Method: real binaries of both; `helm lint --strict`; golden files, which `make chart` makes anew; the table of values in the
README against values.yaml; each value taken out of a file of ci/ that sets it, which must show.
"""

import copy
import difflib
import json
import pathlib
import re
import tempfile
import unittest

import manifests
import yaml

import chart
import values_table


def read(name: str) -> str:
    return (chart.CHART / name).read_text(encoding="utf-8")


def value_at(values: dict, name: str) -> object:
    for key in name.split("."):
        if not isinstance(values, dict) or key not in values:
            return None
        values = values[key]
    return values


def removed(values: dict, name: str) -> dict:
    """A copy without the value of this name."""
    copied = copy.deepcopy(values)
    *path, last = name.split(".")
    inner = copied
    for key in path:
        inner = inner[key]
    del inner[last]
    return copied


class RenderTest(unittest.TestCase):
    maxDiff = None

    def test_both_releases_find_nothing_to_lint(self) -> None:
        for release in (3, 4):
            for values in chart.good_values():
                with self.subTest(release=release, values=values.name):
                    chart.run(release, "lint", "--strict", chart.CHART, "--values", values)

    def test_every_rendering_is_the_golden_one_with_both_releases(self) -> None:
        for release in (3, 4):
            for values in chart.good_values():
                golden = chart.golden_of(values)
                with self.subTest(release=release, golden=golden.name):
                    expected = golden.read_text(encoding="utf-8").splitlines()
                    found = manifests.rendered(release, values).splitlines()
                    difference = "\n".join(difflib.unified_diff(expected, found, golden.name, f"Helm {release}", "", "", 3, ""))
                    self.assertEqual(difference, "", "look at it; if it is right: make chart")

    def test_every_golden_file_has_its_values(self) -> None:
        expected = {chart.golden_of(values) for values in chart.good_values()}
        self.assertEqual(set((chart.CI / "golden").glob("*.yaml")), expected)

    def test_the_readme_holds_the_table_of_values(self) -> None:
        readme = read("README.md")
        fresh = values_table.with_table(readme, values_table.table(read("values.yaml")))
        self.assertEqual(readme.splitlines(), fresh.splitlines(), "stale: make chart")

    def test_a_value_without_a_comment_is_named(self) -> None:
        with self.assertRaisesRegex(values_table.Undocumented, "no comment above a.c, d$"):
            values_table.table("a:\n  # About b\n  b: 1\n  c: 2\nd: 3\n")

    def test_every_value_is_changed_by_some_file_of_ci_and_has_an_effect_there(self) -> None:
        defaults = yaml.safe_load(read("values.yaml"))
        files = {path: yaml.safe_load(path.read_text(encoding="utf-8")) for path in chart.good_values()}
        with chart.WithExampleFiles() as its_copy, tempfile.TemporaryDirectory() as folder:
            without = pathlib.Path(folder) / "values.yaml"
            for name in values_table.names(read("values.yaml")):
                if name == "global":
                    continue  # a parent chart's
                changed = [path for path in files if value_at(files[path], name) not in (None, value_at(defaults, name))]
                with self.subTest(value=name):
                    self.assertTrue(changed, "no file changes it")
                    without.write_text(yaml.safe_dump(removed(files[changed[0]], name)), encoding="utf-8")
                    try:
                        same = chart.render(3, its_copy, without) == manifests.rendered(3, changed[0])
                        self.assertFalse(same, f"{changed[0].name} renders the same without it")
                    except chart.Refused:
                        pass  # the others contradict each other without it: an effect, too

    def test_schema_and_values_name_the_same_keys(self) -> None:
        schema = json.loads(read("values.schema.json"))

        def compare(values: dict, rules: dict, name: str) -> None:
            if "$ref" in rules:
                rules = schema["definitions"][rules["$ref"].rpartition("/")[2]]
            if "properties" not in rules or rules.get("additionalProperties") is not False:
                return
            self.assertLessEqual(set(values), set(rules["properties"]), name)
            for key, inner in rules["properties"].items():
                if "properties" in inner:
                    self.assertIn(key, values, name)
                    compare(values[key], inner, f"{name}.{key}")

        self.assertIs(schema["additionalProperties"], False)
        defaults = yaml.safe_load(read("values.yaml"))
        self.assertEqual(set(defaults), set(schema["properties"]))
        compare(defaults, schema, "values")

    def test_the_copies_of_rules_and_boards_are_those_of_deploy(self) -> None:
        expected = {place: source.read_bytes() for source, place in chart.shipped_files()}
        files = chart.CHART / "files"
        found = {path: path.read_bytes() for path in [*files.glob("rules/*"), *files.glob("dashboards/*")]}
        self.assertEqual(set(found), set(expected), "stale: make chart")
        self.assertEqual([path.name for path in found if found[path] != expected[path]], [], "stale: make chart")

    def test_what_is_printed_says_how_to_connect(self) -> None:
        as_object = """
apiVersion: v1
kind: ConfigMap
metadata: {name: notes, namespace: {{ .Release.Namespace }}, labels: {}}
data:
  notes: |
    {{- include (print $.Template.BasePath "/NOTES.txt") . | nindent 4 }}
"""
        name = '"kvist.inference.svc.cluster.local"'
        with chart.WithExampleFiles() as its_copy:
            (its_copy / "templates" / "notes.yaml").write_text(as_object, encoding="utf-8")
            for values, said in (
                ("default", ['seeds=["kvist.inference.svc.cluster.local:7070"])', "The data port is plaintext"]),
                ("production", ['tls=kvist.Tls(cert="tls.crt", key="tls.key", ca="ca.crt"))', "--tls-cert tls.crt", "Secret kvist-tls", "ConfigMap kvist-access:"]),
                ("access", ["ConfigMap who-is-what: whoever is not in it", "or --token-file."]),
                ("tls-daemonset", [f'server_name={name}))', f".server_name = {name}}};", "--tls-server-name kvist.inference"]),
            ):
                shown = yaml.safe_load_all(chart.render(3, its_copy, chart.CI / f"{values}-values.yaml"))
                (notes,) = [item["data"]["notes"] for item in shown if item and item["metadata"]["name"] == "notes"]
                with self.subTest(values=values):
                    for words in said:
                        self.assertIn(words, notes)

    def test_the_chart_is_of_this_version(self) -> None:
        header = (chart.WORKSPACE / "services" / "version.h").read_text(encoding="utf-8")
        version = re.search(r'kVersion\[\] = "([^"]+)"', header)
        assert version is not None
        self.assertEqual(yaml.safe_load(read("Chart.yaml"))["appVersion"], version[1])

    def test_a_new_version_of_the_chart_restarts_no_pod(self) -> None:
        for values in chart.good_values():
            for name, labels, _ in manifests.pods(manifests.objects(values)):
                if not name.startswith("Pod/"):  # the test's own starts anew anyway
                    versions = [label for label in labels if label.startswith("helm.sh/") or label.endswith("version")]
                    self.assertEqual(versions, [], name)


if __name__ == "__main__":
    unittest.main()
