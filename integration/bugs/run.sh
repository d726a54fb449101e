#!/bin/bash
# Plants bugs, one at a time, in a copy of the tree, and expects of each the one test that is there to catch it: it has to pass
# in the copy as it is, and to fail there with the bug, run by the same command. So the tests are tested, and no test that fails for
# another reason counts.
#
#   run.sh [BUG]      all bugs, or one
#
# A bug is planted by replacing lines of the source; a line that is not found exactly once is an error, so that the list stays
# true.
set -uo pipefail
source "$(dirname "$0")/common.sh"

# In two rounds, so that little is built twice: first every test without its bug, then with it.
bug() { # NAME CRATE TARGET TEST (FILE FIND REPLACE)...: TARGET is "--lib" or "--test PROGRAM"
    local name=$1 crate=$2 target=$3 test=$4; shift 4
    [[ -z $only || $only == "$name" ]] || return 0
    if [[ $round == sound ]]; then
        ask "$crate" "$target" "$test" "$copy/.sound.$test"
    else
        if plant "$name" "$@"; then
            ask "$crate" "$target" "$test" "$copy/.log"
            judge "$name" "$test"
        fi
        take_back
    fi
}

ask() { # CRATE TARGET TEST OUT
    # shellcheck disable=SC2086 # two words
    bounded 1200 "$copy" "$4" cargo test -p "$1" $2 -- --exact "$3" --show-output
}

judge() { # NAME TEST
    local name=$1 test=$2 sound=$copy/.sound.$2
    if grep -q '^skipped: ' "$sound" && [[ ${MACHINES_REQUIRED:-} != 1 ]]; then
        echo "planted bug \"$name\": skipped: $(grep -m1 '^skipped: ' "$sound" | cut -c10-)"
        skipped=$((skipped + 1))
    elif grep -q '^skipped: ' "$sound" || ! grep -q '^test result: ok. 1 passed' "$sound"; then
        echo "planted bug \"$name\": $test does not pass without it"
        tail -n 15 "$sound"
        missed=$((missed + 1))
    elif grep -q "^test $test .*FAILED$" "$copy/.log"; then
        echo "planted bug \"$name\": caught by $test"
        caught=$((caught + 1))
    else
        echo "planted bug \"$name\": NOT CAUGHT by $test"
        tail -n 15 "$copy/.log"
        missed=$((missed + 1))
    fi
}

bugs() {
bug "a window is written before it is verified" update-engine "--test install_faults" \
    a_byte_that_is_wrong_everywhere_ends_the_install_with_image_window_offset_and_digests \
    update-engine/src/install/pool.rs \
    '        match Verified::check(&self.release, frame.image(), frame.windows(), self.output.as_slice()) {' \
    '        struct Early<'"'"'a>(u64, &'"'"'a [u8]);
        impl VerifiedBytes for Early<'"'"'_> {
            fn image_offset(&self) -> u64 {
                self.0
            }
            fn bytes(&self) -> &[u8] {
                self.1
            }
        }
        let at = u64::from(frame.windows().start) * u64::from(image.table.window_size());
        let early = Early(at, &self.output.as_slice()[..frame.output_len()]);
        if let Err(error) = self.slot.write_window(&image.name, &early) {
            return Outcome::Failed(error);
        }
        match Verified::check(&self.release, frame.image(), frame.windows(), self.output.as_slice()) {'

bug "a process decodes on after a blob that it refused" update-engine "--test decoder" \
    a_process_that_refused_a_blob_decodes_no_other \
    update-engine/src/decoder/client.rs \
    '                self.distrust();
                Err(refusal(words))' \
    '                Err(refusal(words))'

bug "a write that fails is forgotten with the delta" update-engine "--test install_devices" \
    a_write_that_fails_while_the_delta_is_given_up_ends_the_install \
    update-engine/src/install/round.rs \
    '                Outcome::Failed(error) => return Err(InstallError::Disk(error)),
                Outcome::NotDecoded(error) => return Err(InstallError::NotDecoded(error)),
                _ => self.hand_over_held()?,' \
    '                _ => self.hand_over_held()?,'

bug "the process that decodes may open files" update-engine --lib \
    decoder::confine::tests::what_is_forbidden_ends_the_process \
    update-engine/src/decoder/confine.rs \
    'const CALLS: [libc::c_long; 18] = [' \
    'const CALLS: [libc::c_long; 19] = [
    libc::SYS_openat,'

bug "what lies between two places of an image is not counted" payload --lib \
    build::tests::payloads_lean_on_themselves_and_on_no_more_than_a_quarter_of_the_images \
    payload/src/build/lean.rs \
    '        let bytes: u64 = joined(places.clone()).iter().map(|extent| extent.length).sum();' \
    '        let bytes: u64 = places.iter().map(|extent| extent.length).sum();'

bug "every window counts as verified" payload --lib \
    apply::tests::no_changed_byte_of_a_blob_yields_bytes_that_differ_from_the_record \
    payload/src/window.rs \
    '        if wrong.is_empty() && len > 0 { Ok(found) } else { Err(Mismatch { wrong, window_size, found }) }' \
    '        if len > 0 { Ok(found) } else { Err(Mismatch { wrong, window_size, found }) }'

bug "one key counts twice" manifests --lib \
    keyring::tests::one_key_counts_once_however_often_it_signs \
    manifests/src/keyring.rs \
    '            if !signers.contains(id) {' \
    '            if !signers.is_empty() || signers.is_empty() {'

bug "a missing floor is read as 0" update-engine --lib \
    world::tests::design_11_3_a_missing_floor_is_0_only_on_a_host_that_was_never_updated \
    update-engine/src/world.rs \
    '            Ok(None) => FloorFacts::Lost { image },' \
    '            Ok(None) => FloorFacts::Known(Floor { floor: image, highest: image }),'

bug "read-back through the page cache" update-engine "--test slot_block_devices" \
    a_proof_reads_the_medium_and_not_the_page_cache \
    update-engine/src/slot/medium.rs \
    '        let granted = self.set_direct_flag(true).is_ok();' \
    '        let granted = self.set_direct_flag(false).is_ok();' \
    update-engine/src/slot/sweep.rs '    image.forget_cache()?;' '' \
    update-engine/src/slot/writer.rs '            image.forget_cache()?;' ''

bug "armed before it was read back" update-engine --lib \
    engine::tests::lifecycle::p4_a_slot_that_was_written_is_read_back_before_anything_is_asked_or_armed \
    update-engine/src/engine/installing.rs \
    '                effects.extend(self.resume_written());' \
    '                if let State::Written { plan, .. } = self.model.state.clone() { effects.extend(self.proven(plan, now)); }'

bug "the lock is given back before health is known" update-engine --lib \
    engine::tests::lifecycle::p6_the_lock_is_given_back_when_the_new_slot_is_marked_good_and_not_before_its_health_is_known \
    update-engine/src/engine/trial.rs \
    '                None => vec![Effect::Health(plan)],' \
    '                None => { let mut all = self.end_attempt(&plan, Outcome::Committed, None); all.push(Effect::Health(plan)); all }'

bug "the primary table is written before the backup is safe" update-engine --lib \
    boot::gpt::write::tests::every_crash_state_of_the_ordered_write_reads_as_before_or_as_after \
    update-engine/src/boot/gpt/write.rs \
    '        if self.steps.len() > before {' '        if self.steps.len() > before + 1000 {'

bug "a slot is written though the boot control was not tested" update-engine --lib \
    daemon::tests::loader::nothing_is_fetched_or_written_before_the_boot_control_has_passed_its_test \
    update-engine/src/daemon/slots.rs \
    '    control.self_test().map_err(|error| boot_fault(&error))?;' ''

bug "a slot is not flushed before it is armed" update-engine "--test slot_block_devices" \
    a_slot_is_flushed_before_it_counts_as_written \
    update-engine/src/slot/writer.rs \
    '            clean_tail(image)?;
            image.flush()?;' \
    '            clean_tail(image)?;'

bug "a file on the ESP becomes shorter or longer in its place" update-engine --lib \
    slot::writer::tests::a_file_on_the_esp_is_made_anew_for_another_length_once_the_slot_is_disarmed \
    update-engine/src/slot/open.rs \
    '        if self.file.size_bytes().map_err(words)? != size {' \
    '        if self.file.size_bytes().map_err(words)? > u64::MAX - 1 {'

bug "names of entries may be long" update-engine --lib \
    boot::systemd_boot::names::tests::every_name_of_a_slot_takes_two_places_of_a_fat_folder_one_for_its_long_name_and_one_for_a_short_one \
    update-engine/src/config/boot.rs \
    '        let fits = (1..=MAX_PREFIX).contains(&prefix.len())' \
    '        let fits = (1..=200).contains(&prefix.len())'

bug "a slot that is marked good comes before one that is armed" update-engine --lib \
    boot::pair::tests::only_what_was_armed_becomes_the_primary_by_being_marked_good \
    update-engine/src/boot/pair.rs \
    '        if before.is_on_trial() || before == Standing::Bad || !self.standing(&self.primary).is_good() {' \
    '        if before.is_on_trial() || before == Standing::Bad || self.standing(&self.primary).is_good() {'

bug "a rename is not synced" update-engine --lib \
    durable::tests::what_is_replaced_renamed_or_removed_is_so_after_a_power_cut \
    update-engine/src/durable.rs \
    '    to.parent().map_or(Ok(()), sync_folder)?;
    File::open(to)?.sync_all()?;' \
    ''

bug "the environment block is truncated before it is written" update-engine --lib \
    boot::grub::control::tests::the_block_is_written_in_place \
    update-engine/src/boot/grub/control.rs \
    '    file.write_all_at(&buffer.as_slice()[..BLOCK_BYTES], 0)?;
    file.flush()' \
    '    file.file().set_len(0)?;
    file.write_all_at(&buffer.as_slice()[..BLOCK_BYTES], 0)?;
    file.flush()'
}

round=sound bugs
round=planted bugs
echo "$caught caught, $missed missed, $skipped skipped"
[[ -z $only ]] || ((caught + missed + skipped)) || { echo "$0: there is no bug \"$only\"" >&2; exit 2; }
((missed == 0))
