#!/bin/bash
# Makes pairs of real images for measuring deltas, once; later runs take them from the cache. As root, with debootstrap; about 8 GB, 15 minutes.
#
#   pairs.sh CACHE_DIR          writes CACHE_DIR/{old,security,held,next}.{ext4,squashfs,erofs}
#
# | tree | what |
# | --- | --- |
# | old | a Debian 12 with kernel, containers, databases and a web server, as its last point release has them |
# | security | the same with all that Debian has published for it since, security and others |
# | held | the same, but for the kernel |
# | next | the same packages of Debian 13 |
#
# All but the first are installed from scratch, as whoever builds images does, and not upgraded. The images are made by tools of
# Debian 13, whatever this machine runs: mke2fs before 1.47.1 gives every inode the time of the build, so that no image is the same twice.
set -euo pipefail
cache=$(mkdir -p "$1" && cd "$1" && pwd)
epoch=1763683200
uuid=11111111-1111-1111-1111-111111111111
packages=(systemd systemd-sysv dbus udev linux-image-cloud-amd64 initramfs-tools zstd openssh-server curl wget openssl ca-certificates
    python3 podman containerd runc nginx-light git rsync sqlite3 iptables nftables iproute2 chrony sudo vim-tiny less procps kmod
    e2fsprogs dosfstools gnupg bind9-host postgresql-client perl libxml2 locales)
[[ $(id -u) == 0 ]] || { echo "pairs.sh: skipped: a chroot needs root"; exit 3; }
PATH="$PATH:/usr/sbin:/sbin"
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -v security | head -n 1)
security=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep security | head -n 1)
building=
end() {
    local status=$?
    [[ -z $building ]] || for place in proc sys dev pairs; do ! mountpoint -q "$building/$place" || umount -l "$building/$place"; done
    [[ $building != *.part ]] || rm -rf --one-file-system "$building"
    exit "$status"
}
trap end EXIT INT TERM

inside() { DEBIAN_FRONTEND=noninteractive LC_ALL=C chroot "$building" "$@" >>"$cache/$name.log" 2>&1; }

tree() { # NAME SUITE SOURCES [PACKAGES]: a folder with an installed Debian; PACKAGES are not taken from what came since
    name=$1 suite=$2 sources=$3 held=${4:-}
    [[ ! -d $cache/$name ]] || return 0
    echo "installing Debian packages for $name (once, some minutes)"
    building=$cache/$name.part
    rm -rf --one-file-system "$building"
    [[ -d $cache/minbase-$suite ]] || {
        rm -rf --one-file-system "$cache/minbase-$suite.part"
        debootstrap --variant=minbase "$suite" "$cache/minbase-$suite.part" "$mirror" >"$cache/$suite.log" 2>&1 || { tail -n 5 "$cache/$suite.log"; return 1; }
        mv "$cache/minbase-$suite.part" "$cache/minbase-$suite"
    }
    cp -a "$cache/minbase-$suite" "$building"
    : >"$cache/$name.log"
    printf '%s\n' "$sources" >"$building/etc/apt/sources.list"
    # What this machine reaches its packages through.
    cp -a /etc/apt/apt.conf.d/. "$building/etc/apt/apt.conf.d/"
    printf '#!/bin/sh\nexit 101\n' >"$building/usr/sbin/policy-rc.d" && chmod 755 "$building/usr/sbin/policy-rc.d"
    printf 'path-exclude=/usr/share/%s/*\n' doc man locale >"$building/etc/dpkg/dpkg.cfg.d/small"
    mount -t proc proc "$building/proc" && mount --rbind --make-rslave /dev "$building/dev" && mount -t sysfs sys "$building/sys"
    # What came since stays out of reach, though some of it is what the point release has as well.
    [[ -z $held ]] || printf 'Package: %s\nPin: release n=%s\nPin-Priority: 1001\n' "$held" "$suite" >"$building/etc/apt/preferences.d/held"
    inside apt-get update
    inside apt-get -y dist-upgrade
    if [[ $name == tools ]]; then
        inside apt-get -y install --no-install-recommends e2fsprogs erofs-utils squashfs-tools
    else
        inside apt-get -y install --no-install-recommends "${packages[@]}"
    fi
    inside apt-get clean
    for place in sys dev proc; do umount -l "$building/$place"; done
    rm -rf "$building"/var/lib/apt/lists/* "$building"/var/cache/{apt,debconf,ldconfig}/* "$building"/var/log/* "$building"/etc/ssh/ssh_host_* \
        "$building"/usr/sbin/policy-rc.d "$building"/etc/apt/{apt.conf.d,preferences.d} "$building"/etc/resolv.conf "$building"/tmp/*
    : >"$building/etc/machine-id"
    find "$building" -newermt "@$epoch" -exec touch -h -d "@$epoch" {} +
    mv "$building" "$cache/$name"
    building=
}

made() { # FILE COMMAND...: makes /pairs/FILE.part by the tools, and gives it its name
    local file=$1
    shift
    [[ -f $cache/$file ]] || {
        rm -f "$cache/$file.part"
        chroot "$cache/tools" "$@" >>"$cache/images.log" 2>&1 || { tail -n 5 "$cache/images.log"; return 1; }
        mv "$cache/$file.part" "$cache/$file"
    }
}

images() { # NAME
    made "$1.ext4" sh -euc 'truncate -s 1G "/pairs/$1.ext4.part" && SOURCE_DATE_EPOCH='$epoch' mke2fs -q -t ext4 -b 4096 -m 0 -U '$uuid' \
        -E hash_seed='$uuid',lazy_itable_init=0,nodiscard -O ^has_journal,^resize_inode,^metadata_csum_seed -d "/pairs/$1" "/pairs/$1.ext4.part"' sh "$1"
    made "$1.squashfs" mksquashfs "/pairs/$1" "/pairs/$1.squashfs.part" -quiet -no-progress -comp zstd -Xcompression-level 9 -b 128K \
        -all-time $epoch -mkfs-time $epoch
    made "$1.erofs" mkfs.erofs --quiet -zlz4hc -C65536 -T$epoch -U$uuid "/pairs/$1.erofs.part" "/pairs/$1"
}

main="deb $mirror bookworm main"
since="$main
deb $mirror bookworm-updates main
deb $security bookworm-security main"
tree old bookworm "$main"
tree security bookworm "$since"
tree held bookworm "$since" 'linux-*'
tree next trixie "deb $mirror trixie main"
tree tools trixie "deb $mirror trixie main"
building=$cache/tools
mkdir -p "$building/pairs" && mount --rbind --make-rslave "$cache" "$building/pairs"
for name in old security held next; do images "$name"; done
umount -l "$building/pairs"
building=
ls -l "$cache"/*.{ext4,squashfs,erofs}
