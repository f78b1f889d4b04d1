#!/usr/bin/env bash
# The CUDA kernels without a GPU: that they compile for every architecture, by nvcc and by NVRTC,
# and that they compute what their references compute, compiled for this machine.
set -euo pipefail
cd "$(dirname "$0")/../.."
python3 tests/cuda/check.py
cargo test --release --locked -p gapura-kernels --test device
