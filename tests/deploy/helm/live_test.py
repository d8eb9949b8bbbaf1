"""Goal: the command lines, probes and the test of the chart work with the real programs, though no cluster is here.

Method: the containers of a rendering run as processes of this machine: an etcd and three kvistd, then the steps of the test
pod. Names, ports and folders are replaced by ones that exist here; everything else is as Kubernetes would run it.
"""

import base64
import contextlib
import hashlib
import json
import os
import pathlib
import re
import subprocess
import tempfile
import unittest

import yaml
from manifests import Object, containers, flags, node_pod, objects, only, quantity
import certificates
from processes import Running, command_of, free_port, status_of, wait_for

import chart

BIN = pathlib.Path(os.environ.get("KVIST_BIN", chart.WORKSPACE / "bazel-bin"))
PROGRAMS = {"kvistd": str(BIN / "services/node/kvistd"), "kvist": str(BIN / "services/ctl/kvist")}
SMALL = {
    "capacity": "64MiB",
    "join": {"ramp": "1s", "window": "1s"},
    "drain": {"deadline": "2s", "calls": "2s", "margin": "5s"},
    "metrics": {"serviceMonitor": {"enabled": True}},
}
NOT_OF_THE_CHART = {"help": "prints and ends", "version": "prints and ends"}
SECRET = "/etc/kvist/tls"  # where the chart mounts it

SEEDS = f"{chart.RELEASE}.{chart.NAMESPACE}.svc.cluster.local:7070"


def rendering_of(values: Object, folder: pathlib.Path) -> list[Object]:
    path = folder / "values.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return objects(path)


def probe(pod: Object, node: Running, name: str) -> int:
    """What a node answers to its probe of this name."""
    path = pod["containers"][0][name]["httpGet"]["path"]
    return status_of(f"http://{node.event('serving')['http']}{path}")


def wait_ready(pod: Object, node: Running) -> None:
    wait_for("a node is ready", lambda: probe(pod, node, "readinessProbe") == 200, 30)


class TestPod:
    """`helm test`: the steps of its pod, one after the other, with files where they are looked for: `here` says where else
    those are that it does not bring itself."""

    def __init__(self, items: list[Object], seeds: str, folder: pathlib.Path, here: dict[str, str] | None = None) -> None:
        self._folder = folder
        self._here = {SEEDS: seeds, "/input": f"{folder}/input", "/output": f"{folder}/output"} | (here or {})
        self.steps = containers(only(items, "Pod", "test")["spec"])
        config = only(items, "ConfigMap", "test")
        (folder / "input").mkdir(parents=True)
        (folder / "output").mkdir()
        for name, text in config["data"].items():
            (folder / "input" / name).write_text(text, encoding="utf-8")
        for name, text in config["binaryData"].items():
            (folder / "input" / name).write_bytes(base64.b64decode(text))

    def run(self, step: Object) -> subprocess.CompletedProcess:
        command = command_of(step, PROGRAMS, self._here)
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    def failures(self) -> list[str]:
        done = [(step["name"], self.run(step)) for step in self.steps]
        return [f"{name}: {run.stdout}{run.stderr}" for name, run in done if run.returncode != 0]


class Cluster(unittest.TestCase):
    """An etcd and three nodes of one rendering, of `values`; `here` says where a class has files that pods would mount."""

    values = SMALL
    here: dict[str, str] = {}

    @classmethod
    def setUpClass(cls) -> None:
        cls._stack = contextlib.ExitStack()
        cls.addClassCleanup(cls._stack.close)
        cls.folder = pathlib.Path(cls._stack.enter_context(tempfile.TemporaryDirectory()))
        cls.items = rendering_of(cls.values, cls.folder)
        cls.pod = node_pod(cls.items)
        cls.bring_files()
        cls.etcd_address = f"127.0.0.1:{free_port()}"
        cls.etcd = cls._stack.enter_context(cls.start_etcd())
        cls.nodes = [cls._stack.enter_context(cls.start_node(f"kvist-{i}")) for i in range(3)]
        for node in cls.nodes:
            wait_ready(cls.pod, node)

    @classmethod
    def bring_files(cls) -> None:
        pass

    @classmethod
    def start_etcd(cls) -> Running:
        container = only(cls.items, "StatefulSet", "etcd")["spec"]["template"]["spec"]["containers"][0]
        health = f"127.0.0.1:{free_port()}"
        name = only(cls.items, "Service", "etcd")["metadata"]["name"]
        here = {
            "0.0.0.0:2379": cls.etcd_address,
            f"{name}.{chart.NAMESPACE}.svc.cluster.local:2379": cls.etcd_address,
            "0.0.0.0:2381": health,
            "/var/lib/etcd": str(cls.folder / "etcd"),
        }
        # Beside the chart's: in its pod no other etcd has the peers' port.
        peer = f"http://127.0.0.1:{free_port()}"
        alone = [f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=etcd={peer}"]
        etcd = Running(command_of(container, PROGRAMS, here) + alone, cls.folder / "etcd.log")
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            path = container[probe]["httpGet"]["path"]
            wait_for(f"etcd's {probe}", lambda path=path: status_of(f"http://{health}{path}") == 200, 30)
        return etcd

    @classmethod
    def start_node(cls, name: str) -> Running:
        container = cls.pod["containers"][0]
        given = flags(container)
        here = {
            "$(POD_NAME)": name,
            "$(NODE_NAME)": name,
            given["listen"]: "127.0.0.1:0",
            given["http"]: "127.0.0.1:0",
            given["advertise"]: "127.0.0.1:0",
            given["etcd"]: cls.etcd_address,
        }
        return Running(command_of(container, PROGRAMS, here | cls.here), cls.folder / f"{name}.log")

    def helm_test(self, name: str) -> TestPod:
        return TestPod(self.items, self.nodes[0].event("serving")["address"], self.folder / name, self.here)


class LiveTest(Cluster):
    def test_all_three_probes_answer(self) -> None:
        for node in self.nodes:
            for name in ("startupProbe", "livenessProbe", "readinessProbe"):
                self.assertEqual(probe(self.pod, node, name), 200)

    def test_what_is_scraped_are_metrics(self) -> None:
        endpoint = only(self.items, "ServiceMonitor")["spec"]["endpoints"][0]
        self.assertEqual(status_of(f"http://{self.nodes[0].event('serving')['http']}{endpoint['path']}"), 200)

    def test_the_nodes_are_one_cluster_of_the_name_that_was_given(self) -> None:
        found = subprocess.run(
            ["etcdctl", f"--endpoints={self.etcd_address}", "get", "--prefix", "--keys-only", "/kvist/"],
            env=os.environ | {"ETCDCTL_API": "3"}, capture_output=True, text=True, check=True, timeout=30,
        )
        cluster = flags(self.pod["containers"][0])["cluster-name"]
        expected = {f"/kvist/{cluster}/nodes/kvist-{i}" for i in range(3)}
        self.assertLessEqual(expected, set(found.stdout.split()))

    def test_the_test_pod_succeeds_and_does_not_without_the_block(self) -> None:
        test = self.helm_test("test")
        self.assertEqual(test.failures(), [])
        # The last step but one erased what was put: without it, the others are told from success.
        get, compare = (step for step in test.steps if step["name"] in ("step-3-get", "compare"))
        test.run(get)
        self.assertNotEqual(test.run(compare).returncode, 0)

    def test_etcd_fits_into_its_memory_limit_and_its_volume(self) -> None:
        pod = only(self.items, "StatefulSet", "etcd")["spec"]["template"]["spec"]
        self.assertLess(self.etcd.peak_memory(), quantity(pod["containers"][0]["resources"]["limits"]["memory"]))
        # What is allocated: etcd takes whole segments of its log in advance.
        written = sum(path.stat().st_blocks * 512 for path in (self.folder / "etcd").rglob("*") if path.is_file())
        self.assertLess(written, quantity(pod["volumes"][0]["emptyDir"]["sizeLimit"]) / 2)

    def test_a_node_fits_into_its_memory_limit(self) -> None:
        limit = quantity(self.pod["containers"][0]["resources"]["limits"]["memory"])
        for node in self.nodes:
            self.assertLess(node.peak_memory(), limit)

    def test_sigterm_ends_a_node_within_its_grace_period(self) -> None:
        with self.start_node("kvist-leaving") as node:
            wait_ready(self.pod, node)
            self.assertEqual(node.terminate(self.pod["terminationGracePeriodSeconds"]), 0)
            self.assertIn('"stopped"', node.errors())

    def test_liveness_does_not_depend_on_etcd(self) -> None:
        address = type(self).etcd_address
        try:
            type(self).etcd_address = f"127.0.0.1:{free_port()}"  # nobody is there
            with self.start_node("kvist-alone") as node:
                wait_for("it lives", lambda: probe(self.pod, node, "livenessProbe") == 200, 30)
                self.assertEqual(probe(self.pod, node, "startupProbe"), 200)
                self.assertEqual(probe(self.pod, node, "readinessProbe"), 503)
        finally:
            type(self).etcd_address = address


class TlsClusterTest(Cluster):
    """With a certificate of the names and usages that the chart asks cert-manager for, and of the address that stands in for
    names of pods here."""

    values = SMALL | {"tls": {"enabled": True, "refresh": "100ms", "certManager": {"issuerRef": {"name": "private"}}}}
    addresses = ("IP:127.0.0.1",)

    @classmethod
    def bring_files(cls) -> None:
        cls.ca = certificates.Ca(cls.folder / "ca")
        cls.secret = cls.folder / "tls"
        cls.secret.mkdir()
        cls.here = {SECRET: str(cls.secret)}
        cls.renew()

    @classmethod
    def renew(cls) -> None:
        """As kubelet does: all files at once, by a link to another folder."""
        spec = only(cls.items, "Certificate")["spec"]
        names = [f"DNS:{name}" for name in spec["dnsNames"]]
        usages = [{"server auth": "serverAuth", "client auth": "clientAuth"}[u] for u in spec["usages"] if u.endswith(" auth")]
        issued = cls.ca.issue("node", [*names, *cls.addresses], usages)
        fresh = pathlib.Path(tempfile.mkdtemp(dir=cls.secret))
        for source, name in ((issued.key, "tls.key"), (issued.cert, "tls.crt"), (issued.ca, "ca.crt")):
            (fresh / name).write_bytes(source.read_bytes())
            (fresh / name).chmod(0o600)
            if not (cls.secret / name).is_symlink():
                (cls.secret / name).symlink_to(f"..data/{name}")
        (cls.secret / "..next").symlink_to(fresh.name)
        (cls.secret / "..next").rename(cls.secret / "..data")

    def kvist(self, *words: str) -> subprocess.CompletedProcess:
        address = self.nodes[0].event("serving")["address"]
        command = [PROGRAMS["kvist"], *words, "--node", address, "--deadline", "5s"]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    def files(self) -> list[str]:
        return [f"--tls-cert={self.secret}/tls.crt", f"--tls-key={self.secret}/tls.key", f"--tls-ca={self.secret}/ca.crt"]

    def test_the_test_pod_succeeds(self) -> None:
        self.assertEqual(self.helm_test("test").failures(), [])

    def test_the_nodes_are_one_cluster_and_let_in_nobody_without_a_certificate(self) -> None:
        self.assertNotEqual(self.kvist("stats").returncode, 0)
        by_name = [f"--tls-server-name={name}" for name in self.known_as()]
        for name in by_name:
            told = self.kvist("stats", "--json", name, *self.files())
            self.assertEqual([node.get("state") for node in json.loads(told.stdout)], ["serving"] * 3, told.stderr)
        other = self.kvist("stats", "--tls-server-name=kvist.example", *self.files())
        self.assertIn("TLS", other.stderr)

    def known_as(self) -> list[str]:
        """Names under which workers call: first contact, and a pod's own."""
        advertised = flags(self.pod["containers"][0])["advertise"].rpartition(":")[0]
        return [SEEDS.rpartition(":")[0], advertised.replace("$(POD_NAME)", f"{chart.RELEASE}-2")]

    def test_a_renewed_certificate_is_taken_without_a_restart(self) -> None:
        self.renew()
        for node in self.nodes:
            node.event("TLS files reloaded")
            self.assertEqual(probe(self.pod, node, "readinessProbe"), 200)
            self.assertNotIn("not reloaded", node.errors())
        self.assertEqual(self.helm_test("renewed").failures(), [])


class TlsDaemonSetTest(TlsClusterTest):
    """Its nodes go by addresses, and the certificate names none."""

    values = TlsClusterTest.values | {"mode": "daemonset"}
    addresses = ()

    def known_as(self) -> list[str]:
        return [SEEDS.rpartition(":")[0]]


class AccessClusterTest(TlsClusterTest):
    """With tenants: the test's token is of an admin of one, and the nodes know each other by their certificate."""

    TOKEN = "token-of-the-test-0123456789"
    values = TlsClusterTest.values | {
        "access": {
            "refresh": "100ms",
            "tenants": {"helm-test": {"host_bytes": "1MiB"}, "team-a": {}},
            "identities": [{"identity": "token:helm-test", "tenant": "helm-test", "role": "admin"}],
            "tokensSecret": "kvist-tokens",
        },
        "tests": {"tokenSecret": "kvist-test"},
    }

    @classmethod
    def bring_files(cls) -> None:
        super().bring_files()
        for folder in ("access", "tokens", "token"):
            (cls.folder / folder).mkdir()
            cls.here |= {f"/etc/kvist/{folder}/": f"{cls.folder}/{folder}/"}
        cls.write_access(only(cls.items, "ConfigMap", "node")["data"]["access.json"])
        cls.write("tokens/tokens", f"helm-test sha256:{hashlib.sha256(cls.TOKEN.encode()).hexdigest()}\n")
        cls.write("token/token", cls.TOKEN)

    @classmethod
    def write(cls, name: str, text: str) -> None:
        (cls.folder / "next").write_text(text, encoding="utf-8")
        (cls.folder / "next").chmod(0o600)
        (cls.folder / "next").rename(cls.folder / name)

    @classmethod
    def write_access(cls, text: str) -> None:
        cls.write("access/access.json", text)

    def files(self) -> list[str]:
        return [*super().files(), f"--token-file={self.folder}/token/token"]

    def test_a_change_of_who_is_what_is_taken_without_a_restart(self) -> None:
        worker = self.ca.issue("worker", ["DNS:worker.team-a.example"], ["clientAuth"])
        self.assertIn("the access file does not know", self.kvist("stats", *worker.flags()).stderr)
        told = json.loads(only(self.items, "ConfigMap", "node")["data"]["access.json"])
        told["identities"].append({"identity": "dns:*.team-a.example", "tenant": "team-a", "role": "writer"})
        self.write_access(json.dumps(told))
        for node in self.nodes:
            node.event("access files reloaded")
        self.assertEqual(self.kvist("stats", *worker.flags()).returncode, 0)


class LoneNodeTest(unittest.TestCase):
    def test_a_node_without_etcd_serves_workers_that_start_from_it(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            items = rendering_of({"capacity": "64MiB", "replicas": 1, "etcd": {"enabled": False}}, folder)
            pod = node_pod(items)
            given = flags(pod["containers"][0])
            address = f"127.0.0.1:{free_port()}"
            own = f"{chart.RELEASE}-0"
            advertised = given["advertise"].replace("$(POD_NAME)", own)
            members = only(items, "ConfigMap", "node")["data"]["cluster.json"]
            self.assertIn(f'"{advertised}"', members)
            (folder / "state").mkdir()
            (folder / "state" / "cluster.json").write_text(members.replace(advertised, address), encoding="utf-8")
            here = {
                given["listen"]: address,
                given["http"]: "127.0.0.1:0",
                given["advertise"]: address,
                "$(POD_NAME)": own,
                str(pathlib.PurePath(given["cluster"]).parent): str(folder / "state"),
            }
            with Running(command_of(pod["containers"][0], PROGRAMS, here), folder / "node.log") as node:
                wait_ready(pod, node)
                self.assertEqual(TestPod(items, address, folder / "test").failures(), [])
                self.assertEqual(node.terminate(pod["terminationGracePeriodSeconds"]), 0)


class FlagsTest(unittest.TestCase):
    def test_kvistd_takes_every_flag_that_the_chart_can_give(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            password = pathlib.Path(folder) / "password"
            password.write_text("secret", encoding="utf-8")
            members = pathlib.Path(folder) / "cluster.json"
            here = {
                "/var/lib/kvist/cluster.json": str(members),
                "$(POD_NAME)": "kvist-0", "$(NODE_NAME)": "machine-0", "$(POD_IP)": "10.0.0.1",
                "/etc/kvist/etcd-auth/secret": str(password),
            }
            for values in chart.good_values():
                for item in objects(values):
                    if item["kind"] == "ConfigMap" and "cluster.json" in item["data"]:
                        members.write_text(item["data"]["cluster.json"], encoding="utf-8")
                        here["$(POD_NAME)"] = json.loads(members.read_text(encoding="utf-8"))["nodes"][0]["id"]
                with self.subTest(values=values.name):
                    command = command_of(node_pod(objects(values))["containers"][0], PROGRAMS, here)
                    # It names every wrong flag and does not start: this one is to be all of them.
                    done = subprocess.run([*command, "--is-wrong"], capture_output=True, text=True, check=False, timeout=30)
                    self.assertEqual(done.returncode, 2)
                    wrong = ["kvistd: wrong flags", "--is-wrong: unknown flag; see --help"]
                    self.assertEqual(done.stderr.splitlines(), wrong)

    def test_the_chart_can_give_every_flag_of_kvistd(self) -> None:
        shown = subprocess.run([PROGRAMS["kvistd"], "--help"], capture_output=True, text=True, check=True, timeout=30).stdout
        known = set(re.findall(r"^  (?:-\w,)?--([a-z-]+)", shown, re.MULTILINE))
        given = {flag for values in chart.good_values() for flag in flags(node_pod(objects(values))["containers"][0])}
        self.assertEqual(given | set(NOT_OF_THE_CHART), known)


if __name__ == "__main__":
    unittest.main()
