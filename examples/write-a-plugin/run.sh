#!/usr/bin/env bash
# From nothing to a plugin that runs: scaffold, test, measure, build, look at it, push it to a gateway that
# serves, see the answer change. Needs `make build`; two minutes the first time.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
gapura=${GAPURA:-$root/target/release/gapura}
scratch=$(mktemp -d)
cd "$scratch"
mkdir components
step() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }

step "$gapura" plugin new shout
(cd shout && step cargo test --quiet)
step "$gapura" plugin test shout
step "$gapura" plugin bench shout --requests 200 --budget 2000 --delta-budget 50
step "$gapura" plugin build shout
step "$gapura" plugin inspect shout/target/components/shout.wasm

cat >gapura.toml <<'TOML'
[plugins]
dir = "components"

[[routes]]
name = "loud"
default = true
plugins = [{ plugin = "template" }, { plugin = "shout" }]
TOML
cp shout/target/components/shout.wasm components/
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
server=http://127.0.0.1:$port
export GAPURA_ADMIN_TOKEN=write-a-plugin-example
"$gapura" serve --config gapura.toml --model sim --listen "127.0.0.1:$port" 2>log &
pid=$!
trap 'kill "$pid" 2>/dev/null; wait "$pid" 2>/dev/null || true; rm -rf "$scratch"' EXIT
for _ in $(seq 100); do
  curl -fsS "$server/readyz" >/dev/null 2>&1 && break
  kill -0 "$pid" 2>/dev/null || { cat log >&2; exit 1; }
  sleep 0.2
done
ask() {
  curl -fsS "$server/v1/chat/completions" -H 'content-type: application/json' \
    -d '{"model":"loud","messages":[{"role":"user","content":"selamat pagi"}]}'
  echo
}

step ask
sed -i 's/to_uppercase()/to_lowercase()/' shout/src/lib.rs
# It does something else now. The case that travels in the component has to say so: a server does
# not let a version serve that breaks its own promises.
step "$gapura" plugin test shout --update
step "$gapura" plugin build shout
step "$gapura" plugin push shout shout/target/components/shout.wasm --server "$server"
step ask
step "$gapura" plugin rollback shout --server "$server"
step ask
step "$gapura" plugin status --server "$server"
