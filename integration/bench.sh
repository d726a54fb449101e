#!/bin/bash
# Speed, memory and bytes of installs, beside what the same work takes the tools that do nothing else, and beside other updaters.
#
#   bench.sh CACHE_DIR [ROUNDS]      as root (loop devices, a chroot); pairs of images and payloads are kept in CACHE_DIR
#
# The image is 1 GiB of a real Debian (bench/pairs.sh), and comes by loopback HTTP from nginx. The daemon runs on slot a of a disk that is a loop
# device: its root file system is mounted from it, so that everything is as on a host. In each round, interleaved:
#
#   dd       the raw image written directly with fdatasync, and read back directly
#   pipe     curl | zstd -dc | dd, direct, with fdatasync, and the slot read back directly
#   full     an install of the full payload to a slot that holds another image, proven by reading it back
#   delta    the same by a delta from the slot that runs
#   same     an install of what the slot holds already
#   peers    RAUC, SWUpdate and casync by HTTP, if they are installed (PEERS=none leaves them out)
#
# SUBJECTS="full delta" leaves out the others, and the table. Every subject finds the slot filled with the same other image, and flushed. CPU seconds are those of all its processes.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=$(mkdir -p "$1" && cd "$1" && pwd)
rounds=${2:-5}
[[ $(id -u) == 0 ]] || { echo "bench.sh: skipped: loop devices and a chroot need root"; exit 0; }
PATH="$PATH:/usr/sbin:/sbin"
command -v nginx >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nginx-light >/dev/null
profile=${OTA_PROFILE:-dist}
[[ -n ${BIN_DIR:-} ]] || cargo build --quiet --profile $profile --workspace --bins
bin=$(cd "${BIN_DIR:-${CARGO_TARGET_DIR:-target}/$profile}" && pwd)
pairs=$cache/pairs files=$cache/bench/files
mkdir -p "$files"
work=$(mktemp -d "${TMPDIR:-/tmp}/ota-bench.XXXXXX")
loop= daemon= watch=
servers=()
# Loop devices that peers need.
theirs_too=()
end() {
    status=$?
    trap '' EXIT INT TERM
    for pid in $daemon $watch "${servers[@]}"; do kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null || true; done
    ((status == 0)) || tail -n 20 "$work/srv/daemon.log" >&2 2>/dev/null || true
    for place in root/etc/machine-id root/srv root/dev root/sys root/proc root; do
        mountpoint -q "$work/$place" && { umount "$work/$place" 2>/dev/null || umount -l "$work/$place"; } || true
    done
    for device in "${theirs_too[@]}"; do losetup -d "$device" || true; done
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

# What is installed: old is what runs, security what comes, and next what the slot held before.
if [[ ! -f $pairs/next.ext4 ]]; then integration/bench/pairs.sh "$pairs" >/dev/null; fi
old=$pairs/old.ext4 image=$pairs/security.ext4 other=$pairs/next.ext4
bytes=$(stat -c %s "$image")
[[ -f $files/publisher.key ]] || "$bin/releasectl" key generate --out "$files/publisher" >/dev/null
# Payloads are as old as the program that made them.
made_by=$(sha256sum "$bin/releasectl" | cut -c 1-16)
if [[ $(cat "$files/made-by" 2>/dev/null) != "$made_by" ]]; then
    rm -f "$files"/*.payload "$files"/*.release "$files/made-by"
    echo "building payloads (once for each build of releasectl)"
    release() { # VERSION IMAGE
        "$bin/releasectl" build --app '{bench}' --board bench --version "$1.0.0" --sequence "$1" --image "root=$2" \
            --key "$files/publisher.key" --created 2026-11-22T00:00:00Z --out "$files" >/dev/null 2>&1
    }
    release 1 "$old"; release 2 "$image"; release 3 "$image"
    "$bin/releasectl" delta --from "$files/1.0.0.release" --to "$files/2.0.0.release" --out "$files" >/dev/null 2>&1
    echo "$made_by" >"$files/made-by"
fi
delta=1.0.0-to-2.0.0.payload
[[ -f $files/image.zst ]] || zstd -q -T0 -12 -f "$image" -o "$files/image.zst"

# The disk: slot a runs, slot b is written.
"$bin/hostsim" mkimage --image "$work/disk.img" --root 1100M >/dev/null
"$bin/hostsim" write-slot --image "$work/disk.img" --label root-a --from "$old" >/dev/null
fallocate -o 1048576 -l $((2 * 1100 * 1048576)) "$work/disk.img" # no allocation while the clock runs
loop=$(losetup --direct-io=on -fP --show "$work/disk.img")
partx -a "$loop" 2>/dev/null || true
slot=${loop}p2
mkdir -p "$work/root" "$work/srv/bin" "$work/srv/keys"
mount -o ro "${loop}p1" "$work/root"
cp "$bin"/update-engined "$bin"/updatectl "$work/srv/bin/"
cp "$files/publisher.pub" "$work/srv/keys/"
cp "$files/1.0.0.release" "$work/srv/"
echo e0f3745b108f471cbd4883c6fbed8cdd >"$work/machine-id"
mount --bind "$work/srv" "$work/root/srv"
mount --bind "$work/machine-id" "$work/root/etc/machine-id"
mount --bind /dev "$work/root/dev" && mount --bind /sys "$work/root/sys" && mount -t proc proc "$work/root/proc"

# Files come from nginx, for everybody; what is told about them from the mock.
port=18490
cat >"$work/nginx.conf" <<NGINX
worker_processes 1; pid $work/nginx.pid; error_log $work/nginx.err; daemon off; user root;
events { worker_connections 64; }
http { log_format sent '\$bytes_sent \$uri'; access_log $work/sent.log sent; sendfile on; tcp_nopush on;
    client_body_temp_path $work/n1; proxy_temp_path $work/n2; fastcgi_temp_path $work/n3; uwsgi_temp_path $work/n4; scgi_temp_path $work/n5;
    server { listen 127.0.0.1:$port; location / { root $files; } location /peers/ { alias $cache/bench/peers/; } } }
NGINX
nginx -c "$work/nginx.conf" -p "$work" >"$work/nginx.out" 2>&1 & servers+=($!)
declare -A url
mock() { # NAME VERSION PACKAGES: a server that offers them
    printf 'files_dir = "%s"\n[[answers]]\nkind.update = { version = "%s", codebases = ["http://127.0.0.1:%d/"], packages = [%s] }\n' "$files" "$2" $port "$3" >"$work/$1.toml"
    "$bin/server-mock" --script "$work/$1.toml" --listen 127.0.0.1:0 >"$work/$1.out" 2>"$work/$1.err" & servers+=($!)
    until grep -q http "$work/$1.out"; do sleep 0.1; kill -0 $! || { cat "$work/$1.err"; exit 1; }; done
    url[$1]=$(sed -n '1s/.*\(http[^ ]*\).*/\1/p' "$work/$1.out")
}
mock full 2.0.0 '{ name = "2.0.0.payload" }, { name = "2.0.0.release" }'
mock delta 2.0.0 '{ name = "2.0.0.payload" }, { name = "2.0.0.release" }, { name = "'$delta'", delta = true }'
mock same 3.0.0 '{ name = "3.0.0.payload" }, { name = "3.0.0.release" }'

start_daemon() { # MOCK
    rm -rf "$work/srv/state" "$work/srv/control.sock"
    cat >"$work/srv/config.toml" <<TOML
state_dir = "/srv/state"
socket = "/srv/control.sock"
[server]
url = "${url[$1]}/v1/update/"
app_id = "{bench}"
board = "bench"
check_interval_s = 14400
[trust]
keyring_dir = "/srv/keys"
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
    chroot "$work/root" /srv/bin/update-engined --config /srv/config.toml >>"$work/srv/daemon.log" 2>&1 & daemon=$!
    until chroot "$work/root" /srv/bin/updatectl --config /srv/config.toml status >/dev/null 2>&1; do
        kill -0 $daemon || { tail "$work/srv/daemon.log"; exit 1; }
        sleep 0.1
    done
}
stop_daemon() { kill $daemon; wait $daemon || true; daemon=; }
status_kib() { awk -v key="$1:" '$1 == key {print $2}' "/proc/$daemon/status"; }
cpu_of() { awk -v hz="$(getconf CLK_TCK)" '{print ($14 + $15 + $16 + $17) / hz}' "/proc/$1/stat"; } # with the children that have ended

fill() { dd if="$1" of="$slot" bs=4M oflag=direct conv=fdatasync status=none; blockdev --flushbufs "$slot"; }
sectors() {
    local device stats=()
    for device in "$slot" "${theirs_too[@]}"; do stats+=("/sys/class/block/${device#/dev/}/stat"); done
    awk '{read += $3; written += $7} END {printf "%.0f %.0f\n", read * 512, written * 512}' "${stats[@]}"
}
cached() { awk '$1 == "Buffers:" {print $2}' /proc/meminfo; } # the cache of devices; that of files is everybody's
sent() { awk '{sum += $1} END {printf "%.0f\n", sum}' "$work/sent.log"; }
payload_requests() { grep -c '\.payload$' "$work/sent.log" || true; }

# Each subject leaves a line "NAME ROUND WALL CPU RSS_KIB PSS_KIB READ WRITTEN DOWNLOADED CACHED_KIB".
: >"$work/rounds"
before() { fill "$1"; : >"$work/sent.log"; kill -USR1 "${servers[0]}"; cached0=$(cached); read -r read0 written0 < <(sectors); }
after() { # NAME WALL CPU RSS PSS
    local read1 written1
    read -r read1 written1 < <(sectors)
    local cached1
    cached1=$(cached)
    sleep 0.2 # nginx writes its log when a request is done
    echo "$1 $round $2 $3 $4 $5 $((read1 - read0)) $((written1 - written0)) $(sent) $((cached1 - cached0))" | tee -a "$work/rounds" | awk '{
        printf "round %d %-9s %6.2f s  %5.2f CPU s  RSS %6.1f MiB  PSS %6.1f MiB  slot read %5d MiB, written %5d MiB  downloaded %6.1f MiB  page cache %+d MiB\n",
            $2, $1, $3, $4, $5 / 1024, $6 / 1024, $7 / 1048576, $8 / 1048576, $9 / 1048576, $10 / 1024 }'
    blockdev --flushbufs "$slot"
    cmp -n "$bytes" "$image" "$slot" || { echo "$1: the slot is not the image"; exit 1; }
}
tool() { # NAME HELD COMMAND: a command line, timed with all that it starts
    before "$2"
    local took
    took=$( { TIMEFORMAT='%R %U %S'; time bash -o pipefail -c "$3" >"$work/$1.log" 2>&1; } 2>&1) || { cat "$work/$1.log"; exit 1; }
    # shellcheck disable=SC2086
    set -- "$1" $took
    after "$1" "$2" "$(awk -v u="$3" -v s="$4" 'BEGIN {print u + s}')" 0 0
}
# Watching memory takes time of its own: it is done in runs of their own, that count for nothing else.
ours() { # NAME HELD [watched]
    local name=$1${3:+.watched}
    start_daemon "$1"
    # Its record says that the slot that runs is what the delta was made from.
    [[ $1 != delta ]] || chroot "$work/root" /srv/bin/updatectl --config /srv/config.toml adopt /srv/1.0.0.release >"$work/adopt.log" 2>&1 || { cat "$work/adopt.log"; exit 1; }
    sleep 0.5
    before "$2"
    local cpu0 at wall cpu rss pss
    echo "0 0" >"$work/memory"
    [[ -z ${3:-} ]] || { python3 integration/bench/watch.py $daemon "$work/memory" & watch=$!; sleep 0.3; }
    cpu0=$(cpu_of $daemon)
    at=$(date +%s.%N)
    chroot "$work/root" /srv/bin/updatectl --config /srv/config.toml update --no-reboot >"$work/update.log" 2>&1 || { cat "$work/update.log"; exit 1; }
    wall=$(awk -v a="$at" -v b="$(date +%s.%N)" 'BEGIN {printf "%.3f", b - a}')
    cpu=$(awk -v a="$cpu0" -v b="$(cpu_of $daemon)" 'BEGIN {print b - a}')
    [[ -z $watch ]] || { kill $watch && wait $watch || true; }
    watch=
    read -r rss pss <"$work/memory"
    [[ -z ${VERBOSE:-} ]] || tail -n +2 "$work/memory"
    [[ $1 != full ]] || own=$(status_kib VmHWM)
    after "$name" "$wall" "$cpu" "$rss" "$pss"
    [[ $1 != same ]] || payloads_again=$(payload_requests)
    stop_daemon
}

direct="dd of=$slot bs=4M iflag=fullblock oflag=direct conv=fdatasync status=none"
back="dd if=$slot of=/dev/null bs=4M iflag=direct count=$((bytes / 4194304)) status=none"
cat "$image" "$other" "$old" "$files"/*.payload "$files/image.zst" >/dev/null # into the page cache, for everybody alike
source integration/bench/peers.sh
for round in $(seq "$rounds"); do
    for subject in ${SUBJECTS:-dd pipe back full delta same peers}; do
        case $subject in
            dd) tool dd "$other" "dd if=$image of=$slot bs=4M oflag=direct conv=fdatasync status=none && $back" ;;
            pipe) tool pipe "$other" "curl -s http://127.0.0.1:$port/image.zst | zstd -dcq | $direct && $back" ;;
            back) tool back "$image" "$back" ;;
            full | delta) ours "$subject" "$other" ;;
            same) ours same "$image" ;;
            peers) peers ;;
        esac
    done
done
for round in $(seq $((rounds < 3 ? rounds : 3))); do
    for subject in ${SUBJECTS:-full delta same}; do
        case $subject in full | delta) ours "$subject" "$other" watched ;; same) ours same "$image" watched ;; esac
    done
done
# With some of them only there is nothing to compare.
[[ -z ${SUBJECTS:-} ]] || exit 0
start_daemon full
sleep 8
# Threads that end take their counts with them: those that rest are gone after five seconds.
switches() { awk '/^(non)?voluntary_ctxt_switches/ {s += $2} END {print s}' "/proc/$daemon/task/"*/status; }
switches0=$(switches)
sleep 20
switches=$(($(switches) - switches0))
idle=$(status_kib VmRSS)
stop_daemon

table_bytes=$("$bin/releasectl" inspect --json "$files/$delta" | grep -o '"table_bytes":[ 0-9]*' | grep -o '[0-9]*$')
awk -v record="$(stat -c %s "$files/2.0.0.release")" -v table="$table_bytes" -v payloads_again="$payloads_again" -v own="$own" -v idle="$idle" -v switches="$switches" -v full="$(stat -c %s "$files/2.0.0.payload")" -v delta="$(stat -c %s "$files/$delta")" \
    -v image="$bytes" -f integration/bench/table.awk "$work/rounds"
