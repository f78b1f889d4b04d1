#!/usr/bin/env python3
"""Measure two latencies of the CPU engine against their goals.

    python3 tests/bench/latency.py [--model smollm2] [--threads 1] [--json FILE]

- The time to the first token of a prompt whose first 1,500 tokens are known (another request
  began with them) is at most a tenth of that of a prompt that is computed whole.
- While a prompt of 8,000 tokens arrives, the times between the tokens of eight running streams
  have a 99th percentile of at most three times their median, and each is at most three times
  (again at the 99th percentile) that of the same token when the streams run by themselves: their
  own context grows tenfold meanwhile, and with it what a token takes; so the median before the
  arrival is shown, but is no measure of what the prompt does. The same with steps that are always
  full stands beside it, to show what the pace of prompts is good for.

Exit code 1 if a goal is missed. The work is done by host/engine/examples/bench_latency.rs.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "tests" / "verify"))

import llamacpp_env  # noqa: E402

WARM_TO_COLD = 0.1
P99_TO_MEDIAN = 3.0


def show(model, threads, result):
    prefix = result["prefix"]
    met = {"prefix": prefix["warm_to_cold"] <= WARM_TO_COLD}
    print(f"{model}, {threads} thread(s)")
    print(f"first token of {prefix['prompt_tokens']} tokens: {prefix['cold_s'] * 1e3:.0f} ms computed whole, "
          f"{prefix['warm_s'] * 1e3:.1f} ms with {prefix['prefix_tokens']} known: "
          f"{prefix['warm_to_cold']:.3f} (goal {WARM_TO_COLD}): {'ok' if met['prefix'] else 'MISSED'}")
    columns = {"median before": "median_before_s", "median alone": "median_alone_s", "median during": "median_during_s",
               "p99 during": "p99_during_s", "most": "most_during_s"}
    print(f"{'steps, ms':<11}", *(f"{column:>13}" for column in columns), f"{'p99/median':>10} {'p99 slowdown':>12} {'long one after':>15}")
    for name, run in result["arrival"].items():
        met[name] = max(run["p99_during_to_median_during"], run["p99_slowdown"]) <= P99_TO_MEDIAN
        print(f"{name:<11}", *(f"{run[key] * 1e3:>13.1f}" for key in columns.values()),
              f"{run['p99_during_to_median_during']:>10.2f} {run['p99_slowdown']:>12.2f} {run['long_first_token_s']:>13.1f} s")
    print(f"goal for paced steps {P99_TO_MEDIAN}: {'ok' if met['paced'] else 'MISSED'}")
    return met["prefix"] and met["paced"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", choices=llamacpp_env.MODELS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the results here too")
    args = parser.parse_args()
    models = llamacpp_env.chosen_models(args.model or ["smollm2"])
    build = ["cargo", "build", "--release", "--quiet", "--locked", "--workspace", "--bins", "--examples"]
    subprocess.run(build, cwd=REPO, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target"))
    binary = target / "release" / "examples" / "bench_latency"
    rows, is_met = [], True
    for name, path in models.items():
        run = subprocess.run([binary, path, str(args.threads)], cwd=REPO, capture_output=True, text=True)
        if run.returncode != 0:
            sys.exit(f"bench_latency failed:\n{run.stderr}")
        result = json.loads(run.stdout.splitlines()[-1])
        is_met &= show(name, args.threads, result)
        rows.append({"model": name, "threads": args.threads, **result})
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    sys.exit(not is_met)


if __name__ == "__main__":
    main()
