#!/bin/sh
# Formatting, lints, documentation, dependency direction, file lengths: what must hold before the tests are run.
set -eu
cd "$(dirname "$0")/.."

echo "== fmt"
cargo fmt --all --check

echo "== clippy, default features"
cargo clippy --locked --quiet --workspace --all-targets -- -D warnings

features=$(docker/features.sh)
echo "== clippy, all features but cuda: ${features:-none}"
cargo clippy --locked --quiet --workspace --all-targets ${features:+--features "$features"} -- -D warnings

echo "== doc"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --quiet --workspace --no-deps

# The direction of dependencies: PACKAGE must not reach CRATE (with the given extra arguments).
echo "== dependency guards"
guard() {
    package=$1 crate=$2
    shift 2
    if cargo tree --locked -p "$package" -e normal -i "$crate" "$@" 2>/dev/null | grep -q .; then
        echo "error: $package $* depends on $crate" >&2
        exit 1
    fi
}
for p in sightline-core sightline-detect sightline-embed sightline-search; do
    for c in gstreamer rdkafka; do guard "$p" "$c"; done
done
for p in sightline-core sightline-detect sightline-embed; do guard "$p" axum; done
# Qdrant's gRPC client brings axum along (tonic's router), though it serves nothing.
guard sightline-search axum --no-default-features
guard sightline-api gstreamer --no-default-features
guard sightline-api rdkafka
guard sightline-detect sightline-embed
guard sightline-ingest sightline-embed
guard sightline-embed sightline-detect
guard sightline-search sightline-ingest
guard sightline-core candle-core
echo "all hold"

echo "== metrics of the dashboard and the alerts"
docker/check-dashboard.sh
echo "all exported"

echo "== files over 300 lines (450 is rare)"
git ls-files '*.rs' '*.js' | xargs wc -l | awk '$2 != "total" && $1 > 300 { print "  " $1, $2; n++ } END { if (!n) print "  none" }'
