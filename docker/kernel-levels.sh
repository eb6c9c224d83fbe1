#!/bin/sh
# Tests of the kernels as CPUs with fewer instructions run them. `make test` has run them at the level
# of this CPU.
#
#   docker/kernel-levels.sh FEATURES      those that the tests were built with, so that nothing is built again
set -eu
cd "$(dirname "$0")/.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT
# A level that this CPU lacks repeats the level below.
for level in plain avx2; do
    echo "== tests of the kernels at CPU level $level"
    SIGHTLINE_CPU_LEVEL=$level cargo test --locked --quiet --workspace --features "$1" --lib -- kernel:: \
        >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
    awk '/^test result:/ { n += $4 } END { print n + 0, "passed"; exit !n }' "$log"
done
