"""A rolling restart, as an upgrade does it: under load each node in turn gets SIGTERM, ends, and comes back under its name and port."""
import signal
import time

from cluster import Cluster, Fault, wait_for
from scenarios import Lab, Row, hit_rate

NODES = ("n0", "n1", "n2")
PROMPTS = ("--prompts", 1500, "--blocks", 1, "--layers", 2)
WORKERS = [("--replicas", 1), ("--replicas", 2, "--seed", 2)]


def restart(cluster: Cluster, name: str, ramp: str, window: str) -> None:
    """Until the node serves its whole share again, and everybody knows."""
    cluster.signal(name, signal.SIGTERM)
    wait_for(f"{name} has ended", lambda: not cluster.alive(name))
    if (status := cluster.ended_with(name)) != 0:
        raise Fault(f"{name} ended with {status}")
    cluster.start_node(name, ramp=ramp, window=window)
    wait_for(f"{name} is ready", lambda: ready(cluster, name))
    cluster.wait_serving(len(NODES))


def ready(cluster: Cluster, name: str) -> bool:
    try:
        return cluster.http(name, "GET", "/readyz").startswith("ready\n")
    except OSError:
        return False


def rolling_restart(lab: Lab) -> list[Row]:
    """Two kinds of writers, one copy of each block and two, read and write all the while."""
    with lab.cluster("rolling_restart", len(NODES), capacity="64MiB") as cluster:
        for flags in WORKERS:
            lab.fill(cluster, *PROMPTS, *flags)
        workers = [cluster.worker(*PROMPTS, *flags, "--fresh", 0.05, "--clients", 4, "--seconds", 600, "--deadline", lab.deadline(1))
                   for flags in WORKERS]
        for worker in workers:
            worker.wait_seconds(2)
        begin = time.monotonic()
        for name in NODES:
            restart(cluster, name, f"{lab.scale.roll_seconds}s", f"{lab.scale.roll_seconds}s")
        took = time.monotonic() - begin
        for worker in workers:
            worker.end()
        lines = [lab.finish(worker) for worker in workers]
    finals = [one[-1] for one in lines]
    rates = [hit_rate(one, 2, one[-1]["seconds"]) for one in lines]
    reads, hits = (sum(final[field] for final in finals) for field in ("reads", "hits"))
    misses = {reason: sum(final["misses"].get(reason, 0) for final in finals) for final in finals for reason in final["misses"]}
    failed = [final["examples"].get(kind) for final in finals for kind in ("fault", "put") if kind in final["examples"]]
    return [Row("three nodes restarted in turn: calls that failed", sum(final["faults"] for final in finals), "<=", 0,
                f"of {reads} reads and {sum(final['stored'] for final in finals)} writes in {took:.0f} s; {failed}"),
            Row("three nodes restarted in turn: blocks not written", sum(final["put_failures"] for final in finals), "<=", 0),
            Row("three nodes restarted in turn: hit rate", hits / reads, ">=", 0.9,
                f"RF 1 {rates[0]:.3f}, RF 2 {rates[1]:.3f}; misses: {misses}")]
