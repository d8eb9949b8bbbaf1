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


def total(metric: str, by: str = "", labels: str = "") -> str:
    """The rate over all nodes, or by a label."""
    return f"sum{f' by ({by}) ' if by else ''}({rate(metric, labels)})"


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


def board(name: str, title: str, description: str, *rows: list[dict], variables: tuple[dict, ...] = ()) -> dict:
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
                variable("instance", "Node", 'label_values(kvist_build_info{job=~"$job"}, instance)'), *variables]},
            "panels": panels}


NAMESPACE = 'kv_namespace=~"$kv_namespace"'
MATCH, GET = 'op="match"', 'op="get"'
TOKEN_RATIO = ratio(total("kvist_hit_tokens_total", labels=MATCH), total("kvist_lookup_tokens_total", labels=MATCH))
NOT_OK, OF_GET = 'code!="ok"', 'method="get"'
FAULTS = 'code=~"aborted|data_loss|deadline_exceeded|internal|unavailable|unimplemented|unknown"'

OVERVIEW = board(
    "overview", "Overview", "Is the cluster well, and what does it save?",
    [
        stat("Nodes ready", "Nodes that take requests; the others say on /readyz why not.", "none", f"sum(kvist_ready{{{I}}})"),
        stat("Hit ratio, tokens", "Of the tokens that readers asked Match for under a lease, the part that was there.", "percentunit",
             TOKEN_RATIO, highest=1),
        stat("Tokens saved", "Tokens that workers fetched and need not compute, a second.", "cps",
             total("kvist_saved_tokens_total")),
        stat("Sent to readers", "Encoded bytes of blocks.", "Bps", total("kvist_sent_bytes_total")),
        stat("Stored form", "Encoded bytes of all blocks here, as a part of the 16-bit values they stand for.", "percentunit",
             ratio(f"sum(kvist_used_bytes{{{I}}})", f"sum(kvist_logical_bytes{{{I}}})"), highest=1),
        stat("Faults", "RPCs a second that ended in a fault of a node; misses and refusals are none.", "reqps",
             total("kvist_rpcs_total", labels=FAULTS), steps=(0.1, 1)),
    ],
    [
        panel("Hit ratio", "What Match found of what was asked, in tokens, blocks and bytes. Bytes of misses are an estimate.",
              "percentunit", (TOKEN_RATIO, "tokens"),
              (ratio(total("kvist_hit_blocks_total", labels=MATCH), total("kvist_lookup_blocks_total", labels=MATCH)), "blocks"),
              (ratio(total("kvist_hit_bytes_total", labels=MATCH), total("kvist_lookup_bytes_total", labels=MATCH)), "bytes"),
              highest=1),
        panel("Bandwidth", "Encoded bytes from writers and to readers, all nodes.", "Bps",
              (total("kvist_sent_bytes_total"), "to readers"), (total("kvist_received_bytes_total"), "from writers")),
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
              (total("kvist_removed_blocks_total", "cause"), "{{cause}}"), stacked=True),
        panel("Bytes that go, by cause", "Beside the bytes that come. Evicted close to stored and few hits: memory turns over in vain.",
              "Bps", (total("kvist_removed_bytes_total", "cause"), "{{cause}}"),
              (total("kvist_received_bytes_total"), "received")),
    ],
    [
        panel("Logical against stored bytes", "What the blocks stand for as 16-bit values, and what they take.", "bytes",
              (f"sum(kvist_logical_bytes{{{I}}})", "logical"), (f"sum(kvist_used_bytes{{{I}}})", "stored")),
        panel("Blocks and tokens", "Held by all nodes. A token whose KV stands on two nodes counts twice, as does one of two ranks.", "short",
              (f"sum(kvist_blocks{{{I}}})", "blocks"), (f"sum(kvist_tokens{{{I}}})", "tokens")),
        panel("Leases", "Under way, and those that ended by their deadline: workers that died or never release.", "short",
              (f"sum(kvist_leases{{{I}}})", "leases"), (total("kvist_expired_leases_total"), "expired a second")),
    ],
    [
        panel("Refused reservations", "Writers that found no room though everything evictable was evicted.", "cps",
              (total("kvist_refused_reservations_total", "instance"), "{{instance}}"), steps=(1, 10)),
        panel("Resident memory of the process", "Beside the capacity: the rest is the index, connections and requests under way.", "bytes",
              (f"process_resident_memory_bytes{{{I}}}", "{{instance}} resident"),
              (f"sum by (instance) (kvist_capacity_bytes{{{I},tier=\"host\"}})", "{{instance}} capacity")),
    ])

HITS = board(
    "hits", "Hit rates", "What is found, what is not, and why. Match is what readers look for; Get is what they then take.",
    [
        panel("Tokens asked and found", "By Match under a lease. A missed block counts as the mean of the blocks stored on its node.", "cps",
              (total("kvist_lookup_tokens_total", labels=MATCH), "asked"), (total("kvist_hit_tokens_total", labels=MATCH), "found"),
              (total("kvist_missed_tokens_total", labels=MATCH), "missed")),
        panel("Blocks asked and found", "The same in blocks: the exact count.", "cps",
              (total("kvist_lookup_blocks_total", labels=MATCH), "asked"), (total("kvist_hit_blocks_total", labels=MATCH), "found"),
              (total("kvist_missed_blocks_total", labels=MATCH), "missed")),
        panel("Bytes asked and found", "The same in encoded bytes; those of misses are an estimate.", "Bps",
              (total("kvist_lookup_bytes_total", labels=MATCH), "asked"), (total("kvist_hit_bytes_total", labels=MATCH), "found"),
              (total("kvist_missed_bytes_total", labels=MATCH), "missed")),
    ],
    [
        panel("Hit ratio by node, tokens", "One node below the others: it joined lately, or its blocks are evicted sooner.", "percentunit",
              (ratio(total("kvist_hit_tokens_total", "instance", MATCH),
                     total("kvist_lookup_tokens_total", "instance", MATCH)), "{{instance}}"), highest=1),
        panel("Hits by tier", "Reads that were found, by the tier that served them.", "cps",
              (total("kvist_tier_hit_blocks_total", "tier"), "{{tier}}"), stacked=True),
        panel("Tokens saved", "That workers fetched and need not compute, by node.", "cps",
              (total("kvist_saved_tokens_total", "instance"), "{{instance}}"), stacked=True),
    ],
    [
        panel("Misses by reason", "Of Match. never_stored: new prompts, or another namespace; evicted: too little memory; the others are rare.",
              "cps", (total("kvist_missed_blocks_total", "reason", MATCH), "{{reason}}"), stacked=True),
        panel("Misses of Get by reason", "Blocks that Match had found, or that were asked for without it, and that Get did not deliver.", "cps",
              (total("kvist_missed_blocks_total", "reason", GET), "{{reason}}"), stacked=True),
        panel("Prefix depth", "Leading hits of the chains that Match asked a node for, in blocks: its part of the prompts.", "short",
              (quantile(0.5, "kvist_match_depth_blocks"), "p50"), (quantile(0.9, "kvist_match_depth_blocks"), "p90"),
              (ratio(total("kvist_match_depth_blocks_sum"), total("kvist_match_depth_blocks_count")), "mean")),
    ],
    [
        panel("Found by namespace", "Blocks that Get sent, by the first digits of the namespace's digest (kvist explain and /debug/namespaces "
              "tell them in full). Of each node the first 64 namespaces have a name; the rest is other.", "cps",
              (total("kvist_namespace_hit_blocks_total", "kv_namespace", NAMESPACE), "{{kv_namespace}}"), stacked=True),
        panel("Missed by namespace", "Blocks that Get did not find. Match knows no namespaces: what it did not find is never asked of Get.", "cps",
              (total("kvist_namespace_missed_blocks_total", "kv_namespace", NAMESPACE), "{{kv_namespace}}"), stacked=True),
        panel("Stored by namespace", "Blocks that came, copies of other nodes included. Much stored and nothing found: a namespace that no "
              "reader asks for.", "cps",
              (total("kvist_namespace_stored_blocks_total", "kv_namespace", NAMESPACE), "{{kv_namespace}}"), stacked=True),
    ],
    [
        panel("Hot prefixes", "Segments that were read lately, and those of which extra copies stand elsewhere because they are read so much.",
              "short", (f"sum(kvist_read_segments{{{I}}})", "read lately"), (f"sum(kvist_hot_segments{{{I}}})", "with extra copies")),
        panel("Bytes of hot prefixes", "The part of the bytes read lately that was of hot segments, by node; /debug/hot says which.", "percentunit",
              (f"kvist_hot_read_ratio{{{I}}}", "{{instance}}"), highest=1),
        panel("Bytes of the most read prefix", "The part of the one segment that is read most, by node. Close to 1: one prompt is all that is read.",
              "percentunit", (f"kvist_most_read_ratio{{{I}}}", "{{instance}}"), highest=1),
    ], variables=(variable("kv_namespace", "Namespace", 'label_values(kvist_namespace_stored_blocks_total{job=~"$job"}, kv_namespace)'),))

REQUESTS = board(
    "requests", "Requests", "Rate, errors and duration of every method, and what the nodes refuse.",
    [
        panel("Rate by method", "RPCs ended, a second.", "reqps", (total("kvist_rpcs_total", "method"), "{{method}}"), stacked=True),
        panel("Errors by code", "Everything but ok. already_exists and resource_exhausted are answers, not faults.", "reqps",
              (total("kvist_rpcs_total", "code", NOT_OK), "{{code}}"), stacked=True),
        panel("Faults of all requests", "The part that ends in a fault of the node, by node.", "percentunit",
              (ratio(total("kvist_rpcs_total", "instance", FAULTS), total("kvist_rpcs_total", "instance")),
               "{{instance}}"), steps=(0.001, 0.01)),
    ],
    [
        panel("Duration, p50", "Half of the calls end within this time.", "s",
              (quantile(0.5, "kvist_rpc_seconds", "method", 'method=~"match|get|put"'), "{{method}}")),
        panel("Duration, p99", "99 of 100 calls end within this time.", "s",
              (quantile(0.99, "kvist_rpc_seconds", "method", 'method=~"match|get|put"'), "{{method}}"), steps=(0.5, 1)),
        panel("Bandwidth of a Get stream", "Bytes sent over the time that streams were open, by node. Below your prefill's speed a hit costs time.",
              "Bps", (ratio(total("kvist_sent_bytes_total", "instance"),
                            total("kvist_rpc_seconds_sum", "instance", OF_GET)), "{{instance}}")),
    ],
    [
        panel("Gets in flight", "Streams that are open, by node.", "short", (f"kvist_gets_in_flight{{{I}}}", "{{instance}}")),
        panel("Bytes still to send", "Of those streams.", "bytes", (f"kvist_queued_bytes{{{I}}}", "{{instance}}")),
        panel("Refusals by limit", "Requests turned away before any work, with a hint when to come again.", "reqps",
              (total("kvist_overload_refusals_total", "limit"), "{{limit}}"), stacked=True, steps=(1, 10)),
    ],
    [
        panel("Streams ended by the node", "Of slow readers and writers, or past their deadline, to get back what they hold.", "cps",
              (total("kvist_ended_streams_total", "cause"), "{{cause}}"), stacked=True),
        panel("CPU", "Cores that each node uses.", "short", (total("process_cpu_seconds_total", "instance"), "{{instance}}")),
        panel("File descriptors", "Open, of those allowed.", "percentunit",
              (f"process_open_fds{{{I}}} / process_max_fds{{{I}}}", "{{instance}}"), steps=(0.6, 0.8), highest=1),
        panel("Connections", "To the data port: open, and turned away a second because --max-connections are.", "short",
              (f"kvist_connections{{{I}}}", "{{instance}}"), (total("kvist_refused_connections_total"), "turned away")),
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
        panel("Certificates end in", "Time until the certificate that each node shows ends. Empty in plaintext.", "s",
              (f"kvist_tls_certificate_expiry_seconds{{{I}}} - time()", "{{instance}}")),
        panel("TLS files", "Sets that were taken, and that were found bad, in an hour; and nodes whose latest set is bad: they go on with an "
              "earlier one.", "short", (f"sum by (result) (increase(kvist_tls_reloads_total{{{I}}}[1h]))", "{{result}}"),
              (f"sum(kvist_tls_reload_failed{{{I}}})", "nodes with a bad one")),
    ],
    [
        panel("Copies to other nodes", "Blocks sent: replicas, hot segments, hand-overs; and what was given up.", "cps",
              (total("kvist_copied_blocks_total"), "copied"), (total("kvist_copies_failed_total"), "failed"),
              (total("kvist_copies_dropped_total"), "queue full")),
        panel("Bytes of copies", "Sent to other nodes, by node.", "Bps", (total("kvist_copied_bytes_total", "instance"), "{{instance}}")),
        panel("Blocks fetched from others", "Adopted from a segment's previous owner, and damaged ones fetched again.", "cps",
              (total("kvist_adopted_blocks_total"), "adopted"), (total("kvist_refetched_blocks_total"), "refetched")),
    ],
    [
        panel("Bytes sent by node", "To readers. Far apart: one prompt or one share is hot.", "Bps",
              (total("kvist_sent_bytes_total", "instance"), "{{instance}}")),
        panel("Hot segments", "Segments of which extra copies stand elsewhere, because they are read so much.", "short",
              (f"kvist_hot_segments{{{I}}}", "{{instance}}")),
        panel("Drain", "Blocks that draining nodes planned to hand over, have sent, and could not send.", "short",
              (f"sum by (state) (kvist_drain_blocks{{{I}}})", "{{state}}")),
    ],
    [
        panel("Damage", "Blocks whose bytes were not those written, by what found them; none was served. device copies: the host's "
              "block was whole, its copy on the GPU was not.", "cps",
              (total("kvist_damaged_blocks_total", "found_by"), "{{found_by}}"),
              (total("kvist_dropped_device_copies_total"), "device copies"), steps=(0.001,)),
        panel("Blocks refused and in conflict", "Refused at their commit, by cause; and copies with other bytes than the block that is there.", "cps",
              (total("kvist_refused_blocks_total", "cause"), "refused, {{cause}}"),
              (total("kvist_conflicting_blocks_total"), "in conflict"), steps=(0.001,)),
        panel("Scrubbed", "Resting blocks verified, by node.", "cps", (total("kvist_scrubbed_blocks_total", "instance"), "{{instance}}")),
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
              (total("kvist_moved_blocks_total", "direction"), "{{direction}}")),
    ],
    [
        panel("Bytes moved", "Over the bus.", "Bps", (total("kvist_moved_bytes_total", "direction"), "{{direction}}")),
        panel("Moves not made", "Refused by queue, bandwidth or room; called off; evicted without a copy elsewhere.", "cps",
              (total("kvist_refused_moves_total", "direction"), "refused, {{direction}}"),
              (total("kvist_dropped_moves_total"), "called off"),
              (total("kvist_lost_to_eviction_blocks_total"), "lost to eviction")),
        panel("Staging", "Pinned host memory that the copies go through.", "bytes",
              (f"sum(kvist_staging_bytes{{{I}}})", "all"), (f"sum(kvist_staging_free_bytes{{{I}}})", "free")),
        panel("Late copies", "Their deadline has passed, and the GPU has not let go of their memory. Eight in a row: the tier is given up.",
              "short", (f"sum by (instance) (kvist_late_copies{{{I}}})", "{{instance}}"), steps=(1, 8)),
    ],
    [
        panel("CUDA IPC: workers and pins", "Workers on the same GPU that have mapped the tier, and the blocks that they pin.", "short",
              (f"sum(kvist_device_ipc_workers{{{I}}})", "workers"), (f"sum(kvist_device_ipc_pins{{{I}}})", "pins")),
        panel("CUDA IPC: blocks", "Given to workers; pins taken back at their deadline; workers turned away.", "cps",
              (total("kvist_device_ipc_blocks_total"), "blocks"),
              (total("kvist_device_ipc_expired_pins_total"), "expired pins"),
              (total("kvist_device_ipc_refused_workers_total"), "refused workers")),
        panel("NCCL: transfers", "By how they ended.", "cps", (total("kvist_nccl_transfers_total", "result"), "{{result}}")),
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
              (ratio(total("kvist_stored_bytes_total", "codec"), total("kvist_stored_logical_bytes_total", "codec")),
               "{{codec}}"), highest=1),
        panel("Blocks stored, by codec", "Copies of other nodes included.", "cps",
              (total("kvist_stored_blocks_total", "codec"), "{{codec}}"), stacked=True),
        panel("Bytes stored, by codec", "Encoded.", "Bps", (total("kvist_stored_bytes_total", "codec"), "{{codec}}"), stacked=True),
    ],
    [
        panel("Raised tiles", "Tiles a block that were kept at a higher precision than the codec's, to keep its floor.", "short",
              (ratio(total("kvist_stored_raised_tiles_total", "codec"), total("kvist_stored_blocks_total", "codec")),
               "{{codec}}")),
        panel("SQNR of the worst tile, lowest tenth", "One block in ten has a tile at or below this, as its writer measured it. Exact codecs "
              "lie above all bounds (60 dB).", "dB",
              (quantile(0.1, "kvist_stored_sqnr_decibels", "codec"), "{{codec}}")),
        panel("SQNR of the worst tile, median", "Half of the blocks have their worst tile at or below this.", "dB",
              (quantile(0.5, "kvist_stored_sqnr_decibels", "codec"), "{{codec}}")),
    ],
    [
        panel("Profiles", "Of calibrated codecs, kept by each node and handed out to readers of its blocks; damaged ones were dropped when "
              "the node started.", "short",
              (f"kvist_profiles{{{I}}}", "{{instance}}"),
              (f"sum(kvist_damaged_profiles_total{{{I}}})", "damaged")),
        panel("Room for profiles", "The part of --profile-capacity that is taken, by node. Full: writers with a new profile are refused.", "percentunit",
              (ratio(f"kvist_profile_bytes{{{I}}}", f"kvist_profile_capacity_bytes{{{I}}}"), "{{instance}}"), steps=(0.8, 0.95), highest=1),
        panel("Profiles asked for", "By readers and other nodes, found or not; put by writers; fetched by nodes for blocks that came without theirs.", "cps",
              (total("kvist_profile_gets_total", "result"), "get {{result}}"),
              (total("kvist_profile_puts_total", "result"), "put {{result}}"),
              (total("kvist_profiles_fetched_total"), "fetched")),
    ])

OF_TENANT_ASKED = f"({total('kvist_tenant_hit_blocks_total', 'tenant', MATCH)} + {total('kvist_tenant_missed_blocks_total', 'tenant', MATCH)})"

TENANTS = board(
    "tenants", "Tenants", "What each tenant holds, finds and is refused; empty where nodes have no access file.",
    [
        panel("Memory by tenant", "Bytes that its blocks take in both tiers, of all nodes.", "bytes",
              (f"sum by (tenant) (kvist_tenant_used_bytes{{{I}}})", "{{tenant}}"), stacked=True),
        panel("Part of its quota", "On the node where it is fullest; at 1 its next block takes the room of its own oldest. Not shown where "
              "there is no bound.", "percentunit",
              (f"max by (tenant, tier) (kvist_tenant_used_bytes{{{I}}} / kvist_tenant_quota_bytes{{{I}}})", "{{tenant}}, {{tier}}"),
              steps=(0.8, 0.95), highest=1),
        panel("Share", "A tenant's part when a tier is full, against the others'; the largest of all nodes, which should be equal.", "short",
              (f"max by (tenant) (kvist_tenant_share{{{I}}})", "{{tenant}}")),
    ],
    [
        panel("Blocks found, by tenant", "Of the blocks that its readers asked Match for, the part that was there.", "percentunit",
              (ratio(total("kvist_tenant_hit_blocks_total", "tenant", MATCH), OF_TENANT_ASKED), "{{tenant}}"), highest=1),
        panel("Bytes sent, by tenant", "Encoded bytes of blocks, to its readers.", "Bps",
              (total("kvist_tenant_sent_bytes_total", "tenant"), "{{tenant}}"), stacked=True),
        panel("Bytes stored, by tenant", "Encoded bytes put for it, copies on other nodes included.", "Bps",
              (total("kvist_tenant_stored_bytes_total", "tenant"), "{{tenant}}"), stacked=True),
    ],
    [
        panel("Blocks stored, by tenant", "Put for it, copies on other nodes included.", "cps",
              (total("kvist_tenant_stored_blocks_total", "tenant"), "{{tenant}}"), stacked=True),
        panel("Requests under way, by tenant", "Of all nodes.", "short",
              (f"sum by (tenant) (kvist_tenant_requests_in_flight{{{I}}})", "{{tenant}}"), stacked=True),
        panel("Refused at limits of its own", "Requests of a tenant that was at its own limit, of requests or of room; the node had room for "
              "others.", "reqps", (total("kvist_tenant_refusals_total", "tenant, limit"), "{{tenant}}, {{limit}}"), stacked=True),
    ],
    [
        panel("Access files", "Sets that were taken, and that were found wrong, in an hour; and nodes whose latest set is wrong: they go on "
              "with an earlier one.", "short", (f"sum by (result) (increase(kvist_access_reloads_total{{{I}}}[1h]))", "{{result}}"),
              (f"sum(kvist_access_reload_failed{{{I}}})", "nodes with a wrong one")),
    ])

BOARDS = (OVERVIEW, MEMORY, HITS, REQUESTS, CLUSTER, DEVICE, CODEC, TENANTS)


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
