#!/bin/bash
# Installs and fetches what building, testing and the demo need, where that can be done: as root, with apt. What building needs and is
# not there ends this with 1; what only some tests need is named, and those say "skipped".
set -euo pipefail

# program or file => Debian package that brings it
# (cargo's own messages are read by python3.)
declare -A build_needs=([cc]=gcc [/usr/include/stdio.h]=libc6-dev [python3]=python3)
# What tests run besides the programs of this workspace, and what the other targets of the Makefile call.
declare -A test_needs=(
    [git]=git [curl]=curl [mke2fs]=e2fsprogs [debugfs]=e2fsprogs [debootstrap]=debootstrap [losetup]=mount [partx]=util-linux
    [sgdisk]=gdisk [zstd]=zstd [fw_setenv]=libubootenv-tool [veritysetup]=cryptsetup-bin [mksquashfs]=squashfs-tools [mkfs.erofs]=erofs-utils
)
# What virtual machines are made of.
declare -A machine_needs=(
    [qemu-system-x86_64]=qemu-system-x86 [/usr/share/OVMF/OVMF_CODE_4M.fd]=ovmf [/usr/lib/systemd/boot/efi/systemd-bootx64.efi]=systemd-boot-efi
    [/usr/lib/systemd/boot/efi/linuxx64.efi.stub]=systemd-boot-efi
    [/usr/lib/grub/i386-pc/boot.img]=grub-pc-bin [grub-mkimage]=grub-common [mcopy]=mtools [mkfs.vfat]=dosfstools
    [/usr/lib/u-boot/qemu-x86/u-boot.rom]=u-boot-qemu [busybox]=busybox-static [modprobe]=kmod [strip]=binutils [objcopy]=binutils [taskset]=util-linux [setpriv]=util-linux
)
# Depends on the kernel of the day.
kernel_package=linux-image-cloud-amd64
# The same folder as in the Makefile and in integration/src/vm/parts.rs.
cache=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ota-update-engine}/vm
PATH="$PATH:/usr/sbin:/sbin"

can_install() { [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; }
is_there() { [[ -e $1 ]] || command -v "$1" >/dev/null; }
missing_of() { # MAP: packages of it that are not there
    local -n map=$1
    local part
    for part in "${!map[@]}"; do is_there "$part" || echo "${map[$part]}"; done | sort -u
}

install() { DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }

install_missing() {
    echo "deps.sh: installing" "${missing[@]}" "${optional[@]}"
    apt-get update -qq || true
    ((${#missing[@]} == 0)) || install "${missing[@]}"
    ((${#optional[@]} == 0)) || install "${optional[@]}" && return
    # One that this distribution does not have keeps none of the others away.
    for package in "${optional[@]}"; do
        install "$package" || echo "deps.sh: $package cannot be installed: what needs it is skipped"
    done
}

index_knows_the_kernel() { apt-cache depends "$kernel_package" 2>/dev/null | grep -q '^ *Depends: '; }

# A machine's kernel is no package that is installed here: it is fetched once, and unpacked.
fetch_kernel() {
    local coming status package
    package=$(apt-cache depends "$kernel_package" | sed -n 's/^ *Depends: //p' | head -n 1)
    mkdir -p "$cache" && coming=$(mktemp -d "$cache/kernel.XXXXXX") || return
    (cd "$coming" && apt-get download -q "$package" && dpkg-deb -x ./*.deb tree && depmod -b tree "$(ls tree/lib/modules)" && mv -T tree "$cache/kernel")
    status=$?
    rm -rf "$coming"
    return "$status"
}

# The index of packages may be missing, or so old that the mirror has none of its packages any more.
update_index() { can_install && apt-get update -qq; }

prepare_machines() {
    index_knows_the_kernel || update_index
    [[ -d $cache/kernel ]] || fetch_kernel || { update_index && fetch_kernel; }
}

mapfile -t missing < <(missing_of build_needs)
mapfile -t optional < <(missing_of test_needs; missing_of machine_needs)
if can_install && ((${#missing[@]} + ${#optional[@]})); then
    install_missing
elif ((${#missing[@]})); then
    echo "deps.sh: these packages are missing, without which nothing can be built: ${missing[*]}" >&2
    echo "hint: as root, apt-get install ${missing[*]}" >&2
    exit 1
elif ((${#optional[@]})); then
    echo "deps.sh: these packages are missing: ${optional[*]}; what needs one of them is skipped"
fi
if command -v qemu-system-x86_64 >/dev/null && command -v apt-get >/dev/null; then
    said=$(prepare_machines 2>&1) || { tail -n 3 <<<"$said"; echo "deps.sh: no kernel can be fetched: what needs a virtual machine is skipped"; }
fi

if ! command -v cargo >/dev/null; then
    echo "deps.sh: cargo is missing; expected a Rust toolchain of at least 1.95" >&2
    echo "hint: install one with rustup, then run this again" >&2
    exit 1
fi
version=$(rustc --version | cut -d' ' -f2)
if [[ $(printf '%s\n' 1.95 "$version" | sort -V | head -n 1) != 1.95 ]]; then
    echo "deps.sh: rustc is $version; expected at least 1.95" >&2
    echo "hint: rustup update stable" >&2
    exit 1
fi
for part in fmt clippy; do
    cargo $part --version >/dev/null 2>&1 ||
        { command -v rustup >/dev/null && rustup component add "${part/fmt/rustfmt}" >/dev/null 2>&1; } ||
        echo "deps.sh: cargo $part is missing, by which the L0 layer of make test fails (rustup component add ${part/fmt/rustfmt})"
done
