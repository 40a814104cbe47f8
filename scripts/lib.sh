# shellcheck shell=bash
# What the scripts beside this file share. Source it; it runs nothing by itself:
#
#     source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
#
# It sets `script` (the file that was called), `root` (the checkout), changes into that, and sets
# `target` (where cargo builds).
#
# SKIP_APT=1 in the environment: no package is looked for or installed. (Not RINGWIRE_SKIP_APT: what
# begins with RINGWIRE_ is the server's configuration, and it refuses names that it does not know.)

script=$(realpath "$0")
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." >/dev/null && pwd)
cd "$root" || exit 1
target=${CARGO_TARGET_DIR:-$root/target}
[[ $target == /* ]] || target=$root/$target

# What a build needs beside Rust: hwlocality links against hwloc (and libudev), found with
# pkg-config; glommio compiles its copy of liburing with cc and calls git while doing so.
# shellcheck disable=SC2034 # used by the scripts that source this file
build_packages=(gcc libc6-dev libhwloc-dev libudev-dev pkg-config git)

# Prints a line about what is being done, to standard error: standard output is for results.
note() { printf '%s\n' "$*" >&2; }

# Prints an error and ends the script.
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Prints the comment block at the top of the calling script, without its `#`s: the help text.
# A script's help and its header cannot disagree this way.
print_help() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$script"; }

have() { command -v "$1" >/dev/null 2>&1; }

in_ci() { [[ ${CI:-} == true || ${CI:-} == 1 ]]; }

# Runs a command as root.
as_root() {
    if [[ $EUID -eq 0 ]]; then
        "$@"
    else
        sudo "$@"
    fi
}

# need_apt PACKAGE...: installs those of the Debian packages that are not installed yet.
need_apt() {
    local package missing=()
    [[ -z ${SKIP_APT:-} ]] || return 0
    if ! have dpkg-query || ! have apt-get; then
        die "this needs the Debian packages $* (or your system's equivalents), and there is no apt-get here:" \
            "install them with your package manager, then set SKIP_APT=1 and run this again"
    fi
    for package in "$@"; do
        # Multi-arch may list a package several times; one installed copy is enough.
        if ! dpkg-query --show --showformat='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed; then
            missing+=("$package")
        fi
    done
    [[ ${#missing[@]} -gt 0 ]] || return 0
    if [[ $EUID -ne 0 ]] && ! have sudo; then
        die "missing Debian packages; as root: apt-get install --no-install-recommends ${missing[*]}"
    fi
    apt_update_once
    note "installing ${missing[*]}"
    # Not as an argument of `sudo`: its policy may drop variables that are given outside.
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --quiet --no-install-recommends "${missing[@]}" >&2 ||
        die "apt-get could not install: ${missing[*]} (its output is above)"
}

# Package lists are fetched at most once per run, also across the scripts that call each other.
apt_update_once() {
    [[ -z ${APT_UPDATED:-} ]] || return 0
    note "updating the package lists"
    as_root apt-get update --quiet >&2 || die "apt-get update failed (its output is above)"
    export APT_UPDATED=1
}

# need_command COMMAND PACKAGE...: installs the packages unless the command is there already,
# from wherever it came (Node.js, for one, often does not come from Debian).
need_command() {
    local command=$1
    shift
    have "$command" || need_apt "$@"
    have "$command" || die "$* installed, but there is still no '$command' in PATH"
}

# Finds cargo, also where rustup put it and the shell has not been restarted since.
need_cargo() {
    if ! have cargo && [[ -x ${CARGO_HOME:-$HOME/.cargo}/bin/cargo ]]; then
        PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
        export PATH
    fi
    have cargo || die "Rust is missing: install it with rustup (see rustup.rs), then run this again"
}

# Everything that `cargo build` needs.
need_build_tools() {
    need_cargo
    need_apt "${build_packages[@]}"
}

# Builds the optimised server; its path is then "$target/release/ringwire". With BUILD_ALL, what needs the
# crates of the tests as well: they switch on features in some of the server's own, so that cargo would compile
# those, and the server, once with and once without.
build_release() {
    need_build_tools
    cargo build --release --locked --bin ringwire ${BUILD_ALL:+--examples --bench wire --bench engine}
}
