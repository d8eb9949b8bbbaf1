"""Offered load at twice capacity, by 200 clients."""
from cluster import Cluster, wait_for
from scenarios import Lab, Row

BLOCK_BYTES = 16 * 4096
PROMPTS = ("--prompts", 400, "--blocks", 1, "--layers", 16, "--read-only", "--deadline", "5s")
MEGABITS = 80  # that a host sends: less than this machine's cores can do for four, so that nodes and not workers are the limit
PROCESSES, CLIENTS = 4, 50
MIB = 1 << 20
QUEUED = 32  # MiB that a node may have to send


def goodput(lab: Lab, cluster: Cluster, processes: int, seconds: int, *flags) -> tuple[float, list[dict]]:
    """Blocks a second that were delivered, once all workers ran; and the workers' last lines."""
    workers = [cluster.worker(*PROMPTS, *flags, "--seconds", seconds + 3, "--seed", 1) for _ in range(processes)]
    rates, finals = 0.0, []
    for worker in workers:
        lines = lab.finish(worker)
        a, b = ([line for line in lines if line["seconds"] <= at + 0.5][-1] for at in (2, 2 + seconds))
        rates += (b["hits"] - a["hits"]) / (b["seconds"] - a["seconds"])
        finals.append(lines[-1])
    return rates, finals


def overload(lab: Lab) -> list[Row]:
    """Peak of closed loops first; then twice that is offered at chance times, whatever comes back."""
    with lab.cluster("overload", 4, capacity="64MiB", flags=("--max-queued", f"{QUEUED}MiB")) as cluster:
        lab.fill(cluster, *PROMPTS[:6])
        for name in cluster.nodes():
            cluster.limit(name, MEGABITS)
        peaks = {clients: goodput(lab, cluster, 1, lab.scale.load_seconds, "--clients", clients)[0] for clients in (4, 8, 16)}
        peak = max(peaks.values())
        before = {name: cluster.peak_bytes(name) for name in cluster.nodes()}
        rate, finals = goodput(lab, cluster, PROCESSES, lab.scale.load_seconds, "--clients", CLIENTS, "--rate", 2 * peak / PROCESSES)
        grown = max(cluster.peak_bytes(name) - before[name] for name in cluster.nodes())
        wait_for("nothing stays pinned", lambda: all(cluster.metric(name, "kvist_pinned_bytes") == 0 for name in cluster.nodes()))
    arrivals, dropped = (sum(final[field] for final in finals) for field in ("arrivals", "dropped"))
    timeouts = sum(final["misses"].get("deadline", 0) + final["late"] for final in finals)
    retries = sum(final["retries"] for final in finals)
    note = (f"peak {peak:.0f} blocks/s = {peak * BLOCK_BYTES / MIB:.0f} MiB/s; {arrivals} arrivals, {dropped} of them not begun; "
            f"{retries} retries")
    return [Row("200 clients, twice the capacity: goodput / peak", rate / peak, ">=", 0.8, note),
            Row("200 clients, twice the capacity: a node's memory grows by, MiB", grown / MIB, "<=", QUEUED + 32),
            Row("200 clients, twice the capacity: timeouts without reply", timeouts, "<=", 0)]
