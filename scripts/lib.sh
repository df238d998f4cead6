# Shared by scripts/up, scripts/down and scripts/test: what to say, who runs what, what has to be installed.
# Sourced, not run. Whoever sources it has `set -euo pipefail` and gets $ROOT (the checkout) as its working directory.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"

say() { printf '==> %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
since() { echo $((SECONDS - $1)); }

# Namespaces, TAPs and packages need root; compilers do not. Whoever calls through sudo keeps the ownership of target/.
ROOT_PREFIX=() BUILDER_PREFIX=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || die "run this as root, or install sudo: network namespaces and packages need it"
  BUILDER=$(id -un)
  ROOT_PREFIX=(sudo --preserve-env=CI,TERM)
elif [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ] && [ "$(stat -c %U "$ROOT")" = "$SUDO_USER" ]; then
  BUILDER=$SUDO_USER
  BUILDER_PREFIX=(
    sudo --user "$BUILDER" --set-home
    --preserve-env=CI,TERM,CARGO_TERM_COLOR,RUSTUP_TOOLCHAIN,AIRLOCK_TEST_STATE,E2E_ARTIFACTS
  )
else
  BUILDER=root
fi
as_root() { "${ROOT_PREFIX[@]}" "$@"; }
# sudo has a PATH of its own: the builder's is handed over.
as_builder() { if [ ${#BUILDER_PREFIX[@]} -gt 0 ]; then "${BUILDER_PREFIX[@]}" env PATH="$PATH" "$@"; else "$@"; fi; }
BUILDER_HOME=$(getent passwd "$BUILDER" | cut -d: -f6)
[ "$BUILDER" = root ] && BUILDER_HOME=${HOME:-$BUILDER_HOME}
PATH="$BUILDER_HOME/.cargo/bin:$PATH:/usr/sbin:/sbin"
export PATH
[ -t 1 ] || export CARGO_TERM_COLOR=never

# Packages that `airlock` needs to run, and why.
RUN_PACKAGES=(
  "qemu-system-x86|the virtual machines"
  "mmdebstrap|builds the root of a golden image"
  "erofs-utils|writes the read-only root filesystem"
  "iproute2|network namespace and its tools"
  "nftables|rules that keep guests apart"
  "kmod|reads the dependencies of the guest's kernel modules"
  "cpio|looks into an initramfs"
  "zstd|compressed kernel modules and logs"
  "xz-utils|compressed kernel modules"
  "ca-certificates|certificates for guests and builds"
)
# Packages that building it needs.
BUILD_PACKAGES=(
  "build-essential|linker and C compiler for crates with C parts"
  "pkg-config|finds C libraries at build time"
  "curl|asks the daemon whether it is up"
)
# Packages that only the tests need.
TEST_PACKAGES=(
  "faketime|lets a daemon's clock jump"
  "busybox-static|a DHCP client that others wrote"
  "chromium|plays the person in front of the viewer"
  "tigervnc-standalone-server|a real RFB server for the viewer's tests"
  "tcpdump|watches that the browser talks to nobody on its own"
  "firefox-esr|a real browser for the viewer's tests"
  "e2fsprogs|root image of the bench's reference system, ext4 images"
  "umoci|makes OCI images that are not ours"
  "skopeo|converts OCI images between their forms"
  "openssl|makes the certificates that stand for the vendors'"
  "busybox-static|the program of those images"
)

installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# need_packages "name|why"...: installs what is missing and says why.
need_packages() {
  local missing=() entry
  for entry in "$@"; do
    installed "${entry%%|*}" || missing+=("$entry")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || die "not a Debian system; install by hand: ${missing[*]%%|*}"
  for entry in "${missing[@]}"; do
    say "installing ${entry%%|*}: ${entry#*|}"
  done
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]%%|*}" >/dev/null
}

# Node of any origin will do, if it is new enough and has npm.
need_node() {
  local major
  major=$(node --version 2>/dev/null | sed -n 's/^v\([0-9]*\).*/\1/p')
  if [ "${major:-0}" -lt 18 ]; then
    need_packages "nodejs|bundles the viewer page (noVNC)" "npm|fetches what the viewer page is made of"
  elif ! command -v npm >/dev/null; then
    need_packages "npm|fetches what the viewer page is made of"
  fi
}

RUST_NEEDED=1.95
rust_is_new_enough() {
  local have
  have=$(as_builder cargo --version 2>/dev/null | awk '{print $2}')
  [ -n "$have" ] && [ "$(printf '%s\n%s\n' "$RUST_NEEDED" "$have" | sort -V | head -n 1)" = "$RUST_NEEDED" ]
}

need_rust() {
  rust_is_new_enough && return 0
  if ! command -v rustup >/dev/null && apt-cache show rustup >/dev/null 2>&1; then
    need_packages "rustup|installs Rust $RUST_NEEDED or newer, which builds everything here"
  fi
  command -v rustup >/dev/null || die "Rust $RUST_NEEDED or newer is missing. Install rustup for the user $BUILDER as
       the Rust project's page 'Install Rust' says, or put a newer cargo on the PATH; then run this again."
  say "installing the current stable Rust through rustup: $RUST_NEEDED or newer builds everything here"
  as_builder rustup toolchain install stable --profile minimal --component clippy --component rustfmt
  export RUSTUP_TOOLCHAIN=stable
  rust_is_new_enough || die "cargo is still older than $RUST_NEEDED"
}

# need_cargo_tool PROGRAM PACKAGE WHY
need_cargo_tool() {
  command -v "$1" >/dev/null && return 0
  say "installing $2 with cargo (some minutes, once): $3"
  as_builder cargo install "$2" --locked --quiet
}

# need_npm DIR: what package-lock.json names, unless it is there already. The mark is the one host/server/build.rs uses.
need_npm() {
  local mark=$1/node_modules/.airlock-installed-lock
  cmp -s "$1/package-lock.json" "$mark" && return 0
  say "fetching what $1/package-lock.json names"
  as_builder npm --prefix "$1" ci --no-audit --no-fund --loglevel=error
  as_builder cp "$1/package-lock.json" "$mark"
}

# airlock_pid PID_FILE: the process that scripts/up noted there, if it still runs.
airlock_pid() {
  local pid
  pid=$(as_root cat "$1" 2>/dev/null) && [ -n "$pid" ] || return 1
  # A pid is reused some day; only a process that runs our program is ours.
  case $(as_root readlink "/proc/$pid/exe" 2>/dev/null) in
    */airlock | */"airlock (deleted)") echo "$pid" ;;
    *) return 1 ;;
  esac
}
