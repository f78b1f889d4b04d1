#!/usr/bin/env python3
"""Measure what hostile plugins cost their neighbours: make bench-isolation.

    python3 tests/bench/isolation.py [--pairs 5] [--requests 2000] [--json FILE]

One server with the simulated model and more than 1,024 requests under way at once. Four clients are
`gapura bench`, which asks a route with pii-redact. 80 send requests to four other routes, 20 a second
to each; 1,020 send one every 24 seconds to a fifth. In turns those routes have harmless plugins, or one that loops, one that
loops on every second request, one that takes all memory, one that logs a thousand lines, and one that
asks a server that does not answer, for 10 seconds (of tests/guests): the same load, so that only the
plugins differ. The median of the ratios of the p99 of whole answers counts, with circuit breakers as
they are by default. Beside it the ratio with breakers turned off: what limits and priorities alone
leave of a neighbour.

Exit code 1 if the goal is missed, if a request to the good route fails, or if any request finds no
instance of its plugins. Run it on a quiet machine.
"""

import argparse
import asyncio
import json
import re
import resource
import socket
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
# Route, guest, and what `model` begins with every second time: `keeps` loops where that is an L.
BUSY = {"looping": ("endless", ""), "by-turns": ("keeps", "L-"), "leaking": ("bomb", ""), "logging": ("flood", "")}
HARMLESS = "accept"
# Clients of each of these routes, and their requests for each second together.
CLIENTS, RATE = 20, 20
# Clients of the route whose server is silent, and seconds between the requests of each. Its instances
# are lent for 10 s, 512 at a time: in that time each has had its turn.
HANGING, PERIOD, SILENCE_MS = 1_020, 24, 10_000
GOOD = '[[routes]]\nname = "good"\ndefault = true\nplugins = [{ plugin = "pii-redact" }, { plugin = "chatml" }]\n'
ROUTE = '[[routes]]\nname = "{route}"\naliases = ["L-{route}"]\nplugins = [{{ plugin = "{plugin}"{more} }}, {{ plugin = "chatml" }}]\n'
HTTP = ', grants = ["http"], http = {{ allow = ["{allow}"], timeout_ms = {timeout} }}'
OFF = ", breaker = { failures = 0 }"


def guest(name):
    """A component of tests/guests as it was last built."""
    built = list((REPO / "target" / "release" / "build").glob(f"gapura-test-guests-*/out/{name}.wasm"))
    if not built:
        sys.exit(f"bench: {name}.wasm is missing: run `make build` first")
    return max(built, key=lambda path: path.stat().st_mtime).read_bytes()


class Neighbours:
    """What plugins ask: a server that answers at once, and one that never does. On a thread of its own."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.quick = asyncio.run_coroutine_threadsafe(self.serve(), self.loop).result()
        # The kernel makes connections; nobody reads.
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.silent = "127.0.0.1:%d" % self.listener.getsockname()[1]

    async def serve(self):
        async def answer(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nya")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=4096)
        return "127.0.0.1:%d" % server.sockets[0].getsockname()[1]


def routes(neighbours):
    """All routes but the good one: (route, plugin, guest, what else its binding says)."""
    for route, (name, _) in BUSY.items():
        yield f"harmless-{route}", f"harmless-{route}", HARMLESS, ""
        yield f"hostile-{route}", route, name, ""
        yield f"unbroken-{route}", route, name, OFF
    for kind, allow in (("harmless", neighbours.quick), ("hostile", neighbours.silent), ("unbroken", neighbours.silent)):
        yield f"{kind}-hanging", "hanging", "sends", HTTP.format(allow=allow, timeout=SILENCE_MS)


@contextmanager
def gateway(neighbours):
    """A server with all routes: its address."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        plugins = folder / "plugins"
        plugins.mkdir()
        (plugins / "pii-redact.wasm").write_bytes((COMPONENTS / "pii-redact.wasm").read_bytes())
        config = '[log]\nlevel = "error"\n[plugins]\ndir = "plugins"\n[engine]\nmax_queued = 1024\n' + GOOD
        for route, plugin, source, more in routes(neighbours):
            (plugins / f"{plugin}.wasm").write_bytes(guest(source))
            config += ROUTE.format(route=route, plugin=plugin, more=more)
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


class Crowd:
    """Clients of the routes of a kind; counts what they are answered with, and how many wait at once."""

    def __init__(self, address, kind, url):
        self.host, port = address.rsplit(":", 1)
        self.port, self.kind, self.url = int(port), kind, url
        self.answers, self.waiting, self.most = Counter(), 0, 0

    async def run(self, stop):
        clients = []
        for route, (_, alias) in BUSY.items():
            models = [f"{self.kind}-{route}", f"{alias}{self.kind}-{route}"]
            clients += [self.client(route, models, "Halo, apa kabar?", CLIENTS / RATE, place / RATE, place) for place in range(CLIENTS)]
        spread = [PERIOD * place / HANGING for place in range(HANGING)]
        clients += [self.client("hanging", [f"L-{self.kind}-hanging"], self.url, PERIOD, late, 0) for late in spread]
        tasks = [asyncio.create_task(client) for client in clients]
        await stop.wait()
        for task in tasks:
            task.cancel()
        for end in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(end, Exception):
                self.answers[f"client: {end!r}"] += 1

    async def client(self, route, models, said, period, late, turn):
        reader, writer = await asyncio.open_connection(self.host, self.port)
        clock = asyncio.get_running_loop().time
        # At first all of them come within a tenth of the time, and then when they are due.
        start = clock()
        await asyncio.sleep(late / 10)
        due = start + late
        while True:
            model = models[turn % len(models)]
            turn += 1
            body = json.dumps({"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": said}]}).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            self.waiting += 1
            self.most = max(self.most, self.waiting)
            writer.write(head.encode() + body)
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            answer = json.loads(await reader.readexactly(int(re.search(r"content-length: (\d+)", head)[1])))
            self.waiting -= 1
            error = answer.get("error") or {}
            status = head.split(" ", 2)[1]
            self.answers[f"{route}: {error.get('code') or status}"] += 1
            # Missed turns are not made up for: a client that waits does not pile up others.
            due = max(due + period, clock())
            await asyncio.sleep(due - clock())


@contextmanager
def beside(address, kind, neighbours):
    """The clients of the other routes, meanwhile."""
    url = f"http://{neighbours.quick if kind == 'harmless' else neighbours.silent}/"
    crowd, loop, stop = Crowd(address, kind, url), asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(crowd.run(stop),))
    thread.start()
    try:
        # All have come, breakers open, instances get warm.
        time.sleep(PERIOD / 10 + 2)
        yield crowd
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def p99_ms(address, kind, requests, neighbours, told):
    """That of a whole answer of the good route."""
    with beside(address, kind, neighbours) as crowd:
        command = [GAPURA, "bench", "--server", f"http://{address}", "--model", "good", "--requests", str(requests),
                   "--concurrency", "4", "--max-tokens", "16", "--json"]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"bench: the good route failed beside {kind} plugins: {done.stderr.strip()}")
    report = json.loads(done.stdout)
    told[kind].update(crowd.answers)
    # Whoever waits when it is over has been answered with nothing.
    told[kind]["most at once"] = max(told[kind]["most at once"], crowd.most + 4)
    if report["failures"]:
        sys.exit(f"bench: {report['failures']} requests to the good route failed beside {kind} plugins")
    return report["whole_answer_ms"]["p99"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--json", type=Path, help="write the results here too")
    args = parser.parse_args()
    # A connection for each client and each silent server, on both sides.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    kinds = ("harmless", "hostile", "unbroken")
    told = {kind: Counter() for kind in kinds}
    neighbours = Neighbours()
    with gateway(neighbours) as address:
        for kind in kinds:
            p99_ms(address, kind, args.requests // 4, neighbours, told)
        turns = [{kind: p99_ms(address, kind, args.requests, neighbours, told) for kind in kinds} for _ in range(args.pairs)]
    ratio = lambda kind: statistics.median(turn[kind] / turn["harmless"] for turn in turns)  # noqa: E731
    for kind in kinds:
        shown = ", ".join(f"{what} ({count})" for what, count in sorted(told[kind].items()))
        print(f"{kind:<9} p99 {statistics.median(turn[kind] for turn in turns):>7.2f} ms   beside: {shown}")
    turned_away = sum(count for kind in kinds for what, count in told[kind].items() if what.endswith("plugin_exhausted") or what.startswith("client"))
    results = {"neighbours' p99, hostile / harmless": ratio("hostile"), "the same without breakers": ratio("unbroken"),
               "requests without an instance or an answer": turned_away}
    met = ratio("hostile") <= GOAL
    print()
    print(f"{'neighbours’ p99, hostile / harmless':<42} {ratio('hostile'):>6.2f}  goal {GOAL:>4}  {'ok' if met else 'MISSED'}")
    print(f"{'the same without breakers':<42} {ratio('unbroken'):>6.2f}  (no goal)")
    print(f"{'requests without an instance or an answer':<42} {turned_away:>6}  goal    0  {'MISSED' if turned_away else 'ok'}")
    if args.json:
        args.json.write_text(json.dumps({"turns": turns, "told": told, "results": results}, indent=1) + "\n")
    sys.exit(0 if met and not turned_away else 1)


if __name__ == "__main__":
    main()
