#!/usr/bin/env python3
"""Constrain the demo model by 220 schemas and validate every answer with another implementation.

    python3 tests/grammar/bench.py [--model smollm2|gemma3] [--limit N] [--json FILE]

The schemas come from schemas.py, the answers from the engine (host/engine/examples/bench_grammar),
the verdicts from the `jsonschema` package of PyPI with its format checks on. Fails unless every
schema compiles and every answer is complete, valid JSON that its schema allows.
"""

import argparse
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
CACHE = Path(os.environ.get("GAPURA_CACHE", Path.home() / ".cache" / "gapura"))
VENV = CACHE / "grammar-venv"
VALIDATOR = "jsonschema[format-nongpl]==4.23.0"
MODELS = {
    "smollm2": CACHE / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf",
    "gemma3": CACHE / "models" / "gemma-3-270m-Q4_K_M.gguf",
}
sys.path.insert(0, str(HERE))

import schemas  # noqa: E402


def enter():
    """Continue under an interpreter that has the validator; the environment is made once."""
    interpreter = VENV / "bin" / "python"
    done = VENV / VALIDATOR
    if not done.exists():
        venv.create(VENV, with_pip=True)
        subprocess.run([interpreter, "-m", "pip", "install", "--quiet", VALIDATOR], check=True)
        done.touch()
    if Path(sys.prefix).resolve() != VENV.resolve():
        os.execv(interpreter, [str(interpreter), *sys.argv])


def verdict(schema, case):
    """What is wrong with an answer; None if nothing is."""
    import jsonschema

    if case["error"]:
        return f"no grammar: {case['error']}"
    if case["finish"] != "stop":
        return f"cut after {case['tokens']} tokens: {case['text'][-80:]!r}"
    try:
        instance = json.loads(case["text"])
    except ValueError as error:
        return f"no JSON ({error}): {case['text']!r}"
    validator = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    errors = validator(schema, format_checker=validator.FORMAT_CHECKER).iter_errors(instance)
    return next((f"{error.json_path}: {error.message}" for error in errors), None)


def quantile(values, share):
    values = sorted(values)
    return values[min(int(share * len(values)), len(values) - 1)] if values else float("nan")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="smollm2")
    parser.add_argument("--limit", type=int, help="only so many schemas, spread over all")
    parser.add_argument("--json", type=Path, help="write all figures here")
    arguments = parser.parse_args()
    enter()

    cases = list(schemas.cases())
    if arguments.limit:
        cases = cases[:: max(1, len(cases) // arguments.limit)][: arguments.limit]
    program = REPO / "target" / "release" / "examples" / "bench_grammar"
    run = subprocess.run([program, MODELS[arguments.model]], input=json.dumps(cases), text=True,
                         stdout=subprocess.PIPE, check=True)
    report = json.loads(run.stdout)

    problems = []
    for case, answered in zip(cases, report["cases"], strict=True):
        problem = verdict(case["schema"], answered)
        if problem:
            problems.append({"name": case["name"], "problem": problem})
    masks, steps = report["mask_us"], report["step_us"]
    compiles = [case["compile_ms"] for case in report["cases"]]
    constrained, free = (quantile([pair[side] for pair in steps], 0.5) for side in (0, 1))
    figures = {
        "model": arguments.model, "schemas": len(cases), "valid": len(cases) - len(problems),
        "tokens": sum(case["tokens"] for case in report["cases"]),
        "mask_us": {"p50": quantile(masks, 0.5), "p99": quantile(masks, 0.99), "max": max(masks, default=0)},
        "compile_ms": {"p50": quantile(compiles, 0.5), "p99": quantile(compiles, 0.99)},
        "vocabulary_ms": report["vocabulary_ms"], "vocab_size": report["vocab_size"],
        "decode_step_us": {"constrained": constrained, "free": free, "ratio": constrained / free},
        "problems": problems,
    }
    print(f"| schemas on {arguments.model} | {len(cases)} |\n|---|---|")
    print(f"| answers complete and valid | {figures['valid']} ({figures['valid'] / len(cases):.1%}) |")
    print(f"| tokens generated | {figures['tokens']} |")
    print("| mask per token, one core | p50 {p50:.0f} µs, p99 {p99:.0f} µs, max {max:.0f} µs |".format(**figures["mask_us"]))
    print("| compiling a schema | p50 {p50:.1f} ms, p99 {p99:.1f} ms |".format(**figures["compile_ms"]))
    print(f"| vocabulary, once | {report['vocabulary_ms']:.0f} ms for {report['vocab_size']} tokens |")
    print(f"| decode step alone, constrained / free | {constrained:.0f} / {free:.0f} µs = {constrained / free:.3f} |")
    for problem in problems:
        print(f"  {problem['name']}: {problem['problem']}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
