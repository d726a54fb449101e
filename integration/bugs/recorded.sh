#!/bin/bash
# Plants bugs that only a disk can show, one at a time, in a copy of the tree: a machine is built with each, updated while every write
# is recorded, and `cuts` has to find a power cut after which a promise does not hold. It takes some minutes for each bug.
#
# Before all of them the tree as it is: no power cut may be bad there.
#
#   recorded.sh [BUG]      all bugs, or one
set -uo pipefail
source "$(dirname "$0")/common.sh"

looked() { # LOADER: records the copy, and looks at every cut; its exit code
    bounded 1200 "$copy" "$copy/.log" cargo build --quiet --workspace --bins && rm -rf "$copy/recording" &&
        bounded 3000 "$copy" "$copy/.log" "$CARGO_TARGET_DIR/debug/cuts" --loader "$1" --cuts 0 --boot 0 --recording recording
}

why() { # what `cuts` said, without the control codes of a console that it may quote
    { grep -a -m5 '^BAD' "$copy/.log"; grep -a -m1 -A 5 panicked "$copy/.log" || tail -n 5 "$copy/.log"; } | tr -cd '[:print:]\n'
}

sound() { # LOADER
    looked "$1"
    case $? in
    0) echo "no bug planted, $1: $(tail -n1 "$copy/.log")" ;;
    3) echo "no bug planted, $1: skipped" ;;
    *)
        echo "no bug planted, $1: BAD"
        why
        missed=$((missed + 1)) ;;
    esac
}

bug() { # NAME LOADER WORDS (FILE FIND REPLACE)...: WORDS stand in what `cuts` says of it
    local name=$1 loader=$2 words=$3; shift 3
    [[ -z $only || $only == "$name" ]] || return 0
    if plant "$name" "$@"; then
        looked "$loader"
        judge "$name" $? "$words"
    fi
    take_back
}

judge() { # NAME EXIT-CODE WORDS
    local name=$1 code=$2 words=$3
    if ((code == 3)); then
        echo "planted bug \"$name\": skipped: $(grep -a -m1 '^no virtual machine' "$copy/.log")"
        skipped=$((skipped + 1))
    elif ((code == 1)) && grep -aq "^BAD .*$words" "$copy/.log"; then
        echo "planted bug \"$name\": caught: $(grep -a '^BAD\|^power cuts' "$copy/.log" | tail -n 1 | cut -c 1-160)"
        caught=$((caught + 1))
    else
        echo "planted bug \"$name\": NOT CAUGHT"
        why
        missed=$((missed + 1))
    fi
}

[[ -n $only ]] || sound grub
[[ -n $only ]] || sound systemd-boot

bug "a rename is not synced with the inode that it moves" systemd-boot "what was on the medium is lost" \
    update-engine/src/durable.rs '    to.parent().map_or(Ok(()), sync_folder)?;
    File::open(to)?.sync_all()' '    to.parent().map_or(Ok(()), sync_folder)'

bug "the inode that a rename moves is synced before the folder" systemd-boot "both lie in cluster" \
    update-engine/src/durable.rs '    to.parent().map_or(Ok(()), sync_folder)?;
    File::open(to)?.sync_all()' '    File::open(to)?.sync_all()?;
    to.parent().map_or(Ok(()), sync_folder)'

bug "a new file is written before the table that has its clusters" systemd-boot "which is free" \
    update-engine/src/durable.rs '    path.parent().map_or(Ok(()), sync_folder)?;
    file.sync_all()' '    file.sync_all()?;
    path.parent().map_or(Ok(()), sync_folder)'

bug "a file is cut short in its place" systemd-boot "by its entry, and" \
    update-engine/src/slot/open.rs '        if self.file.size_bytes().map_err(words)? != size {' '        if self.file.size_bytes().map_err(words)? > u64::MAX - 1 {'

bug "clusters are freed with the name that goes" systemd-boot "which is free" \
    update-engine/src/durable.rs '    let removed = hold(path)?;' '    let removed: Option<File> = None;'

bug "what is freed is not flushed" systemd-boot "is in no file of the ESP" \
    update-engine/src/durable.rs \
    '    if statfs(folder)?.filesystem_type() == MSDOS_SUPER_MAGIC { sync_folder(folder) } else { Ok(()) }' \
    '    statfs(folder).map(|_| ()).map_err(io::Error::from)'

bug "names of entries may be long" systemd-boot "what was on the medium is lost" \
    update-engine/src/config/boot.rs \
    '        let fits = (1..=MAX_PREFIX).contains(&prefix.len())' \
    '        let fits = (1..=200).contains(&prefix.len())' \
    integration/src/vm/disk.rs \
    'const ENTRY_PREFIX: &str = "os";' \
    'const ENTRY_PREFIX: &str = "anamesolongthatittakesseveralsectorsofafoldersoonerorlaterwhateverstandsbeforeit";'

bug "a slot is not disarmed before it is written" grub "is no complete signed image" \
    update-engine/src/daemon/slots.rs \
    '    let state = control.disarm(&slot, &ground.running).map_err(|error| boot_fault(&error))?;
    let becomes' \
    '    let _slot = slot;
    let state = control.read().map_err(|error| boot_fault(&error))?;
    let becomes'

bug "the record of a slot is written without a sync" grub "and its record is" \
    update-engine/src/records.rs \
    '        let path = self.slot_path(slot);
        durable::replace(&path, bytes)' \
    '        let path = self.slot_path(slot);
        std::fs::write(&path, bytes)'

bug "a report is forgotten before it is sent" grub "no server was ever told" \
    update-engine/src/daemon/mod.rs \
    '            let work = async move {
                let result = outbox::deliver(&shared, &row.message, &row.attempt).await;' \
    '            let _early = self.journal.delivered(row.id);
            let work = async move {
                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
                let result = outbox::deliver(&shared, &row.message, &row.attempt).await;'

bug "small files are replaced without a sync" grub "floor: " \
    update-engine/src/durable.rs '    to.parent().map_or(Ok(()), sync_folder)?;
    File::open(to)?.sync_all()' '    to.parent().map_or(Ok(()), sync_folder)' \
    update-engine/src/durable.rs '    file.write_all(bytes)?;
    settle(&file, path)' '    file.write_all(bytes)'

bug "the environment block is truncated before it is written" grub "what was on the medium is lost" \
    update-engine/src/boot/grub/control.rs \
    '    file.write_all_at(&buffer.as_slice()[..BLOCK_BYTES], 0)?;
    file.flush()' \
    '    file.file().set_len(0)?;
    file.write_all_at(&buffer.as_slice()[..BLOCK_BYTES], 0)?;
    file.flush()'

echo "$caught caught, $missed missed, $skipped skipped"
[[ -z $only ]] || ((caught + missed + skipped)) || { echo "$0: there is no bug \"$only\"" >&2; exit 2; }
((missed == 0))
