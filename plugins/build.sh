#!/usr/bin/env bash
# Builds Gapura plugins: Rust crates to WebAssembly components, with stable cargo.
#
# The target is wasm32-unknown-unknown and the linker wasm-component-ld, which ships in
# every rustup toolchain and writes a component directly: no WASI, no adapter, no further
# tool. The one thing that may be missing is the target's standard library. It comes from,
# in this order:
#   1. the toolchain, where the target is installed;
#   2. the sources in the file that RUST_STD_SRC names (a .tar.xz of rust's library/);
#   3. `rustup target add`;
#   4. the sources in Debian's package rust-src of exactly rustc's version, fetched through
#      a private apt configuration (nothing is installed).
# From sources it is built once (about a minute) into a private sysroot under the user's
# cache folder. RUSTC_BOOTSTRAP is set for that build alone, never for a plugin's.
#
# The script is self-contained: `gapura plugin build` carries a copy of it.
set -euo pipefail

readonly target=wasm32-unknown-unknown
readonly linker=wasm-component-ld
# The name of the folder that holds this exact way of building std. Change it whenever the
# flags, the profile or the layout below change: cargo does not notice a changed sysroot
# behind an unchanged path.
readonly recipe=r1

usage() {
  cat <<'TEXT'
Builds Gapura plugins to WebAssembly components.

  build.sh                      every plugin of the folder that holds this script
  build.sh persona chatml       only these
  build.sh --project DIR        the plugin (or workspace of plugins) in DIR
  build.sh --std                only make the target's standard library ready, and print
                                the rustc flags that it needs (none: the toolchain has it)

  --project DIR   the folder with the Cargo.toml (default: the script's own)
  --out DIR       where the components go (default: DIR/target/components)
  --offline       let neither cargo nor rustup nor apt use the network
  -h, --help      this text

RUST_STD_SRC=FILE   a .tar.xz of the toolchain's library/ folder, to build std from where
                    the target is not installed; else `rustup target add`, else Debian
XDG_CACHE_HOME      the std built from sources is kept in $XDG_CACHE_HOME/gapura/wasm-sysroot
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

# ---------------------------------------------------------------- the toolchain

# Sets rustc_version, rustc_commit, rustc_host and rustc_sysroot, and checks for the linker.
read_toolchain() {
  command -v cargo >/dev/null && command -v rustc >/dev/null ||
    die "cargo and rustc were not found" "install Rust 1.95 or newer: https://rustup.rs"
  local key value
  while IFS=': ' read -r key value; do
    case $key in
      release) rustc_version=$value ;;
      commit-hash) rustc_commit=$value ;;
      host) rustc_host=$value ;;
    esac
  done < <(rustc -vV)
  rustc_sysroot=$(rustc --print sysroot)
  [[ -x $rustc_sysroot/lib/rustlib/$rustc_host/bin/$linker ]] || command -v $linker >/dev/null ||
    die "this Rust toolchain has no $linker ($rustc_sysroot)" \
      "toolchains from https://rustup.rs carry it; for another one: cargo install wasm-component-ld"
}

toolchain_has_target() {
  compgen -G "$rustc_sysroot/lib/rustlib/$target/lib/libstd-*.rlib" >/dev/null
}

# ---------------------------------------------------------------- std from sources

# Unpacks the folder library/ of the sources into $1, by whichever way works.
unpack_std_sources() {
  if [[ -n ${RUST_STD_SRC:-} ]]; then
    [[ -f $RUST_STD_SRC ]] || die "RUST_STD_SRC names no file: $RUST_STD_SRC"
    say "  sources: $RUST_STD_SRC"
    mkdir -p "$1" && tar -xJf "$RUST_STD_SRC" -C "$1" || die "cannot unpack $RUST_STD_SRC"
  else
    unpack_debian_sources "$1"
  fi
  # The archive may hold library/ at its top or below other folders; a whole source tree
  # holds smaller ones of the name further down, for the tests of its tools.
  std_library=$(find "$1" -type f -path '*library/std/Cargo.toml' |
    awk '{ print gsub("/", "/"), $0 }' | sort -n | cut -d' ' -f2- | sed -n 1p)
  std_library=${std_library%/std/Cargo.toml}
  [[ -n $std_library && -d $std_library/vendor && -f $std_library/Cargo.lock ]] ||
    die "the sources hold no complete library/ folder (std, vendor and Cargo.lock are needed)"
}

how_to_get_std() {
  die "no standard library for $target with rustc $rustc_version: $1" \
    "one of these helps:" \
    "  rustup target add $target" \
    "  RUST_STD_SRC=FILE, the library/ folder of Rust $rustc_version's sources as .tar.xz" \
    "  on Debian, network access to its packages (rust-src)"
}

# Debian's rust-src of exactly this rustc, through an apt that knows nothing but itself.
unpack_debian_sources() {
  ((offline)) && how_to_get_std "it is neither installed nor cached, and --offline was given"
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
    how_to_get_std "rustup could not add it, and there is no apt-get to fetch its sources with"
  local apt=$work/apt keyring=/usr/share/keyrings/debian-archive-keyring.gpg suite version mirror
  # The mirror that this machine is set up for.
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep -m 1 '/debian/$') ||
    how_to_get_std "rustup could not add it, and apt knows no Debian mirror"
  [[ -f $keyring ]] || how_to_get_std "Debian's keyring is missing ($keyring, package debian-archive-keyring)"
  for suite in trixie-backports sid; do
    rm -rf "$apt" && mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/etc" "$1"
    printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$mirror" "$suite" >"$apt/etc/sources.list"
    # The machine's own apt.conf (proxies) stays in force; its sources and state do not.
    local options=(
      -o "Dir::State=$apt" -o "Dir::State::lists=$apt/lists" -o Dir::State::status=/dev/null
      -o "Dir::Cache=$apt/cache" -o "Dir::Etc::sourcelist=$apt/etc/sources.list"
      -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null
      -o Dir::Etc::preferences=/dev/null -o APT::Get::List-Cleanup=0
      -o "APT::Architecture=amd64" -o APT::Architectures::=amd64
      -o APT::Sandbox::User= -o Acquire::Languages=none
    )
    say "  asking Debian $suite for rust-src $rustc_version"
    apt-get "${options[@]}" -qq update >&2 || continue
    version=$(apt-cache "${options[@]}" madison rust-src 2>/dev/null |
      awk -F' *[|] *' -v want="$rustc_version" 'index($2, want "+") == 1 || index($2, want "-") == 1 { print $2; exit }')
    [[ -n $version ]] || continue
    say "  fetching rust-src $version (about 45 MB)"
    (cd "$apt" && apt-get "${options[@]}" -q download "rust-src=$version" >&2) || continue
    dpkg-deb --fsys-tarfile "$apt"/rust-src_*.deb |
      tar -xf - -C "$1" "./usr/src/rustc-$rustc_version/library" || continue
    return
  done
  how_to_get_std "Debian has no rust-src of this version, or cannot be reached"
}

# Builds std from sources into $1, which must not exist: whole, or not at all.
build_sysroot() {
  local destination=$1
  mkdir -p "${destination%/*}"
  # One builder at a time; a second one finds the result. Without flock (not on every
  # system) the worst is that both build, and the last rename wins.
  if command -v flock >/dev/null; then
    exec 9>"${destination%/*}/.lock"
    flock -n 9 || { say "waiting for another build of std"; flock 9; }
    [[ -d $destination ]] && return
  fi
  work=$(mktemp -d "${destination%/*}/.build-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  say "building std of Rust $rustc_version for $target, once (about a minute)"
  local std_library=
  unpack_std_sources "$work/src"

  mkdir -p "$work/std/src" "$work/home"
  : >"$work/std/src/lib.rs"
  cat >"$work/std/Cargo.toml" <<'TOML'
[package]
name = "stdbuild"
version = "0.0.0"
edition = "2021"
[workspace]
[profile.release]
panic = "abort"
opt-level = "s"
TOML
  # embed-bitcode: a plugin's lto reads it. The prefix is the one that released stds have,
  # so that no path of this machine gets into a component.
  (
    cd "$work/std"
    clean_cargo_environment
    export CARGO_HOME=$work/home RUSTC_BOOTSTRAP=1 __CARGO_TESTS_ONLY_SRC_ROOT=$std_library
    export CARGO_ENCODED_RUSTFLAGS="-Cembed-bitcode=yes"$'\x1f'"--remap-path-prefix=$std_library=/rustc/$rustc_commit/library"
    # rustup finds its toolchains by RUSTUP_HOME, which does not follow CARGO_HOME.
    cargo build --release --offline -Zbuild-std=std,panic_abort --target $target \
      --target-dir "$work/target" \
      --config 'source.crates-io.replace-with="v"' \
      --config "source.v.directory=\"$std_library/vendor\""
  ) >&2 || die "std did not build from these sources; are they of exactly Rust $rustc_version?"

  # The layout that rustc expects of a sysroot; all but the target is the toolchain's own.
  local root=$work/sysroot entry
  mkdir -p "$root/lib/rustlib/$target/lib"
  for entry in "$work/target/$target/release/deps"/*.rlib; do
    [[ ${entry##*/} == libstdbuild-* ]] || cp "$entry" "$root/lib/rustlib/$target/lib/"
  done
  ln -s "$rustc_sysroot/lib/rustlib/$rustc_host" "$root/lib/rustlib/$rustc_host"
  for entry in "$rustc_sysroot/lib"/*; do
    [[ ${entry##*/} == rustlib ]] || ln -s "$entry" "$root/lib/"
  done
  mv -T "$root" "$destination" 2>/dev/null || [[ -d $destination ]] || mv "$root" "$destination"
  rm -rf "$work"
  trap - EXIT
  say "std is ready: $destination"
}

# Sets std_flags to what rustc needs to find the target's std, making it first if need be.
make_std_ready() {
  std_flags=()
  toolchain_has_target && return
  local cache=${XDG_CACHE_HOME:-$HOME/.cache}/gapura/wasm-sysroot
  # The toolchain's path is part of the key: the sysroot links into it.
  local key
  key=$(printf '%s\n' "$recipe" "$rustc_commit" "$rustc_sysroot" | cksum | cut -d' ' -f1)
  local sysroot=$cache/$rustc_version-$recipe-$key
  if [[ ! -d $sysroot ]]; then
    if [[ -z ${RUST_STD_SRC:-} ]] && ! ((offline)) && command -v rustup >/dev/null; then
      say "the Rust target $target is not installed: rustup target add $target"
      if rustup target add $target >&2 && toolchain_has_target; then return; fi
      say "rustup could not add it; building it from its sources instead"
    fi
    build_sysroot "$sysroot"
  fi
  std_flags=("--sysroot=$sysroot")
}

# ---------------------------------------------------------------- plugins

# What a caller's shell may hold and what must not reach a build of ours: flags for another
# target, a wrapper's notion of a target, a nightly switch.
clean_cargo_environment() {
  unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_RUSTFLAGS CARGO_BUILD_TARGET \
    CARGO_TARGET_DIR CARGO_BUILD_TARGET_DIR RUSTC_BOOTSTRAP \
    CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS CARGO_PROFILE_RELEASE_LTO \
    CARGO_PROFILE_RELEASE_OPT_LEVEL CARGO_PROFILE_RELEASE_CODEGEN_UNITS
}

# The `name` of the package in the manifest $1.
package_name() {
  sed -n '/^\[package\]/,/^\[/ s/^name *= *"\([^"]*\)".*/\1/p' "$1" | head -n 1
}

# Prints the names of the project's plugins: its packages that make a cdylib.
list_plugins() {
  local manifest
  for manifest in "$project/Cargo.toml" "$project"/*/Cargo.toml; do
    if [[ -f $manifest ]] && grep -Eq '^crate-type *=.*"cdylib"' "$manifest"; then
      package_name "$manifest"
    fi
  done
}

build_plugins() {
  local plugins=("$@") plugin known
  mapfile -t known < <(list_plugins)
  ((${#known[@]})) ||
    die "no plugin in $project" 'a plugin is a package whose Cargo.toml says: [lib] crate-type = ["cdylib"]'
  ((${#plugins[@]})) || plugins=("${known[@]}")
  local packages=()
  for plugin in "${plugins[@]}"; do
    [[ " ${known[*]} " == *" $plugin "* ]] || die "no plugin $plugin in $project" "there are: ${known[*]}"
    packages+=(-p "$plugin")
  done

  make_std_ready
  # Equal sources give equal bytes wherever they lie: panic messages hold no local path.
  local flags=("${std_flags[@]}") registry
  for registry in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*; do
    flags+=("--remap-path-prefix=$registry=/registry")
  done
  flags+=("--remap-path-prefix=$project=/plugin")
  local build=(cargo build --release --target $target --target-dir "$project/target")
  ((offline)) && build+=(--offline)
  (
    cd "$project"
    clean_cargo_environment
    export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=$linker
    CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; printf '%s' "${flags[*]}")
    export CARGO_ENCODED_RUSTFLAGS
    "${build[@]}" "${packages[@]}"
  ) >&2 || die "the build failed"

  mkdir -p "$out"
  local built fresh
  for plugin in "${plugins[@]}"; do
    built=$project/target/$target/release/${plugin//-/_}.wasm
    [[ -f $built ]] || die "cargo made no $built" "is the lib's name other than the package's?"
    # Unchanged components keep their time, so that nobody who watches them reloads them;
    # changed ones appear whole, by a rename.
    if ! cmp -s "$built" "$out/$plugin.wasm"; then
      fresh=$(mktemp "$out/.$plugin-XXXXXX")
      cp "$built" "$fresh" && chmod 644 "$fresh" && mv "$fresh" "$out/$plugin.wasm"
    fi
    printf '%s\n' "$out/$plugin.wasm"
  done
}

main() {
  local plugins=() only_std=0
  project= out= offline=0
  while (($#)); do
    case $1 in
      -h | --help) usage; exit 0 ;;
      --project) [[ -n ${2:-} ]] || die "--project needs a folder"; project=$2; shift ;;
      --out) [[ -n ${2:-} ]] || die "--out needs a folder"; out=$2; shift ;;
      --offline) offline=1 ;;
      --std) only_std=1 ;;
      -*) die "unknown option $1 (see --help)" ;;
      *) plugins+=("$1") ;;
    esac
    shift
  done
  read_toolchain
  if ((only_std)); then
    make_std_ready
    printf '%s\n' "${std_flags[@]}"
    exit 0
  fi
  project=${project:-$(dirname "${BASH_SOURCE[0]}")}
  [[ -f $project/Cargo.toml ]] || die "no Cargo.toml in $project"
  project=$(cd "$project" && pwd -P)
  mkdir -p "${out:=$project/target/components}"
  out=$(cd "$out" && pwd -P)
  build_plugins "${plugins[@]}"
}

main "$@"
