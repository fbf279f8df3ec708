# shellcheck shell=bash
# What run.sh is made of: the emulator, Debian's kernel with a boot loader, and the disc. Source it with $out set.

bochs_version=3.0+dfsg
bochs_sha256=78f6c73d4a6472d5130a87ab9dc306d02c7c71ed8e25b3a8ef642e2a7acd282b

# Builds the emulator into $out/bochs.
bochs() {
    [ -x "$out/bochs/bochs" ] && return
    local archive=$out/bochs_$bochs_version.orig.tar.xz mirror
    # The pool of wherever this machine's packages come from: it has all of Debian's releases.
    mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -v security | head -n 1)
    echo "building Bochs $bochs_version" >&2
    rm -rf "$out/bochs"
    mkdir "$out/bochs"
    curl --fail --silent --show-error --output "$archive" "${mirror%/}/pool/main/b/bochs/$(basename "$archive")"
    echo "$bochs_sha256  $archive" | sha256sum --check --quiet
    tar -xJf "$archive" -C "$out/bochs" --strip-components=1
    # Two faults of its decoder: it refuses gathers and scatters whose index register is one of the upper sixteen, and takes the short
    # displacements of vdpbf16ps for multiples of 4 bytes, which are of the register's size.
    local decoder=$out/bochs/cpu/decoder
    sed -i 's/i->setSibIndex(i->sibIndex() | (vvv & 0x10));/&\n      vvv \&= 0xf;/' "$decoder/fetchdecode32.cc"
    grep -q '^ *vvv &= 0xf;$' "$decoder/fetchdecode32.cc"
    sed -i '/BX_IA_EVEX_VDPBF16PS_VpsHdqWdq_Kmask/s/OP_mVdq32/OP_mVdq/' "$decoder/ia_opcodes_evex.def"
    grep -q 'BX_IA_EVEX_VDPBF16PS_VpsHdqWdq_Kmask.*OP_Hdq, OP_mVdq,' "$decoder/ia_opcodes_evex.def"
    if ! (cd "$out/bochs" &&
        ./configure --with-nogui --enable-x86-64 --enable-cpu-level=6 --enable-avx --enable-evex --enable-all-optimizations \
            --disable-usb --disable-docbook CFLAGS=-O2 CXXFLAGS=-O2 &&
        make "-j$(nproc)" bochs) >"$out/bochs.log" 2>&1; then
        tail -20 "$out/bochs.log" >&2
        rm -f "$out/bochs/bochs"
        return 1
    fi
}

# Unpacks Debian's packages into $out/unpacked; nothing is installed.
parts() {
    [ -f "$out/unpacked/complete" ] && return
    local kernel
    kernel=$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -1)
    rm -rf "$out/debs" "$out/unpacked"
    mkdir "$out/debs" "$out/unpacked"
    (cd "$out/debs" && apt-get download -qq "$kernel" busybox-static isolinux syslinux-common genisoimage cpio bochsbios vgabios 2>/dev/null)
    local deb
    for deb in "$out"/debs/*.deb; do
        dpkg-deb --extract "$deb" "$out/unpacked"
    done
    rm -rf "$out/debs"
    touch "$out/unpacked/complete"
}

# disc FOLDER PROGRAM ARGUMENT...: FOLDER/disc.iso boots into PROGRAM.
disc() {
    local folder=$1 program=$2 files=$1/files iso=$1/iso library
    shift 2
    mkdir -p "$files"/{bin,proc,sys,dev,tmp,lib64} "$iso"
    cp "$out/unpacked/bin/busybox" "$files/bin/"
    strip --strip-debug -o "$files/bin/program" "$program"
    ldd "$program" | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "$files$(dirname "$library")"
        cp -L "$library" "$files$library"
    done
    printf '%q ' "$@" >"$files/arguments"
    cp "$here/init" "$files/init"
    chmod 755 "$files/init"
    (cd "$files" && find . | "$out/unpacked/bin/cpio" --quiet -o -H newc -R 0:0 | gzip -1 >"$iso/files")
    cp "$out"/unpacked/boot/vmlinuz-* "$iso/linux"
    cp "$out/unpacked/usr/lib/ISOLINUX/isolinux.bin" "$out/unpacked/usr/lib/syslinux/modules/bios/ldlinux.c32" "$iso/"
    cat >"$iso/isolinux.cfg" <<'END'
serial 0 115200
default tests
prompt 0
label tests
    kernel linux
    append initrd=files quiet console=ttyS0,115200 panic=-1 acpi=off clearcpuid=580 mitigations=off random.trust_cpu=on tsc=reliable
END
    "$out/unpacked/usr/bin/genisoimage" -quiet -o "$folder/disc.iso" -b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 \
        -boot-info-table "$iso" 2>/dev/null
    rm -rf "$files" "$iso"
}
