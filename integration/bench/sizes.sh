#!/bin/bash
# Sizes of deltas and of full payloads on real images, beside the best of what general tools make of the same bytes.
#
#   sizes.sh CACHE_DIR          as root (bench/pairs.sh); sizes that others make are kept in CACHE_DIR/sizes, ours are built anew
#
# Prints a table in bytes, and what misses its limit; then it fails. OTA_PROFILE and BIN_DIR as in bench.sh. About an hour the first time, of which
# `zstd -19 --patch-from` takes most, and 20 minutes afterwards. Needs 4 GB of memory for zstd, and xdelta3.
set -euo pipefail
# A tool that fails leaves no size behind.
shopt -s inherit_errexit
cd "$(dirname "$0")/../.."
cache=$(mkdir -p "$1" && cd "$1" && pwd)
[[ $(id -u) == 0 ]] || { echo "sizes.sh: skipped: making the images needs root"; exit 0; }
command -v xdelta3 >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends xdelta3 >/dev/null
profile=${OTA_PROFILE:-dist}
[[ -n ${BIN_DIR:-} ]] || cargo build --quiet --profile "$profile" --package release-server --bins
bin=$(cd "${BIN_DIR:-${CARGO_TARGET_DIR:-target}/$profile}" && pwd)
pairs=$cache/pairs kept=$cache/sizes
mkdir -p "$kept"
[[ -f $pairs/next.ext4 ]] || integration/bench/pairs.sh "$pairs" >/dev/null
work=$(mktemp -d "$kept/run.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
missed=0

digest() { # IMAGE: looked up where it was made before
    local note
    note=$kept/$(basename "$1").sha256
    [[ $note -nt $1 ]] || sha256sum <"$1" | cut -c 1-16 >"$note"
    cat "$note"
}

# The size that a tool makes of images, measured once for each version of the tool.
theirs() { # NAME TOOL-VERSION IMAGES... -- COMMAND...: its output is counted
    local name=$1 version=$2 images=() key note
    shift 2
    while [[ $1 != -- ]]; do images+=("$(digest "$1")"); shift; done
    shift
    key=$(echo "$name $version ${images[*]}" | sha256sum | cut -c 1-16) note=$kept/theirs-$name-$key
    if [[ ! -s $note ]]; then
        "$@" | wc -c >"$note.part"
        mv "$note.part" "$note"
    fi
    cat "$note"
}
zstd_version=$(zstd --version | grep -o 'v[0-9.]*' | head -n 1)
xdelta_version=$(xdelta3 -V 2>&1 | grep -o '[0-9][0-9.]*' | head -n 1)
patch_from() { theirs patch-from "$zstd_version" "$1" "$2" -- zstd -q -19 --long=31 --memory=2048MB --patch-from "$1" -c "$2"; }
xdelta() { theirs xdelta3 "$xdelta_version" "$1" "$2" -- xdelta3 -e -q -B 67108864 -c -s "$1" "$2"; }

"$bin/releasectl" key generate --out "$work/publisher" >/dev/null
sequence=0
release() { # IMAGE [OPTIONS...]: a record and a full payload of it, $work/N.{release,payload}
    sequence=$((sequence + 1))
    "$bin/releasectl" build --app '{sizes}' --version "$sequence" --sequence "$sequence" --image "root=$1" --key "$work/publisher.key" \
        --created 2026-11-22T00:00:00Z --out "$work" "${@:2}" >/dev/null 2>"$work/err" || { cat "$work/err" >&2; return 1; }
}
bytes_of() { stat -c %s "$1"; }

limit() { # WHAT BYTES OF PERCENT
    local is most
    [[ $2 =~ ^[1-9][0-9]*$ && $3 =~ ^[1-9][0-9]*$ ]] || { echo "sizes.sh: $1: expected two sizes, got \"$2\" and \"$3\"" >&2; exit 1; }
    is=$(awk -v bytes="$2" -v of="$3" 'BEGIN {printf "%.4f", bytes / of}')
    most=$(awk -v most="$4" 'BEGIN {printf "%.2f", most / 100}')
    if (($2 * 100 > $3 * $4)); then
        echo "  MISSED: $1: $is, at most $most"
        missed=$((missed + 1))
    else
        echo "  $1: $is (at most $most)"
    fi
}

delta() { # FROM TO OPTIONS...: its size; how long it took, and the memory, are left in $work/cost
    release "$pairs/$1" --level 1 && local from=$sequence
    release "$pairs/$2" --level 1 && local to=$sequence
    /usr/bin/env time -f '%e s, %M KiB' -o "$work/cost" "$bin/releasectl" delta --force --from "$work/$from.release" --from-image "root=$pairs/$1" \
        --to "$work/$to.release" --to-image "root=$pairs/$2" --out "$work" "${@:3}" >/dev/null 2>"$work/err" || { cat "$work/err" >&2; return 1; }
    bytes_of "$work/$from-to-$to.payload" >"$work/size"
    rm -f "$work"/*.payload
}

pair() { # NAME FROM TO
    local patched xdeltaed
    echo "$1"
    delta "$2" "$3"
    ours=$(cat "$work/size")
    cost=$(cat "$work/cost")
    # Each by itself: of several in one line, the first may fail and nobody hears of it.
    patched=$(patch_from "$pairs/$2" "$pairs/$3")
    xdeltaed=$(xdelta "$pairs/$2" "$pairs/$3")
    best_of_theirs=$((patched < xdeltaed ? patched : xdeltaed)) patched_bytes=$patched
    printf '  ours %s (%s), zstd -19 --patch-from %s, xdelta3 -B 64M %s\n' "$ours" "$cost" "$patched" "$xdeltaed"
}

best() { # FROM TO
    delta "$1" "$2" --best
    ours=$(cat "$work/size")
    printf '  ours with --best %s (%s)\n' "$ours" "$(cat "$work/cost")"
}

type -P time >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends time >/dev/null

pair "security updates, ext4" old.ext4 security.ext4
limit "of the best of theirs" "$ours" "$best_of_theirs" 85
limit "of patch-from" "$ours" "$patched_bytes" 82
best old.ext4 security.ext4
limit "--best, of patch-from" "$ours" "$patched_bytes" 72

pair "security updates without the kernel, ext4" old.ext4 held.ext4
limit "of the best of theirs" "$ours" "$best_of_theirs" 85
limit "of patch-from" "$ours" "$patched_bytes" 82
best old.ext4 held.ext4
limit "--best, of patch-from" "$ours" "$patched_bytes" 72

for tree in security held; do
    pair "$tree, erofs" old.erofs $tree.erofs
    limit "of the best of theirs" "$ours" "$best_of_theirs" 100
    pair "$tree, squashfs" old.squashfs $tree.squashfs
    limit "of the best of theirs" "$ours" "$best_of_theirs" 102
done

pair "another major release, ext4, with --force" old.ext4 next.ext4

echo "security, full"
release "$pairs/security.ext4"
ours=$(bytes_of "$work/$sequence.payload")
whole=$(theirs zstd-19 "$zstd_version" "$pairs/security.ext4" -- zstd -q -19 -T1 -c "$pairs/security.ext4")
printf '  ours %s, zstd -19 %s\n' "$ours" "$whole"
limit "of zstd -19" "$ours" "$whole" 100

echo "$missed missed"
((missed == 0))
