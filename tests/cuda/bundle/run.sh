#!/usr/bin/env bash
# Checks and times everything that needs a GPU, in parts of under nine minutes each:
#
#   bundle/run.sh [--device cuda|interpreter] [--out DIR] PART...
#
# Parts, in the order of their worth:
#   check         doctor, every kernel against its reference, the engine's gates on the device
#   decode        bandwidth and matrix rate; one stream, by weights and context; loading
#   batch         1 to 256 streams
#   latency       prefill, known prefixes, an arriving 8k prompt, sampling, switches
#   serve         the gateway over HTTP, with a chain of plugins and without
#   transformers  the same shapes through transformers (python3 with torch), float16 and bfloat16
#   all           all of these
# Raw results are appended to DIR/results.jsonl, logs lie beside it; table.py makes the tables.
# With --device interpreter the same is rehearsed, in small, on a machine without a GPU.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
device=cuda out=${OUT:-$PWD/gpu-results} parts=()
while [ $# -gt 0 ]; do
  case $1 in
    --device) device=$2; shift ;;
    --out) out=$2; shift ;;
    *) parts+=("$1") ;;
  esac
  shift
done
[ ${#parts[@]} -gt 0 ] || { sed -n '2,17s/^# \{0,1\}//p' "$0" >&2; exit 1; }
[ "${parts[0]}" != all ] || parts=(check decode batch latency serve transformers)
mkdir -p "$out"
out=$(cd "$out" && pwd)

# CUDA's libraries, where they came with Python packages.
wheels=$(python3 - <<'P' 2>/dev/null || true
import importlib.util, os
spec = importlib.util.find_spec("nvidia")
roots = list(spec.submodule_search_locations) if spec else []
print(":".join(os.path.join(r, d, "lib") for r in roots for d in sorted(os.listdir(r)) if os.path.isdir(os.path.join(r, d, "lib"))))
P
)
export LD_LIBRARY_PATH="$wheels:/usr/local/nvidia/lib64:/usr/local/cuda/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export XDG_CACHE_HOME=${XDG_CACHE_HOME:-$out/cache}
model=9b
[ "$device" = cuda ] || model=tiny
kernels=$XDG_CACHE_HOME/gapura/kernels
mkdir -p "$kernels" && cp -n "$here"/kernels/*.cubin "$kernels"/ 2>/dev/null || true

note() { printf '{"part":"machine","result":{"date":"%s","command":"%s","gpu":"%s"}}\n' \
  "$(date -u +%FT%TZ)" "$1" "$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | head -1)" \
  >> "$out/results.jsonl"; }
bench() { # LABEL PART...
  local label=$1; shift
  printf '==> %s\n' "$label"; note "bench_device --device $device --model $model $*"
  timeout 530 "$here/bin/bench_device" --device "$device" --model "$model" --cache "$kernels" "$@" \
    2> "$out/$label.log" | tee -a "$out/results.jsonl" || { tail -5 "$out/$label.log"; return 1; }
}

failed=()
run() {
  case $1 in
    check)
      "$here/bin/gapura" doctor || true
      for tests in device_tests model_tests; do
        printf '==> %s\n' "$tests"
        # Not what is about the emulator alone, or needs files that are not carried along.
        filter=(--skip emulation::); [ $tests = device_tests ] || filter=(device:: --skip the_kernels_compute --skip gguf_files)
        (cd "$here" && CARGO_MANIFEST_DIR=$here/host/engine GAPURA_TEST_DEVICE=$device GAPURA_KERNEL_CACHE=$kernels \
          timeout 530 "bin/$tests" "${filter[@]}" --nocapture --test-threads 1 > "$out/$tests.log" 2>&1) || failed+=("$tests")
        grep -E '^gate: |^test .*FAILED|^test result' "$out/$tests.log" | tail -80 || true
      done ;;
    decode) bench decode decode load ;;
    batch) bench batch batch ;;
    latency) bench latency prefill prefix arrival sampling switches ;;
    serve) "$here/serve.py" --gapura "$here/bin/gapura" --bench "$here/bin/bench_device" --device "$device" \
             --model "$model" --plugins "$here/plugins" 2> "$out/serve.log" | tee -a "$out/results.jsonl" ;;
    transformers)
      [ "$device" = cuda ] || { echo "transformers: needs a GPU"; return 0; }
      note "transformers_baseline.py"
      timeout 530 python3 "$here/transformers_baseline.py" 2> "$out/transformers.log" | tee -a "$out/results.jsonl" ;;
    *) echo "there is no part $1" >&2; return 1 ;;
  esac
}
for part in "${parts[@]}"; do run "$part" || failed+=("$part"); done
python3 "$here/table.py" "$out/results.jsonl" | tee "$out/results.md"
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}" >&2; exit 1; }
