#!/usr/bin/env python3
"""A cluster on this host: `up.py up` starts it and says what to try, `up.py status`, `up.py down` ends it and leaves nothing."""

import argparse
import pathlib
import sys

from local_cluster import ROOT, Fault, LocalCluster, Options


def told(cluster: LocalCluster) -> str:
    """What runs where, and what to try next."""
    rows = [f"  {name}   {'runs' if cluster.alive(name) else 'has ended':9}  data 127.0.0.1:{node['data']}   "
            f"http://127.0.0.1:{node['http']}/metrics" for name, node in cluster.nodes.items()]
    first = cluster.seeds()[0]
    return "\n".join([
        "A Kvist cluster on this host:", *rows,
        f"  Prometheus  {cluster.prometheus}/graph  (rules and alerts: /alerts)",
        f"  logs, pids  {cluster.folder}", "",
        "Next:",
        f"  bazel-bin/services/ctl/kvist top --node {first}                       # live figures",
        f"  build/venv/bin/python deploy/local/load.py --node {first} --seconds 60  # something to look at",
        f"  build/venv/bin/python deploy/grafana/draw.py --prometheus {cluster.prometheus} --out build/boards  # the boards as PNG",
        "  make down", ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("act", choices=("up", "status", "down"))
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "build/up", help="all state of the cluster")
    parser.add_argument("--kvistd", type=pathlib.Path, default=ROOT / "bazel-bin/services/node/kvistd")
    parser.add_argument("--nodes", type=int, default=3, choices=range(1, 10))
    parser.add_argument("--capacity", default="256MiB", help="of each node")
    parser.add_argument("--scrape", default="5s", help="Prometheus's interval")
    parser.add_argument("--any-ports", action="store_true", help="ports that the system chooses, not the usual ones")
    flags = parser.parse_args()
    cluster = LocalCluster(flags.folder.resolve())
    try:
        if flags.act == "up":
            if not flags.kvistd.exists():
                raise Fault(f"there is no {flags.kvistd}: make up builds it")
            cluster.up(Options(flags.kvistd.resolve(), flags.nodes, flags.capacity, flags.scrape, not flags.any_ports))
        elif flags.act == "down":
            cluster.down()
            print("nothing runs any more")
            return 0
        if not cluster.state:
            print("nothing runs; make up starts a cluster")
            return 0
        print(told(cluster))
    except Fault as fault:
        print(f"up.py: {fault}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
