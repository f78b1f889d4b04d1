#!/usr/bin/env bash
# Starts the gateway with the quickstart's routes on a free port and runs the official OpenAI
# client's tests against it. Needs the built gateway, the components and the small chat model.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/gapura
gapura=${GAPURA:-$root/target/release/gapura}
venv=$cache/clients-venv

if ! "$venv/bin/python" -c 'import openai' 2>/dev/null; then
  echo "==> Installing the openai client into $venv"
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check 'openai>=2,<4'
fi
model=$(python3 "$root/examples/models/fetch.py" smollm2)
port=$("$venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
scratch=$(mktemp -d)

GAPURA_ADMIN_TOKEN=clients-test "$gapura" serve --config "$root/examples/quickstart/gapura.toml" \
  --model "$model" --listen "127.0.0.1:$port" 2>"$scratch/log" &
server=$!
finish() {
  status=$?
  kill "$server" 2>/dev/null && wait "$server" || true
  [ "$status" = 0 ] || tail -n 40 "$scratch/log" >&2
  rm -rf "$scratch"
}
trap finish EXIT

for _ in $(seq 150); do
  curl -fsS "http://127.0.0.1:$port/readyz" >/dev/null 2>&1 && break
  kill -0 "$server" 2>/dev/null || { echo "the gateway ended before it was ready" >&2; exit 1; }
  sleep 0.2
done
BASE_URL="http://127.0.0.1:$port" ADMIN_TOKEN=clients-test "$venv/bin/python" "$here/openai_client.py" "$@"
