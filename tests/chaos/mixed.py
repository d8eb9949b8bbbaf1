"""All kinds of harm at once, at chance from a seed, until so many blocks were read and compared; then calm, and the cluster is whole."""
import collections
import random
import signal
import time
from collections.abc import Callable

from cluster import Cluster, Fault, wait_for
from scenarios import Lab, Row, longest_read

NODES = [f"n{i}" for i in range(4)]
DEADLINE = 1  # seconds, times the patience of the scale
MOST_ILL = 2  # nodes that are down, stopped, leaving or cut off at one moment
WORKERS = [  # flags, part of the reads
    (("--codec", "raw16", "--replicas", 2, "--layers", 1, "--prompts", 400), 0.6),
    (("--codec", "i8", "--replicas", 1, "--layers", 1, "--prompts", 300), 0.25),
    (("--codec", "ladder", "--replicas", 3, "--layers", 2, "--prompts", 100), 0.15),
]
LOAD = ("--blocks", 16, "--shared", 6, "--groups", 12, "--zipf", 0.9, "--fresh", 0.02, "--clients", 6)


class Harm:
    """Begins harm and ends it again."""

    def __init__(self, cluster: Cluster, seed: int):
        self._cluster, self._random = cluster, random.Random(seed)
        self._ill: set[str] = set()
        self._etcd_ill = False
        self._ends: list[tuple[float, Callable[[], None]]] = []
        self._next = 0.0
        self.done: collections.Counter = collections.Counter()
        self._deck: list[Callable[[], bool]] = []  # of a shuffled round of all kinds: also a short run sees each
        self._kinds = [self._kill, self._stop, self._drain, self._cut_off, self._cut_link, self._cut_etcd, self._lossy, self._slow,
                       self._flip, self._etcd_dies, self._etcd_wiped]

    def step(self) -> None:
        """Ends what is due, and sometimes begins something."""
        now = time.monotonic()
        for due, end in [item for item in self._ends if item[0] <= now]:
            self._ends.remove((due, end))
            end()
        if now >= self._next:
            if not self._deck:
                self._deck = self._random.sample(self._kinds, len(self._kinds))
            if self._deck[-1]():
                self.done[self._deck.pop().__name__.strip("_")] += 1
            else:
                self._deck.insert(0, self._deck.pop())  # later in this round
            self._next = now + self._random.uniform(0.1, 1.5)

    def calm(self) -> None:
        """Ends everything that is under way."""
        for _, end in self._ends:
            end()
        self._ends.clear()
        self._cluster.heal()
        for name in NODES:
            if not self._cluster.alive(name):
                self._cluster.start_node(name)

    def _after(self, least: float, most: float, end: Callable[[], None]) -> None:
        self._ends.append((time.monotonic() + self._random.uniform(least, most), end))

    def _victim(self) -> str | None:
        well = [name for name in NODES if name not in self._ill]
        if len(self._ill) >= MOST_ILL or not well:
            return None
        victim = self._random.choice(well)
        self._ill.add(victim)
        return victim

    def _kill(self) -> bool:
        if (name := self._victim()) is None:
            return False
        self._cluster.kill(name)

        def end() -> None:
            self._cluster.start_node(name, ramp="1s", window="2s")
            self._ill.discard(name)

        self._after(0.2, 14, end)
        return True

    def _stop(self) -> bool:
        if (name := self._victim()) is None:
            return False
        self._cluster.signal(name, signal.SIGSTOP)

        def end() -> None:
            self._cluster.signal(name, signal.SIGCONT)
            self._ill.discard(name)

        self._after(0.1, 14, end)
        return True

    def _drain(self) -> bool:
        """SIGTERM; a node that has not left in time is killed in the middle of it."""
        if (name := self._victim()) is None:
            return False
        self._cluster.signal(name, signal.SIGTERM)

        def end() -> None:
            self._cluster.kill(name)
            self._cluster.start_node(name, ramp="1s", window="2s")
            self._ill.discard(name)

        self._after(0.1, 8, end)
        return True

    def _cut_off(self) -> bool:
        """A node from everybody."""
        if (name := self._victim()) is None:
            return False
        for other in [host for host in self._cluster.hosts if host != name]:
            self._cluster.cut(name, other)

        def end() -> None:
            self._cluster.heal(name)
            self._ill.discard(name)

        self._after(0.5, 14, end)
        return True

    def _cut_link(self) -> bool:
        """Of two nodes, or of a node and the workers: the others still reach both."""
        if (name := self._victim()) is None:
            return False
        self._cluster.cut(name, self._random.choice(["w", *(other for other in NODES if other != name)]))

        def end() -> None:
            self._cluster.heal(name)
            self._ill.discard(name)

        self._after(0.5, 8, end)
        return True

    def _cut_etcd(self) -> bool:
        """Of a node alone. Without namespaces that link cannot be cut: nothing is harmed."""
        if (name := self._victim()) is None:
            return False
        if self._cluster.real_links:
            self._cluster.cut(name, "etcd")

        def end() -> None:
            self._cluster.heal(name)
            self._ill.discard(name)

        self._after(0.5, 14, end)
        return True

    def _lossy(self) -> bool:
        if (name := self._victim()) is None:
            return False
        for other in ("w", *(other for other in NODES if other != name)):
            self._cluster.lose(name, other, self._random.uniform(0.005, 0.05))

        def end() -> None:
            self._cluster.heal(name)
            self._ill.discard(name)

        self._after(1, 5, end)
        return True

    def _slow(self) -> bool:
        if (name := self._victim()) is None:
            return False
        chance = self._random.uniform
        self._cluster.slow(name, **{"delay_ms": chance(0.2, 40), "jitter_ms": chance(0, 20), "stall": chance(0, 0.02),
                                    "break": chance(0, 0.005)})

        def end() -> None:
            self._cluster.heal(name)
            self._ill.discard(name)

        self._after(1, 5, end)
        return True

    def _flip(self) -> bool:
        well = [name for name in NODES if name not in self._ill]
        try:
            return self._cluster.flip(self._random.choice(well), self._random.randrange(1, 30), self._random.randrange(1 << 30)) > 0
        except OSError:  # it is starting, or its HTTP port is
            return False

    def _etcd_dies(self, wipe: bool = False) -> bool:
        if self._etcd_ill:
            return False
        self._etcd_ill = True
        self._cluster.kill("etcd")
        if wipe:
            self._cluster.wipe_etcd()

        def end() -> None:
            self._cluster.start_etcd()
            self._etcd_ill = False

        self._after(0.2, 14, end)
        return True

    def _etcd_wiped(self) -> bool:
        return self._etcd_dies(wipe=True)


def mixed(lab: Lab) -> list[Row]:
    """Several codecs, replication factors and shared prefixes in stores that are too small, under every kind of harm."""
    wanted, deadline = lab.scale.mixed_verified, DEADLINE * lab.scale.patience
    with lab.cluster("mixed", 4, capacity="12MiB", proxied=True, flags=("--scrub-rate", "256KiB", "--scrub-pause", "1s")) as cluster:
        workers = [cluster.worker(*LOAD, *flags, "--max-verified", int(wanted * part) + 1, "--seconds", 3600, "--seed", lab.seed + i,
                                  "--deadline", f"{deadline}s")
                   for i, (flags, part) in enumerate(WORKERS)]
        harm = Harm(cluster, lab.seed)
        while any(worker.running() for worker in workers):
            harm.step()
            time.sleep(0.02)
        finals = [lab.finish(worker)[-1] for worker in workers]
        harm.calm()
        cluster.wait_serving(4, 90)
        after = ("--prompts", 500, "--blocks", 1, "--layers", 1, "--clients", 4, "--seed", lab.seed + 1000)
        lab.fill(cluster, *after)
        calm = lab.finish(cluster.worker(*after, "--sweep"))[-1]
        wait_for("nothing stays pinned", lambda: all(cluster.metric(name, "kvist_pinned_bytes") == 0 for name in NODES), 60)
    verified, wrong, asked = (sum(final[field] for final in finals) for field in ("hits", "wrong", "reads"))
    if verified < wanted:
        raise Fault(f"only {verified} blocks were verified")
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(harm.done.items()))
    return [Row(f"all harm at once: wrong in {verified} verified reads", wrong, "<=", 0, f"{sum(harm.done.values())} acts: {kinds}"),
            Row("all harm at once: longest stall of a read, deadlines", max(map(longest_read, finals)) / deadline, "<", 2,
                f"hit rate {verified / asked:.2f}"),
            Row("all harm at once: calls that ended in a fault", sum(final["faults"] for final in finals), "<=", 0),
            Row("after it: blocks stored and not found", calm["reads"] - calm["hits"], "<=", 0)]
