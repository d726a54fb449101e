//! The program and the file on the machine: asked, decided, changed step by step.

use std::io;
use std::path::{Path, PathBuf};

use super::marks::{MAX_BYTES, Mark, Marks, MarksError};
use super::program::{Program, TIMEOUT};
use super::view::{Host, Step, View};
use crate::boot::BootError;
use crate::boot::held::{self, HeldFolder};
use crate::boot::pair::{Loaded, Pair, PairStore, Rewrite};
use crate::durable;
use crate::slot::SlotName;
use crate::slot::medium::Access;

/// Two slots that a program controls.
#[derive(Debug)]
pub(crate) struct Custom {
    program: Program,
    state_dir: PathBuf,
    host: Host,
}

/// What a custom boot control is made of.
#[derive(Debug)]
pub(crate) struct CustomSpec {
    /// The program.
    pub(crate) path: PathBuf,
    /// What it calls the slots, in their order.
    pub(crate) names: [String; 2],
    /// Boots that the loader gives to a slot on trial.
    pub(crate) tries: u8,
    /// Where our file lies.
    pub(crate) state_dir: PathBuf,
}

impl Custom {
    /// For these slots; the one that runs, if that is known. Calls nothing yet.
    pub(crate) fn new(spec: CustomSpec, slots: [SlotName; 2], running: Option<&SlotName>) -> Self {
        let running = slots.iter().position(|slot| Some(slot) == running);
        Self {
            program: Program::new(spec.path, spec.names, TIMEOUT),
            state_dir: spec.state_dir,
            host: Host { slots, running, tries: spec.tries },
        }
    }

    fn view(&self) -> Result<View, BootError> {
        let marks = self.marks()?;
        Ok(View { primary: self.program.primary()?, said: [self.program.state(0)?, self.program.state(1)?], marks })
    }

    fn path(&self) -> PathBuf {
        self.state_dir.join("boot-marks")
    }

    fn marks(&self) -> Result<Option<Marks>, BootError> {
        let path = self.path();
        let bytes = match durable::read_capped(&path, MAX_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|source| held::io_error("read", &path, source))?,
        };
        let marks = Marks::parse(&String::from_utf8_lossy(&bytes), &self.host.slots);
        marks.map(Some).map_err(|error| malformed(path, &error))
    }

    fn take(&self, step: &Step) -> Result<(), BootError> {
        match step {
            Step::Marks(marks) => self.store(marks),
            Step::SetPrimary(slot) => self.program.set_primary(*slot),
            Step::SetState(slot, said) => self.program.set_state(*slot, *said),
            Step::Armed(slot, marks) => {
                let mut marks = *marks;
                marks.marks[*slot] = Mark::Armed { seen: self.program.state(*slot)? };
                self.store(&marks)
            }
        }
    }

    fn store(&self, marks: &Marks) -> Result<(), BootError> {
        let path = self.path();
        let text = marks.to_text(&self.host.slots);
        durable::replace(&path, text.as_bytes()).map_err(|source| held::io_error("write", &path, source))
    }
}

impl PairStore for Custom {
    fn kind(&self) -> &'static str {
        "custom"
    }

    fn load(&self) -> Result<Loaded, BootError> {
        let _held = hold_if_there(&self.state_dir)?;
        Ok(self.view()?.read(&self.host))
    }

    fn edit(&self, rewrite: Rewrite, decide: &mut dyn FnMut(&Loaded) -> Result<Pair, BootError>) -> Result<Pair, BootError> {
        let _held = held::folder(&self.state_dir, Access::Write)?;
        let view = self.view()?;
        let pair = decide(&view.read(&self.host))?;
        view.steps_to(&pair, rewrite, &self.host).iter().try_for_each(|step| self.take(step))?;
        Ok(pair)
    }

    /// It cannot be asked whether the loader counts.
    fn is_counted(&self, _loaded: &Loaded, _running: &SlotName) -> bool {
        true
    }

    fn check_loader(&self) -> Result<(), BootError> {
        match (self.program.current()?, self.host.running) {
            (Some(current), Some(running)) if current != running => Err(BootError::Unsuitable(format!(
                "the boot program says that {} was started, and slot {} runs, which it calls {}",
                self.program.name(current),
                self.host.slots[running],
                self.program.name(running)
            ))),
            _ => Ok(()),
        }
    }
}

/// A host that never started the daemon has no state folder, and can be looked at.
fn hold_if_there(state_dir: &Path) -> Result<Option<HeldFolder>, BootError> {
    match held::folder(state_dir, Access::Read) {
        Err(BootError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        held => held.map(Some),
    }
}

fn malformed(path: PathBuf, error: &MarksError) -> BootError {
    BootError::Malformed { path, why: error.to_string() }
}

#[cfg(test)]
pub(in crate::boot) mod tests {
    use super::super::program::tests::script;
    use super::*;
    use crate::boot::pair::PairControl;
    use crate::boot::{BootControl as _, Permit, Standing};
    use crate::slot::rig::{Rig, name, proven};
    use crate::world::chain;

    /// A loader that counts each boot, as a program over two files: `primary`, and for each slot the boots left of 2. What it was asked
    /// stands in `calls`.
    const PROGRAM: &str = r#"
cd HERE
echo "$*" >> calls
left() { cat "left-$1"; }
primary=$(cat primary)
case $primary in A) other=B;; *) other=A;; esac
case $1 in
get-primary) if [ "$(left $primary)" = 0 ] && [ "$(left $other)" != 0 ]; then echo $other; else echo $primary; fi;;
set-primary) echo "$2" > primary; echo 2 > "left-$2";;
get-state) if [ "$(left "$2")" = 0 ]; then echo bad; else echo good; fi;;
set-state) case $3 in good) echo 2 > "left-$2";; bad) echo 0 > "left-$2";; *) exit 2;; esac;;
get-current) cat current 2>/dev/null;;
*) echo "unknown verb $1" >&2; exit 1;;
esac
"#;

    struct Rigged {
        disk: Rig,
        folder: tempfile::TempDir,
        running: &'static str,
    }

    /// The program and its files, as a factory leaves them.
    pub(in crate::boot) fn lay_out(folder: &std::path::Path) {
        script(folder, &PROGRAM.replace("HERE", &folder.display().to_string()));
        for (name, text) in [("primary", "A"), ("left-A", "2"), ("left-B", "2")] {
            std::fs::write(folder.join(name), text).unwrap();
        }
    }

    impl Rigged {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            lay_out(folder.path());
            let rig = Self { disk: Rig::with_slots_of(8), folder, running: "a" };
            std::fs::create_dir(rig.state_dir()).unwrap();
            rig
        }

        fn put(&self, name: &str, text: &str) {
            std::fs::write(self.folder.path().join(name), text).unwrap();
        }

        fn get(&self, name: &str) -> String {
            std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default().trim().to_owned()
        }

        fn state_dir(&self) -> PathBuf {
            self.folder.path().join("state")
        }

        fn store(&self) -> Custom {
            let names = ["A", "B"].map(str::to_owned);
            let spec = CustomSpec { path: self.folder.path().join("program"), names, tries: 2, state_dir: self.state_dir() };
            Custom::new(spec, [name("a"), name("b")], Some(&name(self.running)))
        }

        fn control(&self) -> PairControl<Custom> {
            PairControl::new(&self.disk.disk(), self.store())
        }

        fn boots(&mut self) -> &'static str {
            let started = self.store().program.primary().unwrap();
            let file = ["left-A", "left-B"][started];
            let left: u8 = self.get(file).parse().unwrap();
            self.put(file, &left.saturating_sub(1).to_string());
            self.running = ["a", "b"][started];
            self.disk.boot(started);
            self.running
        }

        fn changes(&self) -> Vec<String> {
            let calls = self.get("calls");
            calls.lines().filter(|call| call.starts_with("set-")).map(str::to_owned).collect()
        }

        fn words(&self) -> String {
            let words = chain(&self.store().load().unwrap_err());
            words.replace(&self.folder.path().display().to_string(), "")
        }
    }

    #[test]
    fn a_whole_update_walks_through_the_program_and_the_file() {
        let mut rig = Rigged::new();
        let (disk, running) = (rig.disk.disk(), rig.disk.running());
        let mut control = rig.control();
        assert_eq!((control.kind(), control.active().unwrap()), ("custom", name("a")));
        control.self_test().unwrap();
        control.disarm(&name("b"), &running).unwrap();
        assert_eq!((rig.get("left-B").as_str(), rig.get("primary").as_str()), ("0", "A"));
        let armed = control.arm(proven(&disk, &running), Permit::no_lock_configured(), &running).unwrap();
        assert_eq!((armed.next.as_str(), armed.tries, armed.weakness), ("b", 2, None));
        assert!(matches!(control.mark_good(&running), Err(BootError::Refused { .. })), "R1");

        assert_eq!(rig.boots(), "b");
        let running = rig.disk.running();
        let mut control = rig.control();
        assert_eq!(control.read().unwrap().standing(&name("b")), Some(Standing::Pending { tries_left: 2 }));
        let good = control.mark_good(&running).unwrap();
        assert_eq!((good.standing(&name("b")), good.next.as_str()), (Some(Standing::Good), "b"));
        for _ in 0..4 {
            assert_eq!(rig.boots(), "b");
            assert_eq!(rig.control().renew(&running).unwrap().next, name("b"));
        }
        let expected = "ota boot v1\nprimary b\never-armed yes\nopen none\nslot a good\nslot b good\nend\n";
        assert_eq!(std::fs::read_to_string(rig.state_dir().join("boot-marks")).unwrap(), expected);
    }

    #[test]
    fn an_update_that_does_not_come_up_is_spent_when_the_loader_has_given_it_up() {
        let mut rig = Rigged::new();
        let (disk, running) = (rig.disk.disk(), rig.disk.running());
        rig.control().arm(proven(&disk, &running), Permit::no_lock_configured(), &running).unwrap();
        assert_eq!([rig.boots(), rig.boots(), rig.boots()], ["b", "b", "a"]);
        let state = rig.control().read().unwrap();
        assert_eq!((state.standing(&name("b")), state.next.as_str()), (Some(Standing::Spent), "a"));
    }

    #[test]
    fn what_is_in_place_is_not_set_again() {
        let rig = Rigged::new();
        let running = rig.disk.running();
        let mut control = rig.control();
        control.disarm(&name("b"), &running).unwrap();
        assert_eq!(rig.changes(), ["set-state B bad"]);
        control.disarm(&name("b"), &running).unwrap();
        control.mark_good(&running).unwrap();
        assert_eq!(rig.changes(), ["set-state B bad"]);
        assert!(rig.changes().iter().all(|call| call != "set-state B good"), "it was never seen running");
    }

    #[test]
    fn the_self_test_changes_what_is_there_into_what_is_there() {
        let rig = Rigged::new();
        rig.control().self_test().unwrap();
        assert_eq!(rig.changes(), ["set-primary A"], "a factory disk");
        let running = rig.disk.running();
        rig.control().disarm(&name("b"), &running).unwrap();
        let before = rig.control().read().unwrap();
        assert_eq!(rig.control().self_test().unwrap(), before);
        assert_eq!(rig.changes(), ["set-primary A", "set-state B bad", "set-state A good"]);
    }

    #[test]
    fn a_program_that_knows_another_running_slot_is_found_out_before_a_download() {
        let rig = Rigged::new();
        rig.put("current", "A");
        rig.control().self_test().unwrap();
        rig.put("current", "B");
        assert_eq!(
            rig.control().self_test().unwrap_err().to_string(),
            "the boot program says that B was started, and slot a runs, which it calls A"
        );
    }

    #[test]
    fn a_file_of_another_version_or_a_damaged_one_is_an_error_with_words() {
        let rig = Rigged::new();
        let put = |text: &str| std::fs::write(rig.state_dir().join("boot-marks"), text).unwrap();
        put("ota boot v2\n");
        assert_eq!(
            rig.words(),
            "/state/boot-marks: line 1: expected \"ota boot v1\" (another version of this program wrote it), got \"ota boot v2\""
        );
        put(&"x".repeat(5000));
        assert_eq!(rig.words(), "cannot read /state/boot-marks: longer than 4096 bytes");
        let before = rig.changes();
        assert!(rig.control().self_test().is_err());
        assert_eq!(rig.changes(), before, "nothing was changed");
    }

    #[test]
    fn without_a_state_folder_it_is_read_and_not_changed() {
        let rig = Rigged::new();
        std::fs::remove_dir_all(rig.state_dir()).unwrap();
        assert_eq!(rig.control().read().unwrap().next, name("a"));
        let words = chain(&rig.control().disarm(&name("b"), &rig.disk.running()).unwrap_err());
        assert_eq!(words, format!("cannot open {}: No such file or directory (os error 2)", rig.state_dir().display()));
        assert_eq!(rig.changes(), [""; 0]);
    }

    #[test]
    fn a_program_that_fails_half_way_leaves_a_state_that_the_next_change_mends() {
        let rig = Rigged::new();
        let (disk, running) = (rig.disk.disk(), rig.disk.running());
        let broken = PROGRAM.replace("HERE", &rig.folder.path().display().to_string());
        let broken = broken.replace("set-primary) ", "set-primary) echo no such device >&2; exit 5; ");
        script(rig.folder.path(), &broken);
        let words = rig.control().arm(proven(&disk, &running), Permit::no_lock_configured(), &running).unwrap_err().to_string();
        assert!(words.ends_with("/program set-primary B` exited with 5: no such device"), "{words}");
        let state = rig.control().read().unwrap();
        assert_eq!((state.standing(&name("b")), state.next.as_str()), (Some(Standing::Blank), "a"));
        script(rig.folder.path(), &PROGRAM.replace("HERE", &rig.folder.path().display().to_string()));
        let armed = rig.control().arm(proven(&disk, &running), Permit::no_lock_configured(), &running).unwrap();
        assert_eq!(armed.next, name("b"));
    }
}
