"""Goal: the compose file says nothing that is wrong on its face; no Docker is at hand to run it. Argument: kvistd."""

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[3]
COMPOSE = ROOT / "deploy/compose"
KVISTD = pathlib.Path(sys.argv[1]).resolve()


class ComposeTest(unittest.TestCase):
    def setUp(self):
        self.services = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]
        self.nodes = {name: service for name, service in self.services.items() if re.fullmatch(r"n\d", name)}

    def test_nodes_are_given_flags_that_there_are(self):
        helped = subprocess.run([KVISTD, "--help"], capture_output=True, text=True, timeout=20, check=True).stdout
        self.assertEqual(len(self.nodes), 3)
        for name, node in self.nodes.items():
            for flag in (word for word in node["command"] if word.startswith("--")):
                self.assertRegex(helped, rf"(?m)^\s+{flag}\b", name)
            self.assertIn(name, node["command"])
            self.assertEqual(node["command"][0], "kvistd", "the image has no entry point")
            self.assertTrue(all(port.startswith("127.0.0.1:") for port in node["ports"]), "plaintext leaves the host")

    def test_the_image_is_the_one_that_make_image_makes(self):
        version = re.search(r'kVersion\[\] = "([^"]+)"', (ROOT / "services/version.h").read_text()).group(1)
        for node in self.nodes.values():
            self.assertEqual(node["image"], f"${{KVIST_IMAGE:-localhost/kvist:{version}}}")
        self.assertNotIn("ENTRYPOINT", (ROOT / "deploy/docker/Containerfile").read_text())

    def test_what_is_mounted_exists(self):
        for name, service in self.services.items():
            for source in (volume.split(":")[0] for volume in service.get("volumes", ())):
                if source.startswith("."):
                    self.assertTrue((COMPOSE / source).resolve().exists(), f"{name}: {source}")

    def test_prometheus_takes_its_configuration_and_scrapes_every_node(self):
        text = (COMPOSE / "prometheus.yaml").read_text()
        with tempfile.TemporaryDirectory() as folder:
            for rules in (ROOT / "deploy/prometheus").glob("*.yaml"):
                shutil.copy(rules, folder)
            config = pathlib.Path(folder) / "prometheus.yaml"
            config.write_text(text.replace("/etc/prometheus/rules", folder))
            checked = subprocess.run(["promtool", "check", "config", config], capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)
        jobs = yaml.safe_load(text)["scrape_configs"]
        self.assertEqual([job["job_name"] for job in jobs], ["kvist"])
        targets = {target for config in jobs[0]["static_configs"] for target in config["targets"]}
        self.assertEqual(targets, {f"{name}:8080" for name in self.nodes})

    def test_grafana_finds_the_boards_in_the_folder_that_is_mounted(self):
        provider = yaml.safe_load((COMPOSE / "grafana/boards.yaml").read_text())["providers"][0]
        self.assertIn(f"../grafana:{provider['options']['path']}:ro", self.services["grafana"]["volumes"])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
