#!/usr/bin/env python3
"""Measure what hostile plugins cost their neighbours: make bench-isolation.

    python3 tests/bench/isolation.py [--pairs 5] [--requests 2000] [--json FILE]

One server with the simulated model. `gapura bench` asks a route with pii-redact, four requests at a
time, while other clients send 20 requests a second to each of three other routes. In turns those
routes have a harmless plugin, or one that loops, one that takes all memory and one that logs a
thousand lines (of tests/guests): the same load, so that only the plugins differ. The median of the
ratios of the p99 of whole answers counts, with circuit breakers as they are by default. Beside it
the ratio with breakers turned off: what deadlines and limits alone leave of a neighbour.

Exit code 1 if the goal is missed, or if a request to the good route fails. Run it on a quiet
machine.
"""

import argparse
import http.client
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
GAPURA = REPO / "target" / "release" / "gapura"
COMPONENTS = REPO / "plugins" / "target" / "components"
GOAL = 1.1
HOSTILE = {"looping": "endless", "leaking": "bomb", "logging": "flood"}
HARMLESS = "accept"
# Requests for each second to each of the routes beside the good one.
RATE = 20
GOOD = '[[routes]]\nname = "good"\ndefault = true\nplugins = [{ plugin = "pii-redact" }, { plugin = "chatml" }]\n'
ROUTE = '[[routes]]\nname = "{route}"\nplugins = [{{ plugin = "{plugin}"{more} }}, {{ plugin = "chatml" }}]\n'


def guest(name):
    """A component of tests/guests as it was last built."""
    built = list((REPO / "target" / "release" / "build").glob(f"gapura-test-guests-*/out/{name}.wasm"))
    if not built:
        sys.exit(f"bench: {name}.wasm is missing: run `make build` first")
    return max(built, key=lambda path: path.stat().st_mtime).read_bytes()


@contextmanager
def gateway():
    """A server with all routes: its address."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        plugins = folder / "plugins"
        plugins.mkdir()
        (plugins / "pii-redact.wasm").write_bytes((COMPONENTS / "pii-redact.wasm").read_bytes())
        config = '[log]\nlevel = "error"\n[plugins]\ndir = "plugins"\n' + GOOD
        for route, name in HOSTILE.items():
            for plugin, source in ((route, name), (f"harmless-{route}", HARMLESS)):
                (plugins / f"{plugin}.wasm").write_bytes(guest(source))
            config += ROUTE.format(route=f"harmless-{route}", plugin=f"harmless-{route}", more="")
            config += ROUTE.format(route=f"hostile-{route}", plugin=route, more="")
            config += ROUTE.format(route=f"unbroken-{route}", plugin=route, more=", breaker = { failures = 0 }")
        (folder / "gapura.toml").write_text(config)
        log = folder / "log"
        with log.open("w") as output:
            server = subprocess.Popen([GAPURA, "serve", "--model", "sim", "--listen", "127.0.0.1:0", "--config", folder / "gapura.toml"],
                                      stdout=output, stderr=output)
        try:
            for _ in range(300):
                ready = re.search(r"ready +http://(\S+)/v1", log.read_text())
                if ready or server.poll() is not None:
                    break
                time.sleep(0.1)
            if not ready:
                sys.exit(f"bench: the server did not start: {log.read_text()}")
            yield ready[1]
        finally:
            server.terminate()
            server.wait()


@contextmanager
def beside(address, kind):
    """Sends requests to the three routes of a kind meanwhile; counts what they are answered with."""
    answers, stop = Counter(), threading.Event()

    def client(route):
        connection = http.client.HTTPConnection(address, timeout=60)
        body = json.dumps({"model": f"{kind}-{route}", "max_tokens": 4, "messages": [{"role": "user", "content": "Halo, apa kabar?"}]})
        due = time.monotonic()
        while not stop.is_set():
            connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            error = json.loads(answer.read()).get("error") or {}
            answers[f"{route}: {error.get('code') or answer.status}"] += 1
            # Missed turns are not made up for: a client that waits does not pile up others.
            due = max(due + 1 / RATE, time.monotonic())
            stop.wait(due - time.monotonic())

    clients = [threading.Thread(target=client, args=(route,)) for route in HOSTILE]
    for thread in clients:
        thread.start()
    try:
        # Breakers open, instances get warm.
        time.sleep(1.5)
        yield answers
    finally:
        stop.set()
        for thread in clients:
            thread.join()


def p99_ms(address, kind, requests, told):
    """That of a whole answer of the good route."""
    with beside(address, kind) as answers:
        command = [GAPURA, "bench", "--server", f"http://{address}", "--model", "good", "--requests", str(requests),
                   "--concurrency", "4", "--max-tokens", "16", "--json"]
        report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    told[kind].update(answers)
    if report["failures"]:
        sys.exit(f"bench: {report['failures']} requests to the good route failed beside {kind} plugins")
    return report["whole_answer_ms"]["p99"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--json", type=Path, help="write the results here too")
    args = parser.parse_args()
    kinds = ("harmless", "hostile", "unbroken")
    told = {kind: Counter() for kind in kinds}
    with gateway() as address:
        for kind in kinds:
            p99_ms(address, kind, args.requests // 4, told)
        turns = [{kind: p99_ms(address, kind, args.requests, told) for kind in kinds} for _ in range(args.pairs)]
    ratio = lambda kind: statistics.median(turn[kind] / turn["harmless"] for turn in turns)  # noqa: E731
    for kind in kinds:
        shown = ", ".join(f"{what} ({count})" for what, count in sorted(told[kind].items()))
        print(f"{kind:<9} p99 {statistics.median(turn[kind] for turn in turns):>7.2f} ms   beside: {shown}")
    results = {"neighbours' p99, hostile / harmless": ratio("hostile"), "the same without breakers": ratio("unbroken")}
    met = results["neighbours' p99, hostile / harmless"] <= GOAL
    print()
    print(f"{'neighbours’ p99, hostile / harmless':<38} {ratio('hostile'):>6.2f}  goal {GOAL:>4}  {'ok' if met else 'MISSED'}")
    print(f"{'the same without breakers':<38} {ratio('unbroken'):>6.2f}  (no goal)")
    if args.json:
        args.json.write_text(json.dumps({"turns": turns, "told": told, "results": results}, indent=1) + "\n")
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
