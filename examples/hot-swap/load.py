#!/usr/bin/env python3
"""Keeps streams running against a gateway while two versions of the plugin `mark` take turns.

    load.py SERVER A.wasm B.wasm [--streams 16] [--swaps 100]

Every piece of an answer begins with the mark of the version that made it; an answer must carry
one mark only. The admin token comes from GAPURA_ADMIN_TOKEN.
"""

import argparse
import json
import os
import re
import statistics
import sys
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

MARK = re.compile(r"<([A-Z])>")


def answer(server: str) -> str:
    """One streamed answer, whole; raises where the stream fails or breaks off."""
    body = {"model": "marked", "stream": True, "messages": [{"role": "user", "content": "Tell me a story."}]}
    request = urllib.request.Request(
        f"{server}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    text, done = "", False
    with urllib.request.urlopen(request, timeout=120) as response:
        for line in response:
            if not line.startswith(b"data: "):
                continue
            if line.strip() == b"data: [DONE]":
                done = True
                continue
            chunk = json.loads(line[len(b"data: ") :])
            if "error" in chunk:
                raise RuntimeError(chunk["error"]["message"])
            for choice in chunk["choices"]:
                text += choice["delta"].get("content") or ""
    if not done:
        raise RuntimeError("the stream ended without [DONE]")
    return text


def push(server: str, component: bytes) -> float:
    """Pushes a version; returns the seconds until the gateway has answered."""
    request = urllib.request.Request(
        f"{server}/admin/v1/plugins/mark", component, method="PUT",
        headers={"authorization": f"Bearer {os.environ['GAPURA_ADMIN_TOKEN']}", "content-type": "application/wasm"},
    )
    begin = time.perf_counter()
    with urllib.request.urlopen(request, timeout=60) as response:
        response.read()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("server")
    parser.add_argument("components", nargs=2, type=Path)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--swaps", type=int, default=100)
    args = parser.parse_args()

    stop, lock = threading.Event(), threading.Lock()
    answers, failures = Counter(), []

    def keep_asking() -> None:
        while not stop.is_set():
            try:
                marks = "".join(sorted(set(MARK.findall(answer(args.server)))))
                with lock:
                    answers[marks] += 1
            except Exception as error:  # whatever went wrong, the client has not got its answer
                with lock:
                    failures.append(repr(error))

    threads = [threading.Thread(target=keep_asking) for _ in range(args.streams)]
    for thread in threads:
        thread.start()
    components = [path.read_bytes() for path in args.components]
    times = [push(args.server, components[(i + 1) % 2]) for i in range(args.swaps)]
    stop.set()
    for thread in threads:
        thread.join()

    mixed = sum(count for marks, count in answers.items() if len(marks) != 1)
    print(f"{args.swaps} swaps under {args.streams} streams: {sum(answers.values())} answers {dict(answers)},"
          f" {mixed} mixed, {len(failures)} failed")
    print(f"swap, push to answer: median {statistics.median(times) * 1e3:.1f} ms, slowest {max(times) * 1e3:.1f} ms")
    for failure in failures[:5]:
        print(f"failed: {failure}", file=sys.stderr)
    sys.exit(1 if mixed or failures else 0)


if __name__ == "__main__":
    main()
