#!/usr/bin/env python3
"""Measure what quantizing while loading costs, on the small real models.

    python3 tests/verify/quantize.py [--model smollm2|gemma3]... [--json FILE]

The reference is a float32 model; compared with it, token for token over the same texts (the
prompts of prompts.py), are the same weights loaded with --quantize 8bit and 4bit:

  KL      mean KL(reference || quantized) of the next token's distribution, nats per token
  top-1   share of positions whose most likely token is the same
  |Δlp|   mean |Δlogprob| of the text's next token
  nll     mean negative logprob of the text's next token; the reference's stands above the table

The models that can be had here were quantized to about 4 bits by who published them, so there are
two references for each:

  file      the file's weights written out in float32. `file` is then the file itself: the same
            weights, so that all of its distance comes from activations rounded to 8 bits, which
            every quantized product has. 8bit adds little to it. 4bit is flattered: weights that lie
            on a grid of 16 values already fall on nearly the same grid again.
  rescaled  the same model, written so that its weights lie on no grid: each column of a linear
            layer is divided by a factor of its own, and what goes in is multiplied by it (the
            example `unquantize --rescale`). 4bit costs here what it costs with weights that were
            never quantized, if anything a little more, because columns of unlike size share
            blocks. These are the figures to go by. Embedding and output layer are not rescaled;
            they are 8 bits, on another grid than the file's.

The gates are for the rescaled reference, about one and a half times what was measured when they
were set (docs/benchmarks): room for another instruction set or text, none for a lost scale, a
minimum left out or nibbles swapped, which cost whole nats. That rescaling leaves the model as it
was is a gate too: both references must have the same nll.

Exit code 0: everything is within the gates. 1: something is outside, or could not run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import llamacpp_env
from prompts import PROMPTS

REPO = Path(__file__).resolve().parents[2]
# Nats per token, of the rescaled reference, by model.
GATES = {
    "smollm2": {"8bit": 0.006, "4bit": 0.16},
    "gemma3": {"8bit": 0.003, "4bit": 0.16},
}
# Between the references' nll. Float32 sums of other terms differ a little.
SAME_NLL = 1e-3


def example(name, *arguments, stdin=""):
    program = REPO / "target" / "release" / "examples" / name
    run = subprocess.run([program, *map(str, arguments)], input=stdin, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"the example `{name}` failed:\n{run.stderr}")
    return run.stdout


def compare(name, path):
    result = {"model": name, "file": path.name, "references": {}}
    request = json.dumps({"texts": PROMPTS})
    for reference, flags in (("file", []), ("rescaled", ["--rescale"])):
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".verify-") as scratch:
            exact = Path(scratch) / f"{path.stem}.F32.gguf"
            example("unquantize", path, exact, *flags)
            result["references"][reference] = json.loads(example("quantize_error", exact, path, stdin=request))
    plain, rescaled = (result["references"][name] for name in ("file", "rescaled"))
    result["same_model"] = abs(plain["reference_nll"] - rescaled["reference_nll"]) <= SAME_NLL
    gated = {v["name"]: v["kl"] for v in rescaled["variants"]}
    within = all(gated[variant] <= gate for variant, gate in GATES[name].items())
    result["passed"] = result["same_model"] and within
    return result


def show(result):
    for reference, found in result["references"].items():
        print(f"\n{result['file']}, reference: {reference}, {found['tokens']} tokens,"
              f" nll {found['reference_nll']:.4f}, {found['reference_bytes'] / 2**20:.0f} MiB")
        print(f"{'weights':<8} {'MiB':>6} {'KL':>10} {'top-1':>8} {'|Δlp|':>8} {'nll':>8}   gate")
        for v in found["variants"]:
            gate = GATES[result["model"]].get(v["name"]) if reference == "rescaled" else None
            verdict = "" if gate is None else f"KL {gate}: {'ok' if v['kl'] <= gate else 'OUTSIDE'}"
            print(f"{v['name']:<8} {v['weight_bytes'] / 2**20:>6.0f} {v['kl']:>10.5f} {v['top1']:>8.4f}"
                  f" {v['delta']:>8.4f} {v['nll']:>8.4f}   {verdict}")
    print(f"rescaling keeps the model: {'yes' if result['same_model'] else 'NO'}")
    print("PASSED" if result["passed"] else "FAILED")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", choices=llamacpp_env.MODELS)
    parser.add_argument("--json", type=Path, help="write the results here too")
    args = parser.parse_args()
    models = llamacpp_env.chosen_models(args.model or llamacpp_env.MODELS)
    build = ["cargo", "build", "--release", "--locked", "--workspace", "--examples"]
    subprocess.run(build, cwd=REPO, check=True)
    results = [compare(name, path) for name, path in models.items()]
    for result in results:
        show(result)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    sys.exit(0 if all(result["passed"] for result in results) else 1)


if __name__ == "__main__":
    main()
