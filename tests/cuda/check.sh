#!/usr/bin/env bash
# The CUDA kernels without a GPU: that they compile for every architecture, by nvcc and by NVRTC,
# that they compute what their references compute, compiled for this machine, and that the device
# code around them and the engine on it do what they should, on stand-ins for NVIDIA's libraries.
set -euo pipefail
cd "$(dirname "$0")/../.."
python3 tests/cuda/check.py
cargo test --release --locked --workspace --test cuda --test device
cargo test --release --locked --workspace --test models device::
