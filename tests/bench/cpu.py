#!/usr/bin/env python3
"""Race the CPU engine against llama.cpp: same GGUF file, prompt tokens and threads, in one run.

    python3 tests/bench/cpu.py [--model smollm2|gemma3]... [--threads 1 2] [--repetitions 3] [--json FILE]

Each measurement is a fresh process that loads the model, computes a few tokens to warm up, then
times the prefill of 512 tokens and the greedy decode of 128, batch 1. The engines take turns, so
that a busy minute of the machine hits both; the best repetition counts. CPU seconds (user and
system, all threads) stand beside wall time: on a shared machine they are the steadier measure.
Then ours decodes one stream and eight together, behind prompts of 32 and of 512 tokens.

Exit code 1 if we are below GOAL of llama.cpp's speed in either phase, or eight streams behind
the short prompts give together less than BATCH_GOAL times the tokens of one. Behind long ones
each stream reads its own keys and values, which no batch shares; that is shown and has no goal.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "tests" / "verify"))

import llamacpp_env  # noqa: E402

PREFILL = 512
DECODE = 128
WARM_UP = 8
TOGETHER = [(streams, prompt) for prompt in (32, PREFILL) for streams in (1, 8)]
GOAL = 0.9
BATCH_GOAL = 3.0
TEXT = (REPO / "LICENSE-APACHE").read_text()


def llamacpp_worker(path, threads):
    """Measure llama.cpp in this process; the request comes by stdin, as in the Rust example."""
    import llama_cpp
    import numpy

    request = json.load(sys.stdin)
    ids = request["ids"]
    llm = llama_cpp.Llama(
        path, n_ctx=len(ids) + request["decode"] + 8, n_batch=512, n_threads=threads,
        n_threads_batch=threads, verbose=False,
    )

    def most_likely():
        logits = llama_cpp.llama_get_logits_ith(llm.ctx, -1)
        return int(numpy.ctypeslib.as_array(logits, shape=(llm.n_vocab(),)).argmax())

    llm.eval(ids[: request["warm_up"]])
    llm.reset()
    llm._ctx.kv_cache_clear() if hasattr(llm._ctx, "kv_cache_clear") else None
    start = time.perf_counter(), time.process_time()
    llm.eval(ids)
    greedy = [most_likely()]
    middle = time.perf_counter(), time.process_time()
    for _ in range(request["decode"]):
        llm.eval(greedy[-1:])
        greedy.append(most_likely())
    end = time.perf_counter(), time.process_time()
    print(json.dumps({
        "prefill_s": middle[0] - start[0], "prefill_cpu_s": middle[1] - start[1],
        "decode_s": end[0] - middle[0], "decode_cpu_s": end[1] - middle[1],
        "peak_rss_bytes": peak_rss_bytes(), "greedy": greedy,
    }))


def peak_rss_bytes():
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def prompt_ids(path):
    import llama_cpp

    llm = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    return llm.tokenize(TEXT.encode(), add_bos=True, special=False)[:PREFILL]


def measure(command, ids):
    request = json.dumps({"ids": ids, "decode": DECODE, "warm_up": WARM_UP, "together": TOGETHER})
    run = subprocess.run(command, cwd=REPO, input=request, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{run.stderr}")
    return json.loads(run.stdout.splitlines()[-1])


def best(runs):
    """The least of every number over the repetitions."""
    keys = [key for key in runs[0] if key not in ("greedy", "together")]
    least = {key: min(run[key] for run in runs) for key in keys}
    return {
        "prefill_tokens_per_s": PREFILL / least["prefill_s"],
        "decode_tokens_per_s": DECODE / least["decode_s"],
        "prefill_cpu_s": least["prefill_cpu_s"],
        "decode_cpu_s": least["decode_cpu_s"],
        "peak_rss_bytes": max(run["peak_rss_bytes"] for run in runs),
    }


def race(name, path, threads, repetitions, binary):
    ids = prompt_ids(path)
    commands = {
        "gapura": [binary, path, "--threads", str(threads)],
        "llama.cpp": [sys.executable, __file__, "--worker", path, "--threads", str(threads)],
    }
    runs = {engine: [] for engine in commands}
    for _ in range(repetitions):
        for engine, command in commands.items():
            runs[engine].append(measure(command, ids))
    result = {engine: best(measured) for engine, measured in runs.items()}
    together = []
    for index, (streams, prompt_tokens) in enumerate(TOGETHER):
        measured = [run["together"][index] for run in runs["gapura"]]
        together.append({
            "streams": streams, "prompt_tokens": prompt_tokens,
            "tokens_per_s": max(run["tokens"] / run["wall_s"] for run in measured),
            "tokens_per_cpu_s": max(run["tokens"] / run["cpu_s"] for run in measured),
        })
    file_bytes = path.stat().st_size
    # The KV cache does not count towards the 1.3 times the file that the weights may take.
    kv_bytes = runs["gapura"][0]["kv_bytes"]
    return {
        "model": name, "threads": threads, "repetitions": repetitions, **result,
        "decode_ratio": result["gapura"]["decode_tokens_per_s"] / result["llama.cpp"]["decode_tokens_per_s"],
        "prefill_ratio": result["gapura"]["prefill_tokens_per_s"] / result["llama.cpp"]["prefill_tokens_per_s"],
        "decode_cpu_ratio": result["llama.cpp"]["decode_cpu_s"] / result["gapura"]["decode_cpu_s"],
        "prefill_cpu_ratio": result["llama.cpp"]["prefill_cpu_s"] / result["gapura"]["prefill_cpu_s"],
        "together": together,
        "rss_over_file": (result["gapura"]["peak_rss_bytes"] - kv_bytes) / file_bytes,
    }


def batches(row):
    """One stream and many behind prompts of the same length, the short ones first."""
    return list(zip(row["together"][::2], row["together"][1::2]))


def show(rows):
    print(f"{'model':<9} {'thr':>3} {'phase':<8} {'gapura tok/s':>12} {'llama.cpp':>10} {'ratio':>6}"
          f" {'gapura CPU s':>13} {'llama.cpp':>10} {'ratio':>6}")
    for row in rows:
        for phase in ("decode", "prefill"):
            mine, theirs = row["gapura"], row["llama.cpp"]
            print(f"{row['model']:<9} {row['threads']:>3} {phase:<8} {mine[phase + '_tokens_per_s']:>12.1f}"
                  f" {theirs[phase + '_tokens_per_s']:>10.1f} {row[phase + '_ratio']:>6.2f}"
                  f" {mine[phase + '_cpu_s']:>13.2f} {theirs[phase + '_cpu_s']:>10.2f}"
                  f" {row[phase + '_cpu_ratio']:>6.2f}")
    for row in rows:
        for one, many in batches(row):
            print(f"{row['model']:<9} {row['threads']:>3} behind {one['prompt_tokens']:>3} tokens: one stream"
                  f" {one['tokens_per_s']:.1f} tok/s, {many['streams']} together {many['tokens_per_s']:.1f}:"
                  f" {many['tokens_per_s'] / one['tokens_per_s']:.2f} times, in CPU time"
                  f" {many['tokens_per_cpu_s'] / one['tokens_per_cpu_s']:.2f}")
    for row in rows:
        mib = {engine: row[engine]["peak_rss_bytes"] / 2**20 for engine in ("gapura", "llama.cpp")}
        print(f"{row['model']:<9} {row['threads']:>3} peak memory {mib['gapura']:.0f} MiB"
              f" ({row['rss_over_file']:.2f}x the file, KV aside), llama.cpp {mib['llama.cpp']:.0f} MiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", choices=llamacpp_env.MODELS)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return llamacpp_worker(args.worker, args.threads[0])
    models = llamacpp_env.chosen_models(args.model or llamacpp_env.MODELS)
    llamacpp_env.enter()
    build = ["cargo", "build", "--release", "--quiet", "--workspace", "--example", "bench_cpu"]
    subprocess.run(build, cwd=REPO, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target"))
    binary = target / "release" / "examples" / "bench_cpu"
    rows = [
        race(name, path, threads, args.repetitions, binary)
        for name, path in models.items()
        for threads in args.threads
    ]
    show(rows)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    ratios = [row[phase + "_ratio"] for row in rows for phase in ("decode", "prefill")]
    gains = [many["tokens_per_s"] / one["tokens_per_s"] for one, many in (batches(row)[0] for row in rows)]
    is_met = min(ratios) >= GOAL and min(gains) >= BATCH_GOAL
    print(f"goals: {GOAL} of llama.cpp, 8 streams {BATCH_GOAL} times one: {'ok' if is_met else 'MISSED'}")
    sys.exit(not is_met)


if __name__ == "__main__":
    main()
