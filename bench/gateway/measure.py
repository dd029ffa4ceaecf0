"""Runs wrk against each proxy in turn and prints median ratios of CPU time per request. Called by ./run."""

import os
import re
import statistics
import subprocess
import sys

TICK = os.sysconf("SC_CLK_TCK")
work, nginx, go, ours, rounds, seconds = sys.argv[1], *map(int, sys.argv[2:7])


def family(pid):
    """The process and its children, since nginx serves requests in worker processes."""
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
    return [pid, *map(int, children)]


def cpu(pid):
    total = 0
    for child in family(pid):
        with open(f"/proc/{child}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICK


def load(port, path, connections, headers):
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", *headers, f"http://127.0.0.1:{port}{path}"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text or "Socket errors" in text and "timeout 0" not in text:
        print("   errors:", " ".join(text.split()), file=sys.stderr)
    return int(re.search(r"(\d+) requests in", text).group(1))


PEERS = {"nginx": (nginx, 18081), "go": (go, 18082), "openorch": (ours, 18083)}
TOKEN = ["-H", "Authorization: Bearer " + os.environ["TOKEN"]]
CASES = [
    ("small JSON, 64 connections", "/demo/small", 64, [], "<= 1.4 nginx, <= 0.4 go (first cut); then 1.25 and 0.32"),
    ("100 KiB, 64 connections", "/demo/large", 64, [], "<= 0.65 nginx"),
    ("small JSON, 512 connections", "/demo/small", 512, [], "<= 1.35 nginx"),
    ("small JSON, 64 connections, with a token", "/demo/small", 64, TOKEN, "<= 1.5 nginx"),
]

print(f"{'case':42} {'nginx us':>9} {'go us':>8} {'ours us':>8} {'/nginx':>7} {'/go':>6}  target")
for name, path, connections, headers, target in CASES:
    costs = {peer: [] for peer in PEERS}
    for _ in range(rounds):
        for peer, (pid, port) in PEERS.items():
            before = cpu(pid)
            # Only our daemon verifies the token; the other proxies forward it.
            requests = load(port, path, connections, headers)
            costs[peer].append((cpu(pid) - before) / requests * 1e6)
    ratio = lambda peer: statistics.median(a / b for a, b in zip(costs["openorch"], costs[peer]))
    mid = {peer: statistics.median(values) for peer, values in costs.items()}
    print(
        f"{name:42} {mid['nginx']:9.1f} {mid['go']:8.1f} {mid['openorch']:8.1f}"
        f" {ratio('nginx'):7.2f} {ratio('go'):6.2f}  {target}",
        flush=True,
    )

for peer, (pid, _) in PEERS.items():
    kib = 0
    for child in family(pid):
        with open(f"/proc/{child}/status") as status:
            kib += int(re.search(r"VmRSS:\s+(\d+)", status.read()).group(1))
    print(f"memory after load, {peer}: {kib / 1024:.0f} MiB")
