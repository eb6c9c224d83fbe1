#!/bin/sh
# Prints every feature of every crate of the workspace, separated by commas. It leaves out
# `default`, and `cuda`, which needs a CUDA toolkit.
set -eu
cd "$(dirname "$0")/.."
members=$(sed -n 's/^members = \[\(.*\)\]$/\1/p' Cargo.toml | tr -d '",')
[ -n "$members" ] || { echo "error: Cargo.toml has no line members = [...]" >&2; exit 1; }
for member in $members; do
    awk '
        /^\[/ { section = $0 }
        section == "[package]" && /^name *= */ { package = $3; gsub(/"/, "", package) }
        section == "[features]" && /^[a-z0-9-]+ *=/ && $1 !~ /^(default|cuda|flash-attn)$/ { print package "/" $1 }' \
        "$member/Cargo.toml"
done | paste -sd, -
