#!/usr/bin/env python3
"""Compare the CPU engine with llama.cpp on the same weights, token for token.

    python3 tests/verify/llamacpp.py [--model smollm2|gemma3]... [--json FILE]

For each of 20 prompts the same token ids are scored by both (teacher forcing); what is compared
are the logprobs of the reference's 20 most likely tokens at every position, and the first 12
tokens of the greedy continuation.

Both engines multiply quantized weights with activations rounded to 8 bits. A rounding is a step
function, so a difference in the seventh digit anywhere (another order of a sum, a KV cache of
another type) flips some of them, and the flips multiply from layer to layer: two right
implementations end up about as far from each other as each is from the exact result. llama.cpp
does so from itself; the table shows it. Hence two gates that a wrong implementation cannot pass:

  exact     the file's weights written out in float32, nothing rounded: mean |Δlogprob| at most
            0.01, and 18 of 20 greedy continuations the same
  rounding  the file as it is: our mean |Δlogprob| from llama.cpp's float32 result is at most
            1.1 times llama.cpp's own

The engine's own tokenizer must give llama.cpp's ids for every prompt. The direct difference on
the quantized file is shown beside llama.cpp's difference from itself with a float32 KV cache.

Exit code 0: everything is within the gates. 1: something is outside, or could not run.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import llamacpp_env
from prompts import PROMPTS

REPO = Path(__file__).resolve().parents[2]
TOP = 20
GREEDY = 12
GREEDY_AGREE = 18
EXACT_GATE = 0.01
ROUNDING_GATE = 1.1
THREADS = 2
# Tokens that llama.cpp computes at once, to bound its logits: 64 rows of 262,144 are 64 MiB.
CHUNK = 64
F32 = 0  # ggml's number of the type


def llamacpp(path, cases=None, float_kv=False):
    """llama.cpp's logprobs and greedy tokens; with `cases`, of the targets that they name."""
    import llama_cpp
    import numpy

    kv = {"type_k": F32, "type_v": F32, "flash_attn": False} if float_kv else {}
    llm = llama_cpp.Llama(
        str(path), n_ctx=1024, n_batch=CHUNK, n_threads=THREADS, n_threads_batch=THREADS,
        logits_all=True, verbose=False, **kv,
    )
    vocab = llm.n_vocab()

    def rows(first, count):
        return numpy.array(llm.scores[first : first + count], dtype=numpy.float64)

    def log_softmax(x):
        shifted = x - x.max(-1, keepdims=True)
        return shifted - numpy.log(numpy.exp(shifted).sum(-1, keepdims=True))

    results = []
    for i, text in enumerate(PROMPTS):
        ids = llm.tokenize(text.encode(), add_bos=True, special=False)
        llm.reset()
        targets, picked = [], []
        for first in range(0, len(ids), CHUNK):
            chunk = ids[first : first + CHUNK]
            llm.eval(chunk)
            logprobs = log_softmax(rows(first, len(chunk)))
            if cases:
                best = numpy.array(cases[i]["targets"][first : first + len(chunk)])
            else:
                best = numpy.argpartition(-logprobs, TOP, -1)[:, :TOP]
            targets += best.tolist()
            picked += numpy.take_along_axis(logprobs, best, -1).tolist()
        greedy = []
        while len(greedy) < GREEDY:
            greedy.append(int(rows(len(ids) + len(greedy) - 1, 1)[0, :vocab].argmax()))
            llm.eval(greedy[-1:])
        results.append({"text": text, "ids": ids, "targets": targets, "logprobs": picked, "greedy": greedy})
    return results


def engine(path, cases):
    """Our logprobs of the same targets, and our greedy tokens."""
    request = {
        "greedy": GREEDY,
        "prompts": [{"text": c["text"], "ids": c["ids"], "targets": c["targets"]} for c in cases],
    }
    output = example("score", str(path), "--threads", str(THREADS), stdin=json.dumps(request))
    return json.loads(output)["prompts"]


def example(name, *arguments, stdin=""):
    program = REPO / "target" / "release" / "examples" / name
    run = subprocess.run([program, *arguments], input=stdin, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"the example `{name}` failed:\n{run.stderr}")
    return run.stdout


def differences(left, right):
    """|Δlogprob| of one prompt, position after position, target after target."""
    pairs = zip(left["logprobs"], right["logprobs"], strict=True)
    return [abs(a - b) for row in pairs for a, b in zip(*row, strict=True)]


def distance(left, right):
    """Mean |Δlogprob| over all prompts."""
    every = [d for pair in zip(left, right, strict=True) for d in differences(*pair)]
    return sum(every) / len(every)


def agreed(left, right):
    """Prompts whose greedy tokens are all the same."""
    return sum(a["greedy"] == b["greedy"] for a, b in zip(left, right, strict=True))


def agreement(theirs, mine):
    """Leading greedy tokens in common."""
    pairs = zip(theirs, mine)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), len(theirs))


def compare(name, path):
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".verify-") as scratch:
        exact_path = Path(scratch) / f"{path.stem}.F32.gguf"
        example("unquantize", str(path), str(exact_path))
        exact = llamacpp(exact_path, float_kv=True)
        our_exact = engine(exact_path, exact)
    rounded = llamacpp(path, exact)
    other_kv = llamacpp(path, exact, float_kv=True)
    ours = engine(path, exact)
    result = {
        "model": name,
        "file": path.name,
        "same_tokens": all(c["ids"] == o["own_ids"] for c, o in zip(exact, ours)),
        "exact": {"mean": distance(our_exact, exact), "greedy": agreed(our_exact, exact)},
        "rounding": {"ours": distance(ours, exact), "llamacpp": distance(rounded, exact)},
        "direct": {"ours": distance(ours, rounded), "greedy": agreed(ours, rounded)},
        "itself": {"llamacpp": distance(other_kv, rounded), "greedy": agreed(other_kv, rounded)},
        "prompts": [
            {
                "prompt": e["text"][:40].replace("\n", " "),
                "tokens": len(e["ids"]),
                "exact": statistics.mean(differences(o, e)),
                "exact_max": max(differences(o, e)),
                "greedy": agreement(e["greedy"], o["greedy"]),
                "ours": statistics.mean(differences(q, e)),
                "llamacpp": statistics.mean(differences(r, e)),
            }
            for e, o, q, r in zip(exact, our_exact, ours, rounded)
        ],
    }
    result["passed"] = (
        result["same_tokens"]
        and result["exact"]["mean"] <= EXACT_GATE
        and result["exact"]["greedy"] >= GREEDY_AGREE
        and result["rounding"]["ours"] <= ROUNDING_GATE * result["rounding"]["llamacpp"]
    )
    return result


def show(result):
    total = len(result["prompts"])
    exact, rounding, direct, itself = (result[k] for k in ("exact", "rounding", "direct", "itself"))
    print(f"\n{result['file']}: mean |Δlogprob| of the {TOP} most likely tokens at every position")
    print(f"{'':<48} {'float32 weights':^30}   {'the file, from float32':^23}")
    print(f"{'prompt':<40} {'tokens':>7} {'mean':>10} {'max':>10} {'greedy':>8}   {'ours':>11} {'llama.cpp':>11}")
    for p in result["prompts"]:
        print(f"{p['prompt']:<40} {p['tokens']:>7} {p['exact']:>10.6f} {p['exact_max']:>10.6f}"
              f" {p['greedy']:>5}/{GREEDY}   {p['ours']:>11.4f} {p['llamacpp']:>11.4f}")
    verdict = {True: "ok", False: "OUTSIDE"}
    print(f"token ids: {'the same' if result['same_tokens'] else 'DIFFERENT'}")
    print(f"exact:     mean {exact['mean']:.6f} (gate {EXACT_GATE}), greedy {exact['greedy']}/{total}"
          f" (gate {GREEDY_AGREE}): {verdict[exact['mean'] <= EXACT_GATE and exact['greedy'] >= GREEDY_AGREE]}")
    print(f"rounding:  ours {rounding['ours']:.4f}, llama.cpp's {rounding['llamacpp']:.4f}"
          f" (gate {ROUNDING_GATE}x): {verdict[rounding['ours'] <= ROUNDING_GATE * rounding['llamacpp']]}")
    print(f"direct:    ours and llama.cpp {direct['ours']:.4f}, greedy {direct['greedy']}/{total};"
          f" llama.cpp and itself with a float32 KV cache {itself['llamacpp']:.4f}, greedy {itself['greedy']}/{total}")
    print("PASSED" if result["passed"] else "FAILED")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", choices=llamacpp_env.MODELS)
    parser.add_argument("--json", type=Path, help="write the results here too")
    args = parser.parse_args()
    models = llamacpp_env.chosen_models(args.model or llamacpp_env.MODELS)
    llamacpp_env.enter()
    build = ["cargo", "build", "--release", "--workspace", "--example", "score", "--example", "unquantize"]
    subprocess.run(build, cwd=REPO, check=True)
    results = [compare(name, path) for name, path in models.items()]
    for result in results:
        show(result)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))
    sys.exit(0 if all(result["passed"] for result in results) else 1)


if __name__ == "__main__":
    main()
