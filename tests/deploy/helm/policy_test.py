"""Goal: what the chart makes is safe to run and holds together: no more rights than needed, bounds on everything, probes that
mean what they say, and names that find what they name.

Method: assertions over every object of every file of ci/. The "restricted" Pod Security Standard is spelled out here, since no
cluster is there to enforce it; the exceptions of the GPU tier are spelled out as well, so that no other slips in.
"""

import hashlib
import json
import pathlib
import unittest
from collections.abc import Iterator

import manifests
import yaml
from manifests import Object, flags, node_pod, objects, only, pods, quantity, selects, size

import chart

DEFAULT = chart.CI / "default-values.yaml"
PRODUCTION = chart.CI / "production-values.yaml"
EVERYTHING = chart.CI / "everything-values.yaml"
DAEMONSET = chart.CI / "daemonset-values.yaml"
SOCKET = chart.CI / "gpu-socket-values.yaml"
ACCESS = chart.CI / "access-values.yaml"
TLS_DAEMONSET = chart.CI / "tls-daemonset-values.yaml"
NCCL = chart.CI / "gpu-nccl-values.yaml"
COMPONENT = "app.kubernetes.io/component"
LEAVE_SECONDS = 5  # services/node/node.cc
MOST_OF_A_SOCKET_PATH = 107  # sockaddr_un


def every_pod() -> Iterator[tuple[pathlib.Path, str, Object, Object]]:
    for values in chart.good_values():
        for name, labels, spec in pods(objects(values)):
            yield values, name, labels, spec


class RightsTest(unittest.TestCase):
    def test_no_container_has_more_rights_than_it_needs(self) -> None:
        for values, name, _, spec in every_pod():
            for container in manifests.containers(spec):
                with self.subTest(values=values.name, pod=name, container=container["name"]):
                    context = container["securityContext"]
                    privileged = values == SOCKET and container["name"] == "kvistd"
                    self.assertEqual(context.get("privileged", False), privileged)
                    self.assertEqual(context["allowPrivilegeEscalation"], privileged)
                    self.assertIs(context["readOnlyRootFilesystem"], True)
                    self.assertEqual(context["capabilities"], {"drop": ["ALL"]})

    def test_no_pod_runs_as_root_or_outside_of_the_default_seccomp_profile(self) -> None:
        for values, name, _, spec in every_pod():
            with self.subTest(values=values.name, pod=name):
                context = spec["securityContext"]
                self.assertIs(context["runAsNonRoot"], True)
                self.assertGreater(context["runAsUser"], 0)
                self.assertEqual(context["seccompProfile"], {"type": "RuntimeDefault"})

    def test_only_the_gpu_socket_takes_anything_of_the_machine(self) -> None:
        for values, name, _, spec in every_pod():
            with self.subTest(values=values.name, pod=name):
                of_machine = values == SOCKET and name.startswith("DaemonSet/")
                self.assertEqual(spec.get("hostIPC", False), of_machine)
                self.assertEqual(spec.get("hostPID", False), of_machine)
                self.assertNotIn("hostNetwork", spec)
                paths = [volume["hostPath"]["path"] for volume in spec.get("volumes", []) if "hostPath" in volume]
                self.assertEqual(paths, ["/run/kvist"] if of_machine else [])

    def test_no_pod_gets_a_token_of_kubernetes(self) -> None:
        for values, name, _, spec in every_pod():
            with self.subTest(values=values.name, pod=name):
                self.assertIs(spec["automountServiceAccountToken"], False)
                self.assertIs(spec["enableServiceLinks"], False)
                for volume in spec.get("volumes", []):
                    self.assertNotIn("projected", volume)
        self.assertIs(only(objects(DEFAULT), "ServiceAccount")["automountServiceAccountToken"], False)
        kinds = {item["kind"] for values in chart.good_values() for item in objects(values)}
        self.assertEqual([kind for kind in kinds if "Role" in kind], [])

    def test_every_secret_is_an_existing_one_and_readable_by_its_group_alone(self) -> None:
        kinds = {item["kind"] for values in chart.good_values() for item in objects(values)}
        self.assertNotIn("Secret", kinds)
        for values, name, _, spec in every_pod():
            secrets = [volume["secret"] for volume in spec.get("volumes", []) if "secret" in volume]
            with self.subTest(values=values.name, pod=name):
                self.assertLessEqual({secret["defaultMode"] for secret in secrets}, {0o440})
                self.assertTrue(not secrets or spec["securityContext"]["fsGroup"] > 0)
        volumes = node_pod(objects(PRODUCTION))["volumes"]
        secrets = {volume["secret"]["secretName"] for volume in volumes if "secret" in volume}
        self.assertEqual(secrets, {"kvist-tls", "kvist-tokens", "etcd-user", "etcd-tls"})


class TlsTest(unittest.TestCase):
    def test_nodes_speak_tls_or_say_that_they_do_not(self) -> None:
        on = {PRODUCTION, EVERYTHING, TLS_DAEMONSET}
        for values in chart.good_values():
            given = flags(node_pod(objects(values))["containers"][0])
            with self.subTest(values=values.name):
                self.assertEqual("insecure" in given, values not in on)
                self.assertEqual({"tls-cert", "tls-key", "tls-ca"} <= set(given), values in on)

    def test_who_calls_nodes_over_tls_has_the_files_and_nobody_else_in_the_pod(self) -> None:
        for values in (PRODUCTION, EVERYTHING, TLS_DAEMONSET):
            for name, _, spec in pods(objects(values)):
                for container in manifests.containers(spec):
                    mounts = {mount["name"]: mount for mount in container.get("volumeMounts", [])}
                    calls = container.get("command") in (["kvistd"], ["kvist"])
                    with self.subTest(values=values.name, pod=name, container=container["name"]):
                        self.assertEqual("tls" in mounts, calls)
                        if calls:
                            self.assertIs(mounts["tls"]["readOnly"], True)
                            given = flags(container)
                            files = {str(pathlib.PurePath(given[f"tls-{file}"])) for file in ("cert", "key", "ca")}
                            folder = mounts["tls"]["mountPath"]
                            self.assertEqual(files, {f"{folder}/tls.crt", f"{folder}/tls.key", f"{folder}/ca.crt"})

    def test_the_certificate_goes_where_nodes_look_and_names_them_and_first_contact(self) -> None:
        items = objects(EVERYTHING)
        spec = only(items, "Certificate")["spec"]
        (secret,) = [volume["secret"] for volume in node_pod(items)["volumes"] if volume["name"] == "tls"]
        self.assertEqual(spec["secretName"], secret["secretName"])
        pod, _, domain = flags(node_pod(items)["containers"][0])["advertise"].rpartition(":")[0].partition(".")
        self.assertEqual(pod, "$(POD_NAME)")
        seeds = only(items, "Service", "seeds")["metadata"]
        self.assertEqual(spec["dnsNames"], [f"{seeds['name']}.{seeds['namespace']}.svc.cluster.example", f"*.{domain}"])
        self.assertLessEqual({"server auth", "client auth"}, set(spec["usages"]))

    def test_nodes_that_go_by_addresses_are_known_by_the_name_of_first_contact(self) -> None:
        items = objects(TLS_DAEMONSET)
        step = only(items, "Pod", "test")["spec"]["initContainers"][0]
        for container in (node_pod(items)["containers"][0], step):
            self.assertEqual(flags(container)["tls-server-name"], flags(step)["node"].rpartition(":")[0])


class AccessTest(unittest.TestCase):
    def test_nodes_read_who_is_what_from_files_that_are_there(self) -> None:
        for values, flags_of_files in (
            (PRODUCTION, {"access": "access.json", "tokens": "tokens"}),
            (ACCESS, {"access": "access.json", "tokens": "tokens", "peer-token": "token"}),
        ):
            container = node_pod(objects(values))["containers"][0]
            given = flags(container)
            folders = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            with self.subTest(values=values.name):
                for flag, file in flags_of_files.items():
                    self.assertEqual(given[flag], f"{folders[flag]}/{file}")
                self.assertEqual("peer-token" in given, "peer-token" in flags_of_files)

    def test_nodes_are_nodes_by_a_name_of_their_certificate_and_the_rest_is_as_given(self) -> None:
        told = json.loads(only(objects(PRODUCTION), "ConfigMap", "node")["data"]["access.json"])
        own, *others = told["identities"]
        self.assertEqual(own, {"identity": "dns:kvist.inference.svc.cluster.local", "role": "node"})
        given = yaml.safe_load(PRODUCTION.read_text(encoding="utf-8"))["access"]
        self.assertEqual((others, told["tenants"]), (given["identities"], given["tenants"]))

    def test_what_nodes_read_again_by_themselves_restarts_none(self) -> None:
        for values in chart.good_values():
            if values.name.startswith("single"):
                continue  # its members are a file that is read at start
            (workload,) = [item for item in objects(values) if item["kind"] in manifests.WORKLOADS
                           and item["metadata"]["labels"][COMPONENT] == "node"]
            annotations = workload["spec"]["template"]["metadata"]["annotations"]
            self.assertEqual([name for name in annotations if name.startswith("checksum/")], [], values.name)

    def test_the_token_of_the_test_is_in_its_steps_alone(self) -> None:
        for values in (PRODUCTION, ACCESS):
            spec = only(objects(values), "Pod", "test")["spec"]
            for container in manifests.containers(spec):
                mounted = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "token"]
                calls = container["command"] == ["kvist"]
                self.assertEqual(mounted, ["/etc/kvist/token"] if calls else [])
                if calls:
                    self.assertEqual(flags(container)["token-file"], "/etc/kvist/token/token")


class BoundsTest(unittest.TestCase):
    def test_every_container_has_processors_and_a_memory_that_is_requested_as_limited(self) -> None:
        for values, name, _, spec in every_pod():
            for container in manifests.containers(spec):
                with self.subTest(values=values.name, pod=name, container=container["name"]):
                    resources = container["resources"]
                    self.assertIn("cpu", resources["requests"])
                    self.assertEqual(resources["requests"]["memory"], resources["limits"]["memory"])

    def test_every_volume_in_memory_or_on_disk_has_a_size(self) -> None:
        for values, name, _, spec in every_pod():
            for volume in spec.get("volumes", []):
                with self.subTest(values=values.name, pod=name, volume=volume["name"]):
                    self.assertTrue("emptyDir" not in volume or "sizeLimit" in volume["emptyDir"])

    def test_the_memory_limit_is_the_capacity_and_the_stated_overhead(self) -> None:
        mib, gib = 2**20, 2**30
        process = (512 + 256) * mib
        # File, and what is beside the process's own: pages, index, device, shm, extra.
        cases = {
            DEFAULT: 4 * gib + process + 4 * gib / 512 + 400 * (4 * gib // (64 << 10)),
            PRODUCTION: 256 * gib + process + 256 * gib / 512 + 400 * (256 * gib // (64 << 10)),
            NCCL: 32 * gib + process + 32 * gib / 512 + 400 * (72 * gib // (64 << 10)) + 1 * gib + 256 * mib + 1 * gib,
            DAEMONSET: 64 * gib + process + 64 * gib / 512 + 400 * (64 * gib // (16 << 10)) + 1 * gib,
            SOCKET: 64 * gib + process + 64 * gib / 512 + 400 * (80 * gib // (64 << 10)) + 1 * gib + 64 * mib,
        }
        for values, expected in cases.items():
            with self.subTest(values=values.name):
                limit = quantity(node_pod(objects(values))["containers"][0]["resources"]["limits"]["memory"])
                self.assertLessEqual(0, limit - expected)
                self.assertLess(limit - expected, mib)

    def test_a_limit_of_ones_own_is_taken(self) -> None:
        resources = node_pod(objects(EVERYTHING))["containers"][0]["resources"]
        self.assertEqual((resources["limits"]["memory"], resources["requests"]["memory"]), ("8Gi", "8Gi"))

    def test_a_claimed_gpu_is_a_limit_and_a_shared_one_is_named(self) -> None:
        claimed = node_pod(objects(NCCL))["containers"][0]
        self.assertEqual(claimed["resources"]["limits"]["example.com/gpu"], 1)
        self.assertNotIn("NVIDIA_VISIBLE_DEVICES", [entry["name"] for entry in claimed["env"]])
        shared = node_pod(objects(SOCKET))["containers"][0]
        self.assertNotIn("nvidia.com/gpu", shared["resources"]["limits"])
        self.assertIn({"name": "NVIDIA_VISIBLE_DEVICES", "value": "0"}, shared["env"])


class LifeTest(unittest.TestCase):
    def test_every_container_that_serves_has_all_three_probes(self) -> None:
        for values, name, _, spec in every_pod():
            for container in spec["containers"]:
                if "ports" not in container:
                    continue
                with self.subTest(values=values.name, pod=name, container=container["name"]):
                    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                        self.assertIn("httpGet", container[probe])

    def test_liveness_asks_for_the_process_and_readiness_for_the_member(self) -> None:
        for values in chart.good_values():
            container = node_pod(objects(values))["containers"][0]
            paths = {probe: container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
            self.assertEqual(paths, {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"})

    def test_the_startup_probe_waits_for_the_memory(self) -> None:
        for values, least in ((DEFAULT, 60 + 4), (PRODUCTION, 60 + 256), (EVERYTHING, 60 + 1.5 * 4)):
            probe = node_pod(objects(values))["containers"][0]["startupProbe"]
            self.assertGreaterEqual(probe["periodSeconds"] * probe["failureThreshold"], least, values.name)

    def test_the_grace_period_holds_the_whole_drain(self) -> None:
        for values, expected in ((DEFAULT, 30 + 10 + 15), (PRODUCTION, 120 + 10 + 90), (EVERYTHING, 45 + 1 + 15)):
            grace = node_pod(objects(values))["terminationGracePeriodSeconds"]
            self.assertEqual(grace, expected + LEAVE_SECONDS, values.name)

    def test_a_rolling_update_waits_until_a_node_has_its_share(self) -> None:
        self.assertEqual(only(objects(DEFAULT), "StatefulSet", "node")["spec"]["minReadySeconds"], 60)
        self.assertEqual(only(objects(EVERYTHING), "StatefulSet", "node")["spec"]["minReadySeconds"], 0)

    def test_a_budget_is_there_for_several_nodes_of_a_statefulset_alone(self) -> None:
        budgets = {}
        for values in chart.good_values():
            found = [item["spec"] for item in objects(values) if item["kind"] == "PodDisruptionBudget"]
            budgets[values.name.removesuffix("-values.yaml")] = found[0] if found else None
        self.assertEqual([name for name, budget in budgets.items() if budget], ["access", "default", "everything", "production"])
        self.assertEqual(budgets["default"]["maxUnavailable"], 1)
        self.assertEqual(budgets["production"]["minAvailable"], 4)
        self.assertNotIn("maxUnavailable", budgets["production"])

    def test_nodes_spread_over_machines_and_zones(self) -> None:
        spread = node_pod(objects(DEFAULT))["topologySpreadConstraints"]
        acts = {constraint["topologyKey"]: constraint["whenUnsatisfiable"] for constraint in spread}
        self.assertEqual(acts, {"kubernetes.io/hostname": "DoNotSchedule", "topology.kubernetes.io/zone": "ScheduleAnyway"})


class NamesTest(unittest.TestCase):
    def test_every_selector_selects_its_own_pods_and_no_others(self) -> None:
        for values in chart.good_values():
            items = objects(values)
            labels_of = {name: labels for name, labels, _ in pods(items)}
            for item in items:
                selector = self.selector_of(item)
                if selector is None:
                    continue
                with self.subTest(values=values.name, item=manifests.name_of(item)):
                    selected = {labels[COMPONENT] for labels in labels_of.values() if selects(selector, labels)}
                    component = item["metadata"]["labels"][COMPONENT]
                    self.assertEqual(selected, {"node" if component == "seeds" else component})

    @staticmethod
    def selector_of(item: Object) -> dict[str, str] | None:
        if item["kind"] == "Service":
            return item["spec"]["selector"]
        if item["kind"] in ("StatefulSet", "DaemonSet", "PodDisruptionBudget"):
            return item["spec"]["selector"]["matchLabels"]
        if item["kind"] == "NetworkPolicy":
            return item["spec"]["podSelector"]["matchLabels"]
        return None

    def test_every_port_has_a_name_and_is_used(self) -> None:
        for values in chart.good_values():
            items = objects(values)
            services = [item for item in items if item["kind"] == "Service"]
            for name, labels, spec in pods(items):
                for container in spec["containers"]:
                    for port in container.get("ports", []):
                        with self.subTest(values=values.name, pod=name, port=port):
                            named = {
                                target["targetPort"]
                                for service in services
                                if selects(service["spec"]["selector"], labels)
                                for target in service["spec"]["ports"]
                            } | {container[probe]["httpGet"]["port"] for probe in container if probe.endswith("Probe")}
                            self.assertIn(port["name"], named)
                    offered = {port["name"] for port in container.get("ports", [])}
                    asked = {container[probe]["httpGet"]["port"] for probe in container if probe.endswith("Probe")}
                    self.assertLessEqual(asked, offered)
            for service in services:
                self.assertTrue(all(port["name"] == port["targetPort"] for port in service["spec"]["ports"]))

    def test_the_ports_of_the_flags_are_those_of_the_container(self) -> None:
        for values in chart.good_values():
            container = node_pod(objects(values))["containers"][0]
            ports = {port["name"]: str(port["containerPort"]) for port in container["ports"]}
            given = flags(container)
            self.assertEqual(given["listen"].rpartition(":")[2], ports["data"])
            self.assertEqual(given["advertise"].rpartition(":")[2], ports["data"])
            self.assertEqual(given["http"].rpartition(":")[2], ports["http"])

    def test_a_node_advertises_the_name_that_its_service_gives_it(self) -> None:
        for values in chart.good_values():
            items = objects(values)
            given = flags(node_pod(items)["containers"][0])
            if any(item["kind"] == "DaemonSet" for item in items):
                self.assertEqual((given["node"], given["advertise"].rpartition(":")[0]), ("$(NODE_NAME)", "$(POD_IP)"))
                continue
            service = only(items, "Service", "node")
            workload = only(items, "StatefulSet", "node")
            self.assertEqual(workload["spec"]["serviceName"], service["metadata"]["name"])
            self.assertIs(service["spec"]["publishNotReadyAddresses"], True)
            domain = "cluster.example" if values == EVERYTHING else "cluster.local"
            expected = f"$(POD_NAME).{service['metadata']['name']}.{chart.NAMESPACE}.svc.{domain}"
            self.assertEqual(given["advertise"].rpartition(":")[0], expected)
            self.assertEqual(given["node"], "$(POD_NAME)")

    def test_a_monitor_scrapes_the_nodes_service_alone_under_names_that_last(self) -> None:
        for values, source in ((EVERYTHING, "pod_name"), (DAEMONSET, "pod_node_name")):
            items = objects(values)
            monitor = only(items, "ServiceMonitor")["spec"]
            services = [item for item in items if item["kind"] == "Service"]
            found = [item for item in services if selects(monitor["selector"]["matchLabels"], item["metadata"]["labels"])]
            self.assertEqual(found, [only(items, "Service", "node")])
            self.assertIn(monitor["endpoints"][0]["port"], [port["name"] for port in found[0]["spec"]["ports"]])
            job, instance = monitor["endpoints"][0]["relabelings"][:2]
            self.assertEqual(job, {"targetLabel": "job", "replacement": "kvist"})
            self.assertEqual(instance, {"targetLabel": "instance", "sourceLabels": [f"__meta_kubernetes_{source}"]})

    def test_every_variable_of_a_flag_is_in_the_environment(self) -> None:
        for values in chart.good_values():
            container = node_pod(objects(values))["containers"][0]
            names = {entry["name"] for entry in container["env"]}
            for argument in container["args"]:
                for part in argument.split("$(")[1:]:
                    self.assertIn(part.partition(")")[0], names)

    def test_every_mount_has_its_volume_and_every_file_of_a_flag_a_mount(self) -> None:
        for values, name, _, spec in every_pod():
            volumes = {volume["name"] for volume in spec.get("volumes", [])}
            mounts = [mount for container in manifests.containers(spec) for mount in container.get("volumeMounts", [])]
            with self.subTest(values=values.name, pod=name):
                self.assertEqual({mount["name"] for mount in mounts}, volumes)
        alone = objects(chart.CI / "single-values.yaml")
        members = only(alone, "ConfigMap", "node")
        self.assertIn({"name": "members", "configMap": {"name": members["metadata"]["name"]}}, node_pod(alone)["volumes"])
        container = node_pod(objects(PRODUCTION))["containers"][0]
        folders = [mount["mountPath"] for mount in container["volumeMounts"]]
        for flag in ("etcd-password-file", "etcd-ca", "etcd-cert", "etcd-key", "tls-ca", "tls-cert", "tls-key"):
            self.assertIn(str(pathlib.PurePath(flags(container)[flag]).parent), folders)

    def test_a_device_socket_fits_into_an_address_of_its_kind(self) -> None:
        socket = flags(node_pod(objects(SOCKET))["containers"][0])["device-socket"]
        self.assertEqual(socket, "/run/kvist/kvist.sock")
        schema = json.loads((chart.CHART / "values.schema.json").read_text(encoding="utf-8"))
        folder = schema["properties"]["gpu"]["properties"]["socket"]["properties"]["hostPath"]["maxLength"]
        pod = 52 + len("-9999")  # a name of the chart, and an ordinal
        self.assertLessEqual(folder + len("/") + pod + len(".sock"), MOST_OF_A_SOCKET_PATH)

    def test_a_change_of_the_members_file_restarts_its_node(self) -> None:
        sums = []
        for name in ("single", "default"):
            workload = only(objects(chart.CI / f"{name}-values.yaml"), "StatefulSet", "node")
            sums.append(workload["spec"]["template"]["metadata"]["annotations"].get("checksum/config"))
        members = only(objects(chart.CI / "single-values.yaml"), "ConfigMap", "node")["data"]["cluster.json"]
        self.assertEqual(sums, [hashlib.sha256(members.encode()).hexdigest(), None])

    def test_device_flags_are_there_with_a_gpu_alone(self) -> None:
        given = flags(node_pod(objects(NCCL))["containers"][0])
        self.assertEqual(size(given["device-capacity"]), 40 * 2**30)
        self.assertEqual(given["nccl"], "libnccl.so.2")
        self.assertNotIn("device-socket", given)
        self.assertEqual([flag for flag in flags(node_pod(objects(DEFAULT))["containers"][0]) if "device" in flag], [])


class NetworkTest(unittest.TestCase):
    def test_the_data_port_is_open_to_nodes_the_test_and_named_clients_alone(self) -> None:
        data, http = only(objects(PRODUCTION), "NetworkPolicy")["spec"]["ingress"]
        self.assertEqual([port["port"] for port in data["ports"]], [7070])
        self.assertEqual(len(data["from"]), 3)
        self.assertEqual(data["from"][2]["podSelector"], {"matchLabels": {"app": "vllm"}})
        self.assertEqual([port["port"] for port in http["ports"]], [9090])
        for rule in (data, http):
            self.assertTrue(rule["from"], "an empty list would let in everybody")

    def test_nodes_reach_each_other_names_and_etcd_and_nothing_else(self) -> None:
        peers, names, etcd = only(objects(PRODUCTION), "NetworkPolicy")["spec"]["egress"]
        self.assertEqual([port["port"] for port in peers["ports"]], [7070])
        self.assertEqual({port["port"] for port in names["ports"]}, {53})
        self.assertEqual([port["port"] for port in etcd["ports"]], [2379, 2380])

    def test_the_charts_own_etcd_is_open_to_nodes_alone(self) -> None:
        items = objects(DEFAULT)
        policy = only(items, "NetworkPolicy", "etcd")["spec"]
        (rule,) = policy["ingress"]
        (peer,) = rule["from"]
        workload = only(items, "StatefulSet", "node")
        self.assertEqual(peer["podSelector"], workload["spec"]["selector"])
        self.assertEqual(policy["egress"], [])

    def test_nccl_opens_every_port_between_nodes_and_clients(self) -> None:
        spec = only(objects(NCCL), "NetworkPolicy", "node")["spec"]
        for rule in (spec["ingress"][0], spec["egress"][0]):
            self.assertNotIn("ports", rule)
            self.assertIn({"podSelector": {}}, rule.get("from", rule.get("to")))


if __name__ == "__main__":
    unittest.main()
