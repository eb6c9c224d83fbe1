#!/bin/sh
# Fails when setup.sh would run an installer that is not the one it knows, or would not run the one it knows; and when any
# script or Dockerfile hands a download to a shell unread. No network is used: `curl` is a stand-in.
set -eu
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
    echo "error: $*" >&2
    exit 1
}

if git grep -nE '(curl|wget)[^|#]*\| *(ba|da)?sh( |$)' -- docker Makefile .ci >&2; then
    fail "a download is run as it comes: check its SHA-256 first"
fi

# A machine without Rust, whose download is a program that leaves a trace.
mkdir -p "$work/tools" "$work/repository/docker"
for tool in awk basename cat chmod cut dirname grep head id mkdir mktemp mv rm sed sh sha256sum uname; do
    ln -s "$(command -v "$tool")" "$work/tools/$tool"
done
cat >"$work/installer" <<EOF
#!/bin/sh
echo "ran as \$(basename "\$0")" >"$work/trace"
printf '#!/bin/sh\necho cargo 1.999.0\n' >"$work/tools/cargo"
chmod +x "$work/tools/cargo"
EOF
cat >"$work/tools/curl" <<EOF
#!/bin/sh
while [ \$# -gt 0 ]; do
    case \$1 in
    -o) cat "$work/installer" >"\$2"; shift ;;
    https://*) echo "\$1" >"$work/address" ;;
    esac
    shift
done
[ -s "$work/address" ] || cat "$work/installer"
EOF
chmod +x "$work/tools/curl"
setup() {
    env -i HOME="$work/home" PATH="$work/tools" SIGHTLINE_CACHE="$work/cache" "$work/repository/docker/setup.sh" rust 2>&1
}
cp Cargo.toml "$work/repository/"

cp docker/setup.sh "$work/repository/docker/setup.sh"
if said=$(setup); then fail "setup.sh took an installer with another SHA-256"; fi
[ ! -e "$work/trace" ] || fail "setup.sh ran an installer with another SHA-256"
case $said in
*"SHA-256 differs"*) ;;
*) fail "setup.sh does not say what is wrong with the installer: $said" ;;
esac

right=$(sha256sum <"$work/installer" | cut -d' ' -f1)
sed "s/^\(rustup_[a-z0-9_]*_sha256\)=.*/\1=$right/" docker/setup.sh >"$work/repository/docker/setup.sh"
said=$(setup) || fail "setup.sh refuses the right installer: $said"
# rustup's program goes by its name: as anything else it is no installer.
[ "$(cat "$work/trace")" = "ran as rustup-init" ] || fail "rustup's installer is not run as rustup-init"
version=$(sed -n 's/^rustup_version=//p' docker/setup.sh)
grep -qxF "https://static.rust-lang.org/rustup/archive/$version/$(uname -m)-unknown-linux-gnu/rustup-init" "$work/address" ||
    fail "the installer comes from $(cat "$work/address")"
echo "the installer is checked before it is run"
