#!/usr/bin/env python3
"""The dashboards, all of them, in one place. `boards.py` writes them as JSON beside this file; `boards.py --check` fails if
what is there is another.

A board is a list of rows, a row a list of panels; places and ids follow from the order. Every query names its series by
$instance, and every rate its time by $__rate_interval, so that a board works at any scrape interval.
"""

import argparse
import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
WIDTH, HEIGHT = 24, 8
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
I = 'job=~"$job",instance=~"$instance"'  # noqa: E741
RATE = "$__rate_interval"


def rate(metric: str, labels: str = "") -> str:
    return f"rate({metric}{{{I}{',' + labels if labels else ''}}}[{RATE}])"


def quantile(q: float, metric: str, by: str = "", labels: str = "", window: str = RATE) -> str:
    series = f"{metric}_bucket{{{I}{',' + labels if labels else ''}}}"
    return f"histogram_quantile({q}, sum by (le{', ' + by if by else ''}) (rate({series}[{window}])))"


def ratio(part: str, whole: str) -> str:
    return f"{part} / ({whole} > 0)"


def panel(title: str, description: str, unit: str, *queries: tuple[str, str], kind: str = "timeseries", steps: tuple = (),
          highest: float | None = None, stacked: bool = False, width: int = 0) -> dict:
    """Queries are pairs of an expression and a legend. Steps: values from which on the colour is orange, then red."""
    colours = [{"color": "green", "value": None}]
    colours += [{"color": colour, "value": value} for colour, value in zip(("orange", "red"), steps)]
    defaults = {"unit": unit, "min": 0, "thresholds": {"mode": "absolute", "steps": colours}}
    if highest is not None:
        defaults["max"] = highest
    if kind == "timeseries":
        defaults["custom"] = {"lineWidth": 1, "fillOpacity": 25 if stacked else 8, "showPoints": "never",
                              "stacking": {"mode": "normal" if stacked else "none"},
                              "thresholdsStyle": {"mode": "line" if steps else "off"}}
    options = {"stat": {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"},
               "bargauge": {"reduceOptions": {"calcs": ["lastNotNull"]}, "orientation": "horizontal", "displayMode": "basic"},
               "timeseries": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}}
    return {"title": title, "description": description, "type": kind, "datasource": DATASOURCE, "width": width,
            "fieldConfig": {"defaults": defaults, "overrides": []}, "options": options[kind],
            "targets": [{"refId": chr(ord("A") + i), "expr": expr, "legendFormat": legend, "datasource": DATASOURCE}
                        for i, (expr, legend) in enumerate(queries)]}


def stat(title: str, description: str, unit: str, expr: str, **more) -> dict:
    return panel(title, description, unit, (expr, ""), kind="stat", **more)


def variable(name: str, label: str, query: str) -> dict:
    return {"name": name, "label": label, "type": "query", "datasource": DATASOURCE, "query": query, "refresh": 2, "multi": True,
            "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}, "sort": 1}


def board(name: str, title: str, description: str, *rows: list[dict]) -> dict:
    panels, y = [], 0
    for row in rows:
        x, height = 0, 4 if all(p["type"] == "stat" for p in row) else HEIGHT
        for one in row:
            width = one.pop("width") or WIDTH // len(row)  # five panels leave a column free
            panels.append({"id": len(panels) + 1, "gridPos": {"x": x, "y": y, "w": width, "h": height}, **one})
            x += width
        y += height
    return {"uid": f"kvist-{name}", "title": f"Kvist / {title}", "description": description, "tags": ["kvist"],
            "schemaVersion": 39, "version": 1, "editable": True, "graphTooltip": 1, "refresh": "30s", "timezone": "browser",
            "time": {"from": "now-1h", "to": "now"}, "annotations": {"list": []},
            "links": [{"type": "dashboards", "title": "Kvist", "tags": ["kvist"], "asDropdown": True, "includeVars": True,
                       "keepTime": True}],
            "templating": {"list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
                variable("job", "Job", "label_values(kvist_build_info, job)"),
                variable("instance", "Node", 'label_values(kvist_build_info{job=~"$job"}, instance)')]},
            "panels": panels}


MATCH, GET = 'op="match"', 'op="get"'
TOKEN_RATIO = ratio(f"sum({rate('kvist_hit_tokens_total', MATCH)})", f"sum({rate('kvist_lookup_tokens_total', MATCH)})")
NOT_OK, OF_GET = 'code!="ok"', 'method="get"'
FAULTS = 'code=~"aborted|data_loss|deadline_exceeded|internal|unavailable|unimplemented|unknown"'

OVERVIEW = board(
    "overview", "Overview", "Is the cluster well, and what does it save?",
    [
        stat("Nodes ready", "Nodes that take requests; red: none does.", "none", f"sum(kvist_ready{{{I}}})"),
        stat("Hit ratio, tokens", "Of the tokens that readers asked Match for under a lease, the part that was there.", "percentunit",
             TOKEN_RATIO, highest=1),
        stat("Tokens saved", "Tokens that workers fetched and need not compute, a second.", "cps",
             f"sum({rate('kvist_saved_tokens_total')})"),
        stat("Sent to readers", "Encoded bytes of blocks.", "Bps", f"sum({rate('kvist_sent_bytes_total')})"),
        stat("Stored form", "Encoded bytes of all blocks here, as a part of the 16-bit values they stand for.", "percentunit",
             ratio(f"sum(kvist_used_bytes{{{I}}})", f"sum(kvist_logical_bytes{{{I}}})"), highest=1),
        stat("Faults", "RPCs a second that ended in a fault of a node; misses and refusals are none.", "reqps",
             f"sum({rate('kvist_rpcs_total', FAULTS)})", steps=(0.1, 1)),
    ],
    [
        panel("Hit ratio", "What Match found of what was asked, in tokens, blocks and bytes. Bytes of misses are an estimate.",
              "percentunit", (TOKEN_RATIO, "tokens"),
              (ratio(f"sum({rate('kvist_hit_blocks_total', MATCH)})", f"sum({rate('kvist_lookup_blocks_total', MATCH)})"), "blocks"),
              (ratio(f"sum({rate('kvist_hit_bytes_total', MATCH)})", f"sum({rate('kvist_lookup_bytes_total', MATCH)})"), "bytes"),
              highest=1),
        panel("Bandwidth", "Encoded bytes from writers and to readers, all nodes.", "Bps",
              (f"sum({rate('kvist_sent_bytes_total')})", "to readers"), (f"sum({rate('kvist_received_bytes_total')})", "from writers")),
        panel("Memory used", "By tier. Full is what a cache should be; see the board Memory for whether it is too small.", "percentunit",
              (ratio(f"sum by (tier) (kvist_used_bytes{{{I}}})", f"sum by (tier) (kvist_capacity_bytes{{{I}}})"), "{{tier}}"), highest=1),
    ],
    [
        panel("Time of Get and Match", "Half, and 99 of 100 calls, end within this time. A Get is a whole stream of blocks.", "s",
              (quantile(0.5, "kvist_rpc_seconds", "method", 'method=~"get|match"'), "{{method}} p50"),
              (quantile(0.99, "kvist_rpc_seconds", "method", 'method=~"get|match"'), "{{method}} p99"), steps=(0.5, 1)),
        panel("Requests", "RPCs ended, a second.", "reqps", (f"sum by (method) ({rate('kvist_rpcs_total')}) > 0", "{{method}}"), stacked=True),
        panel("Misses by reason", "Blocks that Match did not find, by the reason that the node gives.", "cps",
              (f"sum by (reason) ({rate('kvist_missed_blocks_total', MATCH)}) > 0", "{{reason}}"), stacked=True),
    ])

MEMORY = board(
    "memory", "Memory", "What the tiers hold, why blocks go, and whether more memory would be hits.",
    [
        panel("Used of capacity", "By node and tier. Blocks are evicted only when a tier is full.", "percentunit",
              (ratio(f"sum by (instance, tier) (kvist_used_bytes{{{I}}})", f"sum by (instance, tier) (kvist_capacity_bytes{{{I}}})"),
               "{{instance}} {{tier}}"), highest=1),
        panel("Capacity, used, pinned, reserved", "Bytes over all nodes. Pinned cannot be evicted; reserved belongs to writers.", "bytes",
              (f"sum(kvist_capacity_bytes{{{I}}})", "capacity"), (f"sum(kvist_used_bytes{{{I}}})", "used"),
              (f"sum(kvist_pinned_bytes{{{I}}})", "pinned"), (f"sum(kvist_reserved_bytes{{{I}}})", "reserved")),
        panel("Pinned of capacity", "By node. Above a half, writers are about to be refused.", "percentunit",
              (ratio(f"sum by (instance) (kvist_pinned_bytes{{{I}}})", f"sum by (instance) (kvist_capacity_bytes{{{I}}})"), "{{instance}}"),
              steps=(0.3, 0.5), highest=1),
    ],
    [
        panel("Eviction age beside reuse gap", "The honest sign of size: while the reuse gap (p90) lies above the eviction age (p50), "
              "blocks are evicted that would have been asked for again. Over the last hour.", "s",
              (quantile(0.9, "kvist_reuse_gap_seconds", labels='tier="host"', window="1h"), "reuse gap p90"),
              (quantile(0.5, "kvist_eviction_age_seconds", labels='tier="host"', window="1h"), "eviction age p50"),
              (quantile(0.5, "kvist_block_lifetime_seconds", labels='tier="host"', window="1h"), "lifetime p50")),
        panel("Blocks that go, by cause", "Evicted for room, erased by request, dropped as damaged, expired.", "cps",
              (f"sum by (cause) ({rate('kvist_removed_blocks_total')})", "{{cause}}"), stacked=True),
        panel("Bytes that go, by cause", "Beside the bytes that come. Evicted close to stored and few hits: memory turns over in vain.",
              "Bps", (f"sum by (cause) ({rate('kvist_removed_bytes_total')})", "{{cause}}"),
              (f"sum({rate('kvist_received_bytes_total')})", "received")),
    ],
    [
        panel("Logical against stored bytes", "What the blocks stand for as 16-bit values, and what they take.", "bytes",
              (f"sum(kvist_logical_bytes{{{I}}})", "logical"), (f"sum(kvist_used_bytes{{{I}}})", "stored")),
        panel("Blocks and tokens", "Held by all nodes. A token whose KV stands on two nodes counts twice, as does one of two ranks.", "short",
              (f"sum(kvist_blocks{{{I}}})", "blocks"), (f"sum(kvist_tokens{{{I}}})", "tokens")),
        panel("Leases", "Under way, and those that ended by their deadline: workers that died or never release.", "short",
              (f"sum(kvist_leases{{{I}}})", "leases"), (f"sum({rate('kvist_expired_leases_total')})", "expired a second")),
    ],
    [
        panel("Refused reservations", "Writers that found no room though everything evictable was evicted.", "cps",
              (f"sum by (instance) ({rate('kvist_refused_reservations_total')})", "{{instance}}"), steps=(1, 10)),
        panel("Resident memory of the process", "Beside the capacity: the rest is the index, connections and requests under way.", "bytes",
              (f"process_resident_memory_bytes{{{I}}}", "{{instance}} resident"),
              (f"sum by (instance) (kvist_capacity_bytes{{{I},tier=\"host\"}})", "{{instance}} capacity")),
    ])

HITS = board(
    "hits", "Hit rates", "What is found, what is not, and why. Match is what readers look for; Get is what they then take.",
    [
        panel("Tokens asked and found", "By Match under a lease. A missed block counts as the mean of the blocks stored on its node.", "cps",
              (f"sum({rate('kvist_lookup_tokens_total', MATCH)})", "asked"), (f"sum({rate('kvist_hit_tokens_total', MATCH)})", "found"),
              (f"sum({rate('kvist_missed_tokens_total', MATCH)})", "missed")),
        panel("Blocks asked and found", "The same in blocks: the exact count.", "cps",
              (f"sum({rate('kvist_lookup_blocks_total', MATCH)})", "asked"), (f"sum({rate('kvist_hit_blocks_total', MATCH)})", "found"),
              (f"sum({rate('kvist_missed_blocks_total', MATCH)})", "missed")),
        panel("Bytes asked and found", "The same in encoded bytes; those of misses are an estimate.", "Bps",
              (f"sum({rate('kvist_lookup_bytes_total', MATCH)})", "asked"), (f"sum({rate('kvist_hit_bytes_total', MATCH)})", "found"),
              (f"sum({rate('kvist_missed_bytes_total', MATCH)})", "missed")),
    ],
    [
        panel("Hit ratio by node, tokens", "One node below the others: it joined lately, or its blocks are evicted sooner.", "percentunit",
              (ratio(f"sum by (instance) ({rate('kvist_hit_tokens_total', MATCH)})",
                     f"sum by (instance) ({rate('kvist_lookup_tokens_total', MATCH)})"), "{{instance}}"), highest=1),
        panel("Hits by tier", "Reads that were found, by the tier that served them.", "cps",
              (f"sum by (tier) ({rate('kvist_tier_hit_blocks_total')})", "{{tier}}"), stacked=True),
        panel("Tokens saved", "That workers fetched and need not compute, by node.", "cps",
              (f"sum by (instance) ({rate('kvist_saved_tokens_total')})", "{{instance}}"), stacked=True),
    ],
    [
        panel("Misses by reason", "Of Match. never_stored: new prompts, or another namespace; evicted: too little memory; the others are rare.",
              "cps", (f"sum by (reason) ({rate('kvist_missed_blocks_total', MATCH)})", "{{reason}}"), stacked=True),
        panel("Misses of Get by reason", "Blocks that Match had found, or that were asked for without it, and that Get did not deliver.", "cps",
              (f"sum by (reason) ({rate('kvist_missed_blocks_total', GET)})", "{{reason}}"), stacked=True),
        panel("Prefix depth", "Leading hits of the chains that Match asked a node for, in blocks: its part of the prompts.", "short",
              (quantile(0.5, "kvist_match_depth_blocks"), "p50"), (quantile(0.9, "kvist_match_depth_blocks"), "p90"),
              (ratio(f"sum({rate('kvist_match_depth_blocks_sum')})", f"sum({rate('kvist_match_depth_blocks_count')})"), "mean")),
    ])

REQUESTS = board(
    "requests", "Requests", "Rate, errors and duration of every method, and what the nodes refuse.",
    [
        panel("Rate by method", "RPCs ended, a second.", "reqps", (f"sum by (method) ({rate('kvist_rpcs_total')})", "{{method}}"), stacked=True),
        panel("Errors by code", "Everything but ok. already_exists and resource_exhausted are answers, not faults.", "reqps",
              (f"sum by (code) ({rate('kvist_rpcs_total', NOT_OK)})", "{{code}}"), stacked=True),
        panel("Faults of all requests", "The part that ends in a fault of the node, by node.", "percentunit",
              (ratio(f"sum by (instance) ({rate('kvist_rpcs_total', FAULTS)})", f"sum by (instance) ({rate('kvist_rpcs_total')})"),
               "{{instance}}"), steps=(0.001, 0.01)),
    ],
    [
        panel("Duration, p50", "Half of the calls end within this time.", "s",
              (quantile(0.5, "kvist_rpc_seconds", "method", 'method=~"match|get|put"'), "{{method}}")),
        panel("Duration, p99", "99 of 100 calls end within this time.", "s",
              (quantile(0.99, "kvist_rpc_seconds", "method", 'method=~"match|get|put"'), "{{method}}"), steps=(0.5, 1)),
        panel("Bandwidth of a Get stream", "Bytes sent over the time that streams were open, by node. Below your prefill's speed a hit costs time.",
              "Bps", (ratio(f"sum by (instance) ({rate('kvist_sent_bytes_total')})",
                            f"sum by (instance) ({rate('kvist_rpc_seconds_sum', OF_GET)})"), "{{instance}}")),
    ],
    [
        panel("Gets in flight", "Streams that are open, by node.", "short", (f"kvist_gets_in_flight{{{I}}}", "{{instance}}")),
        panel("Bytes still to send", "Of those streams.", "bytes", (f"kvist_queued_bytes{{{I}}}", "{{instance}}")),
        panel("Refusals by limit", "Requests turned away before any work, with a hint when to come again.", "reqps",
              (f"sum by (limit) ({rate('kvist_overload_refusals_total')})", "{{limit}}"), stacked=True, steps=(1, 10)),
    ],
    [
        panel("Streams ended by the node", "Of slow readers and writers, or past their deadline, to get back what they hold.", "cps",
              (f"sum by (cause) ({rate('kvist_ended_streams_total')})", "{{cause}}"), stacked=True),
        panel("CPU", "Cores that each node uses.", "short", (f"sum by (instance) ({rate('process_cpu_seconds_total')})", "{{instance}}")),
        panel("File descriptors", "Open, of those allowed.", "percentunit",
              (f"process_open_fds{{{I}}} / process_max_fds{{{I}}}", "{{instance}}"), steps=(0.6, 0.8), highest=1),
    ])

CLUSTER = board(
    "cluster", "Cluster", "Who is a member, who owns what, and what moves.",
    [
        panel("View", "Number of each node's view. Lines apart: nodes place keys differently, which costs misses.", "none",
              (f"kvist_view{{{I}}}", "{{instance}}")),
        panel("Members by state", "As each node's view says; the largest of all nodes.", "short",
              (f"max by (state) (kvist_members{{{I}}})", "{{state}}")),
        panel("Share of the keys", "The part of all keys that each node says it owns; all together 1.", "percentunit",
              (f"kvist_owned_ratio{{{I}}}", "{{instance}}"), stacked=True, highest=1),
    ],
    [
        panel("Ramp", "The part of its weight that a joining node takes over, up to 1.", "percentunit", (f"kvist_ramp{{{I}}}", "{{instance}}"),
              highest=1),
        panel("State", "Nodes by the state that they say they are in.", "short", (f"sum by (state) (kvist_state{{{I}}})", "{{state}}"), stacked=True),
        panel("Source of the members", "1 while etcd (or the file) answers, and while the node's record stands there; the least of all nodes.", "none",
              (f"min(kvist_membership_connected{{{I}}})", "connected"), (f"min(kvist_membership_registered{{{I}}})", "registered"), highest=1),
    ],
    [
        panel("Copies to other nodes", "Blocks sent: replicas, hot segments, hand-overs; and what was given up.", "cps",
              (f"sum({rate('kvist_copied_blocks_total')})", "copied"), (f"sum({rate('kvist_copies_failed_total')})", "failed"),
              (f"sum({rate('kvist_copies_dropped_total')})", "queue full")),
        panel("Bytes of copies", "Sent to other nodes, by node.", "Bps", (f"sum by (instance) ({rate('kvist_copied_bytes_total')})", "{{instance}}")),
        panel("Blocks fetched from others", "Adopted from a segment's previous owner, and damaged ones fetched again.", "cps",
              (f"sum({rate('kvist_adopted_blocks_total')})", "adopted"), (f"sum({rate('kvist_refetched_blocks_total')})", "refetched")),
    ],
    [
        panel("Bytes sent by node", "To readers. Far apart: one prompt or one share is hot.", "Bps",
              (f"sum by (instance) ({rate('kvist_sent_bytes_total')})", "{{instance}}")),
        panel("Hot segments", "Segments of which extra copies stand elsewhere, because they are read so much.", "short",
              (f"kvist_hot_segments{{{I}}}", "{{instance}}")),
        panel("Drain", "Blocks that draining nodes planned to hand over, have sent, and could not send.", "short",
              (f"sum by (state) (kvist_drain_blocks{{{I}}})", "{{state}}")),
    ],
    [
        panel("Damage", "Blocks whose bytes were not those written, by what found them; none was served.", "cps",
              (f"sum by (found_by) ({rate('kvist_damaged_blocks_total')})", "{{found_by}}"), steps=(0.001,)),
        panel("Blocks refused and in conflict", "Refused at their commit, by cause; and copies with other bytes than the block that is there.", "cps",
              (f"sum by (cause) ({rate('kvist_refused_blocks_total')})", "refused, {{cause}}"),
              (f"sum({rate('kvist_conflicting_blocks_total')})", "in conflict"), steps=(0.001,)),
        panel("Scrubbed", "Resting blocks verified, by node.", "cps", (f"sum by (instance) ({rate('kvist_scrubbed_blocks_total')})", "{{instance}}")),
    ],
    [
        panel("Registrations", "How often each node had to register. More than one: its lease ended under it.", "short",
              (f"kvist_registrations_total{{{I}}}", "{{instance}}"), steps=(2, 5)),
        panel("Uptime", "Since each process started.", "s", (f"time() - process_start_time_seconds{{{I}}}", "{{instance}}")),
        panel("Versions", "Nodes by the version that they run.", "none", (f"count by (version) (kvist_build_info{{{I}}})", "{{version}}")),
    ])

DEVICE = board(
    "device", "Device", "The tier in GPU memory; empty but for the state where nodes have none.",
    [
        panel("State", "Nodes by the state of their device tier. absent: asked for, and not to be had; lost: it failed.", "short",
              (f"sum by (state) (kvist_device_state{{{I}}})", "{{state}}"), stacked=True),
        panel("Device memory", "Bytes of the device tiers.", "bytes",
              (f"sum(kvist_capacity_bytes{{{I},tier=\"device\"}})", "capacity"), (f"sum(kvist_used_bytes{{{I},tier=\"device\"}})", "used")),
        panel("Moves", "Blocks copied up for readers of device memory, and down before they would be evicted.", "cps",
              (f"sum by (direction) ({rate('kvist_moved_blocks_total')})", "{{direction}}")),
    ],
    [
        panel("Bytes moved", "Over the bus.", "Bps", (f"sum by (direction) ({rate('kvist_moved_bytes_total')})", "{{direction}}")),
        panel("Moves not made", "Refused by queue, bandwidth or room; called off; evicted without a copy elsewhere.", "cps",
              (f"sum by (direction) ({rate('kvist_refused_moves_total')})", "refused, {{direction}}"),
              (f"sum({rate('kvist_dropped_moves_total')})", "called off"),
              (f"sum({rate('kvist_lost_to_eviction_blocks_total')})", "lost to eviction")),
        panel("Staging", "Pinned host memory that the copies go through.", "bytes",
              (f"sum(kvist_staging_bytes{{{I}}})", "all"), (f"sum(kvist_staging_free_bytes{{{I}}})", "free")),
        panel("Late copies", "Their deadline has passed, and the GPU has not let go of their memory. Eight in a row: the tier is given up.",
              "short", (f"sum by (instance) (kvist_late_copies{{{I}}})", "{{instance}}"), steps=(1, 8)),
    ],
    [
        panel("CUDA IPC: workers and pins", "Workers on the same GPU that have mapped the tier, and the blocks that they pin.", "short",
              (f"sum(kvist_device_ipc_workers{{{I}}})", "workers"), (f"sum(kvist_device_ipc_pins{{{I}}})", "pins")),
        panel("CUDA IPC: blocks", "Given to workers; pins taken back at their deadline; workers turned away.", "cps",
              (f"sum({rate('kvist_device_ipc_blocks_total')})", "blocks"),
              (f"sum({rate('kvist_device_ipc_expired_pins_total')})", "expired pins"),
              (f"sum({rate('kvist_device_ipc_refused_workers_total')})", "refused workers")),
        panel("NCCL: transfers", "By how they ended.", "cps", (f"sum by (result) ({rate('kvist_nccl_transfers_total')})", "{{result}}")),
        panel("NCCL: bytes", "Sent by those, and offered to transfers that are not started.", "bytes",
              (f"sum(increase(kvist_nccl_sent_bytes_total{{{I}}}[{RATE}]))", "sent in the last step"),
              (f"sum(kvist_nccl_offered_bytes{{{I}}})", "offered")),
        panel("NCCL: communicators", "Open; ended, by how; workers with another version; threads stuck inside NCCL.", "short",
              (f"sum(kvist_nccl_communicators{{{I}}})", "open"),
              (f"sum by (result) (kvist_nccl_ended_communicators_total{{{I}}})", "ended, {{result}}"),
              (f"sum(kvist_nccl_refused_versions_total{{{I}}})", "other versions"),
              (f"sum(kvist_nccl_stuck_threads{{{I}}})", "stuck threads")),
    ])

CODEC = board(
    "codec", "Codec", "In what form blocks come, and at what quality.",
    [
        panel("Stored form", "Encoded bytes over the 16-bit values they stand for, of the blocks that come, by codec.", "percentunit",
              (ratio(f"sum by (codec) ({rate('kvist_stored_bytes_total')})", f"sum by (codec) ({rate('kvist_stored_logical_bytes_total')})"),
               "{{codec}}"), highest=1),
        panel("Blocks stored, by codec", "Copies of other nodes included.", "cps",
              (f"sum by (codec) ({rate('kvist_stored_blocks_total')})", "{{codec}}"), stacked=True),
        panel("Bytes stored, by codec", "Encoded.", "Bps", (f"sum by (codec) ({rate('kvist_stored_bytes_total')})", "{{codec}}"), stacked=True),
    ],
    [
        panel("Raised tiles", "Tiles a block that were kept at a higher precision than the codec's, to keep its floor.", "short",
              (ratio(f"sum by (codec) ({rate('kvist_stored_raised_tiles_total')})", f"sum by (codec) ({rate('kvist_stored_blocks_total')})"),
               "{{codec}}")),
        panel("SQNR of the worst tile, lowest tenth", "One block in ten has a tile at or below this, as its writer measured it. Exact codecs "
              "lie above all bounds (60 dB).", "dB",
              (quantile(0.1, "kvist_stored_sqnr_decibels", "codec"), "{{codec}}")),
        panel("SQNR of the worst tile, median", "Half of the blocks have their worst tile at or below this.", "dB",
              (quantile(0.5, "kvist_stored_sqnr_decibels", "codec"), "{{codec}}")),
    ])

BOARDS = (OVERVIEW, MEMORY, HITS, REQUESTS, CLUSTER, DEVICE, CODEC)


def files() -> dict[pathlib.Path, str]:
    return {HERE / f"{one['uid'].removeprefix('kvist-')}.json": json.dumps(one, indent=1) + "\n" for one in BOARDS}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not what would be written")
    wanted = files()
    if not parser.parse_args().check:
        for path, text in wanted.items():
            path.write_text(text, encoding="utf-8")
        return 0
    stale = [path.name for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    stale += [path.name for path in HERE.glob("*.json") if path not in wanted]
    if stale:
        print(f"not what boards.py makes: {', '.join(stale)}; run deploy/grafana/boards.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
