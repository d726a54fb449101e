#!/bin/sh
# Makes the demo's three operating system images from real Debian packages, once; later runs take them from the cache. Without root or
# debootstrap they are made of programs of this host: nothing in them is started.
#
#   images.sh CACHE_DIR          writes CACHE_DIR/{1.0.0,2.0.0,3.0.0}.ext4 (320 MiB each)
#
# Version 1 is a minimal Debian. Version 2 is the same with more packages. Version 3 is version 2 with a service that crashes.
# Each image carries the publisher's keyring (CACHE_DIR/keyring/*.pub, made by the caller) where a host looks for it.
set -eu
cache=$1
size=320M
epoch=1763683200
suite=bookworm

say() { printf '    %s\n' "$*"; }

tree() { # NAME PACKAGES...: a folder with an installed Debian
    name=$1; shift
    [ -d "$cache/$name" ] && return
    if [ "$(id -u)" != 0 ] || ! command -v debootstrap >/dev/null; then
        some_programs "$name" $#
        return
    fi
    say "installing Debian packages for $name (debootstrap, about half a minute)"
    # A debootstrap that was killed leaves proc and sys mounted in there.
    rm -rf --one-file-system "$cache/$name.part"
    include=$(printf '%s,' "$@")
    debootstrap --variant=minbase --include="${include%,}" "$suite" "$cache/$name.part" >"$cache/$name.log" 2>&1 || {
        tail -n 5 "$cache/$name.log" >&2
        echo "images.sh: debootstrap failed; its log is $cache/$name.log" >&2
        exit 1
    }
    rm -rf "$cache/$name.part/var/cache/apt" "$cache/$name.part/var/lib/apt/lists" "$cache/$name.part/var/log/"*
    mv "$cache/$name.part" "$cache/$name"
}

some_programs() { # NAME N: a folder with N hundreds of this host's programs
    say "no root, or no debootstrap: $1 is made of programs of this host"
    rm -rf "$cache/$1.part"
    mkdir -p "$cache/$1.part/etc"
    find /usr/bin -type f -perm -444 -size -512k | sort | head -n "$2"00 | xargs cp --parents -t "$cache/$1.part"
    mv "$cache/$1.part" "$cache/$1"
}

image() { # VERSION TREE SERVICE: an ext4 image of that tree
    version=$1; tree=$2; service=$3
    [ -f "$cache/$version.ext4" ] && return
    say "making $version.ext4"
    root="$cache/root.part"
    rm -rf "$root"
    cp -a "$cache/$tree" "$root"
    mkdir -p "$root/usr/share/update-engine/keys"
    cp "$cache"/keyring/*.pub "$root/usr/share/update-engine/keys/"
    rm -f "$root/etc/os-release"
    printf 'NAME="OTA demo"\nID=ota-demo\nVERSION_ID="12"\nIMAGE_VERSION="%s"\nDEMO_SERVICE="%s"\n' "$version" "$service" >"$root/etc/os-release"
    find "$root" -newermt "@$epoch" -exec touch -h -d "@$epoch" {} +
    rm -f "$cache/$version.part"
    truncate -s "$size" "$cache/$version.part"
    uuid=11111111-2222-4333-8444-555555555555
    E2FSPROGS_FAKE_TIME=$epoch mke2fs -q -t ext4 -b 4096 -m 0 -U "$uuid" -O ^has_journal,^resize_inode \
        -E "hash_seed=$uuid,lazy_itable_init=0,nodiscard" -d "$root" "$cache/$version.part"
    mv "$cache/$version.part" "$cache/$version.ext4"
    rm -rf "$root"
}

mkdir -p "$cache"
tree base ca-certificates
tree more ca-certificates curl less sqlite3
image 1.0.0 base runs
image 2.0.0 more runs
image 3.0.0 more crashes
