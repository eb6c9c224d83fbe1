#!/bin/sh
# What must hold before the tests are run.
#
#   docker/check.sh layout   guards of the lay-out, images, set-up, alerts, generated code, formatting, file lengths:
#                            minutes, since nothing of the workspace is compiled
#   docker/check.sh          the same, then lints, documentation and another CPU than x86-64
set -eu
cd "$(dirname "$0")/.."
case ${1:-all} in
layout | all) ;;
*)
    echo "usage: docker/check.sh [layout]" >&2
    exit 2
    ;;
esac

docker/guards.sh

docker/setup.sh checks
echo "== images and compose"
docker/check-images.py
echo "== what setup.sh downloads"
docker/check-setup.sh
echo "== alerts, and who is told"
docker/check-rules.sh

# The fuzz targets are a workspace of their own, which docker/fuzz.sh builds with its lock file as it is.
echo "== lock file of the fuzz targets"
cargo update --quiet --workspace --locked --manifest-path embed/fuzz/Cargo.toml

# The generators are a workspace of their own, too: core/bus/schema/Cargo.toml says why.
echo "== the schema's generated code"
cargo run --locked --quiet --target-dir target/schema --manifest-path core/bus/schema/Cargo.toml

echo "== fmt"
cargo fmt --all --check

echo "== metrics of the dashboard and the alerts"
docker/check-dashboard.sh
echo "all exported"

echo "== files over 300 lines (450 is rare)"
git ls-files '*.rs' '*.js' | xargs wc -l | awk '$2 != "total" && $1 > 300 { print "  " $1, $2; n++ } END { if (!n) print "  none" }'

[ "${1:-all}" = all ] || exit 0

features=$(docker/features.sh)
echo "== clippy, all features but cuda: ${features:-none}"
cargo clippy --locked --quiet --workspace --all-targets ${features:+--features "$features"} -- -D warnings

# Without sightline-tune: in one build with it, what serves would have the features that it turns on. The tests are the
# same, so they are not linted twice.
echo "== clippy, default features, what serves"
cargo clippy --locked --quiet --workspace --exclude sightline-tune --lib --bins -- -D warnings

echo "== doc"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --quiet --workspace --no-deps

# The kernels have other code on a CPU that is not x86-64. The check needs no compiler of C.
other=aarch64-unknown-linux-gnu
echo "== sightline-embed for $other"
if docker/setup.sh aarch64; then
    RUSTFLAGS="-D warnings" cargo check --locked --quiet --package sightline-embed --lib --target "$other"
else
    echo "not checked: Rust's standard library for it is missing"
fi
