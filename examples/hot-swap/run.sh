#!/usr/bin/env bash
# Swaps a plugin back and forth while streams run, and checks every answer: none may fail, none
# may mix two versions. Needs `make build`; takes a minute.
#   STREAMS=16 SWAPS=100 MODEL=sim|smollm2 examples/hot-swap/run.sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
gapura=${GAPURA:-$root/target/release/gapura}
scratch=$(mktemp -d)
mkdir "$scratch/components"
cp "$here/gapura.toml" "$scratch/"

for mark in A B; do
  MARK=$mark "$root/plugins/build.sh" --project "$here/mark" --out "$scratch/$mark" >/dev/null
done
cp "$scratch/A/mark.wasm" "$scratch/components/"

case ${MODEL:-sim} in
  sim) model=sim ;;
  *) model=$(python3 "$root/examples/models/fetch.py" "$MODEL") ;;
esac
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export GAPURA_ADMIN_TOKEN=hot-swap-example
"$gapura" serve --config "$scratch/gapura.toml" --model "$model" --listen "127.0.0.1:$port" 2>"$scratch/log" &
server=$!
trap 'kill "$server" 2>/dev/null; wait "$server" 2>/dev/null || true; rm -rf "$scratch"' EXIT
for _ in $(seq 150); do
  curl -fsS "http://127.0.0.1:$port/readyz" >/dev/null 2>&1 && break
  kill -0 "$server" 2>/dev/null || { cat "$scratch/log" >&2; exit 1; }
  sleep 0.2
done
python3 "$here/load.py" "http://127.0.0.1:$port" "$scratch/A/mark.wasm" "$scratch/B/mark.wasm" \
  --streams "${STREAMS:-16}" --swaps "${SWAPS:-100}"
