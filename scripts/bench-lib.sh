# shellcheck shell=bash
# What the scripts/bench-* share: lib.sh, and how they become the driver of the measurements.

# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# bench COMMAND [OPTION...]: builds everything optimised, then measures.
bench() {
    local option
    for option in "$@"; do
        if [[ $option == --help || $option == -h ]]; then
            print_help
            exit 0
        fi
    done
    need_build_tools
    cargo build --release --locked --bin ringwire --examples
    have perf || note "perf is missing (Debian: linux-perf): system calls are not counted, and the user part comes from the kernel's coarser accounting"
    # BENCH_COMMAND is what the report says that was called.
    BENCH_COMMAND="${BENCH_COMMAND:-scripts/$(basename "$script") ${*:2}}" \
        exec "$target/release/examples/drive" "$1" --out "$target/bench" "${@:2}"
}
