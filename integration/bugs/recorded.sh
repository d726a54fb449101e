#!/bin/bash
# Plants bugs that only a disk can show, one at a time, in a copy of the tree: a machine is built with each, updated while every write
# is recorded, and `cuts` has to find a power cut after which a promise does not hold. It takes some minutes for each bug.
#
#   recorded.sh [BUG]      all bugs, or one
set -uo pipefail
cd "$(dirname "$0")/../.."
only=${1:-}
top=$PWD
copy=$(mktemp -d "${TMPDIR:-/tmp}/ota-bugs.XXXXXX")
trap 'rm -rf "$copy"' EXIT
if ! git ls-files -z >"$copy/.files" || [[ ! -s $copy/.files ]]; then
    echo "bugs/recorded.sh: git does not list the files of $top: this needs a checkout that is yours" >&2
    exit 1
fi
tar --null -T "$copy/.files" -cf - | tar -xf - -C "$copy"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$top/target}/bugs
caught=0 missed=0 skipped=0

bug() { # NAME LOADER WORDS (FILE FIND REPLACE)...: WORDS stand in what `cuts` says of it
    local name=$1 loader=$2 words=$3 files=() planted=1; shift 3
    [[ -z $only || $only == "$name" ]] || return 0
    while (($# > 0)); do
        # Several lines of one file may be replaced.
        [[ -e $copy/$1.original ]] || { cp "$copy/$1" "$copy/$1.original" && files+=("$1"); }
        "$top/integration/bugs/plant.py" "$copy/$1" "$2" "$3" || planted=0
        shift 3
    done
    if ((planted)); then
        (cd "$copy" && cargo build --quiet --workspace --bins && rm -rf recording &&
            "$CARGO_TARGET_DIR/debug/cuts" --loader "$loader" --cuts 0 --boot 0 --recording recording) >"$copy/.log" 2>&1
        judge "$name" $? "$words"
    else
        echo "planted bug \"$name\": cannot be planted"
        missed=$((missed + 1))
    fi
    for file in "${files[@]}"; do mv "$copy/$file.original" "$copy/$file"; done
}

judge() { # NAME EXIT-CODE WORDS
    local name=$1 code=$2 words=$3
    if ((code == 3)); then
        echo "planted bug \"$name\": skipped: $(grep -m1 '^no virtual machine' "$copy/.log")"
        skipped=$((skipped + 1))
    elif ((code == 1)) && grep -q "^BAD .*$words" "$copy/.log"; then
        echo "planted bug \"$name\": caught: $(tail -n1 "$copy/.log")"
        caught=$((caught + 1))
    else
        echo "planted bug \"$name\": NOT CAUGHT"
        grep -m5 '^BAD' "$copy/.log"
        tail -n 5 "$copy/.log"
        missed=$((missed + 1))
    fi
}

bug "a rename is not synced with the inode that it moves" systemd-boot "what was on the medium is lost" \
    update-engine/src/durable.rs '    to.parent().map_or(Ok(()), sync_folder)?;
    File::open(to)?.sync_all()' '    to.parent().map_or(Ok(()), sync_folder)'

bug "small files are replaced without a sync" grub "floor: " \
    update-engine/src/durable.rs '    to.parent().map_or(Ok(()), sync_folder)?;
    File::open(to)?.sync_all()' '    to.parent().map_or(Ok(()), sync_folder)' \
    update-engine/src/durable.rs '    file.write_all(bytes)?;
    file.sync_all()' '    file.write_all(bytes)'

bug "the environment block is truncated before it is written" grub "what was on the medium is lost" \
    update-engine/src/boot/grub/control.rs \
    '    file.write_all_at(&buffer.as_slice()[..BLOCK_BYTES], 0)?;
    file.flush()' \
    '    file.file().set_len(0)?;
    file.write_all_at(&buffer.as_slice()[..BLOCK_BYTES], 0)?;
    file.flush()'

echo "$caught caught, $missed missed, $skipped skipped"
((missed == 0))
