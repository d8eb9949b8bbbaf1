"""Goal: Kubernetes would take every object that the chart makes: no unknown kind, no unknown field, no wrong type.

Method: the schemas of Kubernetes' own releases in their strict form, from the oldest that the chart admits to the newest that
is known; for the kinds of the Prometheus operator and of cert-manager, crds.json. A kind that neither knows is a failure.
"""

import functools
import json
import pathlib
import re
import tempfile
import unittest

import jsonschema
import manifests
import yaml
from kubernetes_validate import utils

import chart

CRDS = json.loads((pathlib.Path(__file__).parent / "crds.json").read_text(encoding="utf-8"))
CUSTOM = ("monitoring.coreos.com/v1", "cert-manager.io/v1")
RELEASES = ("1.27", "1.31", "1.35", "1.37")
MOST_BYTES_OF_A_CONFIG_MAP = 1 << 20

utils.schema_contents = functools.cache(utils.schema_contents)  # it would read a megabyte for every object


def wrong_with(item: manifests.Object, release: str) -> str:
    """What a cluster of this release would refuse; empty if nothing."""
    try:
        if item["apiVersion"] in CUSTOM:
            rules = {"$ref": f"#/definitions/{item['kind']}", "definitions": CRDS["definitions"]}
            jsonschema.Draft7Validator(rules).validate(item)
        else:
            utils.validate(item, release, strict=True)
    except jsonschema.ValidationError as error:
        return f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
    except utils.SchemaNotFoundError as error:
        return error.message
    return ""


class SchemaTest(unittest.TestCase):
    def test_every_object_fits_the_schema_of_every_release(self) -> None:
        for values in chart.good_values():
            for item in manifests.objects(values):
                for release in RELEASES:
                    with self.subTest(values=values.name, item=manifests.name_of(item), release=release):
                        self.assertEqual(wrong_with(item, release), "")

    def test_the_oldest_release_is_the_one_that_the_chart_admits(self) -> None:
        about = yaml.safe_load((chart.CHART / "Chart.yaml").read_text(encoding="utf-8"))
        self.assertEqual(about["kubeVersion"], f">={RELEASES[0]}.0-0")

    def test_every_custom_kind_is_among_what_is_checked(self) -> None:
        kinds = {item["kind"] for values in chart.good_values() for item in manifests.objects(values)}
        self.assertLessEqual({"ServiceMonitor", "PrometheusRule", "Certificate", "StatefulSet", "DaemonSet", "NetworkPolicy"}, kinds)

    def test_the_check_sees_what_is_wrong(self) -> None:
        items = manifests.objects(chart.CI / "production-values.yaml")
        workload = manifests.only(items, "StatefulSet")
        monitor = manifests.only(items, "ServiceMonitor")
        certificate = manifests.only(manifests.objects(chart.CI / "everything-values.yaml"), "Certificate")
        for item, change in (
            (workload, {"spec": workload["spec"] | {"replica": 3}}),
            (workload, {"kind": "StatefullSet"}),
            (workload, {"spec": workload["spec"] | {"replicas": "three"}}),
            (monitor, {"spec": monitor["spec"] | {"endpoint": []}}),
            (certificate, {"spec": certificate["spec"] | {"usages": ["client"]}}),
            (certificate, {"spec": certificate["spec"] | {"dnsName": "kvist"}}),
        ):
            self.assertNotEqual(wrong_with(item | change, "1.31"), "", change)

    def test_names_and_labels_fit_even_with_the_longest_release(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "values.yaml"
            path.write_text(f"fullnameOverride: {'a' * 253}\nnameOverride: {'b' * 253}\n", encoding="utf-8")
            items = [item for item in yaml.safe_load_all(chart.render(3, chart.CHART, path)) if item]
        for item in items:
            # A DNS label, but for the 11 characters that Kubernetes adds to a StatefulSet's for a label of its own.
            most = 52 if item["kind"] == "StatefulSet" else 63
            self.assertLessEqual(len(item["metadata"]["name"]), most, manifests.name_of(item))
            for label in item["metadata"]["labels"].values():
                self.assertRegex(label, re.compile(r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"))

    def test_the_shipped_rules_and_boards_fit_too(self) -> None:
        items = yaml.safe_load_all(chart.render(3, chart.CHART, chart.CI / "production-values.yaml"))
        for item in filter(None, items):
            if item["kind"] == "PrometheusRule":
                self.assertEqual(wrong_with(item, RELEASES[0]), "")
            if item["kind"] == "ConfigMap":
                self.assertLess(len(json.dumps(item)), MOST_BYTES_OF_A_CONFIG_MAP, manifests.name_of(item))

    def test_rules_and_boards_arrive_as_they_are(self) -> None:
        items = manifests.objects(chart.CI / "production-values.yaml")
        files = chart.CI / "files"
        rules = yaml.safe_load((files / "rules" / "example.yaml").read_text(encoding="utf-8"))
        self.assertEqual(manifests.only(items, "PrometheusRule")["spec"], rules)
        board = manifests.only(items, "ConfigMap", "dashboard")["data"]["example.json"]
        self.assertEqual(board, (files / "dashboards" / "example.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    unittest.main()
