#!/usr/bin/env python3
"""Every gate that a CPU can run, in one table: make verify.

    python3 tests/verify/run.py [--llamacpp] [--json FILE]

The gates are tests; those that measure say so in lines of their own (`gate: what | measured |
tolerance`), the others are green or red as a whole. --llamacpp adds the comparison with llama.cpp
(tests/verify/llamacpp.py, about 20 minutes). Exit code 1 where a gate is red or did not run.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "tests/tokenizer"))

import fetch_gemma2  # noqa: E402

# Gate, the tests that are it (a regular expression on their names), the lines that measure it.
GATES = [
    ("f32 goldens", r"^golden::(gemma2|gemma3|llama)|^loading::a_gguf_file", "f32, "),
    ("alone = batched", r"^exactness::(batched|seeded)", "alone = batched|seeded"),
    ("chunked = whole", r"^exactness::small_chunks", "chunked = whole"),
    ("preempted = not", r"^exactness::preempted", "preempted = not"),
    ("prefix hit = cold", r"^exactness::answers_(after_a_prefix_hit|with_scarce)", "prefix hit"),
    ("prefill = decode", r"^exactness::scoring", None),
    ("paged = contiguous", r"^attention::tests::", None),
    ("kernels = reference", r"^(matmul|norm|rope|activation_fn|elementwise|kv|activations|dequantize|simd)::.*tests::", None),
    ("sampler, chi-squared", r"^sampler::|^sampling::", "sampler|temperature"),
    ("tokenizer", r"^tokenizers::|^tokenizer::", "tokenizer"),
    ("streaming text, every split point", r"^text_stream::", None),
    ("scheduler and pools", r"^(scheduler|kv_cache|engine)::", None),
]


def run_tests():
    """{test: passed} and the measuring lines of the engine's and the kernels' tests."""
    command = ["cargo", "test", "--release", "--locked", "--workspace", "--no-fail-fast", "--lib", "--test", "models", "--", "--show-output"]
    done = subprocess.run(command, cwd=REPO, stdout=subprocess.PIPE, text=True)
    tests = {name: verdict == "ok" for name, verdict in re.findall(r"^test (\S+) \.\.\. (ok|FAILED)$", done.stdout, re.M)}
    lines = [tuple(part.strip() for part in line.split("|")) for line in re.findall(r"^gate: (.*)$", done.stdout, re.M)]
    if not tests:
        sys.exit("verify: no test ran")
    return tests, sorted(set(lines))


def row(gate, pattern, measure, tests, lines):
    names = [name for name in tests if re.search(pattern, name)]
    red = [name for name in names if not tests[name]]
    verdict = "RED: " + ", ".join(red) if red else "ok" if names else "RED: no such test ran"
    measured = [line for line in lines if measure and re.match(measure, line[0])]
    return {"gate": gate, "tests": len(names), "verdict": verdict,
            "measured": [{"what": what, "measured": value, "tolerance": tolerance} for what, value, tolerance in measured]}


def llamacpp():
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        done = subprocess.run([sys.executable, REPO / "tests/verify/llamacpp.py", "--json", report.name], cwd=REPO)
        text = Path(report.name).read_text()
    return {"gate": "llama.cpp, same file", "tests": 1, "verdict": "ok" if done.returncode == 0 else "RED", "measured": [],
            "report": json.loads(text) if text else None}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llamacpp", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    fetch_gemma2.fetch()
    tests, lines = run_tests()
    rows = [row(*gate, tests, lines) for gate in GATES]
    if args.llamacpp:
        rows.append(llamacpp())
    print(f"{'gate':<62} {'measured':>20} {'tolerance':>10}  verdict")
    for gate in rows:
        print(f"{gate['gate']:<62} {gate['tests']:>14} tests {'all green':>10}  {gate['verdict']}")
        for line in gate["measured"]:
            print(f"  {line['what']:<60} {line['measured']:>20} {line['tolerance']:>10}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    sys.exit(any(gate["verdict"] != "ok" for gate in rows))


if __name__ == "__main__":
    main()
