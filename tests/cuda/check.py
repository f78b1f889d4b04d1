#!/usr/bin/env python3
"""Compile every CUDA kernel for every architecture that it is for: make check-cuda.

    python3 tests/cuda/check.py

Needs no GPU. nvcc and NVRTC come from NVIDIA's wheels, kept in $XDG_CACHE_HOME/gapura/cuda-toolkit.
Every module is compiled by nvcc for each architecture and specialization; the table shows registers
of the greediest kernel, bytes spilled to memory, and shared memory. Every module is then compiled
by NVRTC as users' machines do it: no header but our own. Exit code 1 if one does not compile, or
spills more than it may.
"""

import concurrent.futures
import ctypes
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
KERNELS = REPO / "host" / "kernels" / "cuda"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gapura" / "cuda-toolkit"
WHEELS = [
    "nvidia-cuda-nvcc==13.0.88", "nvidia-nvvm==13.0.88", "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-runtime==13.0.96", "nvidia-cuda-cccl==13.0.85", "nvidia-cuda-nvrtc==13.0.88",
]
ARCHITECTURES = ["sm_75", "sm_80", "sm_89", "sm_90a"]
# GAPURA_F32, HEAD_DIM, GROUP. The first is Gemma 2 9B's.
BF16 = [(0, 256, 2), (0, 256, 4), (0, 64, 3)]
F32 = [(1, 256, 2)]
# The greatest that `Specialization::check` lets through: the most registers of attend_decode.
GREATEST = [(0, 256, 8), (1, 256, 8)]
NVRTC_ARCHITECTURES = ["sm_80", "sm_90a"]
# Bytes of spill stores that a module may have; others none.
MAY_SPILL = {}
# nvcc takes a core and, for the greatest modules, a gigabyte.
JOBS = 2


def toolkit():
    """The folder of nvcc and its libraries, fetched once."""
    home = CACHE / "venv"
    found = list(home.glob("lib/python*/site-packages/nvidia/cu13"))
    stamp = CACHE / "wheels"
    if not found or not stamp.exists() or stamp.read_text() != "\n".join(WHEELS):
        print(f"==> Fetching nvcc and NVRTC to {CACHE}", file=sys.stderr)
        venv.create(home, with_pip=True, clear=True)
        subprocess.run([home / "bin" / "pip", "install", "--quiet", "--no-deps", *WHEELS], check=True)
        stamp.write_text("\n".join(WHEELS))
        found = list(home.glob("lib/python*/site-packages/nvidia/cu13"))
    lib64 = found[0] / "lib64"
    if not lib64.exists():
        lib64.symlink_to("lib")
    return found[0]


def defines(specialization):
    return [f"-D{name}={value}" for name, value in zip(("GAPURA_F32", "HEAD_DIM", "GROUP"), specialization)]


def specializations(module, architecture):
    """Those that make a difference to a module."""
    has_heads = re.search(r"\b(HEAD_DIM|GROUP)\b", (KERNELS / f"{module}.cu").read_text())
    found = BF16 if has_heads else BF16[:1]
    # No device of sm_75 is accepted: one precision shows that the paths for it still compile.
    if architecture == "sm_75":
        return found
    return found + F32 + (GREATEST if module == "attend_decode" else [])


def compile_module(cuda, folder, module, architecture, specialization):
    """What ptxas says of a module's kernels: registers, spill stores, shared memory; or an error."""
    out = Path(folder) / "-".join([module, architecture, *map(str, specialization)])
    command = [cuda / "bin" / "nvcc", "-cubin", f"-arch={architecture}", "-std=c++17", "-Xptxas", "-v,-warn-spills",
               *defines(specialization), KERNELS / f"{module}.cu", "-o", out]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "CUDA_HOME": str(cuda)})
    log = done.stdout + done.stderr
    if done.returncode != 0:
        return {"error": log}
    greatest = lambda pattern: max(map(int, re.findall(pattern, log)), default=0)
    return {
        "kernels": len(re.findall("Compiling entry function", log)),
        "registers": greatest(r"Used (\d+) registers"),
        "spills": greatest(r"(\d+) bytes spill stores"),
        "shared": greatest(r"(\d+) bytes smem"),
    }


class Nvrtc:
    """The compiler that users' machines have, by its C interface."""

    def __init__(self, cuda):
        # It looks for its built-in functions by name.
        for name in ("libnvrtc-builtins.so.13.0", "libnvrtc.so.13"):
            self.library = ctypes.CDLL(str(cuda / "lib" / name), mode=ctypes.RTLD_GLOBAL)
        self.headers = {path.name: path.read_bytes() for path in KERNELS.glob("*.cuh")}

    def compile(self, module, architecture, specialization):
        """The log of an error, or None."""
        program = ctypes.c_void_p()
        names = (ctypes.c_char_p * len(self.headers))(*[name.encode() for name in self.headers])
        texts = (ctypes.c_char_p * len(self.headers))(*self.headers.values())
        source = (KERNELS / f"{module}.cu").read_bytes()
        self.library.nvrtcCreateProgram(ctypes.byref(program), source, f"{module}.cu".encode(),
                                        len(self.headers), texts, names)
        # As `host/kernels/src/device/cuda/cache.rs` has them.
        options = [f"--gpu-architecture={architecture}", "--std=c++17", "--generate-line-info",
                   "--device-as-default-execution-space", *defines(specialization)]
        array = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
        status = self.library.nvrtcCompileProgram(program, len(options), array)
        size = ctypes.c_size_t()
        self.library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        self.library.nvrtcGetProgramLog(program, log)
        self.library.nvrtcDestroyProgram(ctypes.byref(program))
        return None if status == 0 else f"NVRTC's status {status}\n{log.value.decode()}"


def row(cells, widths=(16, 8, 16, 8, 10, 8, 8)):
    return "  ".join(str(cell).ljust(width) for cell, width in zip(cells, widths)).rstrip()


def main():
    cuda = toolkit()
    modules = sorted(path.stem for path in KERNELS.glob("*.cu"))
    jobs = [(module, architecture, specialization) for module in modules for architecture in ARCHITECTURES
            for specialization in specializations(module, architecture)]
    failures = []
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        results = list(pool.map(lambda job: compile_module(cuda, folder, *job), jobs))
    found = {}
    for job, result in zip(jobs, results):
        module, architecture, specialization = job
        name = f"{module} for {architecture}, {specialization}"
        if "error" in result:
            failures.append(f"{name}: does not compile\n{result['error']}")
        elif result["spills"] > MAY_SPILL.get(module, 0):
            failures.append(f"{name}: spills {result['spills']} bytes, {MAY_SPILL.get(module, 0)} are allowed")
        precision = "f32" if specialization[0] else "bf16"
        best = found.setdefault((module, architecture, precision), {})
        for key in ("kernels", "registers", "spills", "shared"):
            best[key] = max(best.get(key, 0), result.get(key, 0))
    print(row(["module", "arch", "act", "kernels", "registers", "spills", "shared"]))
    for (module, architecture, precision), result in found.items():
        print(row([module, architecture, precision, *result.values()]))

    nvrtc = Nvrtc(cuda)
    nvrtc_jobs = [(module, architecture, specialization) for module in modules
                  for architecture in NVRTC_ARCHITECTURES for specialization in (BF16[0], F32[0])]
    for module, architecture, specialization in nvrtc_jobs:
        if log := nvrtc.compile(module, architecture, specialization):
            failures.append(f"{module} for {architecture}, {specialization}, by NVRTC: {log}")
    for failure in failures:
        print(f"check-cuda: {failure}", file=sys.stderr)
    print(f"{len(jobs)} compilations by nvcc and {len(nvrtc_jobs)} by NVRTC, {len(failures)} wrong")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
