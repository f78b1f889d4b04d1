#!/usr/bin/env python3
"""Put everything that a GPU machine needs for checking and timing into one folder: make gpu-bundle.

    python3 tests/cuda/bundle.py [--out target/gpu-bundle] [--llamacpp llama_cpp_python-0.3.36.tar.gz]

Binaries without their debug information, kernels compiled ahead, plugins, scripts. What is there
runs without a compiler, a toolkit or a network; see run.sh in it. With --llamacpp the source of
llama.cpp comes along, from the source package of PyPI's llama-cpp-python; it is built there. Exit
code 1 if it all is larger than LIMIT_MIB when packed.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from check import toolkit

REPO = Path(__file__).resolve().parents[2]
LIMIT_MIB = 60
ARCHITECTURES = ["8.0", "8.9", "9.0"]
PLUGINS = ["gemma-chat", "request-guard", "pii-redact"]
# What llama-bench and llama-quantize are built from.
LLAMACPP = [
    "CMakeLists.txt", "LICENSE", "cmake/", "common/", "ggml/CMakeLists.txt", "ggml/cmake/", "ggml/include/", "ggml/src/",
    "include/", "src/", "tools/llama-bench/", "tools/quantize/", "vendor/",
]
LLAMACPP_BACKENDS = ["ggml-cpu", "ggml-cuda"]
LLAMACPP_TOOLS = "find_package(Threads REQUIRED)\nadd_subdirectory(llama-bench)\nadd_subdirectory(quantize)\n"


def test_binary(name):
    """The executable of a test target, built if need be."""
    command = ["cargo", "test", "--release", "--locked", "--workspace", "--test", name, "--no-run", "--message-format", "json"]
    done = subprocess.run(command, cwd=REPO, check=True, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == name:
            return Path(message["executable"])
    sys.exit(f"bundle: cargo built no test `{name}`")


def unpack_llamacpp(sdist, out):
    """llama.cpp as it lies in the source package, without what its two programs do not need."""
    with tarfile.open(sdist) as archive:
        for member in archive:
            _, _, name = member.name.partition("/vendor/llama.cpp/")
            # The other files of ggml/src, and of its backends those for which it is built.
            backend = name.removeprefix("ggml/src/").split("/") if name.startswith("ggml/src/") else []
            is_other = len(backend) > 1 and backend[0] not in LLAMACPP_BACKENDS
            if not member.isfile() or is_other or not any(name == kept or kept.endswith("/") and name.startswith(kept) for kept in LLAMACPP):
                continue
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(archive.extractfile(member).read())
    if not (out / "CMakeLists.txt").exists():
        sys.exit(f"bundle: {sdist} holds no vendor/llama.cpp")
    (out / "tools" / "CMakeLists.txt").write_text(LLAMACPP_TOOLS)
    (out / "SOURCE").write_text(sdist.name.removesuffix(".tar.gz"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=REPO / "target" / "gpu-bundle")
    parser.add_argument("--llamacpp", type=Path, help="the source package of llama-cpp-python")
    args = parser.parse_args()
    out = args.out
    shutil.rmtree(out, ignore_errors=True)
    (out / "bin").mkdir(parents=True)
    release = REPO / "target" / "release"
    binaries = {
        "gapura": release / "gapura",
        "bench_device": release / "examples" / "bench_device",
        "device_tests": test_binary("device"),
        "model_tests": test_binary("models"),
    }
    for name, path in binaries.items():
        subprocess.run(["strip", "-o", str(out / "bin" / name), str(path)], check=True)
    subprocess.run([str(release / "examples" / "prepare_kernels"), str(out / "kernels"), *ARCHITECTURES],
                   env={"LD_LIBRARY_PATH": str(toolkit() / "lib")}, check=True)
    for plugin in PLUGINS:
        (out / "plugins").mkdir(exist_ok=True)
        shutil.copy(REPO / "plugins" / "target" / "components" / f"{plugin}.wasm", out / "plugins")
    for script in (REPO / "tests" / "cuda" / "bundle").iterdir():
        if script.is_file():
            shutil.copy(script, out)
    if args.llamacpp:
        unpack_llamacpp(args.llamacpp, out / "llama.cpp")
    # What the engine's tests read, where they look for it.
    (out / "host" / "engine").mkdir(parents=True)
    for folder in (REPO / "tests" / "fixtures").glob("tiny-*"):
        shutil.copytree(folder, out / "tests" / "fixtures" / folder.name)
    packed = out.with_suffix(".tar.gz")
    with tarfile.open(packed, "w:gz", compresslevel=6) as archive:
        archive.add(out, arcname="gpu-bundle")
    mib = packed.stat().st_size / 2**20
    print(f"{packed.relative_to(REPO)}: {mib:.1f} MiB packed, of {LIMIT_MIB}")
    print("there: tar xzf gpu-bundle.tar.gz && gpu-bundle/run.sh --out results check decode")
    return 0 if mib <= LIMIT_MIB else 1


if __name__ == "__main__":
    sys.exit(main())
