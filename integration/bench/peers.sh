# Other updaters, each set up as its own documentation does it, with signatures where it has them; sourced by bench.sh. What is not installed is
# left out: apt-get install rauc dbus-daemon libglib2.0-bin squashfs-tools / swupdate cpio / casync.
#
# None of them proves the slot. SWUpdate and casync flush nothing: sync(1) is part of what is timed, as nothing could be armed before it.
theirs=$cache/bench/peers
mkdir -p "$theirs"
has() { local program; for program in "$@"; do command -v "$program" >/dev/null || return 1; done; }
wanted() { [[ ${PEERS:-all} == all ]] && has openssl "$@"; }
served=http://127.0.0.1:$port/peers
key() { # a CA and a leaf, once
    [[ -s $theirs/sign.pem ]] && return
    openssl req -x509 -newkey rsa:4096 -nodes -keyout "$theirs/ca.key" -out "$theirs/ca.pem" -days 3650 -subj "/O=bench/CN=CA" 2>/dev/null
    openssl req -newkey rsa:4096 -nodes -keyout "$theirs/sign.key" -out "$theirs/sign.csr" -subj "/O=bench/CN=signer" 2>/dev/null
    printf 'keyUsage=digitalSignature\nextendedKeyUsage=emailProtection\n' >"$theirs/usage"
    openssl x509 -req -in "$theirs/sign.csr" -CA "$theirs/ca.pem" -CAkey "$theirs/ca.key" -CAcreateserial -extfile "$theirs/usage" \
        -out "$theirs/sign.pem" -days 3650 2>/dev/null
}

prepare_rauc() {
    key
    if [[ ! -s $theirs/update.raucb ]]; then
        rm -rf "$theirs/bundle" && mkdir "$theirs/bundle"
        cp "$image" "$theirs/bundle/rootfs.img"
        printf '[update]\ncompatible=bench\nversion=1\n[bundle]\nformat=plain\n[image.rootfs]\nfilename=rootfs.img\n' >"$theirs/bundle/manifest.raucm"
        rauc --cert "$theirs/sign.pem" --key "$theirs/sign.key" --keyring "$theirs/ca.pem" --mksquashfs-args='-comp zstd -Xcompression-level 12' \
            bundle "$theirs/bundle" "$theirs/update.raucb" >"$work/rauc.log" 2>&1 || { cat "$work/rauc.log"; exit 1; }
        rm -rf "$theirs/bundle"
    fi
    mkdir -p "$work/rauc/mnt"
    # It looks for the file behind every loop device, and partitions of one have none: its slots are loop devices over the same bytes of the file.
    local part
    for part in 1 2; do
        theirs_too+=("$(losetup --direct-io=on -f --show -o $(($(cat "/sys/class/block/${loop#/dev/}p$part/start") * 512)) \
            --sizelimit $(($(cat "/sys/class/block/${loop#/dev/}p$part/size") * 512)) "$work/disk.img")")
    done
    printf '%s\n' '#!/bin/sh' 'case "$1" in get-primary) echo A;; get-state) echo good;; get-current) echo A;; esac' >"$work/rauc/boot.sh"
    chmod +x "$work/rauc/boot.sh"
    cat >"$work/rauc/system.conf" <<CONF
[system]
compatible=bench
bootloader=custom
mountprefix=$work/rauc/mnt
statusfile=$work/rauc/status
max-bundle-download-size=$((bytes + 67108864))
[handlers]
bootloader-custom-backend=$work/rauc/boot.sh
[keyring]
path=$theirs/ca.pem
[slot.rootfs.0]
device=${theirs_too[0]}
type=raw
bootname=A
[slot.rootfs.1]
device=${theirs_too[1]}
type=raw
bootname=B
CONF
    dbus-daemon --session --nofork --address="unix:path=$work/rauc/bus" >"$work/rauc/bus.log" 2>&1 & servers+=($!)
    until [[ -S $work/rauc/bus ]]; do sleep 0.1; done
}
# The service is what works: its time and memory are counted, and not those of the program that asks it.
rauc_http() {
    local -x DBUS_STARTER_BUS_TYPE=session DBUS_SESSION_BUS_ADDRESS="unix:path=$work/rauc/bus"
    # Nor may a partition of a loop device be mounted where it looks.
    unshare --mount --propagation private sh -c 'umount -R "$1"; shift; exec "$@"' sh "$work/root" \
        rauc -c "$work/rauc/system.conf" --override-boot-slot=A service >"$work/rauc/service.log" 2>&1 & local service=$!
    until gdbus call --session -d org.freedesktop.DBus -o /org/freedesktop/DBus -m org.freedesktop.DBus.NameHasOwner de.pengutronix.rauc 2>/dev/null | grep -q true; do
        sleep 0.1; kill -0 $service || { cat "$work/rauc/service.log"; exit 1; }
    done
    before "$other"
    python3 integration/bench/watch.py $service "$work/memory" & watch=$!
    sleep 0.3
    local at wall cpu0 cpu rss pss
    cpu0=$(cpu_of $service) at=$(date +%s.%N)
    rauc -c "$work/rauc/system.conf" install "$served/update.raucb" >"$work/rauc.log" 2>&1 || { cat "$work/rauc.log"; exit 1; }
    wall=$(awk -v a="$at" -v b="$(date +%s.%N)" 'BEGIN {printf "%.3f", b - a}')
    cpu=$(awk -v a="$cpu0" -v b="$(cpu_of $service)" 'BEGIN {print b - a}')
    kill $watch && wait $watch || true
    watch=
    read -r rss pss <"$work/memory"
    kill $service; wait $service || true
    after rauc "$wall" "$cpu" "$rss" "$pss"
}

prepare_swupdate() {
    key
    if [[ ! -s $theirs/image.zst ]]; then cp "$files/image.zst" "$theirs/image.zst"; fi
    (
        cd "$theirs"
        printf 'software =\n{\n  version = "1.0.1";\n  hardware-compatibility: [ "1.0" ];\n  images: ( { filename = "image.zst"; type = "raw"; device = "%s"; compressed = "zstd"; installed-directly = true; sha256 = "%s"; } );\n}\n' \
            "$slot" "$(sha256sum image.zst | cut -d' ' -f1)" >sw-description
        openssl cms -sign -in sw-description -out sw-description.sig -signer sign.pem -inkey sign.key -outform DER -nosmimecap -binary
        printf '%s\n' sw-description sw-description.sig image.zst | cpio -o -H crc --quiet >update.swu
    )
}

prepare_casync() {
    [[ -s $theirs/image.caibx ]] || (cd "$theirs" && casync make --store=store.castr image.caibx "$image" >"$work/casync.log" 2>&1) || { cat "$work/casync.log"; exit 1; }
}

peers=()
if wanted rauc dbus-daemon gdbus mksquashfs; then prepare_rauc; peers+=(rauc); fi
if wanted swupdate cpio; then prepare_swupdate; peers+=(swupdate); fi
if wanted casync; then prepare_casync; peers+=(casync); fi
echo "peers: ${peers[*]:-none is installed}"
peers() {
    local peer
    for peer in "${peers[@]}"; do
        case $peer in
            rauc) rauc_http ;;
            swupdate) tool swupdate "$other" "cd '$work' && swupdate -k '$theirs/ca.pem' -H bench:1.0 -l 3 -d '-u $served/update.swu' && sync '$slot'" ;;
            # It is some twenty times slower than the rest: once is enough.
            casync) ((round > 1)) || tool casync "$other" "casync extract --store=$served/store.castr --seed=${loop}p1 $served/image.caibx '$slot' && sync '$slot'" ;;
        esac
    done
}
