#!/bin/bash
# Speed and memory of an install, as ratios to limits measured in the same run.
#
#   bench.sh CACHE_DIR [ROUNDS]      as root (loop devices, a chroot); images are kept in CACHE_DIR
#
# A 1 GiB image of real Debian packages is installed by the real daemon from loopback HTTP into a partition of a loop device. The
# daemon runs on the other slot of that disk (its root file system is mounted from it), so that everything is as on a host:
# exclusive opening, direct writes, direct read-back. In the same rounds, interleaved:
#
#   (a) dd of the same bytes to that partition, direct, with fdatasync, and dd of them back, direct
#   (b) zstd -dc of the same image
#
# The limit for an install (with its read-back) is 1.3 x the larger of (a) and (b).
set -euo pipefail
cd "$(dirname "$0")/.."
cache=$(mkdir -p "$1" && cd "$1" && pwd)
rounds=${2:-5}
[[ $(id -u) == 0 ]] || { echo "bench.sh: skipped: loop devices and a chroot need root"; exit 0; }
PATH="$PATH:/usr/sbin:/sbin"
profile=${OTA_PROFILE:-dist}
cargo build --quiet --profile $profile --workspace --bins
bin=$(cd "${CARGO_TARGET_DIR:-target}/$profile" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/ota-bench.XXXXXX")
loop= server= daemon=
end() {
    status=$?
    trap '' EXIT INT TERM
    for pid in $daemon $server; do kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null || true; done
    ((status == 0)) || tail -n 20 "$work/srv/daemon.log" >&2 2>/dev/null || true
    for place in root/srv root/dev root/sys root/proc root; do
        mountpoint -q "$work/$place" && { umount "$work/$place" 2>/dev/null || umount -l "$work/$place"; } || true
    done
    [[ -n $loop ]] && { partx -d "$loop" 2>/dev/null; losetup -d "$loop"; } || true
    # The machine's own devices were mounted in there: nothing is removed while anything still is.
    if grep -q " $work/" /proc/self/mountinfo; then
        echo "bench.sh: something is still mounted below $work: unmount and remove it by hand" >&2
    else
        rm -rf --one-file-system "$work"
    fi
    exit "$status"
}
trap end EXIT INT TERM
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN {printf "%.3f", b - a}'; }

# Images: a small system to run on, and 1 GiB of Debian to install.
tree() { # NAME PACKAGES
    [[ -d $cache/$1 ]] && return
    # A debootstrap that was killed leaves proc and sys mounted in there.
    rm -rf --one-file-system "$cache/$1.part"
    echo "installing Debian packages for $1 (once)"
    debootstrap --variant=minbase --include="$2" bookworm "$cache/$1.part" >"$cache/$1.log" 2>&1 || { tail -n 5 "$cache/$1.log"; exit 1; }
    rm -rf --one-file-system "$cache/$1.part/var/cache/apt" "$cache/$1.part/var/lib/apt/lists"
    mv "$cache/$1.part" "$cache/$1"
}
tree host ca-certificates
tree large build-essential,python3,git,curl,perl,vim,openssh-server,nginx-light,sqlite3
[[ -f $cache/publisher.key ]] || "$bin/releasectl" key generate --out "$cache/publisher" >/dev/null
if [[ ! -f $cache/host.ext4 ]]; then
    mkdir -p "$cache/host/usr/share/update-engine/keys"
    cp "$cache/publisher.pub" "$cache/host/usr/share/update-engine/keys/"
    echo e0f3745b108f471cbd4883c6fbed8cdd >"$cache/host/etc/machine-id"
    truncate -s 384M "$cache/host.part" && mke2fs -q -t ext4 -b 4096 -m 0 -d "$cache/host" "$cache/host.part" && mv "$cache/host.part" "$cache/host.ext4"
fi
if [[ ! -f $cache/large.ext4 ]]; then
    truncate -s 1G "$cache/large.part" && mke2fs -q -t ext4 -b 4096 -m 0 -O ^has_journal -d "$cache/large" "$cache/large.part" && mv "$cache/large.part" "$cache/large.ext4"
fi
if [[ ! -f $cache/files/2.0.0.payload ]]; then
    echo "building the payload (once)"
    "$bin/releasectl" build --app '{bench}' --board bench --version 2.0.0 --sequence 2 --image "root=$cache/large.ext4" \
        --key "$cache/publisher.key" --created 2026-11-22T00:00:00Z --out "$cache/files" >/dev/null 2>&1
    zstd -q -12 -f "$cache/large.ext4" -o "$cache/large.zst"
fi
cat "$cache/large.ext4" "$cache/files/2.0.0.payload" "$cache/large.zst" >/dev/null # into the page cache, for everybody alike
bytes=$(stat -c %s "$cache/large.ext4")

# The disk: slot a runs, slot b is written.
"$bin/hostsim" mkimage --image "$work/disk.img" --root 1100M >/dev/null
"$bin/hostsim" write-slot --image "$work/disk.img" --label root-a --from "$cache/host.ext4" >/dev/null
fallocate -o 1048576 -l $((2 * 1100 * 1048576)) "$work/disk.img" # no allocation while the clock runs
loop=$(losetup --direct-io=on -fP --show "$work/disk.img")
partx -a "$loop" 2>/dev/null || true
mkdir -p "$work/root" "$work/srv/bin"
mount -o ro "${loop}p1" "$work/root"
cp "$bin"/update-engined "$bin"/updatectl "$work/srv/bin/"
mount --bind "$work/srv" "$work/root/srv"
mount --bind /dev "$work/root/dev" && mount --bind /sys "$work/root/sys" && mount -t proc proc "$work/root/proc"
printf 'files_dir = "%s/files"\n[[answers]]\nkind.update = { version = "2.0.0" }\n' "$cache" >"$work/script.toml"
"$bin/server-mock" --script "$work/script.toml" --listen 127.0.0.1:0 >"$work/server.out" 2>/dev/null & server=$!
until grep -q http "$work/server.out"; do sleep 0.1; done
url=$(sed -n '1s/.*\(http[^ ]*\).*/\1/p' "$work/server.out")
cat >"$work/srv/config.toml" <<TOML
state_dir = "/srv/state"
socket = "/srv/control.sock"
[server]
url = "$url/v1/update/"
app_id = "{bench}"
board = "bench"
check_interval_s = 14400
[disk]
device = "$loop"
[slots.a]
root = "partlabel:root-a"
[slots.b]
root = "partlabel:root-b"
[reboot]
strategy = "manual"
hooks_dir = "/srv/hooks"
TOML
chmod 600 "$work/srv/config.toml"

start_daemon() {
    rm -rf "$work/srv/state" "$work/srv/control.sock"
    chroot "$work/root" /srv/bin/update-engined --config /srv/config.toml >>"$work/srv/daemon.log" 2>&1 & daemon=$!
    until chroot "$work/root" /srv/bin/updatectl --config /srv/config.toml status >/dev/null 2>&1; do
        kill -0 $daemon || { tail "$work/srv/daemon.log"; exit 1; }
        sleep 0.1
    done
}
stop_daemon() { kill $daemon; wait $daemon || true; daemon=; }
status_kib() { awk -v key="$1:" '$1 == key {print $2}' "/proc/$daemon/status"; }

: >"$work/rounds"
for round in $(seq "$rounds"); do
    at=$(now); dd if="$cache/large.ext4" of="${loop}p2" bs=4M oflag=direct conv=fdatasync status=none; write=$(since "$at")
    at=$(now); dd if="${loop}p2" of=/dev/null bs=4M iflag=direct count=$((bytes / 4194304)) status=none; back=$(since "$at")
    at=$(now); zstd -q -dc "$cache/large.zst" >/dev/null; unpack=$(since "$at")
    start_daemon
    at=$(now); chroot "$work/root" /srv/bin/updatectl --config /srv/config.toml update --no-reboot >"$work/update.log" 2>&1 || { cat "$work/update.log"; exit 1; }
    ours=$(since "$at")
    peak=$(status_kib VmHWM)
    read -r utime stime < <(awk '{print $14, $15}' "/proc/$daemon/stat")
    cpu=$(awk -v t=$((utime + stime)) -v hz="$(getconf CLK_TCK)" 'BEGIN {printf "%.2f", t / hz}')
    stop_daemon
    cmp -n "$bytes" "$cache/large.ext4" "${loop}p2" || { echo "the slot is not the image"; exit 1; }
    awk -v w="$write" -v b="$back" -v z="$unpack" -v o="$ours" -v p="$peak" -v c="$cpu" -v r="$round" 'BEGIN {
        a = w + b; limit = a > z ? a : z
        printf "round %d: dd write %.2f s + read back %.2f s = %.2f s; zstd -dc %.2f s; install %.2f s (%.2f CPU s), ratio %.2f; peak RSS %.1f MiB\n", r, w, b, a, z, o, c, o / limit, p / 1024 }' | tee -a "$work/rounds"
done
start_daemon
sleep 5
before=$(awk '/^(non)?voluntary_ctxt_switches/ {s += $2} END {print s}' "/proc/$daemon/task/"*/status)
sleep 20
after=$(awk '/^(non)?voluntary_ctxt_switches/ {s += $2} END {print s}' "/proc/$daemon/task/"*/status)
idle=$(status_kib VmRSS)
stop_daemon
echo

# Every limit is looked at, and each that was missed is named, before the run counts as failed.
missed=0
verdict() { # WHAT MEASURED LIMIT
    awk -v is="$2" -v limit="$3" 'BEGIN {exit !(is <= limit)}' && return
    echo "MISSED: $1: $2, limit $3" >&2
    missed=$((missed + 1))
}
median=$(sed 's/.*ratio \([0-9.]*\).*/\1/' "$work/rounds" | sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}')
peak=$(sed 's/.*peak RSS \([0-9.]*\).*/\1/' "$work/rounds" | sort -n | tail -n 1)
rests=$(awk -v k="$idle" 'BEGIN {printf "%.1f", k / 1024}')
sed 's/.*ratio \([0-9.]*\).*/\1/' "$work/rounds" | sort -n | awk -v m="$median" '{v[NR] = $1} END {printf "install / max(dd + read back, zstd -dc): median %.2f, min %.2f, max %.2f (limit 1.30)\n", m, v[1], v[NR]}'
echo "peak RSS of the daemon: $peak MiB (limit 64)"
echo "idle daemon: $rests MiB RSS (limit 15), $((after - before)) context switches in 20 s (limit 4)"
verdict "install / max(dd + read back, zstd -dc), median" "$median" 1.30
verdict "peak RSS of the daemon in MiB" "$peak" 64
verdict "RSS of the idle daemon in MiB" "$rests" 15
verdict "context switches of the idle daemon in 20 s" $((after - before)) 4
((missed == 0)) || exit 1
