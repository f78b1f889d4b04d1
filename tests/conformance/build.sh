#!/usr/bin/env bash
# Builds the conformance guests, of the languages named or of all, into target/conformance. One that
# is newer than all that it is made of stays as it is: no two builds of Python's are alike, and each
# takes the runtime a while to compile.
set -euo pipefail
cd "$(dirname "$0")/../.."

# What the component $1 is made of, and is newer than it: the project $2, the script $3, the contract
# and the SDKs.
newer_than() {
  find -L "$2" "$3" wit plugins/sdk plugins/sdk-* \( -name target -o -name bindings -o -name __pycache__ \) -prune \
    -o -type f -newer "$1" -print -quit
}

languages=("$@")
((${#languages[@]})) || languages=(rust python javascript go c)
mkdir -p target/conformance
for language in "${languages[@]}"; do
  guest=tests/conformance/guests/$language
  [[ -d $guest ]] || { echo "no guest in $language; there are: $(ls tests/conformance/guests)" >&2; exit 1; }
  component=target/conformance/$language.wasm
  script=plugins/languages.sh
  [[ $language != rust ]] || script=plugins/build.sh
  started=$SECONDS
  if [[ ! -f $component || -n $(newer_than "$component" "$guest" "$script") ]]; then
    built=$("$script" --project "$guest")
    cp "$built" "$component"
  fi
  printf '%-11s %5d KB %4d s\n' "$language" $(($(stat -c %s "$component") / 1000)) $((SECONDS - started))
done
