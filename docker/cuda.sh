#!/bin/sh
# CUDA without an installed CUDA: NVIDIA's compiler and libraries from their PyPI wheels, and the builds that need them.
#
#   docker/cuda.sh toolkit   assembles the toolkit in the cache folder and prints where it is
#   docker/cuda.sh check     compiles the kernels with nvcc and checks the whole workspace with feature `cuda` (what CI runs)
#   docker/cuda.sh build     builds the embed worker, the fine-tuner and the GPU tests of sightline-embed
#   docker/cuda.sh test      runs the GPU tests of sightline-embed; without a GPU they fail and say so
#
# CUDA_HOME, when set, names an installed toolkit to use instead. CUDA_COMPUTE_CAP (default 80: every data-centre card
# since A100 runs its PTX) is the generation the kernels are compiled for.
# 700 MB are downloaded once, checked by SHA-256, and unpacked to 1.1 GB in $XDG_CACHE_HOME/sightline.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
cache=${SIGHTLINE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sightline}
version=13.0
toolkit=$cache/cuda-$version

say() { printf 'cuda: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# Of CUDA 12 the wheels hold no compiler driver, so it is 13. x86-64 Linux; the licence is NVIDIA's CUDA EULA.
wheels() {
    cat <<'LIST'
nvidia-cuda-nvcc==13.0.88 --hash=sha256:56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03
nvidia-nvvm==13.0.88 --hash=sha256:c5f41ffeb6466944a026dfa5317d7d85355c119bbec279205d22f1869d1054e0
nvidia-cuda-crt==13.0.88 --hash=sha256:2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4
nvidia-cuda-runtime==13.0.96 --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
nvidia-cuda-cccl==13.0.85 --hash=sha256:e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649
nvidia-cublas==13.0.2.14 --hash=sha256:0cf238ffdbe46c00cb9aa98e7bca745c223a5ca5a53e686ac8b3e5a08fe80d6c
nvidia-curand==10.4.0.35 --hash=sha256:1aee33a5da6e1db083fe2b90082def8915f30f3248d5896bcec36a579d941bfc
nvidia-cuda-nvrtc==13.0.88 --hash=sha256:ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575
LIST
}

# A libcuda.so to link against: the real one comes with the GPU's driver and with nothing else. Started against this
# one, every call answers "no device", so that a program without a GPU says so instead of failing to load.
stub_driver() {
    mkdir -p "$1/lib/stubs"
    {
        echo '#include <stddef.h>'
        gcc -E -P "$1/include/cuda.h" | grep -o '\bcu[A-Z][A-Za-z0-9_]* *(' | tr -d ' (' | sort -u |
            grep -v -e '^cuGetErrorString$' -e '^cuGetErrorName$' -e '^cuda' |
            while read -r name; do echo "int $name() { return 100; }"; done
        echo 'int cuGetErrorName(int e, const char **s) { *s = "CUDA_ERROR_NO_DEVICE"; return 0; }'
        echo 'int cuGetErrorString(int e, const char **s) { *s = "no NVIDIA driver is installed"; return 0; }'
    } >"$1/lib/stubs/libcuda.c"
    gcc -w -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$1/lib/stubs/libcuda.so.1" "$1/lib/stubs/libcuda.c"
    ln -sf libcuda.so.1 "$1/lib/stubs/libcuda.so"
}

assemble() {
    [ "$(uname -sm)" = "Linux x86_64" ] || die "the wheels are for Linux on x86-64; install CUDA and set CUDA_HOME"
    python3 -m pip --version >/dev/null 2>&1 || die "pip is missing; on Debian: apt-get install python3-pip"
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/cuda.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    say "downloading CUDA $version (700 MB)"
    wheels >"$work/wheels.txt"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
        --dest "$work/wheels" --requirement "$work/wheels.txt" >&2 || die "the wheels could not be downloaded"
    for wheel in "$work"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$work/tree"; done
    tree=$work/tree/nvidia/cu13
    chmod +x "$tree"/bin/* "$tree"/nvvm/bin/*
    # Linkers look for names without a version, cargo's build scripts for both folders.
    for lib in "$tree"/lib/*.so.*; do ln -sf "$(basename "$lib")" "${lib%%.so.*}.so"; done
    ln -s lib "$tree/lib64"
    stub_driver "$tree"
    mv "$tree" "$toolkit"
}

toolkit() {
    if [ -n "${CUDA_HOME:-}" ]; then
        [ -x "$CUDA_HOME/bin/nvcc" ] || die "CUDA_HOME is $CUDA_HOME, where there is no bin/nvcc"
        toolkit=$CUDA_HOME
    elif [ ! -x "$toolkit/bin/nvcc" ]; then
        assemble
    fi
    export CUDA_HOME="$toolkit" PATH="$toolkit/bin:$PATH" CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-80}"
    # Kernels are compiled on half of the cores unless told otherwise.
    export CUDAFORGE_THREADS="${CUDAFORGE_THREADS:-$(nproc)}"
    export LIBRARY_PATH="$toolkit/lib:$toolkit/lib/stubs${LIBRARY_PATH:+:$LIBRARY_PATH}"
}

cd "$root"
case ${1:-} in
toolkit)
    toolkit
    echo "$toolkit"
    ;;
check)
    toolkit
    # With all other features too, as in check.sh: then only what CUDA changes is compiled again.
    cargo check --locked --quiet --workspace --all-targets \
        --features "$(docker/features.sh),sightline-embed/cuda,sightline-tune/cuda"
    ;;
build)
    toolkit
    # Both in one call: then they share one build of sightline-embed.
    cargo build --locked --package sightline-embed --package sightline-tune \
        --features sightline-embed/cuda,sightline-embed/kafka,sightline-tune/cuda \
        --bin sightline-embed --bin sightline-finetune
    cargo test --locked --package sightline-embed --features cuda --test it --no-run
    ;;
test)
    toolkit
    # The driver's own library, where there is one, is found before the stub.
    driver=$(ldconfig -p 2>/dev/null | sed -n 's|.*libcuda\.so\.1 .*=> \(.*\)/libcuda.so.1|\1|p' | head -n 1)
    export LD_LIBRARY_PATH="${driver:+$driver:}$toolkit/lib:$toolkit/lib/stubs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    cargo test --locked --package sightline-embed --features cuda --test it cuda:: -- --nocapture
    ;;
*) die "usage: docker/cuda.sh toolkit|check|build|test" ;;
esac
