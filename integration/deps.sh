#!/bin/bash
# Installs the system packages that building, testing and the demo need, if any is missing.
set -euo pipefail

# program or file => Debian package that brings it
declare -A needs=(
    [cc]=gcc [/usr/include/stdio.h]=libc6-dev [make]=make [pkg-config]=pkg-config [git]=git [curl]=curl [mke2fs]=e2fsprogs [debugfs]=e2fsprogs
    [debootstrap]=debootstrap [losetup]=mount [partx]=util-linux [sgdisk]=gdisk [zstd]=zstd [python3]=python3
    [fw_setenv]=libubootenv-tool [veritysetup]=cryptsetup-bin
)
# What virtual machines are made of. Tests that need one say "skipped" without.
declare -A machines=(
    [qemu-system-x86_64]=qemu-system-x86 [/usr/share/OVMF/OVMF_CODE_4M.fd]=ovmf [/usr/lib/systemd/boot/efi/systemd-bootx64.efi]=systemd-boot-efi
    [/usr/lib/grub/i386-pc/boot.img]=grub-pc-bin [grub-mkimage]=grub-common [mcopy]=mtools [mkfs.vfat]=dosfstools
    [/usr/bin/busybox]=busybox-static [modprobe]=kmod [strip]=binutils
)
is_there() { [[ -e $1 ]] || PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null; }
missing=()
for program in "${!needs[@]}"; do
    is_there "$program" || missing+=("${needs[$program]}")
done
can_install=0
[[ $(id -u) == 0 ]] && command -v apt-get >/dev/null && can_install=1
for part in "${!machines[@]}"; do
    is_there "$part" || { ((can_install)) && missing+=("${machines[$part]}"); } ||
        echo "deps.sh: ${machines[$part]} is missing: what needs a virtual machine is skipped"
done
if ((${#missing[@]})); then
    mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
    if ((!can_install)); then
        echo "deps.sh: these packages are missing: ${missing[*]}" >&2
        echo "hint: as root, apt-get install ${missing[*]}" >&2
        exit 1
    fi
    echo "installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
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
    cargo $part --version >/dev/null 2>&1 || {
        command -v rustup >/dev/null && rustup component add "${part/fmt/rustfmt}" >/dev/null 2>&1 && continue
        echo "deps.sh: cargo $part is missing, which make test needs" >&2
        echo "hint: rustup component add ${part/fmt/rustfmt}" >&2
        exit 1
    }
done
