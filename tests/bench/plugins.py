#!/usr/bin/env python3
"""Measure what plugins cost, against their goals: make bench-plugins.

    python3 tests/bench/plugins.py [--requests 2000] [--pairs 5] [--json FILE]

- `gapura plugin bench` on our own plugins and on the conformance plugin of each language, each
  with a chat of ten messages, about 1 KB, and an answer of 100 deltas: a fresh instance, validate,
  render, push. Goals for validate and render are for instances that have served before (`--reuse
  1000`); the table shows first calls of fresh ones too. The chain of three is the sum of its
  plugins' medians, with fresh instances.
- A guest that never ends, where 50 ms are allowed: host/plugin-runtime/examples/call_costs.rs.
- Requests for each second of processor time that a server with the simulated model takes, on a
  route with the template alone and on one with pii-redact on both sides of the model, its instances
  reused, in turns; the median of the ratios counts. Beside it the same with fresh instances.
  Processor time, since the client shares the machine.

Exit code 1 if a goal is missed. Run it on a quiet machine.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
GAPURA = REPO / "target" / "release" / "gapura"
COMPONENTS = REPO / "plugins" / "target" / "components"
LANGUAGES = ["rust", "c", "go", "javascript", "python"]
CHAIN = ["persona", "gemma-chat", "pii-redact"]
# What is measured, its goal and whether more is better.
GOALS = {
    "validate p50, us": 10, "validate p99, us": 50, "render p50, us": 10, "render p99, us": 50, "fresh instance p50, us": 50,
    "push p50, us": 2, "chain of three, 100 deltas, us": 600, "javascript push / rust push": 25, "python push / rust push": 25,
    "runaway / allowed": 1.1, "requests/CPU s with a plugin / without": 0.85,
}
MORE_IS_BETTER = {"requests/CPU s with a plugin / without"}
CONFIG = """
[plugins]
dir = "{plugins}"
releases_dir = "releases"
[[routes]]
name = "bare"
plugins = [{{ plugin = "chatml" }}]
[[routes]]
name = "guarded"
plugins = [{{ plugin = "pii-redact", reuse = 1000 }}, {{ plugin = "chatml" }}]
[[routes]]
name = "fresh"
plugins = [{{ plugin = "pii-redact" }}, {{ plugin = "chatml" }}]
"""


def costs(component, requests, reuse=0):
    """Medians and 99th percentiles by call of the typical request."""
    command = [GAPURA, "plugin", "bench", component, "--requests", str(requests), "--reuse", str(reuse), "--json",
               "--budget", "1e9", "--delta-budget", "1e9"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def runaway_ratio():
    """How long a guest that never ends runs, as a part of what it may."""
    example = REPO / "target" / "release" / "examples" / "call_costs"
    done = subprocess.run([example], check=True, capture_output=True, text=True)
    found = re.search(r"runaway, (\d+) ms allowed.*median +([\d.]+) us", done.stdout)
    return float(found[2]) / 1e3 / float(found[1])


def processor_seconds(pid):
    """What a process has used so far, in user and kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def requests_per_cpu_second(server, url, route, requests=3000):
    before = processor_seconds(server.pid)
    command = [GAPURA, "bench", "--server", url, "--model", route, "--requests", str(requests), "--concurrency", "16", "--max-tokens", "16", "--json"]
    subprocess.run(command, check=True, capture_output=True)
    return requests / (processor_seconds(server.pid) - before)


def throughput(pairs):
    """Requests per CPU second without the plugin, with it, and with fresh instances of it, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        config, log = Path(folder, "gapura.toml"), Path(folder, "log")
        config.write_text(CONFIG.format(plugins=COMPONENTS))
        with log.open("w") as stderr:
            server = subprocess.Popen([GAPURA, "serve", "--model", "sim", "--listen", "127.0.0.1:0", "--config", config],
                                      stdout=stderr, stderr=stderr)
        try:
            url = None
            for _ in range(100):
                url = url or re.search(r"ready +(http://\S+)/v1", log.read_text())
                if url or server.poll() is not None:
                    break
                time.sleep(0.1)
            if url is None:
                sys.exit(f"bench: the server did not start: {log.read_text()}")
            url = url[1]
            routes = ("bare", "guarded", "fresh")
            for route in routes:
                requests_per_cpu_second(server, url, route, 500)
            return [[requests_per_cpu_second(server, url, route) for route in routes] for _ in range(pairs)]
        finally:
            server.terminate()
            server.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the results here too")
    args = parser.parse_args()
    plugins = {name: costs(COMPONENTS / f"{name}.wasm", args.requests) for name in [*CHAIN, "chatml", "request-guard"]}
    warm = {name: costs(COMPONENTS / f"{name}.wasm", args.requests, reuse=1000) for name in plugins}
    languages = {}
    for name in LANGUAGES:
        component = REPO / "target" / "conformance" / f"{name}.wasm"
        if component.exists():
            languages[name] = costs(component, args.requests // 10)
        else:
            print(f"{name}: not measured; `make guests` builds it", file=sys.stderr)

    calls = ["instantiate", "validate", "render", "processor", "push", "finish", "request"]
    print(f"{'p50 / p99, us':<19}" + "".join(f"{call:>17}" for call in calls))
    for name, report in (plugins | {f"{name}, warm": report for name, report in warm.items()} | languages).items():
        shown = [report["calls"].get(call) for call in calls]
        print(f"{name:<19}" + "".join(f"{of['p50_us']:>8.2f} /{of['p99_us']:>7.2f}" if of else f"{'':>17}" for of in shown))

    of = lambda name, call, part, table=plugins: table[name]["calls"][call][part]  # noqa: E731
    chain = sum(of(name, "request", "p50_us") + (100 * of(name, "push", "p50_us") if "push" in plugins[name]["calls"] else 0) for name in CHAIN)
    pairs = throughput(args.pairs)
    results = {
        "validate p50, us": of("persona", "validate", "p50_us", warm), "validate p99, us": of("persona", "validate", "p99_us", warm),
        "render p50, us": of("chatml", "render", "p50_us", warm), "render p99, us": of("chatml", "render", "p99_us", warm),
        "fresh instance p50, us": of("persona", "instantiate", "p50_us"), "push p50, us": of("pii-redact", "push", "p50_us"),
        "chain of three, 100 deltas, us": chain, "runaway / allowed": runaway_ratio(),
        "requests/CPU s with a plugin / without": statistics.median(guarded / bare for bare, guarded, _ in pairs),
    }
    for name in ("javascript", "python"):
        if name in languages and "rust" in languages:
            results[f"{name} push / rust push"] = (
                languages[name]["calls"]["push"]["p50_us"] / languages["rust"]["calls"]["push"]["p50_us"])
    fresh = statistics.median(fresh / bare for bare, _, fresh in pairs)
    print(f"\nrequests/CPU s with fresh instances of the plugin / without: {fresh:.2f}\n")
    met = {}
    for name, value in results.items():
        met[name] = value >= GOALS[name] if name in MORE_IS_BETTER else value <= GOALS[name]
        print(f"{name:<36} {value:>9.2f}  goal {GOALS[name]:>6}  {'ok' if met[name] else 'MISSED'}")
    if args.json:
        args.json.write_text(json.dumps({"plugins": plugins, "warm": warm, "languages": languages, "requests_per_cpu_s": pairs, "results": results}, indent=1) + "\n")
    sys.exit(0 if all(met.values()) else 1)


if __name__ == "__main__":
    main()
