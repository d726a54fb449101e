#!/bin/bash
# Plants bugs, one at a time, in a copy of the tree, and expects the named tests to catch each: the tests are tested.
#
#   run.sh [NAME]      all bugs, or one
#
# A bug is planted by replacing lines of the source; a line that is not found exactly once is an error, so that the list stays
# true. The copy shares the target folder of its dependencies, not of the workspace's own crates.
set -uo pipefail
cd "$(dirname "$0")/../.."
only=${1:-}
top=$PWD
copy=$(mktemp -d "${TMPDIR:-/tmp}/ota-bugs.XXXXXX")
trap 'rm -rf "$copy"' EXIT
if ! git ls-files -z >"$copy/.files" || [[ ! -s $copy/.files ]]; then
    echo "bugs/run.sh: git does not list the files of $top: this needs a checkout that is yours" >&2
    exit 1
fi
tar --null -T "$copy/.files" -cf - | tar -xf - -C "$copy"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$top/target}/bugs
caught=0 missed=0 skipped=0

bug() { # NAME (FILE FIND REPLACE)... -- CARGO-TEST-ARGUMENTS...
    local name=$1 files=() planted=1 status=0; shift
    [[ -z $only || $only == "$name" ]] || return 0
    while [[ $1 != -- ]]; do
        cp "$copy/$1" "$copy/$1.original"
        files+=("$1")
        plant "$copy/$1" "$2" "$3" || planted=0
        shift 3
    done
    shift
    if ((planted)); then
        (cd "$copy" && cargo test --quiet "$@" -- --show-output) >"$copy/.log" 2>&1 || status=$?
        judge "$name" "$status"
    else
        echo "planted bug \"$name\": cannot be planted"
        missed=$((missed + 1))
    fi
    for file in "${files[@]}"; do mv "$copy/$file.original" "$copy/$file"; done
}

plant() { # PATH FIND REPLACE
    python3 - "$@" <<'PY'
import sys
path, find, replace = sys.argv[1:]
text = open(path).read()
if text.count(find) != 1:
    sys.exit(f"{path}: expected the line to stand once, found it {text.count(find)} times:\n{find}")
open(path, "w").write(text.replace(find, replace))
PY
}

judge() { # NAME EXIT-CODE
    local name=$1 status=$2 tests
    if grep -q '^skipped: ' "$copy/.log" && ((status == 0)); then
        echo "planted bug \"$name\": skipped: $(grep -m1 '^skipped: ' "$copy/.log" | cut -c10-)"
        skipped=$((skipped + 1))
    elif ((status != 0)) && grep -q '^test result: FAILED' "$copy/.log"; then
        tests=$(awk '/^failures:$/ {n++; next} n && /^    [a-z_:0-9]+$/ {print $1}' "$copy/.log" | sort -u)
        echo "planted bug \"$name\": caught by $(wc -l <<<"$tests") tests, such as $(head -n 1 <<<"$tests")"
        caught=$((caught + 1))
    else
        echo "planted bug \"$name\": NOT CAUGHT (exit $status)"
        tail -n 15 "$copy/.log"
        missed=$((missed + 1))
    fi
}

bug "a window is written without being verified" payload/src/window.rs \
    '        if wrong.is_empty() && len > 0 { Ok(found) } else { Err(Mismatch { wrong, window_size, found }) }' \
    '        if len > 0 { Ok(found) } else { Err(Mismatch { wrong, window_size, found }) }' \
    -- -p payload

bug "one key counts twice" manifests/src/keyring.rs \
    '            if !signers.contains(id) {' \
    '            if !signers.is_empty() || signers.is_empty() {' \
    -- -p manifests --lib

bug "a missing floor is read as 0" update-engine/src/world.rs \
    '            Ok(None) => FloorFacts::Lost { image },' \
    '            Ok(None) => FloorFacts::Known(Floor { floor: image, highest: image }),' \
    -- -p update-engine --lib world

bug "read-back through the page cache" update-engine/src/slot/medium.rs \
    '        let granted = self.set_direct_flag(true).is_ok();' \
    '        let granted = self.set_direct_flag(false).is_ok();' \
    update-engine/src/slot/sweep.rs '    image.forget_cache()?;' '' \
    update-engine/src/slot/writer.rs '            image.forget_cache()?;' '' \
    -- -p update-engine --test slot_block_devices page_cache

bug "armed before it was read back" update-engine/src/engine/installing.rs \
    '                effects.extend(self.resume_written());' \
    '                if let State::Written { plan, .. } = self.model.state.clone() { effects.extend(self.proven(plan, now)); }' \
    -- -p update-engine --lib engine

bug "the lock is given back before health is known" update-engine/src/engine/trial.rs \
    '            State::Trial { plan, verdict: None } => vec![Effect::Health(plan)],' \
    '            State::Trial { plan, verdict: None } => { let mut all = self.end_attempt(&plan, Outcome::Committed, None); all.push(Effect::Health(plan)); all }' \
    -- -p update-engine --lib engine

bug "the primary table is written before the backup is safe" update-engine/src/boot/gpt/write.rs \
    '        if self.steps.len() > before {' '        if self.steps.len() > before + 1000 {' \
    -- -p update-engine --lib boot

echo "$caught caught, $missed missed, $skipped skipped"
((missed == 0))
