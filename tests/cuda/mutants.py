#!/usr/bin/env python3
"""Show that the tests see the mistakes that one can make with the CUDA kernels: make cuda-mutants.

    python3 tests/cuda/mutants.py [--check] [--only REGEX] [--json FILE]

Each mutation is applied to a copy of the kernels' sources, which the tests compile for this machine
in place of the tree's. It is killed when a test that it names fails. Exit code 1 if one survives or
no longer applies. --check only asks whether each still applies, and builds nothing.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from mutations import MUTATIONS

REPO = Path(__file__).resolve().parents[2]
sys.path.append(str(REPO / "tests" / "mutants"))

from edits import applied, check  # noqa: E402

KERNELS = REPO / "host" / "kernels" / "cuda"
# Compiling for this machine takes seconds; whatever takes this long hangs.
LIMIT_S = 300


def test_binary():
    command = ["cargo", "test", "--release", "--locked", "-p", "gapura-kernels", "--test", "device", "--no-run",
               "--message-format=json"]
    done = subprocess.run(command, cwd=REPO, check=True, stdout=subprocess.PIPE, text=True)
    artifacts = [json.loads(line) for line in done.stdout.splitlines()]
    paths = [artifact["executable"] for artifact in artifacts if artifact.get("executable")]
    return Path(paths[-1])


def run_tests(binary, names, sources):
    """Why the tests fail, or None if all pass."""
    environment = {**os.environ, "GAPURA_KERNEL_SOURCES": str(sources), "RUST_BACKTRACE": "0"}
    try:
        done = subprocess.run([binary, *names], cwd=REPO / "host" / "kernels", env=environment, capture_output=True,
                              text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return "hangs"
    output = done.stdout + done.stderr
    if "SKIPPED" in output or re.search(r"running 0 tests", output):
        sys.exit(f"cuda-mutants: nothing was tested by {names}\n{output}")
    if done.returncode == 0:
        return None
    if "cannot be built" in output:
        return "does not compile: " + output
    reason = re.search(r"panicked at .*\n(.*)", output) or re.search(r"(emulation: .*)", output)
    return reason.group(1) if reason else f"exit code {done.returncode}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--only", metavar="REGEX", default="")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    mutations = [m for m in MUTATIONS if re.search(arguments.only, m["name"])]
    if not check(mutations, KERNELS, "cuda-mutants"):
        return 1
    if arguments.check:
        return 0

    binary = test_binary()
    sources = REPO / "target" / "cuda-mutants"
    built = {path for path in binary.parents[1].parent.glob("tmp/kernels/*")}
    results = []
    try:
        for mutation in [None, *mutations]:
            shutil.rmtree(sources, ignore_errors=True)
            shutil.copytree(KERNELS, sources)
            for name, text in (applied(mutation, KERNELS)[0] if mutation else {}).items():
                (sources / name).write_text(text)
            names = [mutation["test"]] if mutation else sorted({m["test"] for m in mutations})
            start = time.monotonic()
            reason = run_tests(binary, names, sources)
            if mutation is None:
                if reason is not None:
                    sys.exit(f"cuda-mutants: the tests fail without any mutation: {reason}")
                continue
            killed = reason is not None and not reason.startswith("does not compile")
            results.append({"name": mutation["name"], "test": mutation["test"], "killed": killed,
                            "seconds": round(time.monotonic() - start, 1), "reason": reason})
            print(f"{'killed  ' if killed else 'SURVIVED'}  {mutation['name']:<62}  {(reason or '')[:110]}", flush=True)
    finally:
        for path in set(binary.parents[1].parent.glob("tmp/kernels/*")) - built:
            path.unlink(missing_ok=True)
    survivors = [result["name"] for result in results if not result["killed"]]
    print(f"{len(results)} mutations, {len(survivors)} survived")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
