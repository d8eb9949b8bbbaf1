"""Goal: the rules are right in form and in effect, and nobody is woken without being told what to do.
Method: promtool's linter and unit tests over the real files; then, for each alert, its runbook and its two cases."""

import json
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[3]
RULES = ROOT / "deploy/prometheus"
FILES = sorted(RULES.glob("*.yaml"))
CASES = pathlib.Path(__file__).resolve().parent / "alerts_test.yaml"


def promtool(*words, folder: pathlib.Path) -> subprocess.CompletedProcess:
    return subprocess.run(["promtool", *words], cwd=folder, capture_output=True, text=True, timeout=240, check=False)


class RulesTest(unittest.TestCase):
    def setUp(self):
        groups = [group for path in FILES for group in yaml.safe_load(path.read_text())["groups"]]
        self.rules = [rule for group in groups for rule in group["rules"]]
        self.alerts = {rule["alert"]: rule for rule in self.rules if "alert" in rule}

    def test_the_linter_finds_nothing(self):
        checked = promtool("check", "rules", "--lint=all", "--lint-fatal", *FILES, folder=RULES)
        self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)

    def test_every_alert_fires_and_is_silent_when_it_should(self):
        with tempfile.TemporaryDirectory() as folder:
            for path in [*FILES, CASES]:
                shutil.copy(path, folder)
            tested = promtool("test", "rules", CASES.name, folder=pathlib.Path(folder))
        self.assertEqual(tested.returncode, 0, tested.stdout + tested.stderr)

    def test_no_alert_lacks_a_firing_or_a_silent_case(self):
        firing, silent = [], []
        for test in yaml.safe_load(CASES.read_text())["tests"]:
            for case in test["promql_expr_test"]:
                name = re.fullmatch(r'ALERTS\{alertname="(\w+)",alertstate="firing"\}', case["expr"]).group(1)
                self.assertTrue(test["name"].startswith(name), test["name"])
                (firing if case["exp_samples"] else silent).append(name)
        self.assertEqual(sorted(firing), sorted(self.alerts))
        self.assertEqual(sorted(silent), sorted(self.alerts))

    def test_every_alert_says_what_is_wrong_and_leads_to_a_page_that_says_what_to_do(self):
        pages = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "deploy/runbooks").glob("*.md")}
        self.assertEqual(set(pages), set(self.alerts), "a page without an alert, or the other way round")
        for name, alert in self.alerts.items():
            self.assertIn(alert["labels"]["severity"], ("page", "ticket"), name)
            self.assertGreater(len(alert["annotations"]["summary"]), 20, name)
            self.assertGreater(len(alert["annotations"]["description"]), 40, name)
            self.assertEqual(alert["annotations"]["runbook_url"], f"deploy/runbooks/{name}.md")
            page = pages[name]
            sections = [page.index(f"\n## {title}\n") for title in ("What it means", "How to look", "What to do")]
            self.assertEqual(sections, sorted(sections), name)
            self.assertTrue(page.startswith(f"# {name}\nSeverity {alert['labels']['severity']}"), f"{name}: another severity")
            for link in re.findall(r"\]\(([^)]+)\)", page):
                self.assertTrue((ROOT / "deploy/runbooks" / link).resolve().exists(), f"{name}: {link}")

    def test_pages_name_only_panels_that_there_are(self):
        boards = [json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "deploy/grafana").glob("*.json")]
        titles = {panel["title"] for board in boards for panel in board["panels"]}
        named = {title for path in (ROOT / "deploy/runbooks").glob("*.md")
                 for title in re.findall(r"\*([A-Z][^*]+)\*", " ".join(path.read_text(encoding="utf-8").split()))}
        self.assertGreater(len(named), 5)
        self.assertEqual(named - titles, set())

    def test_recording_rules_are_named_by_level_metric_and_operations(self):
        for rule in self.rules:
            if "record" in rule:
                self.assertRegex(rule["record"], r"^(job|instance)(_\w+)?:kvist_\w+:[a-z0-9_]+$")


if __name__ == "__main__":
    unittest.main()
