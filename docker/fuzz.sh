#!/bin/sh
# docker/fuzz.sh [SECONDS]: libFuzzer feeds each parser of sightline-embed, sightline-tune and
# sightline-figures for SECONDS (default 60). Findings and the corpus stay in target/fuzz.
# The compiler's own pass counts coverage, so stable Rust will do. embed/fuzz/src/main.rs has
# the targets.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-60}
flags="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-trace-compares"
flags="$flags -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
export RUSTFLAGS="$flags -Ccodegen-units=1 --cfg fuzzing" CARGO_TARGET_DIR="$PWD/target/fuzz"
# A target of its own, named: the flags are then for the programs alone, not for build scripts and macros.
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --locked --quiet --manifest-path embed/fuzz/Cargo.toml --target "$host"
for target in meshes annotations captions model_config pictures; do
    corpus=target/fuzz/corpus/$target
    mkdir -p "$corpus"
    echo "== $target, $seconds s"
    SIGHTLINE_FUZZ=$target "target/fuzz/$host/debug/embed" -max_total_time="$seconds" -max_len=4096 -timeout=10 \
        -rss_limit_mb=2048 -artifact_prefix="target/fuzz/$target-" -print_final_stats=0 -verbosity=0 "$corpus"
done
echo "nothing found"
