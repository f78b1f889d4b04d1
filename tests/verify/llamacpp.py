#!/usr/bin/env python3
"""Compare the CPU engine with llama.cpp on the same GGUF files, token for token.

    python3 tests/verify/llamacpp.py [--model smollm2|gemma3]... [--json FILE]

For each of 20 prompts llama.cpp gives its 20 most likely tokens at every position; the engine
scores the same token ids (teacher forcing), and the mean absolute difference of these logprobs
must be within the gate. Then both continue greedily: the first 12 tokens must agree for 18 of the
20 prompts; later ones may part, because the engines round activations differently.
The engine's own tokenizer must give llama.cpp's ids for every prompt.

Exit code 0: everything is within the gates. 1: something is outside, or could not run.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import llamacpp_env
from prompts import PROMPTS

REPO = Path(__file__).resolve().parents[2]
TOP = 20
GREEDY = 12
GREEDY_AGREE = 18
# Mean |Δlogprob| of 4-bit files. Activations are rounded to 8 bits by both sides, each in its way.
GATE = 0.06
# One: on a busy machine llama.cpp's threads wait for each other by spinning.
THREADS = 1
# Tokens that llama.cpp computes at once, to bound its logits: 64 rows of 262,144 are 64 MiB.
CHUNK = 64


def reference(path):
    """llama.cpp's ids, top logprobs and greedy tokens for every prompt."""
    import llama_cpp
    import numpy

    llm = llama_cpp.Llama(
        str(path), n_ctx=1024, n_batch=CHUNK, n_threads=THREADS, n_threads_batch=THREADS,
        logits_all=True, verbose=False,
    )
    vocab = llm.n_vocab()

    def rows(first, count):
        return numpy.array(llm.scores[first : first + count], dtype=numpy.float64)

    def log_softmax(x):
        shifted = x - x.max(-1, keepdims=True)
        return shifted - numpy.log(numpy.exp(shifted).sum(-1, keepdims=True))

    cases = []
    for text in PROMPTS:
        ids = llm.tokenize(text.encode(), add_bos=True, special=False)
        llm.reset()
        top_ids, top_logprobs = [], []
        for first in range(0, len(ids), CHUNK):
            chunk = ids[first : first + CHUNK]
            llm.eval(chunk)
            logprobs = log_softmax(rows(first, len(chunk)))
            best = numpy.argpartition(-logprobs, TOP, -1)[:, :TOP]
            top_ids += best.tolist()
            top_logprobs += numpy.take_along_axis(logprobs, best, -1).tolist()
        greedy = []
        while len(greedy) < GREEDY:
            greedy.append(int(rows(len(ids) + len(greedy) - 1, 1)[0, :vocab].argmax()))
            llm.eval(greedy[-1:])
        cases.append({"text": text, "ids": ids, "targets": top_ids, "logprobs": top_logprobs, "greedy": greedy})
    return cases


def ours(path, cases):
    """The engine's logprobs of the same targets, and its greedy tokens."""
    command = ["cargo", "run", "--release", "--quiet", "-p", "gapura-engine", "--example", "score", "--"]
    command += [str(path), "--threads", str(THREADS)]
    request = {
        "greedy": GREEDY,
        "prompts": [{"text": c["text"], "ids": c["ids"], "targets": c["targets"]} for c in cases],
    }
    run = subprocess.run(command, cwd=REPO, input=json.dumps(request), capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"the engine could not score the prompts:\n{run.stderr}")
    return json.loads(run.stdout)["prompts"]


def agreement(theirs, mine):
    """Leading greedy tokens in common."""
    pairs = zip(theirs, mine)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), len(theirs))


def compare(name, path):
    cases = reference(path)
    answers = ours(path, cases)
    prompts, total, count = [], 0.0, 0
    for case, answer in zip(cases, answers):
        differences = [
            abs(a - b)
            for theirs, mine in zip(case["logprobs"], answer["logprobs"], strict=True)
            for a, b in zip(theirs, mine, strict=True)
        ]
        total, count = total + sum(differences), count + len(differences)
        prompts.append({
            "prompt": case["text"][:40].replace("\n", " "),
            "tokens": len(case["ids"]),
            "mean": sum(differences) / len(differences),
            "p99": sorted(differences)[int(0.99 * (len(differences) - 1))],
            "max": max(differences),
            "greedy": agreement(case["greedy"], answer["greedy"]),
            "same_tokens": case["ids"] == answer["own_ids"],
        })
    agreed = sum(p["greedy"] == GREEDY for p in prompts)
    mean = total / count
    same_tokens = all(p["same_tokens"] for p in prompts)
    passed = mean <= GATE and agreed >= GREEDY_AGREE and same_tokens
    return {"model": name, "file": path.name, "mean": mean, "gate": GATE, "agreed": agreed,
            "same_tokens": same_tokens, "passed": passed, "prompts": prompts}


def show(result):
    print(f"\n{result['file']}")
    print(f"{'prompt':<42} {'tokens':>6} {'mean':>8} {'p99':>8} {'max':>8} {'greedy':>7} {'ids':>4}")
    for p in result["prompts"]:
        print(f"{p['prompt']:<42} {p['tokens']:>6} {p['mean']:>8.4f} {p['p99']:>8.4f} {p['max']:>8.4f}"
              f" {p['greedy']:>4}/{GREEDY} {'same' if p['same_tokens'] else 'DIFF':>4}")
    print(f"mean |Δlogprob| of llama.cpp's top {TOP}: {result['mean']:.4f} (gate {result['gate']});"
          f" greedy equal: {result['agreed']}/{len(result['prompts'])} (gate {GREEDY_AGREE});"
          f" {'PASSED' if result['passed'] else 'FAILED'}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", choices=llamacpp_env.MODELS)
    parser.add_argument("--json", type=Path, help="write the results here too")
    args = parser.parse_args()
    models = llamacpp_env.chosen_models(args.model or llamacpp_env.MODELS)
    llamacpp_env.enter()
    results = [compare(name, path) for name, path in models.items()]
    for result in results:
        show(result)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))
    sys.exit(0 if all(result["passed"] for result in results) else 1)


if __name__ == "__main__":
    main()
