#!/usr/bin/env bash
# Builds the Debian package: programs, units, man pages, shell completions.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=packaging/lib.sh
. packaging/lib.sh

usage() {
    cat <<'EOF'
usage: packaging/deb.sh [--no-install] [--version VERSION] [--out FILE]

Builds target/debian/wiremamba_VERSION_ARCH.deb, with cargo-deb, which is installed with cargo where it is missing.
  --version VERSION  the package's version, in place of the workspace's
  --out FILE         where the package goes
EOF
}

NO_INSTALL=0
OPTIONS=()
while [ $# -gt 0 ]; do
    case $1 in
        --no-install) NO_INSTALL=1 ;;
        --version) OPTIONS+=(--deb-version "$2"); shift ;;
        --out) OPTIONS+=(--output "$2"); shift ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done

need_cargo
need_packages "${BUILD_PACKAGES[@]}" dpkg-dev
if ! cargo deb --version >/dev/null 2>&1; then
    [ "$NO_INSTALL" = 1 ] && die "needs cargo-deb, and --no-install was given: cargo install --locked cargo-deb"
    say "installing cargo-deb"
    cargo install --locked --quiet cargo-deb
fi

say "building"
cargo build --release --workspace
made=target/package
rm -rf $made
mkdir -p $made/man $made/completions
target/release/wiremamba man $made/man
cp packaging/man/*.[0-9] $made/man/
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
sed "s/@VERSION@/$version/" packaging/wiremamba.pc.in >$made/wiremamba.pc
for shell in bash zsh fish; do
    target/release/wiremamba completions $shell >$made/completions/$shell
done
# Compressed as Debian wants it, the same each time.
gzip -9n $made/man/*

say "packaging"
cargo deb --no-build --strip --quiet --package wiremamba-daemon "${OPTIONS[@]}"
