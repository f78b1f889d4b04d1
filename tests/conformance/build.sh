#!/usr/bin/env bash
# Builds the conformance guests, of the languages named or of all, into target/conformance.
set -euo pipefail
cd "$(dirname "$0")/../.."
languages=("$@")
((${#languages[@]})) || languages=(rust python javascript go c)
mkdir -p target/conformance
for language in "${languages[@]}"; do
  guest=tests/conformance/guests/$language
  [[ -d $guest ]] || { echo "no guest in $language; there are: $(ls tests/conformance/guests)" >&2; exit 1; }
  script=plugins/languages.sh
  [[ $language != rust ]] || script=plugins/build.sh
  started=$SECONDS
  component=$("$script" --project "$guest")
  # Unchanged ones keep their time.
  cmp -s "$component" "target/conformance/$language.wasm" || cp "$component" "target/conformance/$language.wasm"
  printf '%-11s %5d KB %4d s\n' "$language" $(($(stat -c %s "$component") / 1000)) $((SECONDS - started))
done
