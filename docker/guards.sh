#!/bin/sh
# Guards of the lay-out: which crate may depend on which, where unsafe code may stand.
# They compile nothing and take seconds.
set -eu
cd "$(dirname "$0")/.."

failed=0
fail() {
    echo "error: $*" >&2
    failed=1
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# crates_of PACKAGE [FLAGS]: writes the names of all crates that PACKAGE is built from, build
# scripts and macros included, to the file `crates`. A pipe instead would hide that cargo failed.
crates_of() {
    cargo tree --locked --package "$@" --edges normal,build --prefix none --format '{p}' >"$work/tree"
    cut -d' ' -f1 "$work/tree" | sort -u >"$work/crates"
}

echo "== dependencies between our crates"
# The first crate of a line may depend on the others of that line and on no other of ours,
# whatever features are on.
layout='
sightline-core
sightline-testing
sightline-bus      sightline-core
sightline-detect   sightline-core
sightline-ingest   sightline-core sightline-bus sightline-detect
sightline-embed    sightline-core sightline-bus
sightline-figures
sightline-tune     sightline-core sightline-embed sightline-figures
sightline-search   sightline-core sightline-bus sightline-embed
sightline-double   sightline-core sightline-bus sightline-embed sightline-search
sightline-api      sightline-core sightline-bus sightline-detect sightline-ingest sightline-embed sightline-search
'
cargo metadata --locked --no-deps --format-version 1 >"$work/metadata"
for package in $(grep -oE '"name":"sightline-[a-z]+","version"' "$work/metadata" | cut -d'"' -f4); do
    allowed=$(printf '%s' "$layout" | grep -E "^$package( |\$)") ||
        fail "docker/guards.sh does not say what $package may depend on"
    crates_of "$package" --all-features
    for crate in $(grep '^sightline-' "$work/crates"); do
        case " $allowed " in
        *" $crate "*) ;;
        *) fail "$package depends on $crate" ;;
        esac
    done
done

echo "== dependencies on others"
# forbid "PACKAGES" "CRATES" [FLAGS]: none of PACKAGES depends on one of CRATES. FLAGS choose the
# features; without them the default features are on.
forbid() {
    packages=$1 forbidden=$2
    shift 2
    for crate in $forbidden; do
        # A name that nothing in the workspace has would hold for ever and guard nothing.
        grep -qx "name = \"$crate\"" Cargo.lock || fail "docker/guards.sh forbids $crate, which is not in Cargo.lock"
    done
    for package in $packages; do
        crates_of "$package" "$@"
        for crate in $forbidden; do
            if grep -qx "$crate" "$work/crates"; then fail "$package${*:+ $*} depends on $crate"; fi
        done
    done
}
# No system library and no server where there need be none.
forbid "sightline-core sightline-bus sightline-detect sightline-embed sightline-figures sightline-tune sightline-search sightline-double" \
    "gstreamer rdkafka"
forbid "sightline-core sightline-bus sightline-detect sightline-embed sightline-figures sightline-tune" "axum"
forbid "sightline-figures sightline-tune" "qdrant-client qdrant-edge"
forbid "sightline-api" "rdkafka"
forbid "sightline-api" "gstreamer sightline-ingest" --no-default-features
# Qdrant's gRPC client brings axum along (tonic's router), though it serves nothing.
forbid "sightline-search" "axum" --no-default-features
# Who serves compiles no training, and nothing of candle: sightline-embed needs that for GPUs alone.
forbid "sightline-embed sightline-search sightline-api" "candle-core candle-nn candle-transformers plotters"
forbid "sightline-core sightline-bus sightline-detect sightline-ingest sightline-figures" "candle-core"
# Who is no part of a topology knows no records.
forbid "sightline-embed sightline-search" "sightline-bus"
forbid "sightline-api" "sightline-bus" --no-default-features

echo "== the vector engine is compiled once"
# Its compilation takes minutes. `make demo` and `make test` share it only when all crates below
# it have the same features in both builds. search/Cargo.toml names some crates for that alone.
# Naming the target keeps a crate that a macro uses apart from the same crate in the program.
target=$(rustc -vV | sed -n 's/^host: //p')
engine_with() {
    cargo tree --locked --target "$target" --prefix depth --no-dedupe --format ' {p} {f}' "$@" >"$work/tree"
    awk 'inside && $1 <= depth { inside = 0 }
        !inside && $2 == "qdrant-edge" { inside = 1; depth = $1 }
        inside { $1 = ""; print }' "$work/tree" | sort -u
}
engine_with --edges normal,build --package sightline-api >"$work/demo"
# What only tests depend on counts, too: it changes the features of one build as well.
engine_with --edges normal,build,dev --workspace --features "$(docker/features.sh)" >"$work/test"
[ -s "$work/demo" ] || fail "sightline-api does not contain qdrant-edge"
if ! diff "$work/demo" "$work/test" >&2; then
    fail "crates below qdrant-edge have other features in make demo (<) than in make test (>)"
fi

echo "== tests that need a broker"
# `make test` leaves out the modules of this name, and `make test-servers` runs no others.
with_broker=$(git ls-files --cached --others --exclude-standard '*.rs' | xargs grep -ls KAFKA_BROKERS || true)
[ -n "$with_broker" ] || fail "no test reads KAFKA_BROKERS"
for file in $with_broker; do
    case $file in
    */needs_kafka.rs | */needs_kafka/*.rs) ;;
    *) fail "$file reads KAFKA_BROKERS: tests that need a broker belong to a module called needs_kafka" ;;
    esac
done
grep -qx 'SERVER_TESTS := needs_kafka::' Makefile || fail "the Makefile chooses other tests than those in modules called needs_kafka"

echo "== unsafe code"
# Under embed/ it belongs to embed/src/kernel. Elsewhere it may stand in these files and folders
# only, for these reasons.
exceptions='
embed/src/serve/device.rs: mallopt, a call into glibc, so that it keeps large buffers
embed/benches/crops.rs: getrusage, a call into libc, for the processor time of all threads
embed/tune/src/bin/sightline-finetune/main.rs: set_var, before any other thread runs; candle reads its threads there
embed/tune/benches/training.rs: the same
'
# A line counts when `unsafe` stands in it as a word, not behind `//`.
with_unsafe=$(git ls-files --cached --others --exclude-standard 'embed/*.rs' | grep -v '^embed/src/kernel/' |
    xargs grep -lsE '^([^/]|/[^/])*\bunsafe\b' || true)
reasons=$(printf '%s' "$exceptions" | sed '/^$/d')
for file in $with_unsafe; do
    printf '%s\n' "$reasons" | cut -d: -f1 | {
        while read -r known; do case $file in "$known" | "${known%/}/"*) exit 0 ;; esac; done
        exit 1
    } || fail "$file has unsafe code: move it to embed/src/kernel, or name the file in docker/guards.sh with the reason"
done
for known in $(printf '%s\n' "$reasons" | cut -d: -f1); do
    printf '%s\n' "$with_unsafe" | grep -qF "$known" || fail "$known has no unsafe code: take it out of docker/guards.sh"
done

[ "$failed" = 0 ] || exit 1
echo "all hold"
