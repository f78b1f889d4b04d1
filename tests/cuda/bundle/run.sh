#!/usr/bin/env bash
# Checks and times everything that needs a GPU, in parts of under nine minutes each:
#
#   bundle/run.sh [--device cuda|interpreter] [--out DIR] PART...
#
# Parts, in the order of their worth:
#   check         both of these, one after the other:
#   check-kernels doctor, every kernel against its reference
#   check-engine  the engine's gates on the device
#   decode        bandwidth and matrix rate; one stream, by weights and context; loading
#   batch         1 to 256 streams
#   latency       prefill, known prefixes, an arriving 8k prompt, sampling, switches
#   serve         the gateway over HTTP, with a chain of plugins and without
#   transformers  the same shapes through transformers (python3 with torch), float16 and bfloat16
#   gate          bf16 logprobs against transformers' float32, on the checkpoint that transformers wrote
#   llamacpp      build llama.cpp with cmake and nvcc, where its source came along (bundle.py
#                 --llamacpp); what is not done in time goes on in the next call
#   llamacpp-bench  the same shapes through llama.cpp, in bf16, Q8_0 and Q4_K_M (python3 with numpy)
#   all           all of these, llama.cpp only where its source came along
# transformers first writes a checkpoint of random weights to DIR/model, or to $MODEL, which then
# serve reads too; llamacpp-bench writes its own. Each needs 19 GB of disk, the latter 30 GB while
# it runs. Put DIR where that is, and take results.* and the logs home from there.
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
[ ${#parts[@]} -gt 0 ] || { sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2; exit 1; }
[ "${parts[0]}" != all ] || {
  parts=(check-kernels check-engine decode batch latency serve transformers gate)
  [ ! -d "$here/llama.cpp" ] || parts+=(llamacpp llamacpp-bench)
}
mkdir -p "$out"
out=$(cd "$out" && pwd)
weights=${MODEL:-$out/model}

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

engine_tests() { # BINARY FILTER...
  local tests=$1 status=0; shift
  printf '==> %s\n' "$tests"
  (cd "$here" && CARGO_MANIFEST_DIR=$here/host/engine GAPURA_TEST_DEVICE=$device GAPURA_KERNEL_CACHE=$kernels \
    timeout 530 "bin/$tests" "$@" --nocapture --test-threads 1 > "$out/$tests.log" 2>&1) || status=$?
  grep -E '^gate: |^test .*FAILED|^test result' "$out/$tests.log" | tail -80 || true
  return $status
}
has_disk() { # FOLDER GB
  local free
  free=$(df --output=avail -B1000000000 "$1" | tail -1)
  [ "$free" -ge "$2" ] || { echo "$1 has $free GB free, $2 are needed" >&2; return 1; }
}
# The checkpoint of random weights, once. It is whole when it has its name.
write_weights() {
  [ ! -e "$weights" ] || return 0
  mkdir -p "$(dirname "$weights")"
  [ "$model" = tiny ] || has_disk "$(dirname "$weights")" 20 || return 1
  timeout 200 "$here/bin/bench_device" --model "$model" --write-model "$weights.part" --random 2 ||
    { rm -rf "$weights.part"; return 1; }
  mv "$weights.part" "$weights"
}
# Once configured, a build that was cut off goes on where it was.
build_llamacpp() {
  [ -d "$here/llama.cpp" ] || { echo "llamacpp: its source did not come along (bundle.py --llamacpp)" >&2; return 1; }
  local cuda=ON
  [ "$device" = cuda ] || cuda=OFF
  PATH=$PATH:/usr/local/cuda/bin
  [ -e "$llamacpp/Makefile" ] || [ -e "$llamacpp/build.ninja" ] ||
    cmake -S "$here/llama.cpp" -B "$llamacpp" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \
      -DGGML_CUDA=$cuda -DCMAKE_CUDA_ARCHITECTURES=native -DGGML_CUDA_NCCL=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF \
      -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF \
      > "$out/llamacpp.log" 2>&1 || { tail -5 "$out/llamacpp.log"; rm -rf "$llamacpp"; return 1; }
  timeout 500 cmake --build "$llamacpp" --target llama-bench llama-quantize -j "$(nproc)" >> "$out/llamacpp.log" 2>&1 || {
    tail -5 "$out/llamacpp.log"; echo "llamacpp: not done; after a timeout the same call goes on" >&2; return 1; }
}
bench_llamacpp() {
  local folder=$out/llamacpp-models type file offload=() tiny=()
  [ "$device" = cuda ] || { offload=(-ngl 0); tiny=(--tiny); }
  [ -x "$llamacpp/bin/llama-bench" ] || { echo "llamacpp-bench: first the part llamacpp" >&2; return 1; }
  mkdir -p "$folder"
  if [ ! -e "$folder/BF16.gguf" ]; then
    [ "$model" = tiny ] || has_disk "$folder" 30 || return 1
    python3 "$here/random_gguf.py" "$folder/part.gguf" "${tiny[@]}" && mv "$folder/part.gguf" "$folder/BF16.gguf" || return 1
  fi
  for type in BF16 Q8_0 Q4_K_M; do
    file=$folder/$type.gguf
    # What another call has measured is not measured again.
    [ ! -e "$folder/$type.done" ] || continue
    if [ ! -e "$file" ]; then
      "$llamacpp/bin/llama-quantize" "$folder/BF16.gguf" "$folder/part.gguf" "$type" >> "$out/llamacpp-bench.log" 2>&1 || return 1
      mv "$folder/part.gguf" "$file"
    fi
    "$llamacpp/bin/llama-bench" -m "$file" -p 512 -n 128 "${offload[@]}" -o jsonl 2>> "$out/llamacpp-bench.log" > "$out/llamacpp-bench.jsonl" || return 1
    python3 - "$type" "$(cat "$here/llama.cpp/SOURCE")" "$out/llamacpp-bench.jsonl" <<'P' | tee -a "$out/results.jsonl"
import json, sys
for line in open(sys.argv[3]):
    run = json.loads(line)
    result = {"weights": sys.argv[1], "prompt": run["n_prompt"], "generated": run["n_gen"], "tokens_per_s": run["avg_ts"],
              "deviation": run["stddev_ts"], "bytes": run["model_size"], "flash_attention": run["flash_attn"],
              "backend": run["backends"], "source": sys.argv[2]}
    print(json.dumps({"part": "llamacpp", "result": result}))
P
    touch "$folder/$type.done"
    [ "$type" = BF16 ] || rm "$file"
  done
}

llamacpp=$out/llamacpp-build
failed=()
run() {
  case $1 in
    check) local status=0; run check-kernels || status=1; run check-engine || status=1; return $status ;;
    check-kernels)
      "$here/bin/gapura" doctor || true
      # Not what is about the emulator alone.
      engine_tests device_tests --skip emulation:: ;;
    # Not what needs a compiler, or files that are not carried along.
    check-engine) engine_tests model_tests device:: --skip the_kernels_compute --skip gguf_files ;;
    decode) bench decode decode load ;;
    batch) bench batch batch ;;
    latency) bench latency prefill prefix arrival sampling switches ;;
    serve)
      local given=()
      [ ! -e "$weights" ] || given=(--weights "$weights")
      timeout 530 "$here/serve.py" --gapura "$here/bin/gapura" --bench "$here/bin/bench_device" --device "$device" \
        --model "$model" --plugins "$here/plugins" "${given[@]}" 2> "$out/serve.log" | tee -a "$out/results.jsonl" ;;
    transformers)
      local given=() start=$SECONDS left
      if write_weights; then given=(--weights "$weights"); else echo "transformers: random weights of its own instead"; fi
      [ "$device" = cuda ] || { echo "transformers: needs a GPU"; return 0; }
      left=$((530 - SECONDS + start))
      note "transformers_baseline.py ${given[*]}"
      # An entry that was begun may take a minute longer.
      timeout "$left" python3 "$here/transformers_baseline.py" --minutes "$(((left - 60) / 60))" "${given[@]}" \
        2> "$out/transformers.log" | tee -a "$out/results.jsonl" ;;
    gate)
      write_weights || return 1
      note "gate.py"
      timeout 330 "$here/gate.py" --gapura "$here/bin/gapura" --device "$device" --plugins "$here/plugins" \
        --weights "$weights" 2> "$out/gate.log" | tee -a "$out/results.jsonl" ;;
    llamacpp) printf '==> llamacpp\n'; build_llamacpp ;;
    llamacpp-bench)
      printf '==> llamacpp-bench\n'; note "llama-bench -p 512 -n 128"
      export -f has_disk bench_llamacpp
      here=$here out=$out device=$device model=$model llamacpp=$llamacpp timeout 530 bash -euo pipefail -c bench_llamacpp ;;
    *) echo "there is no part $1" >&2; return 1 ;;
  esac
}
for part in "${parts[@]}"; do run "$part" || failed+=("$part"); done
python3 "$here/table.py" "$out/results.jsonl" | tee "$out/results.md"
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}" >&2; exit 1; }
