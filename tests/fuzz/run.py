#!/usr/bin/env python3
"""Run the fuzz targets: make fuzz SECONDS=600.

    python3 tests/fuzz/run.py [--seconds 600] [--jobs 2] [--json FILE] [TARGET]...

Needs cargo-fuzz (`make fuzz` fetches it). Seeds come from the fixtures; what is found is kept in
target/fuzz. Exit code 1 where a target crashed, with the file that does it again.
"""

import argparse
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
FUZZ = REPO / "tests/fuzz"
OUT = REPO / "target/fuzz"
TARGETS = [path.stem for path in sorted((FUZZ / "fuzz_targets").glob("*.rs"))]
# The stable toolchain, allowed to instrument. LeakSanitizer needs ptrace, which containers forbid.
ENV = os.environ | {"RUSTC_BOOTSTRAP": "1", "CARGO_TARGET_DIR": str(OUT / "build"), "ASAN_OPTIONS": "detect_leaks=0"}
# Bytes of an input. A grammar takes time with its length; great ones are in the unit tests. A
# component is compiled; the guest of host_imports reads one page.
MAX_LEN = {"grammar": 2048, "component": 80000, "host_imports": 4096}
FLAGS = ["--fuzz-dir", str(FUZZ), "--sanitizer", "address", "--release"]

SCHEMA, REGEX, LARK, CHOICE = range(4)
GRAMMARS = [
    (SCHEMA, '{"type":"object","properties":{"a":{"type":"integer","minimum":-3,"maximum":40},"b":{"type":"string",'
             '"minLength":1,"maxLength":9}},"required":["a"],"additionalProperties":false}'),
    (SCHEMA, '{"$ref":"#/$defs/t","$defs":{"t":{"anyOf":[{"type":"null"},{"type":"array","items":{"$ref":"#/$defs/t"},'
             '"minItems":1,"maxItems":3}]}}}'),
    (SCHEMA, '{"oneOf":[{"const":1},{"enum":["x",null,{"a":[true]}]}]}'),
    (SCHEMA, '{"allOf":[{"type":"number","multipleOf":0.5},{"exclusiveMinimum":0,"exclusiveMaximum":9.75}]}'),
    (SCHEMA, '{"type":"object","patternProperties":{"^x_[a-z]+$":{"type":"boolean"}},"minProperties":1,"maxProperties":2}'),
    (SCHEMA, '{"type":"array","prefixItems":[{"type":"string","format":"date-time"},{"pattern":"^a(b|c)*$"}],"items":false}'),
    (REGEX, r"(\d{1,3}\.){3}\d{1,3}|[^\W_]+(?i:ab?c*)\x41\u{1f642}"),
    (REGEX, r"(?s:.)*(a|aa){2,5}[^a-f&&[x-z]]?$"),
    (LARK, 'start: item ("," item)*\nitem: NAME "=" value -> pair\nvalue: /[0-9]+/ | "[" item* "]"\nNAME: /[a-z_]+/\n'
           '%ignore /[ \\t]+/\n'),
    (LARK, 'start: A B? | %json {"type":"object","properties":{"a":{"type":"null"}}}\nA[lazy]: /.*x/\nB: "b"i~2..3\n'
           'C: A & /a+/ | ~B\n'),
    (LARK, 'start[max_tokens=9, stop="z"]: text end\ntext[capture]: /(.|\\n)*/\nend: %regex {"substring_words": "a b c"}\n'),
    (CHOICE, "ya\ntidak\nyang\n\"mungkin\""),
]


def instruction(what, raw=0, a=2048, b=4, c=2056, d=4, e=0, wide=1, to=512):
    """One of the guest `calls` of tests/guests."""
    return struct.pack("<BBHIIIIIqII", what, raw, 0, a, b, c, d, e, wide, to, 0)


def programs():
    """For host_imports: each import alone, then all, in their bounds and far out of them."""
    calls = range(1, 14)
    yield from (instruction(what) for what in calls)
    yield from (instruction(what, raw=1, a=0xffff_fff0, b=0xffff, to=0xffff_fff1) for what in calls)
    yield b"".join(instruction(what) for what in calls)
    yield instruction(7, a=0, b=9, c=0, d=65535, e=1, wide=-1) * 99 + instruction(6, a=0, b=9)
    yield instruction(13, b=1, d=8, e=0x3f80_0000, wide=1 << 32 | 1) * 3


def seeds(target):
    """The folder with what the target begins with."""
    folder = OUT / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    fixture = REPO / "tests/fixtures/tiny-llama"
    if target == "tokenizer_json":
        for name in ("tiny-llama", "tiny-gemma3"):
            shutil.copy(fixture.parent / name / "tokenizer.json", folder / name)
    elif target == "safetensors_index":
        header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
        shard = len(header).to_bytes(8, "little") + header + bytes(8)
        (folder / "two").write_bytes(b'{"metadata":{},"weight_map":{"a":"s"}}\0' + shard)
    elif target == "gguf":
        (folder / "empty").write_bytes(b"GGUF\x03\0\0\0" + bytes(16))
        subprocess.run([sys.executable, FUZZ / "seed_gguf.py", folder / "llama"], check=True)
    elif target == "component":
        # Small enough are the guests of the tests; a build keeps them where it likes.
        for path in OUT.glob("build/*/release/build/gapura-test-guests-*/out/*.wasm"):
            shutil.copy(path, folder)
        # And two as people build them, if they are there.
        for name in ("persona", "chatml"):
            path = REPO / "plugins/target/components" / f"{name}.wasm"
            if path.exists():
                shutil.copy(path, folder)
    elif target == "host_imports":
        for index, program in enumerate(programs()):
            (folder / f"{index}").write_bytes(program)
    elif target == "grammar":
        for index, (kind, text) in enumerate(GRAMMARS):
            draws = bytes([0, 34, 97, 200, 58, 7, 125, 93, 11, 48, 255])
            (folder / f"{index}").write_bytes(bytes([kind]) + text.encode() + b"\0" + draws)
    return folder


def fuzz(target, seconds):
    artifacts = OUT / "artifacts" / target
    artifacts.mkdir(parents=True, exist_ok=True)
    words = FUZZ / f"{target}.dict"
    command = ["cargo", "fuzz", "run", *FLAGS, target, str(seeds(target)), "--", f"-max_total_time={seconds}",
               "-rss_limit_mb=2048", "-malloc_limit_mb=512", "-timeout=20",
               f"-max_len={MAX_LEN.get(target, 65536)}", "-print_final_stats=1", f"-artifact_prefix={artifacts}/"]
    if words.exists():
        command.append(f"-dict={words}")
    done = subprocess.run(command, cwd=REPO, env=ENV, capture_output=True, text=True)
    stat = dict(re.findall(r"stat::(\w+):\s+(\d+)", done.stderr))
    found = sorted(str(path.relative_to(REPO)) for path in artifacts.iterdir())
    coverage = re.findall(r"cov: (\d+)", done.stderr)
    row = {"target": target, "seconds": seconds, "runs": int(stat.get("number_of_executed_units", 0)),
           "edges": int(coverage[-1]) if coverage else 0, "peak_rss_mib": int(stat.get("peak_rss_mb", 0)),
           "exit": done.returncode, "found": found}
    if done.returncode:
        print(done.stderr[-3000:], file=sys.stderr)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", default=TARGETS, metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=600, help="for each target")
    parser.add_argument("--jobs", type=int, default=2, help="targets at a time")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    subprocess.run(["cargo", "fuzz", "build", *FLAGS], cwd=REPO, env=ENV, check=True)
    with ThreadPoolExecutor(args.jobs) as pool:
        rows = list(pool.map(lambda target: fuzz(target, args.seconds), args.targets))
    print(f"{'target':<20} {'seconds':>7} {'runs':>10} {'edges':>6} {'MiB':>5}  verdict")
    for row in rows:
        verdict = "ok" if row["exit"] == 0 else "RED " + ", ".join(row["found"])
        print(f"{row['target']:<20} {row['seconds']:>7} {row['runs']:>10} {row['edges']:>6} {row['peak_rss_mib']:>5}  {verdict}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    sys.exit(any(row["exit"] for row in rows))


if __name__ == "__main__":
    main()
