//! Records that must not be believed, or not here, or not any more.

use std::fs;

use integration::rig::{Publisher, Spec};
use manifests::keyring::SecretKey;
use manifests::release::Envelope;
use manifests::version::Sequence;
use serde_json::Value;
use server_mock::{Answer, AnswerKind, Fault, FaultKind, OfferedUpdate};

use crate::scene::{IMAGE_BYTES, Options, Scene, next_release, offer, says, small};

/// What a signature names its key by.
fn key_id(publisher: &Publisher, index: usize) -> String {
    publisher.public_keys()[index].id().to_string()
}

#[test]
fn an_unsigned_record_is_refused_and_its_server_hears_it_once() {
    let mut scene = Scene::started(|publisher| {
        publisher.publish(&Spec { signers: &[], ..small("2.0.0", 2) });
        offer(publisher, "2.0.0")
    });
    let status = scene.assert_refused("record-unsigned", &["/files/2.0.0.release", "no signature", "expected 1"]);
    says(&status["check"]["last_result"], &["2.0.0 refused", "no signature"]);
    // Its server hears it once, however often it offers that again.
    let checks = |scene: &Scene| scene.mock.recorded().iter().filter(|request| request.body.contains("<updatecheck")).count();
    let before = checks(&scene);
    scene.host.wait("it is offered three times more", || (checks(&scene) >= before + 3).then_some(()));
    scene.host.kill();
    scene.host.start();
    let before = checks(&scene);
    scene.host.wait("it is offered again after a restart", || (checks(&scene) >= before + 2).then_some(()));
    scene.assert_reported(None, &["3/0 39"], &["/files/2.0.0.release", "no signature"]);
    // A cause that was not told yet is.
    let mut record = fs::read(scene.publisher.files.join("2.0.0.release")).unwrap();
    record.truncate(record.len() - 1);
    fs::write(scene.publisher.files.join("2.0.0.release"), record).unwrap();
    scene.assert_reported(None, &["3/0 39", "3/0 23"], &["2.0.0.release"]);
}

#[test]
fn a_record_signed_by_a_stranger_is_refused() {
    let stranger = SecretKey::from_seed(&[9; 32]);
    let scene = Scene::started(|publisher| {
        publisher.publish(&Spec { signers: &[], ..small("2.0.0", 2) });
        let path = publisher.files.join("2.0.0.release");
        let mut envelope = Envelope::parse(&fs::read(&path).unwrap()).unwrap();
        envelope.sign(&stranger).unwrap();
        fs::write(path, envelope.to_bytes()).unwrap();
        offer(publisher, "2.0.0")
    });
    let (theirs, ours) = (stranger.public().id().to_string(), key_id(&scene.publisher, 0));
    scene.assert_refused("record-signature", &["2.0.0.release", "expected signatures by 1", "got 0", &theirs, &ours]);
}

#[test]
fn too_few_signatures_are_refused_and_enough_are_not() {
    let options = Options { threshold: 2, ..Options::default() };
    let mut scene = Scene::new(&options, next_release);
    scene.start();
    scene.assert_refused("record-signature", &["2.0.0.release", "expected signatures by 2 distinct", "got 1"]);
    scene.publisher.publish(&Spec { signers: &[0, 1], ..small("2.0.0", 2) });
    scene.host.wait_committed("2.0.0");
}

#[test]
fn one_key_that_signs_twice_counts_once() {
    let options = Options { threshold: 2, ..Options::default() };
    let mut scene = Scene::new(&options, next_release);
    // An honest publisher's tool refuses to sign twice: the same signature is put in again by hand.
    scene.change_file("2.0.0.release", duplicate_signature);
    scene.start();
    let ours = key_id(&scene.publisher, 0);
    scene.assert_refused("record-signature", &["2.0.0.release", "by 2 distinct", "got 1", &ours]);
}

#[test]
fn a_release_that_revokes_its_only_signer_is_refused_before_a_byte_is_written_and_one_that_leaves_a_signer_is_not() {
    let revoke = |publisher: &Publisher, signers: &[usize]| {
        let first = publisher.public_keys()[0].id();
        publisher.publish(&Spec { signers, change: &|record| record.revoked_keys = vec![first], ..small("2.0.0", 2) });
    };
    let scene = Scene::started(|publisher| {
        revoke(publisher, &[0]);
        offer(publisher, "2.0.0")
    });
    let first = key_id(&scene.publisher, 0);
    scene.assert_refused("signers-revoked", &["2.0.0.release", "revokes its own signers", "by 1 distinct", "got 0", &first]);
    revoke(&scene.publisher, &[0, 1]);
    scene.host.wait_committed("2.0.0");
    scene.publisher.publish(&small("3.0.0", 3));
    scene.offer("3.0.0");
    let status = scene
        .host
        .wait_for("the revoked key is not trusted any more", |status| status["last_error"]["code"] == "record-signature");
    says(&status["last_error"]["message"], &["3.0.0.release", "got 0", &format!("trusted here {}", key_id(&scene.publisher, 1))]);
}

#[test]
fn design_11_4_one_release_hands_over_from_a_key_to_the_next_one_which_its_image_brings() {
    let manual = Options { strategy: "manual", ..Options::default() };
    let mut scene = Scene::new(&manual, |publisher| {
        let first = publisher.public_keys()[0].id();
        publisher.publish(&Spec { signers: &[0, 1], change: &|record| record.revoked_keys = vec![first], ..small("2.0.0", 2) });
        publisher.publish(&Spec { signers: &[1], ..small("3.0.0", 3) });
        offer(publisher, "2.0.0")
    });
    let keys = scene.host.dir.join("sysroot/usr/share/update-engine/keys");
    fs::rename(keys.join("1.pub"), scene.dir().join("next.pub")).unwrap();
    scene.start();
    scene.host.wait_for("2.0.0 rests armed", |status| status["state"] == "armed");
    scene.host.kill();
    // What the new image brings in place of what the old one had.
    fs::remove_file(keys.join("0.pub")).unwrap();
    fs::rename(scene.dir().join("next.pub"), keys.join("1.pub")).unwrap();
    scene.host.boot();
    scene.host.start();
    scene.host.wait_committed("2.0.0");
    scene.offer("3.0.0");
    scene.host.wait_for("the next key is trusted", |status| status["target"]["version"] == "3.0.0");
}

/// Appends a copy of the only signature: 72 bytes behind the signed part, whose length stands at byte 8; theirs stands at 16.
fn duplicate_signature(bytes: &mut Vec<u8>) {
    let number = |bytes: &[u8], at: usize| usize::try_from(u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())).unwrap();
    let start = 32 + number(bytes, 8);
    assert_eq!(number(bytes, 16), 72, "the record has one signature");
    let signature = bytes[start..start + 72].to_vec();
    bytes.splice(start..start, signature);
    bytes[16..24].copy_from_slice(&144_u64.to_le_bytes());
}

#[test]
fn design_11_2_without_a_key_the_host_says_so_and_never_updates() {
    let mut scene = Scene::new(&Options::default(), next_release);
    let keys = scene.host.dir.join("sysroot/usr/share/update-engine/keys");
    fs::remove_dir_all(&keys).unwrap();
    fs::create_dir(&keys).unwrap();
    scene.start();
    let status = scene.host.wait_for("an empty keyring is said", |status| status["last_error"]["code"] == "no-key");
    says(&status["summary"], &["Needs attention", "update-engine/keys", "key"]);
    scene.assert_disk_untouched();
    scene.host.kill();
    fs::remove_dir(&keys).unwrap();
    scene.start();
    let status = scene.host.wait_for("a missing keyring is said", |status| {
        status["last_error"]["code"] == "no-key"
            && status["summary"].as_str().is_some_and(|summary| summary.contains("No such file"))
    });
    says(&status["summary"], &["Needs attention", "update-engine/keys"]);
    assert_eq!(scene.host.updatectl(&["status", "--exit-code"]).status.code(), Some(30), "{status:#}");
    scene.assert_disk_untouched();
}

#[test]
fn a_record_changed_on_its_way_is_refused_wherever_the_byte_is() {
    let mut scene = Scene::new(&Options::default(), next_release);
    let script = next_release(&scene.publisher);
    // Of this one: the moment it was made at stands in it, and not always with as many digits.
    let length = fs::metadata(scene.publisher.files.join("2.0.0.release")).unwrap().len();
    scene.mock.set_script(script.clone().fault(Fault::on("*.release", FaultKind::FlipByte { offset: 0 }))).unwrap();
    scene.start();
    for offset in [0, 9, 40, 200, length / 2, length - 130, length - 1] {
        let broken = script.clone().fault(Fault::on("*.release", FaultKind::FlipByte { offset }));
        scene.mock.set_script(broken).unwrap();
        scene.mock.clear_recorded();
        scene.host.wait("the record was asked for twice", || {
            (scene.mock.recorded().iter().filter(|request| request.path.ends_with(".release")).count() > 1).then_some(())
        });
        let status = scene
            .host
            .wait_for("the record is refused", |status| status["state"] == "idle" && status["last_error"] != Value::Null);
        let code = status["last_error"]["code"].as_str().unwrap_or_default();
        assert!(["record-malformed", "record-signature", "record-unsigned"].contains(&code), "byte {offset}: {status:#}");
        says(&status["summary"], &["Needs attention", "2.0.0.release"]);
        scene.assert_disk_untouched();
    }
}

#[test]
fn a_truncated_record_is_refused_and_says_how_long_it_should_be() {
    let mut scene = Scene::new(&Options::default(), next_release);
    let mut whole = 0;
    scene.change_file("2.0.0.release", |bytes| {
        whole = bytes.len();
        bytes.truncate(whole - 100);
    });
    scene.start();
    scene.assert_refused(
        "record-malformed",
        &["2.0.0.release", &format!("{} bytes long", whole - 100), &format!("expected {whole}")],
    );
}

#[test]
fn a_release_for_another_product_is_refused() {
    let scene = Scene::started(|publisher| {
        publisher.publish(&Spec {
            change: &|record| record.product = "{00000000-0000-4000-8000-000000000001}".into(),
            ..small("2.0.0", 2)
        });
        offer(publisher, "2.0.0")
    });
    scene.assert_refused("wrong-product", &["2.0.0", "product {00000000-0000-4000-8000-000000000001}", "this host is {e96281a6"]);
}

#[test]
fn a_release_for_another_architecture_is_refused() {
    let scene = Scene::started(|publisher| {
        publisher.publish(&Spec { change: &|record| record.arch = "aarch64".into(), ..small("2.0.0", 2) });
        offer(publisher, "2.0.0")
    });
    scene.assert_refused("wrong-arch", &["2.0.0", "architecture aarch64", "this host is x86_64"]);
}

#[test]
fn a_release_for_another_board_is_refused() {
    let scene = Scene::started(|publisher| {
        publisher.publish(&Spec { change: &|record| record.board = "toaster".into(), ..small("2.0.0", 2) });
        offer(publisher, "2.0.0")
    });
    scene.assert_refused("wrong-board", &["2.0.0", "board toaster", "this host is test"]);
}

#[test]
fn a_release_for_another_channel_is_refused() {
    let scene = Scene::started(|publisher| {
        publisher.publish(&Spec { change: &|record| record.channels = vec!["beta".into()], ..small("2.0.0", 2) });
        offer(publisher, "2.0.0")
    });
    scene.assert_refused("wrong-channel", &["2.0.0", "channel beta", "follows stable"]);
}

#[test]
fn a_server_that_announces_another_version_than_the_record_is_caught() {
    let mut scene = Scene::new(&Options::default(), next_release);
    for kind in ["release", "payload"] {
        fs::copy(scene.publisher.files.join(format!("2.0.0.{kind}")), scene.publisher.files.join(format!("3.0.0.{kind}")))
            .unwrap();
    }
    scene.offer("3.0.0");
    scene.start();
    scene.assert_refused("version-mismatch", &["announced version 3.0.0", "record", "2.0.0"]);
}

#[test]
fn an_image_larger_than_the_slot_is_refused_before_the_slot_is_touched() {
    let scene = Scene::started(|publisher| {
        publisher.publish(&Spec { size: 3 * IMAGE_BYTES, ..small("2.0.0", 2) });
        offer(publisher, "2.0.0")
    });
    scene.assert_refused("image-too-large", &["image root of release 2.0.0", "3145728 bytes", "slot b takes 2097152"]);
}

/// Commits 3.0.0 (sequence 3), whose record raises the floor to 2, and publishes 1.5.0 (sequence 1) and 2.0.0 (sequence 2).
fn committed_3_with_floor_2() -> Scene {
    let mut scene = Scene::started(|publisher| {
        publisher.publish(&small("2.0.0", 2));
        publisher.publish(&Spec { sequence: 1, ..small("1.5.0", 1) });
        publisher.publish(&Spec { change: &|record| record.not_below = Sequence::new(2).unwrap(), ..small("3.0.0", 3) });
        offer(publisher, "3.0.0")
    });
    scene.host.wait_committed("3.0.0");
    scene.host.kill();
    scene
}

#[test]
fn design_11_3_below_the_floor_nothing_is_installed_even_with_allow_older() {
    let mut scene = committed_3_with_floor_2();
    let bits = scene.host.boot_bits();
    let old = scene.host.slot_bytes("root-a");
    scene.offer("1.5.0");
    scene.host.start();
    let words = ["1.5.0", "below the floor 2"];
    let status = scene.host.wait_for("the downgrade is refused", |status| status["last_error"]["code"] == "below-floor");
    says(&status["summary"], &words);
    let asked = scene.host.updatectl(&["update", "1.5.0", "--allow-older"]);
    assert!(!asked.status.success(), "{asked:?}");
    let status = scene
        .host
        .wait_for("it is refused again", |status| status["state"] == "idle" && status["last_error"]["code"] == "below-floor");
    says(&status["summary"], &words);
    assert_eq!(scene.host.boot_bits(), bits);
    assert!(scene.host.slot_bytes("root-a") == old, "slot a was written");
}

#[test]
fn design_11_3_a_release_older_than_the_highest_needs_allow_older_which_is_recorded() {
    let mut scene = committed_3_with_floor_2();
    let bits = scene.host.boot_bits();
    scene.offer("2.0.0");
    scene.host.start();
    scene.assert_passed_over(&["2.0.0 refused", "older than sequence 3", "--allow-older"]);
    assert_eq!(scene.host.boot_bits(), bits);
    let asked = scene.host.updatectl(&["update", "2.0.0", "--allow-older"]);
    assert!(asked.status.success(), "{asked:?}");
    scene.host.wait_committed("2.0.0");
    let attempt = scene.attempt("the permission is recorded", |attempt| {
        attempt["outcome"] == "committed" && attempt.to_string().contains("2.0.0")
    });
    assert!(attempt.to_string().contains("older"), "{attempt:#}");
}

#[test]
fn a_sequence_that_is_used_twice_is_refused() {
    let scene = Scene::started(next_release);
    scene.host.wait_committed("2.0.0");
    let bits = scene.host.boot_bits();
    scene.publisher.publish(&small("2.0.1", 2));
    scene.offer("2.0.1");
    let status = scene.host.wait_for("the sequence is refused", |status| status["last_error"]["code"] == "sequence-reused");
    says(&status["summary"], &["Needs attention", "2.0.1", "sequence of the running release", "never use a sequence twice"]);
    assert_eq!(scene.host.boot_bits(), bits);
    scene.assert_slot_a_untouched();
}

#[test]
fn design_11_3_a_wiped_state_folder_lets_nothing_in_until_adopt_restores_it() {
    let mut scene = Scene::started(|publisher| {
        publisher.publish(&small("2.0.0", 2));
        publisher.publish(&small("3.0.0", 3));
        publisher.publish(&small("4.0.0", 4));
        offer(publisher, "3.0.0")
    });
    scene.host.wait_committed("3.0.0");
    scene.host.kill();
    let (bits, slot_a) = (scene.host.boot_bits(), scene.host.slot_bytes("root-a"));
    fs::remove_dir_all(scene.host.dir.join("state")).unwrap();
    scene.offer("2.0.0");
    scene.host.start();
    let status = scene.host.wait_for("the old release is refused", |status| status["last_error"]["code"] == "floor-lost");
    says(&status["summary"], &["Needs attention", "state folder", "lost", "updatectl adopt"]);
    assert_eq!(scene.host.updatectl(&["status", "--exit-code"]).status.code(), Some(30));
    assert_eq!(scene.host.boot_bits(), bits);
    assert!(scene.host.slot_bytes("root-a") == slot_a, "slot a was written");
    let record = scene.publisher.files.join("3.0.0.release");
    let adopted = scene.host.updatectl(&["adopt", record.to_str().unwrap()]);
    assert!(adopted.status.success(), "{adopted:?}");
    scene.assert_passed_over(&["2.0.0 refused", "older than sequence 3"]);
    scene.offer("4.0.0");
    scene.host.wait_committed("4.0.0");
}

#[test]
fn design_11_5_a_record_from_another_century_is_stale_news_but_no_reason_to_stop() {
    let scene = Scene::started(|publisher| {
        publisher
            .publish(&Spec { change: &|record| record.created = "2001-01-01T00:00:00Z".parse().unwrap(), ..small("2.0.0", 2) });
        publisher
            .publish(&Spec { change: &|record| record.created = "2099-01-01T00:00:00Z".parse().unwrap(), ..small("3.0.0", 3) });
        offer(publisher, "2.0.0")
    });
    let status = scene.host.wait_committed("2.0.0");
    says(&status["summary"], &["Needs attention", "newest release", "days old"]);
    assert_eq!(scene.host.updatectl(&["status", "--exit-code"]).status.code(), Some(30), "{status:#}");
    scene.offer("3.0.0");
    let status = scene.host.wait_committed("3.0.0");
    says(&status["check"]["newest_record_created"], &["2099-01-01"]);
    assert!(!status["summary"].as_str().unwrap().contains("days old"), "{status:#}");
}

#[test]
fn an_answer_that_lists_no_record_is_asked_for_it_beside_the_payload() {
    let scene = Scene::started(|publisher| {
        publisher.publish(&small("2.0.0", 2));
        let package = server_mock::OfferedPackage { name: "2.0.0.payload".into(), ..Default::default() };
        let update = OfferedUpdate { version: "2.0.0".into(), packages: vec![package], ..OfferedUpdate::default() };
        server_mock::Script::serving(&publisher.files).answer(Answer::from(AnswerKind::Update(update)))
    });
    scene.host.wait_committed("2.0.0");
}
