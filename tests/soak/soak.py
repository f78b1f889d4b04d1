#!/usr/bin/env python3
"""Random mixed traffic against real servers, then the accounts: nothing leaked, nothing lost.

    python3 tests/soak/soak.py [--seconds 1800] [--seed 1] [--clients 12] [--json FILE] [MODEL]...

MODEL is `sim` (the scripted model, 1 ms a step) or a GGUF file; default: sim and SmolLM2. Each
has a server of its own, all at the same time. Each client's requests follow from seed and number
alone. Clients send short, long, streamed, scored, constrained and invalid requests, read slowly
and go away; meanwhile one plugin changes its version every few seconds. In the end:

- the KV cache holds no block, nothing runs or waits;
- /metrics counts every request under the status that its client saw; only for clients that went
  away may it be another, but their number is the same;
- every answer was whole: a status that the request can have, valid JSON, streams up to [DONE];
- the server's memory grew by at most GROWTH_MIB from the end of the first quarter on.

Exit code 1 where one of these does not hold.
"""

import argparse
import hashlib
import http.client
import json

import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
GAPURA = REPO / "target/release/gapura"
COMPONENTS = REPO / "plugins/target/components"
GROWTH_MIB = 32
TOKEN = "soak"
WORDS = "gapura pintu candi kota sungai sawah the a of with model token page queue 東京 café 🙂 42 3.14 {} \\n".split()

CONFIG = """
[server]
listen = "127.0.0.1:{port}"
[admin]
token_sha256 = "sha256:{token}"
[log]
level = "error"
[model]
source = "{source}"
kv_memory_mib = {kv_mib}
context_length = 2048
threads = 1
[engine]
max_queued = 8
max_num_seqs = 6
sim_step_ms = 1.0
[plugins]
dir = "{plugins}"
releases_dir = "releases"
[[routes]]
name = "chat"
plugins = [{{ plugin = "template" }}]
[[routes]]
name = "persona"
plugins = [{{ plugin = "persona", settings = {{ system = "Be brief.", language = "en" }} }}, {{ plugin = "pii-redact", settings = {{ kinds = ["email"] }} }}, {{ plugin = "template" }}]
"""


class Failure(Exception):
    """An answer that is not whole, or not one that the request can have."""


class Gone(Exception):
    """The client went away on purpose."""


def words(rng, count):
    return " ".join(rng.choice(WORDS) for _ in range(count))


def chat(rng, prompt_words, **fields):
    body = {"model": rng.choice(["chat", "persona"]), "messages": [{"role": "user", "content": words(rng, prompt_words)}],
            "max_tokens": rng.randint(1, 24), "temperature": rng.choice([0, 0.7, 1.5]), "seed": rng.randrange(2**63)}
    return body | fields


def plan(rng):
    """A request: its kind, endpoint, path, body, and how its client behaves."""
    kind = rng.choices(
        ["short", "long", "stream", "scored", "constrained", "tokenize", "invalid", "slow reader", "leaves", "leaves early"],
        [20, 8, 20, 6, 6, 6, 12, 4, 10, 8])[0]
    path, endpoint = "/v1/chat/completions", "chat"
    if kind == "short":
        body = chat(rng, rng.randint(1, 12), n=rng.choice([1, 1, 1, 2]), stop=rng.choice([None, "a", ["sawah", "\n\n"]]))
    elif kind == "long":
        body = chat(rng, rng.randint(100, 220), stream=rng.random() < 0.5)
    elif kind == "stream":
        body = chat(rng, rng.randint(1, 30), stream=True, stream_options={"include_usage": True})
    elif kind == "scored":
        path, endpoint = "/v1/completions", "text_completion"
        body = {"model": "chat", "prompt": words(rng, 10), "max_tokens": rng.randint(0, 8), "logprobs": 3, "echo": True}
    elif kind == "constrained":
        schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
        body = chat(rng, 5, max_tokens=40, response_format=rng.choice([
            {"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}]))
    elif kind == "tokenize":
        path, endpoint, body = "/tokenize", "tokenize", {"model": "chat", "prompt": words(rng, 50)}
    elif kind == "invalid":
        body = rng.choice([
            chat(rng, 3, temperature=7), chat(rng, 3, model="nobody"), chat(rng, 3, n=0), chat(rng, 3, messages=[]),
            chat(rng, 6000), chat(rng, 3, logit_bias={"99999999": 1}), {"messages": 3}, "{not json"])
    elif kind == "slow reader":
        body = chat(rng, 20, stream=True, max_tokens=200)
    else:
        body = chat(rng, 20, stream=rng.random() < 0.7, max_tokens=400)
    return kind, endpoint, path, body


# Overload may meet anyone; a route whose plugin is being swapped must not fail.
ALLOWED = {"invalid": {400, 404, 503, 429}}


def read_stream(response, pause):
    """Reads server-sent events to their end."""
    done = False
    for line in response:
        if pause:
            time.sleep(pause)
        if not line.startswith(b"data: "):
            continue
        if line.strip() == b"data: [DONE]":
            done = True
        elif "error" in (event := json.loads(line[6:])):
            raise Failure(f"in a stream: {event['error']['message']}")
    if not done:
        raise Failure("a stream ended without [DONE]")


class Client(threading.Thread):
    """Sends the requests of one number until the time is over."""

    def __init__(self, server, number, seed, until):
        super().__init__(daemon=True)
        self.server, self.until = server, until
        self.rng = random.Random(f"{seed}/{number}")
        # (endpoint, status) of answers that were read; endpoint of those that were left.
        self.seen, self.left, self.kinds, self.failures = Counter(), Counter(), Counter(), []

    def run(self):
        while time.monotonic() < self.until:
            kind, endpoint, path, body = plan(self.rng)
            self.kinds[kind] += 1
            try:
                status = self.request(kind, path, body)
                self.seen[endpoint, status] += 1
            except Gone:
                self.left[endpoint] += 1
            except (Failure, OSError, ValueError, http.client.HTTPException) as error:
                self.failures.append(f"{kind}: {type(error).__name__} {error}")
                self.left[endpoint] += 1
            time.sleep(self.rng.uniform(0, 0.12))

    def request(self, kind, path, body):
        # As long as the server may take: a slow machine is not an error.
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=660)
        try:
            text = body if isinstance(body, str) else json.dumps(body)
            connection.request("POST", path, text.encode(), {"content-type": "application/json"})
            if kind == "leaves early":
                # Late enough that the server has read the request.
                time.sleep(self.rng.uniform(0.03, 0.3))
                raise Gone
            response = connection.getresponse()
            if response.status not in ALLOWED.get(kind, {200, 503, 429}):
                raise Failure(f"status {response.status}: {response.read()[:300]}")
            if kind == "leaves":
                response.read(self.rng.randint(1, 300))
                raise Gone
            if (response.getheader("content-type") or "").startswith("text/event-stream"):
                read_stream(response, 0.02 if kind == "slow reader" else 0)
            else:
                answer = json.loads(response.read())
                if kind == "constrained" and response.status == 200:
                    for choice in answer["choices"]:
                        if choice["finish_reason"] == "stop":
                            json.loads(choice["message"]["content"])
            return response.status
        finally:
            connection.close()


class Server:
    """A gateway over one model, and what was measured of it."""

    def __init__(self, source, folder):
        self.name = source if source == "sim" else Path(source).stem
        self.folder = Path(folder, self.name)
        self.plugins = self.folder / "plugins"
        self.plugins.mkdir(parents=True)
        for name in ("persona", "pii-redact"):
            (self.plugins / f"{name}.wasm").write_bytes((COMPONENTS / f"{name}.wasm").read_bytes())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        token = hashlib.sha256(TOKEN.encode()).hexdigest()
        config = CONFIG.format(port=self.port, token=token, source=source, plugins=self.plugins,
                               kv_mib=1 if source == "sim" else 40)
        (self.folder / "gapura.toml").write_text(config)
        self.log = open(self.folder / "log", "w+")
        self.process = subprocess.Popen([GAPURA, "serve", "--config", self.folder / "gapura.toml"],
                                        stdout=self.log, stderr=subprocess.STDOUT)
        self.memory, self.swaps = [], 0

    def get(self, path, method="GET", body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {"authorization": f"Bearer {TOKEN}"} if body else {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def wait_ready(self):
        for _ in range(600):
            if self.process.poll() is not None:
                self.log.seek(0)
                sys.exit(f"soak: {self.name} ended: {self.log.read()[-2000:]}")
            try:
                if self.get("/readyz")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        sys.exit(f"soak: {self.name} was not ready within a minute")

    def rss_mib(self):
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise Failure("no VmRSS")

    def metrics(self):
        lines = self.get("/metrics")[1].decode().splitlines()
        return {series: float(value) for series, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}

    def swap(self):
        """The same plugin with another digest: a custom section more or less."""
        component = (COMPONENTS / "persona.wasm").read_bytes()
        if self.swaps % 2:
            component += b"\x00\x05\x04soak"
        status, text = self.get("/admin/v1/plugins/persona", "PUT", component)
        if status not in (200, 201):
            raise Failure(f"a swap: status {status}: {text[:300]}")
        self.swaps += 1

    def watch(self, until, failures):
        """Samples memory and swaps a plugin until the time is over."""
        rng, next_swap = random.Random(self.name), 0
        while time.monotonic() < until:
            try:
                self.memory.append(self.rss_mib())
                if time.monotonic() >= next_swap:
                    self.swap()
                    next_swap = time.monotonic() + rng.uniform(2, 6)
                if self.get("/readyz")[0] != 200:
                    raise Failure("/readyz is not 200 under load")
            except (Failure, OSError) as error:
                failures.append(f"watch: {error}")
            time.sleep(1)


def judge(server, clients, failures):
    """The accounts of one server: rows of (what, measured, allowed, holds)."""
    held = {}
    for _ in range(300):
        metrics = server.metrics()
        held = {s: v for s, v in metrics.items()
                if v and s.startswith(("gapura_kv_blocks_used", "gapura_requests_running", "gapura_requests_waiting"))}
        if not held:
            break
        time.sleep(0.1)
    seen = sum((c.seen for c in clients), Counter())
    left = sum((c.left for c in clients), Counter())
    counted = Counter()
    for series, value in metrics.items():
        if series.startswith("http_requests_total{"):
            labels = dict(part.split("=") for part in series[series.index("{") + 1 : -1].split(","))
            counted[labels["endpoint"].strip('"'), int(labels["status"].strip('"'))] += int(value)
    wrong = {}
    for endpoint in {key[0] for key in seen | counted}:
        server_all = {s: n for (e, s), n in counted.items() if e == endpoint}
        extra = {s: server_all.get(s, 0) - seen[endpoint, s] for s in server_all | {s: 0 for (e, s) in seen if e == endpoint}}
        if any(n < 0 for n in extra.values()) or sum(extra.values()) != left[endpoint]:
            wrong[endpoint] = {"server minus clients": extra, "clients that left": left[endpoint]}
    # Peaks of quarters: where requests are many, single samples say little.
    quarter = max(1, len(server.memory) // 4)
    early, late = max(server.memory[:quarter]), max(server.memory[-quarter:])
    alive = server.process.poll() is None
    return [
        ("requests sent", sum(seen.values()) + sum(left.values()), "", True),
        ("answers that were wrong or broken", len(failures), 0, not failures),
        ("requests that metrics lost or invented", len(wrong), 0, not wrong),
        ("series of blocks and requests held at the end", len(held), 0, not held),
        ("memory growth, MiB (first to last quarter's peak)", round(late - early, 1), GROWTH_MIB, late - early <= GROWTH_MIB),
        ("memory at its peak, MiB", round(max(server.memory), 1), "", True),
        ("plugin swaps", server.swaps, "", True),
        ("preemptions", int(metrics.get("gapura_preemptions_total", 0)), "", True),
        ("server alive", alive, True, alive),
    ], {"wrong": wrong, "held": held, "failures": failures[:20], "answers": {f"{e} {s}": n for (e, s), n in sorted(seen.items())},
        "left": dict(left), "kinds": dict(sum((c.kinds for c in clients), Counter())), "metrics": {f"{e} {s}": n for (e, s), n in sorted(counted.items())}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="sim, or GGUF files; default: sim and SmolLM2")
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--clients", type=int, default=12, help="for each server")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if not args.models:
        fetch = [sys.executable, REPO / "examples/models/fetch.py", "smollm2"]
        args.models = ["sim", subprocess.run(fetch, check=True, capture_output=True, text=True).stdout.strip()]

    report, all_hold = {"seconds": args.seconds, "seed": args.seed, "servers": {}}, True
    with tempfile.TemporaryDirectory() as folder:
        servers = [Server(source, folder) for source in args.models]
        try:
            for server in servers:
                server.wait_ready()
            until = time.monotonic() + args.seconds
            watch_failures = {server.name: [] for server in servers}
            clients = {s.name: [Client(s, f"{s.name}/{n}", args.seed, until) for n in range(args.clients)] for s in servers}
            watches = [threading.Thread(target=s.watch, args=(until, watch_failures[s.name]), daemon=True) for s in servers]
            threads = [client for group in clients.values() for client in group] + watches
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(args.seconds + 700)
            print(f"{args.seconds:.0f} s, seed {args.seed}, {args.clients} clients for each server")
            for server in servers:
                failures = watch_failures[server.name] + [f for c in clients[server.name] for f in c.failures]
                if any(thread.is_alive() for thread in threads):
                    failures.append("a client never came to its end")
                rows, details = judge(server, clients[server.name], failures)
                for what, measured, allowed, holds in rows:
                    verdict = "" if allowed == "" else "ok" if holds else "RED"
                    print(f"{server.name:<30} {what:<50} {measured!s:>9} {allowed!s:>6} {verdict}")
                    all_hold &= holds
                if not all(row[3] for row in rows):
                    print(json.dumps(details, indent=1), file=sys.stderr)
                report["servers"][server.name] = details | {"table": rows, "memory_mib": [round(m, 1) for m in server.memory[::15]]}
        finally:
            for server in servers:
                server.process.send_signal(signal.SIGTERM)
            for server in servers:
                try:
                    server.process.wait(40)
                except subprocess.TimeoutExpired:
                    server.process.kill()
                    all_hold = False
                    print(f"soak: {server.name} did not end within 40 s of SIGTERM", file=sys.stderr)
                server.log.close()
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(not all_hold)


if __name__ == "__main__":
    main()
