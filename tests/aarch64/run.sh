#!/usr/bin/env bash
# Runs the kernels' tests on 64-bit ARM: on such a machine as they are, elsewhere in qemu's user
# emulation. Arguments go to the tests (names to filter by, --nocapture).
#
# Needed to cross over, on Debian and its like:
#   - qemu-user, gcc-aarch64-linux-gnu and libc6-dev-arm64-cross. Root has them installed by this
#     script; others are told what to install.
#   - Rust's standard library for the target: the toolchain's, where `rustup target add` has put
#     it, else built once from the sources that RUST_STD_SRC names (a .tar.xz of the toolchain's
#     library/ folder) and kept in $XDG_CACHE_HOME/gapura/aarch64-sysroot.
# Emulation shows that results are right. It says nothing about speed.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly target=aarch64-unknown-linux-gnu
# Change it whenever the way in which std is built or laid out below changes.
readonly recipe=r1

say() { printf '==> %s\n' "$*" >&2; }
die() {
  printf 'error: %s\n' "$1" >&2
  shift
  (($# == 0)) || printf '       %s\n' "$@" >&2
  exit 1
}

# ---------------------------------------------------------------- the tools

make_tools_ready() {
  local missing=()
  command -v qemu-aarch64 >/dev/null || missing+=(qemu-user)
  command -v aarch64-linux-gnu-gcc >/dev/null || missing+=(gcc-aarch64-linux-gnu)
  [[ -f /usr/aarch64-linux-gnu/lib/libc.so.6 && -f /usr/aarch64-linux-gnu/lib/crt1.o ]] ||
    missing+=(libc6-dev-arm64-cross)
  ((${#missing[@]})) || return 0
  local install=(apt-get install --yes --no-install-recommends "${missing[@]}")
  command -v apt-get >/dev/null ||
    die "missing: ${missing[*]}" "these are Debian's names; install their like, /usr/aarch64-linux-gnu included"
  [[ $(id -u) == 0 ]] || die "missing: ${missing[*]}" "sudo ${install[*]}"
  say "Installing ${missing[*]}"
  apt-get -qq update && "${install[@]}" >&2 || die "could not install ${missing[*]}"
}

# ---------------------------------------------------------------- the standard library

# Sets std_flags to what rustc needs to find the target's std, making it first if need be.
make_std_ready() {
  local sysroot host version commit
  sysroot=$(rustc --print sysroot)
  host=$(rustc -vV | sed -n 's/^host: //p')
  version=$(rustc -vV | sed -n 's/^release: //p')
  commit=$(rustc -vV | sed -n 's/^commit-hash: //p')
  std_flags=
  if compgen -G "$sysroot/lib/rustlib/$target/lib/libstd-*.rlib" >/dev/null; then
    say "Standard library: the toolchain's"
    return
  fi
  # The toolchain's path is part of the key: the sysroot links into it.
  local cache=${XDG_CACHE_HOME:-$HOME/.cache}/gapura/aarch64-sysroot key made
  key=$(printf '%s\n' "$recipe" "$commit" "$sysroot" | cksum | cut -d' ' -f1)
  made=$cache/$version-$recipe-$key
  std_flags=--sysroot=$made
  if [[ -d $made ]]; then
    say "Standard library: $made"
    return
  fi
  [[ -n ${RUST_STD_SRC:-} ]] ||
    die "rustc $version has no standard library for $target; one of these helps:" \
      "rustup target add $target" \
      "RUST_STD_SRC=FILE, the library/ folder of Rust $version's sources as .tar.xz"
  [[ -f $RUST_STD_SRC ]] || die "RUST_STD_SRC names no file: $RUST_STD_SRC"
  say "Standard library: building it from $RUST_STD_SRC, once (about a minute)"
  build_std "$made" "$sysroot" "$host"
}

# Builds std and the test harness into the sysroot $1, whole or not at all; the rest of it is
# that of the toolchain in $2 for the host $3.
build_std() {
  mkdir -p "${1%/*}"
  work=$(mktemp -d "${1%/*}/.build-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  mkdir -p "$work/unpacked" "$work/home" "$work/std/src" "$work/sysroot/lib/rustlib/$target/lib"
  tar -xJf "$RUST_STD_SRC" -C "$work/unpacked" || die "cannot unpack $RUST_STD_SRC"
  local library=$work/unpacked/library
  [[ -f $library/test/Cargo.toml && -d $library/vendor ]] ||
    die "$RUST_STD_SRC holds no complete library/ folder (test and vendor are needed)"
  : >"$work/std/src/lib.rs"
  printf '%s\n' '[package]' 'name = "stdbuild"' 'edition = "2021"' '[workspace]' >"$work/std/Cargo.toml"
  (
    cd "$work/std"
    # rustup finds its toolchains by RUSTUP_HOME, which does not follow CARGO_HOME.
    export RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup} CARGO_HOME=$work/home
    export RUSTC_BOOTSTRAP=1 __CARGO_TESTS_ONLY_SRC_ROOT=$library CARGO_ENCODED_RUSTFLAGS=
    cargo build --quiet --release --offline --target $target --target-dir "$work/target" \
      -Zbuild-std=std,panic_unwind,proc_macro,test \
      --config 'source.crates-io.replace-with="vendored"' \
      --config "source.vendored.directory=\"$library/vendor\""
  ) >&2 || die "std did not build from $RUST_STD_SRC; is it of exactly this Rust?"
  local entry
  for entry in "$work/target/$target/release/deps"/*.rlib; do
    [[ ${entry##*/} == libstdbuild-* ]] || cp "$entry" "$work/sysroot/lib/rustlib/$target/lib/"
  done
  ln -s "$2/lib/rustlib/$3" "$work/sysroot/lib/rustlib/$3"
  for entry in "$2/lib"/*; do
    [[ ${entry##*/} == rustlib ]] || ln -s "$entry" "$work/sysroot/lib/"
  done
  # Another run may have been faster.
  mv -T "$work/sysroot" "$1" 2>/dev/null || [[ -d $1 ]] || die "cannot write $1"
  rm -rf "$work"
  trap - EXIT
}

# ---------------------------------------------------------------- the tests

if [[ $(uname -m) == aarch64 ]]; then
  say "This machine is an ARM one: the kernels' tests as they are"
  exec cargo test --release --locked -p gapura-kernels -- "$@"
fi

make_tools_ready
make_std_ready
unset RUSTFLAGS CARGO_BUILD_TARGET RUSTC_BOOTSTRAP
export CARGO_ENCODED_RUSTFLAGS=$std_flags
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
say "Building the kernels' tests for $target (the first time about 5 minutes)"
cargo test --release --locked -p gapura-kernels --target $target --no-run
# One processor with the integer dot product, one without.
for processor in max cortex-a72; do
  say "Testing on $(qemu-aarch64 --version | head -n 1), processor $processor"
  QEMU_CPU=$processor cargo test --quiet --release --locked -p gapura-kernels --target $target -- "$@"
done
