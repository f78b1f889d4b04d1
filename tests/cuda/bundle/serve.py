#!/usr/bin/env python3
"""Time the gateway over HTTP on the GPU, with a chain of plugins and with the template alone.

    serve.py --gapura FILE --bench FILE --device cuda|interpreter --model 9b|tiny --plugins DIR [--weights DIR]

The model has Gemma 2's shape; its weights are those of the checkpoint in --weights, else zeros.
Several clients stream answers of a fixed length; routes take turns. Without a GPU the gateway runs
on the CPU.
"""

import argparse
import contextlib
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

CONFIG = """
[plugins]
dir = "{plugins}"
releases_dir = "releases"
[[routes]]
name = "template"
plugins = [{{ plugin = "gemma-chat" }}]
[[routes]]
name = "chain"
plugins = [{{ plugin = "request-guard", grants = ["log", "config", "tokenizer"] }}, {{ plugin = "gemma-chat" }}, {{ plugin = "pii-redact" }}]
"""
TEXT = "Ceritakan tentang kota Semarang dan makanan khasnya. " * 8


def stream(port, route, tokens, results):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    body = {"model": route, "messages": [{"role": "user", "content": TEXT}], "stream": True, "max_tokens": tokens,
            # Zeros or random numbers choose this token then: text that clients and plugins see.
            "temperature": 0, "ignore_eos": True, "logit_bias": {"70": 50}, "stream_options": {"include_usage": True}}
    start = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise SystemExit(f"serve.py: {route} answered {response.status}: {response.read()[:300]!r}")
    first = usage = None
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if "error" in event:
            raise SystemExit(f"serve.py: {event}")
        if event.get("usage"):
            usage = event["usage"]
        if first is None and event["choices"] and event["choices"][0]["delta"].get("role") is None:
            first = time.perf_counter() - start
    results.append((first, time.perf_counter() - start, usage["completion_tokens"]))


def measure(port, route, clients, tokens):
    results = []
    threads = [threading.Thread(target=stream, args=(port, route, tokens, results)) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    if len(results) != clients:
        sys.exit(f"serve.py: {clients - len(results)} of {clients} streams failed")
    return {
        "route": route, "streams": clients, "tokens_per_s": sum(r[2] for r in results) / seconds,
        "first_token_s": statistics.median(r[0] or r[1] for r in results), "whole_s": statistics.median(r[1] for r in results),
    }


@contextlib.contextmanager
def gateway(binary, device, model, plugins):
    """A gateway over `model`, ready, as the number of its port."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "gapura.toml")
        config.write_text(CONFIG.format(plugins=Path(plugins).resolve()))
        port = 8731
        server = subprocess.Popen(
            [binary, "serve", "--config", str(config), "--model", str(model), "--device", device,
             "--listen", f"127.0.0.1:{port}", "--context-length", "1024"], stderr=sys.stderr, stdout=sys.stderr)
        try:
            for _ in range(1200):
                if server.poll() is not None:
                    sys.exit("serve.py: the gateway ended")
                try:
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                    connection.request("GET", "/readyz")
                    if connection.getresponse().status == 200:
                        break
                except OSError:
                    pass
                time.sleep(0.25)
            else:
                sys.exit("serve.py: the gateway did not become ready")
            yield port
        finally:
            server.terminate()
            server.wait(timeout=60)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("gapura", "bench", "device", "model", "plugins"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--weights", type=Path, help="folder of a checkpoint")
    args = parser.parse_args()
    device = "cuda" if args.device == "cuda" else "cpu"
    weights = "of a file" if args.weights else "zeros"
    tokens = 128 if args.model == "9b" else 8
    with tempfile.TemporaryDirectory() as folder:
        model = args.weights
        if model is None:
            model = Path(folder, "model")
            subprocess.run([args.bench, "--model", args.model, "--write-model", str(model)], check=True)
        with gateway(args.gapura, device, model, args.plugins) as port:
            for clients in (1, 8):
                best = {}
                for _ in range(3):
                    for route in ("template", "chain"):
                        result = measure(port, route, clients, tokens)
                        if route not in best or result["tokens_per_s"] > best[route]["tokens_per_s"]:
                            best[route] = result
                for result in best.values():
                    print(json.dumps({"part": "serve", "result": {**result, "weights": weights}}), flush=True)


if __name__ == "__main__":
    main()
