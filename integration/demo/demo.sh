#!/bin/bash
# The main job on real images, told on the terminal. Real programs, real Debian images, a real disk image; only the machine's
# reboot is played (by hostsim: firmware and boot loader of the disk image).
#
#   demo.sh CACHE_DIR        images are kept in CACHE_DIR; everything else is made in a temporary folder and removed at the end
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=$(mkdir -p "$1" && cd "$1" && pwd)
bin=${OTA_BIN:-${CARGO_TARGET_DIR:-target}/release}
bin=$(cd "$bin" && pwd)
PATH="$bin:$PATH:/usr/sbin:/sbin"
for tool in curl:curl python3:python3 mke2fs:e2fsprogs debugfs:e2fsprogs; do
    command -v "${tool%:*}" >/dev/null || { echo "demo: ${tool%:*} is missing (Debian package ${tool#*:})" >&2; exit 1; }
done
work=$(mktemp -d "${TMPDIR:-/tmp}/ota-demo.XXXXXX")
pids=()
bold= dim= off=
if [[ -t 1 && -z ${NO_COLOR:-} ]]; then bold=$'\e[1m' dim=$'\e[2m' off=$'\e[0m'; fi

end() {
    local status=$?
    [[ -f $work/daemon.pid ]] && pids+=("$(cat "$work/daemon.pid")")
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    if ((status != 0)); then
        echo "demo: failed; the daemon's last words:" >&2
        tail -n 20 "$work/daemon.log" >&2 2>/dev/null || true
    fi
    # Programs that were started by a simulated reboot are no children of this shell.
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        [[ -n ${pids[*]} ]] && kill -0 "${pids[@]}" 2>/dev/null || break
        sleep 0.1
    done
    for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
    rm -rf "$work"
    exit "$status"
}
trap end EXIT INT TERM

chapter() { printf '\n%s== %s ==%s\n' "$bold" "$*" "$off"; }
say() { printf '%s\n' "$*"; }
fail() { printf 'demo: %s\n' "$*" >&2; exit 1; }
run() { # shows a command as a person would type it, then runs it
    local shown=()
    for word in "$@"; do shown+=("${word//$work\//}"); done
    printf '%s$ %s%s\n' "$dim" "${shown[*]//$cache\//}" "$off"
    "$@"
}
updatectl() { command updatectl --config "$work/config.toml" "$@"; }
field() { updatectl status --json | python3 -c 'import json,sys; d=json.load(sys.stdin)
for key in sys.argv[1].split("."): d=d[key]
print(d)' "$1"; }
wait_for() { # WHAT SECONDS COMMAND...
    local what=$1 seconds=$2; shift 2
    local until=$((SECONDS + seconds))
    until "$@" 2>/dev/null; do
        ((SECONDS < until)) || { echo "demo: waited $seconds s in vain until $what" >&2; exit 1; }
        sleep 0.2
    done
}
runs() { [[ $(field booted.version) == "$1" && $(field booted.confirmed) == True && $(field state) == idle ]]; }
offer() { # VERSION [FAULT]: from now on the update server offers it
    printf '%s\n' "files_dir = \"$work/files\"" '[[answers]]' "kind.update = { version = \"$1\" }" "${2:-}" >"$work/script.toml"
    curl -fsS -X PUT --data-binary @"$work/script.toml" "$server/_script" >/dev/null
}

chapter "A publisher makes a key, three operating system images and three signed releases"
mkdir -p "$cache/keyring"
[[ -f $cache/keyring/publisher.pub ]] || {
    rm -f "$cache"/publisher.* "$cache"/*.ext4
    run releasectl key generate --out "$cache/publisher"
    cp "$cache/publisher.pub" "$cache/keyring/publisher.pub"
}
integration/demo/images.sh "$cache"
mkdir -p "$work/files"
sequence=0
for version in 1.0.0 2.0.0 3.0.0; do
    sequence=$((sequence + 1))
    run releasectl build --app '{demo-os}' --board demo --version "$version" --sequence $sequence --image "root=$cache/$version.ext4" \
        --key "$cache/publisher.key" --created 2026-11-22T00:00:00Z --level 3 --out "$work/files" 2>"$work/build.log" || { cat "$work/build.log" >&2; exit 1; }
done
run releasectl verify "$work/files/2.0.0.release" "$work/files/2.0.0.payload" --keyring "$cache/keyring"

chapter "A host: a disk with slots a and b and a state partition; the factory wrote version 1.0.0 to slot a"
run hostsim mkimage --image "$work/disk.img" --root 384M --state 16M
run hostsim write-slot --image "$work/disk.img" --label root-a --from "$cache/1.0.0.ext4"
mkdir -p "$work"/sysroot/{etc,proc} "$work/state" "$work"/hooks/{drain.d,undrain.d,health/required.d}
echo e0f3745b108f471cbd4883c6fbed8cdd >"$work/sysroot/etc/machine-id"
run hostsim boot --image "$work/disk.img" --sysroot "$work/sysroot"

chapter "An update server, a reboot coordinator, and the daemon"
printf '[[answers]]\nkind = { noupdate = {} }\n' >"$work/script.toml"
server-mock --script "$work/script.toml" --listen 127.0.0.1:0 >"$work/server.out" 2>"$work/server.log" & pids+=($!)
locksmithd --data "$work/locks" --listen 127.0.0.1:0 >"$work/locksmithd.out" 2>"$work/locksmithd.log" & pids+=($!)
wait_for "the update server listens" 20 grep -q http "$work/server.out"
server=$(sed -n '1s/.*\(http[^ ]*\).*/\1/p' "$work/server.out")
wait_for "locksmithd listens" 20 grep -q http "$work/locksmithd.out"
export LOCKSMITHCTL_SERVER
LOCKSMITHCTL_SERVER=$(sed -n '1s/.*\(http[^ ]*\).*/\1/p' "$work/locksmithd.out")
cat >"$work/config.toml" <<TOML
state_dir = "$work/state"
socket    = "$work/control.sock"
sysroot   = "$work/sysroot"
[server]
url = "$server/v1/update/"
app_id = "{demo-os}"
board = "demo"
check_interval_s = 3600
[disk]
device = "$work/disk.img"
[slots.a]
root = "partlabel:root-a"
[slots.b]
root = "partlabel:root-b"
[reboot]
strategy = "lock"
retry_s = 2
hooks_dir = "$work/hooks"
command = ["$bin/hostsim", "boot", "--image", "$work/disk.img", "--sysroot", "$work/sysroot", "--pid-file", "$work/daemon.pid", "--log", "$work/daemon.log", "--start", "$bin/update-engined", "--config", "$work/config.toml"]
[reboot.lock]
backend = "fleetlock"
url = "$LOCKSMITHCTL_SERVER/"
group = "default"
[health]
deadline_s = 30
settle_s = 2
TOML
cat >"$work/hooks/drain.d/10-lock" <<SH
#!/bin/sh
# While this hook runs the host holds its place: the story shows what the coordinator says.
"$bin/locksmithctl" --server "$LOCKSMITHCTL_SERVER" status >"$work/lock-while-draining"
SH
cat >"$work/hooks/health/required.d/10-service" <<SH
#!/bin/sh
# The demo's one service: version 3 ships it broken.
. "$work/sysroot/etc/os-release"
[ "\$DEMO_SERVICE" = runs ] || { echo "the demo service crashes at start"; exit 1; }
SH
chmod 755 "$work"/hooks/*/10-* "$work"/hooks/*/*/10-*
update-engined --config "$work/config.toml" >>"$work/daemon.log" 2>&1 & echo $! >"$work/daemon.pid"
wait_for "the daemon answers" 20 updatectl status
run updatectl adopt "$work/files/1.0.0.release"
run updatectl status

chapter "Version 2.0.0 is published: check, write, prove, lock, flip, reboot, health, commit"
offer 2.0.0
run updatectl update
wait_for "2.0.0 is committed" 90 runs 2.0.0
say "While the host was draining, the reboot coordinator said:"
sed 's/^/    /' "$work/lock-while-draining"
run locksmithctl status
run updatectl status
run hostsim table --image "$work/disk.img"
run updatectl verify

chapter "Somebody changes one byte of a release record on the server"
cp "$work/files/3.0.0.release" "$work/files/2.9.0.release"
cp "$work/files/3.0.0.payload" "$work/files/2.9.0.payload"
printf 'X' | dd of="$work/files/2.9.0.release" bs=1 seek=200 conv=notrunc status=none
hostsim table --image "$work/disk.img" >"$work/table.before"
offer 2.9.0
refused=0
run updatectl update || refused=$?
why=$(field last_error.code)
[[ $refused == 1 && $why == record-signature ]] || fail "expected exit 1 for record-signature, got exit $refused for $why"
say "(updatectl says so with its exit code, too)"
hostsim table --image "$work/disk.img" >"$work/table.after"
diff "$work/table.before" "$work/table.after" || fail "the boot table changed"
say "The boot table is what it was."

chapter "Version 3.0.0 is signed and whole, but its service crashes: it rolls back by itself"
offer 3.0.0
run updatectl update
wait_for "the host is back on 2.0.0" 120 bash -c "$(declare -f updatectl field); work='$work'; [[ \$(field attempts.rolled_back) == 1 && \$(field state) == idle ]]"
run updatectl status
run updatectl why
run updatectl history
run locksmithctl status
say ""
say "Told in $SECONDS s. Nothing is left behind but the images in ${cache/#$HOME/\~}."
