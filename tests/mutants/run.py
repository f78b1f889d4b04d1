#!/usr/bin/env python3
"""Show that the tests see the mistakes that one can make with these models: make mutants.

    python3 tests/mutants/run.py [--check] [--only REGEX] [--json FILE]

Each mutation is applied to a scratch copy of the tree (target/mutants/tree), which is built into
the checkout's own target folder, so that dependencies are warm. A mutation is killed when every
test that it names fails. Exit code 1 if one survives, does not compile or no longer applies.
--check only asks whether each still applies, and builds nothing.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from edits import applied, check
from mutations import MUTATIONS

REPO = Path(__file__).resolve().parents[2]
TREE = REPO / "target" / "mutants" / "tree"
# What compiles often is compiled fast; arithmetic, in the kernels, stays optimized.
FAST = [f"--config=profile.release.package.{name}.opt-level=0"
        for name in ("gapura", "gapura-engine", "gapura-plugin-runtime", "gapura-tests")]
SUITES = {
    "models": ["cargo", "test", "--release", "--locked", "--workspace", *FAST, "--test", "models"],
    # Not on the emulator, where a wrong address may end the process and every test with it.
    "device": ["cargo", "test", "--release", "--locked", "--workspace", *FAST, "--test", "models", "device::", "--",
               "--skip", "the_kernels_compute", "--skip", "gguf_files"],
    "engine": ["cargo", "test", "--release", "--locked", "--workspace", *FAST, "--lib", "engine_loop::"],
    "e2e": ["cargo", "test", "--release", "--locked", "--workspace", *FAST, "--test", "e2e", "completions::"],
    "plugins": ["cargo", "test", "--release", "--locked", "--manifest-path", "plugins/Cargo.toml", "-p", "gemma-chat", "--lib"],
}
# Building everything once takes long; after that, whatever takes this long hangs.
FIRST_LIMIT_S = 1800
LIMIT_S = 240


def copy_tree():
    """Brings the scratch copy up to date; what did not change keeps its time stamp."""
    listing = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=REPO, check=True, capture_output=True)
    wanted = {name for name in listing.stdout.decode().split("\0") if name and (REPO / name).exists()}
    for name in wanted:
        source, copy = REPO / name, TREE / name
        if source.is_symlink():
            if not copy.is_symlink():
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.symlink_to(os.readlink(source))
        elif not copy.exists() or copy.read_bytes() != source.read_bytes():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
            shutil.copymode(source, copy)
    for folder, _, names in os.walk(TREE):
        for name in names:
            path = Path(folder, name)
            if str(path.relative_to(TREE)) not in wanted and not path.is_symlink():
                path.unlink()
    # The components that the end-to-end tests load.
    if not (TREE / "plugins/target").exists():
        (TREE / "plugins/target").symlink_to(REPO / "plugins/target")


def run(suite, limit_s=LIMIT_S):
    """Runs a suite in the scratch copy: the tests that failed or hung, or why there is no result."""
    target = REPO / ("plugins/target" if suite == "plugins" else "target")
    env = os.environ | {"CARGO_TARGET_DIR": str(target), "CARGO_INCREMENTAL": "1", "RUST_BACKTRACE": "0"}
    process = subprocess.Popen(SUITES[suite], cwd=TREE, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, start_new_session=True)
    try:
        output, errors = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        # Cargo and the tests that it runs.
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        hung = set(re.findall(r"^test (\S+) has been running for over", output, re.M))
        hung -= set(re.findall(r"^test (\S+) \.\.\.", output, re.M))
        return (sorted(hung), None) if hung else (None, f"took more than {limit_s} s")
    if "test result:" not in output:
        return None, "does not compile or start: " + errors[-2000:]
    return re.findall(r"^test (\S+) .*?FAILED$", output, re.M), None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only see whether every mutation applies")
    parser.add_argument("--only", default="", help="mutations whose name matches this regular expression")
    parser.add_argument("--json", type=Path, help="write the table here too")
    args = parser.parse_args()
    mutations = [m for m in MUTATIONS if re.search(args.only, m["name"])]
    if not check(mutations, REPO, "mutants"):
        sys.exit(1)
    if args.check:
        print(f"{len(mutations)} mutations apply")
        return

    # All at once, so that edits of the checkout meanwhile do no harm.
    copy_tree()
    changed = {m["name"]: applied(m, REPO)[0] for m in mutations}
    for suite in {m.get("suite", "models"): None for m in mutations}:
        failed, problem = run(suite, FIRST_LIMIT_S)
        if problem or failed:
            sys.exit(f"mutants: without any mutation, {suite} is red already: {problem or failed}")
    rows = []
    for mutation in mutations:
        start = time.monotonic()
        files = changed[mutation["name"]]
        originals = {name: (TREE / name).read_text() for name in files}
        for name, text in files.items():
            (TREE / name).write_text(text)
        try:
            failed, problem = run(mutation.get("suite", "models"))
        finally:
            for name, text in originals.items():
                (TREE / name).write_text(text)
        blind = [t for t in mutation["tests"] if not any(t in name for name in failed or [])]
        verdict = problem or ("killed" if not blind else "SURVIVED " + ", ".join(blind))
        rows.append({"mutation": mutation["name"], "verdict": verdict, "red": failed or [], "seconds": round(time.monotonic() - start, 1)})
        print(f"{mutation['name']:<50} {verdict:<9} {len(failed or []):>2} red, {rows[-1]['seconds']:>5} s  {mutation['tests'][0]}", flush=True)
    killed = sum(row["verdict"] == "killed" for row in rows)
    print(f"{killed} of {len(rows)} mutations killed")
    if args.json:
        args.json.write_text(json.dumps({"mutations": rows}, indent=1) + "\n")
    sys.exit(killed != len(rows))


if __name__ == "__main__":
    main()
