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

# Gate, the tests that are it (a regular expression on binary::test), the lines that measure it,
# and how many of these there are at least.
GATES = [
    ("f32 goldens", r"^models::(golden::(gemma2|gemma3|llama)|loading::a_gguf_file)", "f32, ", 3),
    ("alone = batched", r"^models::exactness::(batched|seeded)", "alone = batched|seeded", 2),
    ("chunked = whole", r"^models::exactness::small_chunks", "chunked = whole", 1),
    ("preempted = not", r"^models::exactness::preempted", "preempted = not", 1),
    ("prefix hit = cold", r"^models::exactness::answers_(after_a_prefix_hit|with_scarce)", "prefix hit", 1),
    ("prefill = decode", r"^models::exactness::scoring", None, 0),
    ("quantized: exact in batches, near float32", r"^models::quantized::|^gapura_kernels::quantize::", "wide random", 2),
    ("paged = contiguous", r"^gapura_kernels::attention::tests::", None, 0),
    ("kernels = reference", r"^gapura_kernels::(matmul|norm|rope|activation_fn|elementwise|kv|activations|dequantize|simd|softmax)::", None, 0),
    ("sampler, chi-squared", r"^gapura_engine::sampler::|^models::sampling::", "sampler|temperature", 5),
    ("grammar", r"^gapura_engine::grammar::|^models::constrained::", None, 0),
    ("tokenizer", r"^models::tokenizers::|^gapura_engine::tokenizer::", "tokenizer", 3),
    ("streaming text, every split point", r"^gapura_engine::text_stream::", None, 0),
    ("scheduler and pools", r"^gapura_engine::(scheduler|kv_cache|engine)::", None, 0),
]


def run_tests():
    """{binary::test: passed}, the measuring lines, and whether every binary came to its end."""
    command = ["cargo", "test", "--release", "--locked", "--workspace", "--no-fail-fast", "--lib", "--test", "models", "--", "--show-output"]
    done = subprocess.run(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    tests, binary = {}, None
    for line in done.stdout.splitlines():
        if running := re.match(r"\s+Running .*/([^/]+)-[0-9a-f]{16}\)$", line):
            binary = running[1]
        elif result := re.match(r"test (\S+) \.\.\. (ok|FAILED)$", line):
            tests[f"{binary}::{result[1]}"] = result[2] == "ok"
    lines = [tuple(part.strip() for part in line.split("|")) for line in re.findall(r"^gate: (.*)$", done.stdout, re.M)]
    if not tests:
        sys.exit(f"verify: no test ran\n{done.stdout[-4000:]}")
    return tests, sorted(set(lines)), done.returncode == 0


def row(gate, pattern, measure, num_measured, tests, lines):
    names = [name for name in tests if re.search(pattern, name)]
    red = [name for name in names if not tests[name]]
    measured = [line for line in lines if measure and re.match(measure, line[0])]
    verdict = "ok"
    if red:
        verdict = "RED: " + ", ".join(red)
    elif not names:
        verdict = "RED: no such test ran"
    elif len(measured) < num_measured:
        verdict = f"RED: {len(measured)} of {num_measured} measurements"
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
    tests, lines, all_passed = run_tests()
    rows = [row(*gate, tests, lines) for gate in GATES]
    # A test of no gate, or a binary that died with its tests unseen.
    rows.append({"gate": "every test of engine and kernels", "tests": len(tests), "measured": [],
                 "verdict": "ok" if all_passed else "RED"})
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
