#!/usr/bin/env python3
"""Measure what releasing plugins costs, and the gateway beside another one: make bench-release.

    python3 tests/bench/release.py [--pairs 5] [--swaps 1000] [--json FILE]

All with the simulated model, which answers at once. On a quiet machine:

- Swap: from sending `activate` to the header of the first answer by the new version, the commit to
  disk included; one after the other. Goal: p99 at most 30 ms.
- Swaps under load: `gapura bench` with and without a swap every 20 ms, in turns; the median of the
  ratios of the p99 of whole answers. Beside both a client checks that no answer is of two versions.
  Goals: nothing fails, nothing is mixed, at most 1.05, and memory grows by at most 16 MiB.
- Another gateway, smg of PyPI, in front of the same server: what each adds to an answer, and requests
  for each second of its processor time. Goals: at most 0.5 and at least 1.5 of smg's. smg adds what an
  answer takes longer through it than from the server itself. Ours has its model within: it adds what
  an answer takes longer than one of a bare socket server (`bench_echo`) that sends the same bytes.
- The ledger: requests for each second of processor time with and without it, in turns. Every change
  is audited in both; swaps have it in them. Goal: at least 0.99.

Exit code 1 if a goal is missed.
"""

import argparse
import http.client
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
GAPURA = REPO / "target" / "release" / "gapura"
ECHO = REPO / "target" / "release" / "examples" / "bench_echo"
SMG = "smg==1.13.0"
TOKEN = "bench-release"
GOALS = {
    "swap p99, ms": 30, "failed or mixed answers": 0, "p99 with swaps / without": 1.05, "memory growth, MiB": 16,
    "added latency / smg's": 0.5, "requests/CPU s / smg's": 1.5, "requests/CPU s with ledger / without": 0.99,
}
MORE_IS_BETTER = {"requests/CPU s / smg's", "requests/CPU s with ledger / without"}
CONFIG = """
[server]
listen = "127.0.0.1:{port}"
[log]
level = "warn"
[plugins]
dir = "plugins"
{ledger}
[[routes]]
name = "bare"
default = true
plugins = [{{ plugin = "chatml" }}]
[[routes]]
name = "marked"
plugins = [{{ plugin = "chatml" }}, {{ plugin = "mark" }}]
"""
HALO = [{"role": "user", "content": "Halo, apa kabar? " * 8}]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def request(connection, method, path, body=None, token=None):
    """Status, body and headers of one answer."""
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    connection.request(method, path, body if isinstance(body, bytes) or body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.headers


def wait_until(answers, what, process):
    for _ in range(300):
        try:
            if answers():
                return
        except OSError:
            pass
        if process.poll() is not None:
            break
        time.sleep(0.1)
    sys.exit(f"bench: {what} did not start")


@contextmanager
def gateway(marks, ledger=True):
    """Our server, ready, with the version A of the plugin `mark`: port and process."""
    with tempfile.TemporaryDirectory() as folder:
        folder, port = Path(folder), free_port()
        (folder / "plugins").mkdir()
        (folder / "plugins" / "mark.wasm").write_bytes(marks["A"])
        switch = "" if ledger else "ledger = false"
        (folder / "gapura.toml").write_text(CONFIG.format(port=port, ledger=switch))
        with (folder / "log").open("w") as log:
            process = subprocess.Popen([GAPURA, "serve", "--model", "sim", "--config", folder / "gapura.toml"],
                                       stdout=log, stderr=log, env={"GAPURA_ADMIN_TOKEN": TOKEN, "HOME": str(Path.home())})
        try:
            ready = lambda: request(http.client.HTTPConnection("127.0.0.1", port), "GET", "/readyz")[0] == 200  # noqa: E731
            wait_until(ready, "the gateway", process)
            yield port, process
        finally:
            process.terminate()
            process.wait()


@contextmanager
def smg(port):
    """The other gateway in front of ours: port and process. Fetched into target/ once."""
    folder = REPO / "target" / "bench-smg"
    if not (folder / "bin" / "smg").exists():
        print(f"fetching {SMG}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", SMG], check=True)
    own = free_port()
    command = [folder / "bin" / "smg", "launch", "--host", "127.0.0.1", "--port", str(own), "--worker-urls", f"http://127.0.0.1:{port}",
               "--policy", "round_robin", "--log-level", "error", "--prometheus-port", str(free_port()), "--prometheus-host", "127.0.0.1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        asked = lambda: ask(http.client.HTTPConnection("127.0.0.1", own), "bare")[0] == 200  # noqa: E731
        wait_until(asked, "smg", process)
        yield own, process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def echo(answer):
    """The least that a server can do: answers everything with `answer`. Its port."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(answer)
        file.flush()
        process = subprocess.Popen([ECHO, file.name], stdout=subprocess.PIPE, text=True)
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()
            process.wait()


def marks():
    """Two versions of the plugin of examples/hot-swap: each marks what it passes on."""
    built = {}
    for mark in "AB":
        out = REPO / "target" / "bench-release" / mark
        subprocess.run([REPO / "plugins/build.sh", "--project", REPO / "examples/hot-swap/mark", "--out", out], check=True,
                       stdout=subprocess.DEVNULL, env={**os.environ, "MARK": mark})
        built[mark] = (out / "mark.wasm").read_bytes()
    return built


def ask(connection, route, tokens=1):
    return request(connection, "POST", "/v1/chat/completions", {"model": route, "max_tokens": tokens, "messages": HALO})


def processor_seconds(pid):
    """To the nanosecond: /proc/PID/stat counts hundredths of a second."""
    # What clock_getcpuclockid(3) makes of a process.
    return time.clock_gettime(~pid << 3 | 2)


def resident_mib(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def load(port, route, requests, tokens, concurrency=8):
    """What `gapura bench` says."""
    command = [GAPURA, "bench", "--server", f"http://127.0.0.1:{port}", "--model", route, "--requests", str(requests),
               "--concurrency", str(concurrency), "--max-tokens", str(tokens), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    return json.loads(done.stdout) if done.stdout else {"failures": requests, "whole_answer_ms": {"p99": float("nan")}}


class Swapper:
    """Lets two versions of `mark` take turns."""

    def __init__(self, port, versions):
        self.connection = http.client.HTTPConnection("127.0.0.1", port)
        self.digests = []
        for component in versions.values():
            status, body, _ = request(self.connection, "PUT", "/admin/v1/plugins/mark?until=verified", component, TOKEN)
            assert status == 201, body
            self.digests.append(json.loads(body)["versions"][0]["digest"])
        self.count = 0

    def swap(self):
        """Activates the other version; its digest."""
        self.count += 1
        digest = self.digests[self.count % 2]
        status, body, _ = request(self.connection, "POST", "/admin/v1/plugins/mark/activate", {"digest": digest}, TOKEN)
        assert status == 200, body
        return digest


def swaps(port, swapper, count):
    """Milliseconds of each swap, one after the other."""
    connection, taken = http.client.HTTPConnection("127.0.0.1", port), []
    for _ in range(count):
        begun = time.perf_counter()
        digest = swapper.swap()
        status, body, headers = ask(connection, "marked")
        taken.append((time.perf_counter() - begun) * 1e3)
        assert status == 200 and digest[:6] in headers["x-gapura-chain"], body
    return taken


def mixed(port, stop, wrong):
    """Asks until `stop` is set; answers that are of no version or of two go to `wrong`."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    while not stop.is_set():
        status, body, _ = ask(connection, "marked", 32)
        text = json.loads(body)["choices"][0]["message"]["content"] if status == 200 else ""
        if len(set(re.findall(r"<([AB])>", text))) != 1:
            wrong.append(body.decode())


def watched_load(port, wrong, meanwhile):
    """What `gapura bench` says while `meanwhile` is called again and again."""
    stop, results = threading.Event(), []
    watcher = threading.Thread(target=mixed, args=(port, stop, wrong))
    client = threading.Thread(target=lambda: results.append(load(port, "marked", 4000, 16)))
    watcher.start()
    client.start()
    while client.is_alive():
        meanwhile()
        time.sleep(0.02)
    stop.set()
    watcher.join()
    return results[0]


def under_load(port, process, swapper, pairs, count):
    """Ratios of p99, failures and mixed answers, growth of memory, swaps."""
    ratios, failures, wrong, pair = [], 0, [], -1
    while pair < pairs or swapper.count < count:
        steady = watched_load(port, wrong, lambda: None)
        swapping = watched_load(port, wrong, swapper.swap)
        if pair < 0:
            # Pools and caches fill.
            memory, swapper.count = resident_mib(process.pid), 0
        else:
            failures += steady["failures"] + swapping["failures"]
            ratios.append(swapping["whole_answer_ms"]["p99"] / steady["whole_answer_ms"]["p99"])
        pair += 1
    return ratios, failures + len(wrong), resident_mib(process.pid) - memory, swapper.count


def latency(port, method, path, body, count=2000):
    """Median seconds over one connection."""
    connection, taken = http.client.HTTPConnection("127.0.0.1", port), []
    for _ in range(count):
        begun = time.perf_counter()
        status, answer, _ = request(connection, method, path, body)
        taken.append(time.perf_counter() - begun)
        assert status == 200, answer
    return statistics.median(taken)


def beside_smg(port, process, pairs):
    """(ours, smg's) added latency in ms and requests for each second of processor time, pair by pair."""
    # A completion passes no plugin: its prompt needs no template, and the route has nothing else.
    path, body = "/v1/completions", {"model": "bare", "max_tokens": 1, "prompt": HALO[0]["content"]}
    count, connections = 6000, 8
    added, rates = [], []
    answer = request(http.client.HTTPConnection("127.0.0.1", port), "POST", path, body)[1]
    with smg(port) as (other, other_process), echo(answer) as bare:
        def work(asked):
            connection = http.client.HTTPConnection("127.0.0.1", asked)
            for _ in range(count // connections):
                status, answer, _ = request(connection, "POST", path, body)
                assert status == 200, answer

        def rate(asked, pid):
            before = processor_seconds(pid)
            clients = [threading.Thread(target=work, args=(asked,)) for _ in range(connections)]
            for client in clients:
                client.start()
            for client in clients:
                client.join()
            return count / (processor_seconds(pid) - before)

        for pair in range(-1, pairs):
            floor = latency(bare, "POST", path, body)
            own = latency(port, "POST", path, body)
            through = latency(other, "POST", path, body)
            pair_rates = (rate(port, process.pid), rate(other, other_process.pid))
            if pair >= 0:
                added.append(((own - floor) * 1e3, (through - own) * 1e3))
                rates.append(pair_rates)
    return added, rates


def ledger(versions, pairs):
    """Requests for each second of processor time (with, without), pair by pair."""
    requests = 10_000

    def rate(port, process):
        before = processor_seconds(process.pid)
        found = load(port, "marked", requests, 16, concurrency=16)
        assert found["failures"] == 0, found
        return requests / (processor_seconds(process.pid) - before)

    with gateway(versions) as on, gateway(versions, ledger=False) as off:
        found = []
        for pair in range(-1, 2 * pairs):
            # The second of a pair has it a little better or worse, whichever it is.
            order = (on, off) if pair % 2 else (off, on)
            rates = [rate(*server) for server in order]
            if pair >= 0:
                found.append(tuple(rates if pair % 2 else reversed(rates)))
        return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--swaps", type=int, default=1000, help="swaps under load")
    parser.add_argument("--json", type=Path, help="write the results here too")
    args = parser.parse_args()
    versions = marks()
    with gateway(versions) as (port, process):
        swapper = Swapper(port, versions)
        taken = sorted(swaps(port, swapper, 220)[20:])
        ratios, wrong, growth, count = under_load(port, process, swapper, args.pairs, args.swaps)
        added, rates = beside_smg(port, process, args.pairs)
    ledgers = ledger(versions, args.pairs)
    ratio = lambda pairs: statistics.median(ours / other for ours, other in pairs)  # noqa: E731
    results = {
        "swap p99, ms": taken[int(len(taken) * 0.99)], "failed or mixed answers": wrong,
        "p99 with swaps / without": statistics.median(ratios), "memory growth, MiB": growth,
        "added latency / smg's": ratio(added), "requests/CPU s / smg's": ratio(rates),
        "requests/CPU s with ledger / without": ratio(ledgers),
    }
    print(f"swap p50 {statistics.median(taken):.1f} ms; {count} swaps under load; added latency, ms, ours and smg's: "
          + ", ".join(f"{ours:.3f} {other:.3f}" for ours, other in added))
    print("requests/CPU s, ours and smg's: " + ", ".join(f"{ours:.0f} {other:.0f}" for ours, other in rates) + "\n")
    met = {}
    for name, value in results.items():
        met[name] = value >= GOALS[name] if name in MORE_IS_BETTER else value <= GOALS[name]
        print(f"{name:<38} {value:>9.2f}  goal {GOALS[name]:>5}  {'ok' if met[name] else 'MISSED'}")
    if args.json:
        raw = {"swap_ms": taken, "p99_ratios": ratios, "swaps_under_load": count, "added_ms": added, "requests_per_cpu_s": rates,
               "ledger_requests_per_cpu_s": ledgers, "smg": SMG, "results": results}
        args.json.write_text(json.dumps(raw, indent=1) + "\n")
    sys.exit(0 if all(met.values()) else 1)


if __name__ == "__main__":
    main()
