"""Chaos with a byte oracle: harm to real processes under verified load, judged.

    build/venv/bin/python tests/chaos/chaos.py [--scale full|short|test] [--network auto|namespaces|loopback] [--seed N] [SCENARIO ...]

Prints a table and writes build/chaos.json; logs of nodes and workers are in build/chaos/. Exit: 0 if every figure was reached and no value
was wrong, 1 if not, 2 if it could not be run.
"""
import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import mixed
import overload
import rolling
import scenarios
from cluster import Programs

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SCALES = {"full": scenarios.FULL, "short": scenarios.SHORT, "test": scenarios.TEST}
ALL = {scenario.__name__: scenario for scenario in [*scenarios.ALL, overload.overload, rolling.rolling_restart, mixed.mixed]}


def totals(finals: list[dict]) -> dict:
    misses: dict[str, int] = {}
    for final in finals:
        for reason, count in final["misses"].items():
            misses[reason] = misses.get(reason, 0) + count
    summed = ("reads", "hits", "wrong", "stored", "put_failures", "faults", "retries", "hedges", "failovers", "damaged")
    longest = {call: max((final["calls"][call]["longest_s"] for final in finals), default=0) for call in ("match", "get", "put")}
    return {**{field: sum(final[field] for final in finals) for field in summed}, "misses": misses, "longest_s": longest}


def run(lab: scenarios.Lab, names: list[str]) -> tuple[list[dict], list[str]]:
    rows, faults = [], []
    for name in names:
        start = time.monotonic()
        try:
            found = ALL[name](lab)
        except (OSError, RuntimeError, subprocess.SubprocessError) as fault:
            faults.append(f"{name}: {fault}")
            print(f"{name}: could not be judged: {fault}", flush=True)
            continue
        for row in found:
            rows.append({"scenario": name, "what": row.what, "figure": row.figure, "relation": row.relation, "reach": row.reach,
                         "ok": row.ok, "note": row.note, "seconds": round(time.monotonic() - start, 1)})
            print(f"{row.what:72} {row.figure:10.4f} {row.relation:2} {row.reach:<8g} {'ok' if row.ok else 'MISSED':6} {row.note}", flush=True)
    return rows, faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="full",
                        help="short: seconds in place of minutes; test: short, with long deadlines, for busy machines")
    parser.add_argument("--network", choices=("auto", "namespaces", "loopback"), default="auto")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000)
    parser.add_argument("--verified", type=int, help="blocks that the mixed scenario reads and compares")
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "bazel-bin", help="where the programs are")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build", help="for chaos.json and the logs")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(ALL))
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.scenarios if name not in ALL]:
        print(f"no scenario {', '.join(unknown)}; there are {', '.join(ALL)}", file=sys.stderr)
        return 2
    binaries = arguments.bin.resolve()  # the link may be set anew by another build meanwhile
    programs = Programs(binaries / "services/node/kvistd", binaries / "services/ctl/kvist", binaries / "tests/chaos/oracle_worker")
    scale = SCALES[arguments.scale]
    if arguments.verified:
        scale = scenarios.dataclasses.replace(scale, mixed_verified=arguments.verified)
    logs = arguments.out / "chaos"
    shutil.rmtree(logs, ignore_errors=True)
    lab = scenarios.Lab(programs, logs, arguments.network, scale, arguments.seed)
    print(f"seed {arguments.seed}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    rows, faults = run(lab, arguments.scenarios or list(ALL))
    for fault in faults:
        print(f"NO VERDICT {fault}")
    sums = totals(lab.finals)
    print(f"{sums['hits']} blocks read and compared, {sums['wrong']} wrong; misses: {sums['misses']}; longest call, s: {sums['longest_s']}")
    print(lab.network_is)
    ok = not faults and rows and all(row["ok"] for row in rows) and sums["wrong"] == 0
    report = {"ok": bool(ok), "seed": arguments.seed, "network": lab.network_is, "scale": scenarios.dataclasses.asdict(scale),
              "rows": rows, "faults": faults, "totals": sums, "workers": lab.finals}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "chaos.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0 if ok else 2 if faults else 1


def end(*_) -> None:
    raise SystemExit(2)  # so that every `with` ends its processes


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    sys.exit(main())
