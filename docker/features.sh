#!/bin/sh
# Prints every feature of the workspace but `cuda` and what needs it, with commas: those want a CUDA toolkit.
set -eu
cd "$(dirname "$0")/.."
for m in */Cargo.toml; do
    awk -v package="sightline-${m%/Cargo.toml}" '
        /^\[/ { inside = $0 == "[features]" }
        inside && /^[a-z0-9-]+ *=/ && $1 !~ /^(default|cuda|flash-attn)$/ { print package "/" $1 }' "$m"
done | paste -sd, -
