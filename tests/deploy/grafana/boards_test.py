"""Goal: the committed boards are what boards.py makes, are valid, and ask nothing that Prometheus does not understand.
Method: a JSON schema of the part of Grafana's model that we use, checks that a schema cannot say, and promtool."""

import itertools
import json
import pathlib
import re
import subprocess
import tempfile
import unittest

import boards
import jsonschema
import queries

SCHEMA = json.loads((pathlib.Path(__file__).resolve().parent / "board.schema.json").read_text(encoding="utf-8"))
VARIABLES = {"__rate_interval": "1m", "job": ".*", "instance": ".*", "kv_namespace": ".*"}


def overlap(a: dict, b: dict) -> bool:
    return a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"] and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]


class BoardsTest(unittest.TestCase):
    def setUp(self):
        self.boards = queries.load()

    def test_the_committed_files_are_what_the_source_makes(self):
        for path, text in boards.files().items():
            self.assertEqual(path.read_text(encoding="utf-8"), text, f"{path.name} is stale: run deploy/grafana/boards.py")
        self.assertEqual(set(self.boards), {path.stem for path in boards.files()})

    def test_every_board_follows_the_schema(self):
        for name, board in self.boards.items():
            errors = [f"{name} {list(error.absolute_path)}: {error.message}"
                      for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(board)]
            self.assertEqual(errors, [])

    def test_the_schema_refuses_what_it_should(self):
        good = self.boards["overview"]
        defaults = ("panels", 0, "fieldConfig", "defaults")
        for path, value in ((("uid",), "other"), (("panels", 0, "description"), ""), ((*defaults, "unit"), "furlong"),
                            (("panels", 0, "datasource"), {"type": "prometheus", "uid": "P1"}), (("panels", 0, "targets"), [])):
            bad = json.loads(json.dumps(good))
            *way, last = path
            place = bad
            for step in way:
                place = place[step]
            place[last] = value
            with self.assertRaises(jsonschema.ValidationError, msg=str(path)):
                jsonschema.Draft202012Validator(SCHEMA).validate(bad)

    def test_ids_are_unique_and_panels_do_not_overlap(self):
        self.assertEqual(len({board["uid"] for board in self.boards.values()}), len(self.boards))
        for name, board in self.boards.items():
            self.assertEqual(len({panel["id"] for panel in board["panels"]}), len(board["panels"]), name)
            self.assertEqual(len({panel["title"] for panel in board["panels"]}), len(board["panels"]), name)
            for a, b in itertools.combinations(board["panels"], 2):
                self.assertFalse(overlap(a["gridPos"], b["gridPos"]), f"{name}: {a['title']} and {b['title']}")
            for panel in board["panels"]:
                self.assertLessEqual(panel["gridPos"]["x"] + panel["gridPos"]["w"], 24)
                self.assertEqual(len({target["refId"] for target in panel["targets"]}), len(panel["targets"]))

    def test_every_query_is_for_the_chosen_nodes_and_parses(self):
        rules = []
        for name, board in self.boards.items():
            for panel, target in ((panel, target) for panel in board["panels"] for target in panel["targets"]):
                for selector in re.findall(r"(?:kvist|process)_\w+(\{[^}]*\})?", target["expr"]):
                    self.assertIn('job=~"$job",instance=~"$instance"', selector, f"{name}: {panel['title']}")
                rules.append({"record": f"test:q{len(rules)}", "expr": queries.fill(target["expr"], VARIABLES)})
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            json.dump({"groups": [{"name": "queries", "rules": rules}]}, file)
            file.flush()
            checked = subprocess.run(["promtool", "check", "rules", file.name], capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)
        self.assertGreater(len(rules), 100)


if __name__ == "__main__":
    unittest.main()
