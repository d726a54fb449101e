//! Updates of virtual machines with a real kernel and a real boot loader.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on has failed")]


use integration::rig::{APP_ID, BOARD, Publisher, Spec};
use integration::vm::{Flaw, HOST, Loader, Machine, Parts, image, keys_of};
use server_mock::{Answer, Mock, Script};
use tempfile::TempDir;

/// A machine that runs 1.0.0 from slot a, and the server it asks.
struct Scene {
    machine: Machine,
    publisher: Publisher,
    parts: Parts,
    mock: Mock,
    _dir: TempDir,
}

impl Scene {
    fn new(loader: Loader) -> Option<Self> {
        let parts = match Parts::find() {
            Ok(parts) => parts,
            Err(why) => {
                println!("skipped: {why}");
                return None;
            }
        };
        let dir = tempfile::tempdir().unwrap();
        let publisher = Publisher::new(&dir.path().join("files"));
        let mock = Mock::start(Script::serving(&publisher.files)).unwrap();
        let factory = image(&parts, "1.0.0", &keys_of(&publisher), Flaw::None);
        let machine = Machine::new(dir.path(), loader, &factory, &config(&mock));
        Some(Self { machine, publisher, parts, mock, _dir: dir })
    }

    fn publish(&self, version: &str, sequence: u64, flaw: Flaw) {
        let image = image(&self.parts, version, &keys_of(&self.publisher), flaw);
        self.publisher.publish_image(&Spec::new(version, sequence), &image);
        self.mock.set_script(Script::serving(&self.publisher.files).answer(Answer::update(version))).unwrap();
    }
}

fn config(mock: &Mock) -> String {
    let server = mock.update_url().replace("127.0.0.1", HOST);
    format!(
        r#"state_dir = "/state/update-engine"
[server]
url = "{server}"
app_id = "{APP_ID}"
board = "{BOARD}"
arch = "x86_64"
check_interval_s = 5
[disk]
device = "/dev/nvme0n1"
[slots.a]
root = "partlabel:root-a"
[slots.b]
root = "partlabel:root-b"
[boot]
control = "grub"
grub.env = "/efi/grub/grubenv"
[health]
deadline_s = 60
settle_s = 1
[reboot]
command = ["reboot", "-f"]
"#
    )
}

fn runs<'a>(version: &'a str, slot: &'a str) -> impl Fn(&serde_json::Value) -> bool + 'a {
    move |status| {
        status["state"] == "idle"
            && status["booted"]["version"] == version
            && status["booted"]["slot"] == slot
            && status["booted"]["confirmed"] == true
    }
}

#[test]
fn under_grub_an_update_is_tried_and_kept() {
    let Some(mut scene) = Scene::new(Loader::GrubBios) else { return };
    let mut boot = scene.machine.boot();
    boot.wait_status("1.0.0 runs", runs("1.0.0", "a"));
    scene.publish("2.0.0", 2, Flaw::None);
    let first = boot.wait_off();
    println!("{first}");
    let mut boot = scene.machine.boot();
    boot.wait_for("ota: starting slot b");
    boot.wait_status("2.0.0 is committed", runs("2.0.0", "b"));
    println!("{}", boot.console());
    let (_, env) = boot.ask("cat /efi/grub/grubenv");
    println!("{env}");
}
