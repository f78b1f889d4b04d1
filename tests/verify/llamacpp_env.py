"""A virtual environment with llama.cpp (PyPI `llama-cpp-python`), the peer of verify and bench.

It is built from source on first use (about 17 minutes of CPU) into the cache folder, and is never
a dependency of the product. `CMAKE_BUILD_PARALLEL_LEVEL` limits the compilers that run at once.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

VERSION = "0.3.36"
CACHE = Path(os.environ.get("GAPURA_CACHE", Path.home() / ".cache" / "gapura"))
VENV = CACHE / "verify-venv"
MODELS = {
    "smollm2": CACHE / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf",
    "gemma3": CACHE / "models" / "gemma-3-270m-Q4_K_M.gguf",
}


def python():
    """The interpreter of the environment, which is made first where it is missing."""
    interpreter = VENV / "bin" / "python"
    done = VENV / f"llama-cpp-python-{VERSION}"
    if done.exists():
        return interpreter
    print(f"building llama-cpp-python {VERSION} in {VENV} (minutes, once)", file=sys.stderr)
    venv.create(VENV, with_pip=True)
    command = [interpreter, "-m", "pip", "install", "--quiet", f"llama-cpp-python=={VERSION}", "numpy"]
    subprocess.run(command, check=True)
    done.touch()
    return interpreter


def enter():
    """Continue this script under the environment's interpreter."""
    interpreter = python()
    if Path(sys.prefix).resolve() != VENV.resolve():
        os.execv(interpreter, [str(interpreter), *sys.argv])


def chosen_models(names):
    """The paths of the models called `names`; exits where one has not been fetched."""
    missing = [str(MODELS[name]) for name in names if not MODELS[name].exists()]
    if missing:
        sys.exit(f"missing {', '.join(missing)}: fetch the models first (make models)")
    return {name: MODELS[name] for name in names}


if __name__ == "__main__":
    print(python())
