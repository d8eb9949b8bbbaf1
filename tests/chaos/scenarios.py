"""The scenarios: each does one kind of harm to a cluster under verified load, and says what came of it as rows of the report."""
import dataclasses
import pathlib
import signal
import time
from collections.abc import Callable

from cluster import Cluster, Fault, Programs, Worker, wait_for

PROMPTS = ("--prompts", 2000, "--blocks", 1, "--layers", 2)  # one block of 8 KiB each: a miss has one owner, and no other in its wake
WINDOW_SECONDS = 3  # of the sliding mean by which hit rates over time are judged


@dataclasses.dataclass(frozen=True)
class Scale:
    """How long and how much; `FULL` are the figures that are promised."""
    kill_seconds: int
    stop_seconds: int
    cut_seconds: int
    etcd_seconds: int
    etcd_after: int  # seconds after it came back
    ramp_seconds: int  # of a joining node; and as long again, readers ask previous owners
    ramp_after: int
    hot_seconds: int
    load_seconds: int
    roll_seconds: int  # the ramp of a node that comes back, and its window
    mixed_verified: int
    patience: int = 1  # deadlines are so many times longer
    late: float = 0.05  # part of a deadline by which a busy machine may wake a caller too late


FULL = Scale(kill_seconds=40, stop_seconds=30, cut_seconds=30, etcd_seconds=60, etcd_after=20, ramp_seconds=30, ramp_after=60,
             hot_seconds=20, load_seconds=15, roll_seconds=20, mixed_verified=1_000_000)
SHORT = Scale(kill_seconds=5, stop_seconds=4, cut_seconds=4, etcd_seconds=5, etcd_after=8, ramp_seconds=5, ramp_after=5, hot_seconds=5,
              load_seconds=5, roll_seconds=2, mixed_verified=20_000)
# On a machine that other tests keep busy: long deadlines, so that what fails is not the machine's lack of time.
TEST = dataclasses.replace(SHORT, kill_seconds=4, stop_seconds=5, cut_seconds=5, etcd_seconds=3, etcd_after=4, mixed_verified=15_000,
                           patience=4, late=1.0)


@dataclasses.dataclass(frozen=True)
class Row:
    what: str
    figure: float
    relation: str  # < <= >=
    reach: float
    note: str = ""

    @property
    def ok(self) -> bool:
        return {"<": self.figure < self.reach, "<=": self.figure <= self.reach, ">=": self.figure >= self.reach}[self.relation]


class Lab:
    """What scenarios are made with: clusters, and the verified reads of all their workers."""

    def __init__(self, programs: Programs, logs: pathlib.Path, network: str, scale: Scale, seed: int):
        self.programs, self.logs, self.network, self.scale, self.seed = programs, logs, network, scale, seed
        self.network_is = ""
        self.finals: list[dict] = []

    def deadline(self, seconds: int) -> str:
        return f"{seconds * self.scale.patience}s"

    def cluster(self, name: str, nodes: int, **how) -> Cluster:
        cluster = Cluster(self.programs, self.logs / name, nodes, network=self.network, **how)
        self.network_is = cluster.network_is
        return cluster

    def finish(self, worker: Worker) -> list[dict]:
        lines = worker.finish()
        self.finals.append({"worker": f"{worker.folder.name}/{worker.name}", **lines[-1]})
        return lines

    def fill(self, cluster: Cluster, *flags) -> None:
        self.finals.append({"worker": "fill", **cluster.fill(*flags)})


# Counters of a worker between two of its seconds. Its lines are cumulative, one a second.

def window(lines: list[dict], first: float, last: float) -> tuple[dict, dict]:
    a = max((line for line in lines if line["seconds"] <= first), key=lambda line: line["seconds"], default=lines[0])
    b = max((line for line in lines if line["seconds"] <= last + 0.1), key=lambda line: line["seconds"])
    if b["reads"] == a["reads"]:
        raise Fault(f"no reads between second {first} and {last}")
    return a, b


def hit_rate(lines: list[dict], first: float, last: float) -> float:
    a, b = window(lines, first, last)
    return (b["hits"] - a["hits"]) / (b["reads"] - a["reads"])


def worst_hit_rate(lines: list[dict], first: float, last: float) -> float:
    """The least mean over WINDOW_SECONDS, sliding by a second."""
    starts = range(int(first), max(int(first) + 1, int(last) - WINDOW_SECONDS + 1))
    return min(hit_rate(lines, start, start + WINDOW_SECONDS) for start in starts)


def owner_misses(lines: list[dict], owners: Callable[[str], bool], first: float, last: float) -> float:
    """Of the reads of blocks whose first owner is among `owners`, the part that missed."""
    a, b = window(lines, first, last)

    def grown(field: str) -> int:
        return sum(count - a[field].get(owner, 0) for owner, count in b[field].items() if owners(owner))

    return grown("misses_by_owner") / max(1, grown("reads_by_owner"))


def longest_read(line: dict) -> float:
    return max(line["calls"]["match"]["longest_s"], line["calls"]["get"]["longest_s"])


# Scenarios

def kill_one(lab: Lab) -> list[Row]:
    """SIGKILL of one of four nodes, one copy of each block; until after its lease has ended."""
    with lab.cluster("kill_one", 4) as cluster:
        lab.fill(cluster, *PROMPTS)
        worker = cluster.worker(*PROMPTS, "--read-only", "--clients", 8, "--seconds", lab.scale.kill_seconds,
                                "--deadline", lab.deadline(1))
        worker.wait_seconds(lab.scale.kill_seconds / 5)
        cluster.kill("n1")
        lines = lab.finish(worker)
        end = lines[-1]["seconds"]
        return [Row("kill one of four, RF 1: misses beyond its share", owner_misses(lines, lambda owner: owner != "n1", 0, end), "<", 0.01),
                Row("kill one of four, RF 1: longest stall of a read, deadlines", longest_read(lines[-1]), "<", 2)]


def stop_one(lab: Lab) -> list[Row]:
    """SIGSTOP of one of four nodes for a while that is longer than a read's deadline."""
    deadline, most = 2, 1 + lab.scale.late
    with lab.cluster("stop_one", 4) as cluster:
        lab.fill(cluster, *PROMPTS)
        worker = cluster.worker(*PROMPTS, "--read-only", "--clients", 8, "--seconds", lab.scale.stop_seconds + 4, "--deadline", f"{deadline}s")
        worker.wait_seconds(2)
        cluster.signal("n1", signal.SIGSTOP)
        worker.wait_seconds(2 + lab.scale.stop_seconds)
        cluster.signal("n1", signal.SIGCONT)
        lines = lab.finish(worker)
        return [Row(f"stop one of four for {lab.scale.stop_seconds} s: longest stall of a read, deadlines",
                    longest_read(lines[-1]) / deadline, "<=", most, f"{lab.scale.late:.0%} for waking up on a busy machine")]


def cut_one(lab: Lab) -> list[Row]:
    """The links of one of four nodes to all others are cut (packets vanish, nothing is refused) and healed; its store stays."""
    deadline, seconds = 2, lab.scale.cut_seconds
    with lab.cluster("cut_one", 4, proxied=True) as cluster:
        lab.fill(cluster, *PROMPTS)
        worker = cluster.worker(*PROMPTS, "--read-only", "--clients", 8, "--seconds", seconds + 4, "--deadline", f"{deadline}s")
        worker.wait_seconds(2)
        for other in [name for name in cluster.hosts if name != "n1"]:
            cluster.cut("n1", other)
        worker.wait_seconds(2 + seconds)
        cluster.heal()
        lines = lab.finish(worker)
        if not lines[-1]["misses"]:
            raise Fault("the cut was not felt")
        cluster.wait_serving(4)
        swept = lab.finish(cluster.worker(*PROMPTS, "--sweep", "--deadline", lab.deadline(2)))[-1]
        beyond = owner_misses(lines, lambda owner: owner != "n1", 0, lines[-1]["seconds"])
        return [Row(f"cut off one of four for {seconds} s: longest stall of a read, deadlines", longest_read(lines[-1]) / deadline, "<", 2),
                Row("cut off one of four: misses beyond its share", beyond, "<", 0.01),
                Row("links healed: blocks that are not found", swept["reads"] - swept["hits"], "<=", 0)]


def flip(lab: Lab) -> list[Row]:
    """One bit flipped in each of 64 resting blocks, which nobody scrubs before they are read."""
    with lab.cluster("flip", 4, flags=("--scrub-rate", "0")) as cluster:
        small = ("--prompts", 64, "--blocks", 1, "--layers", 2)
        lab.fill(cluster, *small)
        flipped = sum(cluster.flip(name, 64, lab.seed) for name in cluster.nodes())
        if flipped != 64:
            raise Fault(f"{flipped} blocks were there to flip, not 64")
        last = lab.finish(cluster.worker(*small, "--sweep"))[-1]
        return [Row("bits flipped in 64 resting blocks: wrong values delivered", last["wrong"], "<=", 0),
                Row("bits flipped in 64 resting blocks: misses for their checksum", last["misses"].get("checksum", 0), ">=", 64)]


def oracle(lab: Lab) -> list[Row]:
    """The oracle itself: a reader that expects other values must call every block wrong. (Not counted as wrong bytes.)"""
    with lab.cluster("oracle", 1) as cluster:
        small = ("--prompts", 64, "--blocks", 1, "--layers", 2)
        lab.fill(cluster, *small)
        last = cluster.worker(*small, "--sweep", "--salt", 2).finish()[-1]
        return [Row("the oracle, expecting other values: called wrong of 64", last["wrong"], ">=", 64)]


def kill_replicated(lab: Lab) -> list[Row]:
    """SIGKILL of one of four nodes, two copies of each block."""
    with lab.cluster("kill_replicated", 4) as cluster:
        lab.fill(cluster, *PROMPTS, "--replicas", 2)
        wait_for("every block has its copy", lambda: sum(cluster.metric(name, "kvist_blocks") for name in cluster.nodes()) >= 4000)
        worker = cluster.worker(*PROMPTS, "--replicas", 2, "--read-only", "--clients", 8, "--seconds", lab.scale.kill_seconds,
                                "--deadline", lab.deadline(1))
        kill_at = lab.scale.kill_seconds // 5
        worker.wait_seconds(kill_at)
        cluster.kill("n1")
        lines = lab.finish(worker)
        fall = hit_rate(lines, 0, kill_at) - hit_rate(lines, kill_at, lines[-1]["seconds"])
        return [Row("kill one of four, RF 2: hit rate falls by", fall, "<", 0.01)]


def etcd_dead(lab: Lab) -> list[Row]:
    """etcd is killed, stays dead for a while, comes back wiped; workers read and write all the time."""
    dead, before = lab.scale.etcd_seconds, max(3, lab.scale.etcd_seconds // 6)
    with lab.cluster("etcd_dead", 4) as cluster:
        lab.fill(cluster, *PROMPTS)
        worker = cluster.worker(*PROMPTS, "--fresh", 0.05, "--clients", 8, "--seconds", before + dead + lab.scale.etcd_after,
                                "--deadline", lab.deadline(2))
        worker.wait_seconds(before)
        cluster.kill("etcd")
        worker.wait_seconds(before + dead)
        cluster.wipe_etcd()
        cluster.start_etcd()
        lines = lab.finish(worker)
        cluster.wait_serving(4)
        usual = hit_rate(lines, 0, before)
        end = lines[-1]["seconds"]
        return [Row(f"etcd dead for {dead} s: success of reads lost", usual - hit_rate(lines, before, before + dead), "<=", 0),
                Row("etcd wiped: success of reads lost", usual - hit_rate(lines, before + dead, end), "<=", 0),
                Row("etcd dead and wiped: writes that failed", lines[-1]["put_failures"], "<=", 0)]


def add_one(lab: Lab) -> list[Row]:
    """A fourth, empty node joins under load; for its ramp, the time readers ask previous owners, and a while afterwards."""
    ramp = lab.scale.ramp_seconds
    before, after = 2 * WINDOW_SECONDS, 2 * ramp + lab.scale.ramp_after
    with lab.cluster("add_one", 3) as cluster:
        lab.fill(cluster, *PROMPTS)
        worker = cluster.worker(*PROMPTS, "--read-only", "--clients", 8, "--seconds", before + after + 2, "--deadline", lab.deadline(2))
        worker.wait_seconds(before)
        cluster.add_host("n3")
        cluster.start_node("n3", ramp=f"{ramp}s", window=f"{ramp}s")
        lines = lab.finish(worker)
        served = cluster.metric("n3", "kvist_sent_bytes_total")
        if served == 0:
            raise Fault("the fourth node has served nothing")
        fall = hit_rate(lines, 0, before) - worst_hit_rate(lines, before, before + after)
        return [Row(f"add a fourth node, ramp {ramp} s: hit rate in the next {after} s falls by", fall, "<=", 0.02,
                    f"worst {WINDOW_SECONDS} s; the new node sent {served / (1 << 20):.0f} MiB")]


def drain_one(lab: Lab) -> list[Row]:
    """`kvist drain` of one of four nodes whose stores are half full."""
    with lab.cluster("drain_one", 4, capacity="16MiB") as cluster:
        half = ("--prompts", 3800, "--blocks", 1, "--layers", 2)  # 31 MiB of 64
        lab.fill(cluster, *half)
        worker = cluster.worker(*half, "--read-only", "--clients", 8, "--seconds", 25)
        worker.wait_seconds(5)
        drained = cluster.kvist("drain", "n1")
        if drained.returncode != 0:
            raise Fault(f"kvist drain: {drained.stdout}{drained.stderr}")
        wait_for("the drained node has ended", lambda: not cluster.alive("n1"))
        at = worker.lines()[-1]["seconds"]
        lines = lab.finish(worker)
        kept = (1 - owner_misses(lines, lambda owner: owner == "n1", at, 30)) / (1 - owner_misses(lines, lambda owner: owner == "n1", 0, 5))
        return [Row("drain one of four, half full: hits on its blocks that are kept", kept, ">=", 0.9)]


def hot_prefix(lab: Lab) -> list[Row]:
    """32 clients read one prompt's prefix, and nothing else."""
    with lab.cluster("hot_prefix", 4) as cluster:
        one = ("--prompts", 1, "--blocks", 8, "--layers", 16)
        lab.fill(cluster, *one)
        workers = [cluster.worker(*one, "--read-only", "--clients", 8, "--seconds", 8 + lab.scale.hot_seconds, "--seed", 1) for _ in range(4)]
        workers[0].wait_seconds(6)
        start = {name: cluster.metric(name, "kvist_sent_bytes_total") for name in cluster.nodes()}
        workers[0].wait_seconds(6 + lab.scale.hot_seconds)
        sent = {name: cluster.metric(name, "kvist_sent_bytes_total") - start[name] for name in cluster.nodes()}
        for worker in workers:
            lab.finish(worker)
        shares = ", ".join(f"{name} {bytes_ / sum(sent.values()):.2f}" for name, bytes_ in sent.items())
        return [Row("one hot prefix, 32 clients: largest share of the bytes", max(sent.values()) / sum(sent.values()), "<=", 0.4, shares)]


ALL = [oracle, kill_one, stop_one, cut_one, flip, kill_replicated, etcd_dead, add_one, drain_one, hot_prefix]
