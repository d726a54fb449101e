//! A machine, and one boot of it under QEMU.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::disk::{self, Loader, SLOT_BYTES};
use super::parts::{OVMF, output};
use crate::hostsim::gpt::Gpt;
use crate::rig::ReleaseImage;

/// Longest wait for anything. An emulated machine on a busy host takes ten times what it takes on an idle one.
pub(super) const PATIENCE: Duration = Duration::from_secs(480);

/// Room for all that is written in one boot; only what is used takes any.
const LOG_BYTES: u64 = 4 << 30;

/// A machine that is switched off.
#[derive(Debug)]
pub struct Machine {
    dir: PathBuf,
    loader: Loader,
    system: System,
    boots: usize,
}

/// What is in its slots, as far as whoever runs it has to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct System {
    pub(super) slot_bytes: u64,
    pub(super) memory_mib: u32,
    /// How its `updatectl` is called.
    pub(super) updatectl: &'static str,
}

impl System {
    const SMALL: Self = Self { slot_bytes: SLOT_BYTES, memory_mib: 256, updatectl: "updatectl --config /state/config.toml" };
}

/// A machine that runs. It is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    qemu: Child,
    console: PathBuf,
    updatectl: &'static str,
    /// The guest's second serial line.
    agent: BufReader<UnixStream>,
    /// The guest has said that it listens.
    listens: bool,
}

impl Machine {
    /// A machine in a folder, whose slot a holds these images.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn new(dir: &Path, loader: Loader, slot_a: &[ReleaseImage], config: &str) -> Self {
        Self::with_system(dir, loader, System::SMALL, slot_a, Some(config))
    }

    /// The same of another system, which may have its configuration in its slots.
    pub(super) fn with_system(dir: &Path, loader: Loader, system: System, slot_a: &[ReleaseImage], config: Option<&str>) -> Self {
        let machine = Self { dir: dir.to_owned(), loader, system, boots: 0 };
        disk::make(&machine.disk(), loader, system.slot_bytes, slot_a, config);
        machine.forget_variables();
        machine
    }

    /// A machine in a folder, with a disk that stands elsewhere, and firmware that knows nothing yet.
    ///
    /// # Panics
    /// If the folder cannot be written.
    #[must_use]
    pub fn with_disk(dir: &Path, loader: Loader, disk: &Path) -> Self {
        let machine = Self { dir: dir.to_owned(), loader, system: System::SMALL, boots: 0 };
        std::os::unix::fs::symlink(disk, machine.disk()).unwrap();
        machine.forget_variables();
        machine
    }

    /// What its firmware keeps.
    fn variables(&self) -> PathBuf {
        self.dir.join("variables.fd")
    }

    /// Its firmware is as in a new machine. A BIOS keeps nothing.
    fn forget_variables(&self) {
        if self.loader != Loader::GrubBios {
            fs::copy(OVMF[1], self.variables()).unwrap();
        }
    }

    /// Its disk.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk.img")
    }

    /// Puts files into a folder that is on its EFI system partition.
    ///
    /// # Panics
    /// If they cannot be written.
    pub(super) fn put_on_esp(&self, folder: &str, files: &[(String, String)]) {
        let at = Gpt::open(&self.disk()).unwrap().entry("esp").unwrap().start;
        let dir = tempfile::tempdir().unwrap();
        let mut copy = Command::new("mcopy");
        copy.arg("-i").arg(format!("{}@@{at}", self.disk().display()));
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
            copy.arg(dir.path().join(name));
        }
        output(copy.arg(format!("::/{folder}/"))).unwrap();
    }

    /// Leaves a file on its EFI system partition as a power cut may: its entry in the folder is on the medium, with length and first cluster,
    /// and the table of clusters says that those are free. One that is not there is made.
    ///
    /// # Panics
    /// If it cannot be done.
    pub fn lose_clusters_of(&self, folder: &str, name: &str) {
        let disk = fs::File::options().read(true).write(true).open(self.disk()).unwrap();
        let at = Gpt::open(&self.disk()).unwrap().entry("esp").unwrap().start;
        let image = format!("{}@@{at}", self.disk().display());
        let show = || output(Command::new("mshowfat").args(["-i", &image]).arg(format!("::/{folder}/{name}")));
        let shown = show().or_else(|_| {
            self.put_on_esp(folder, &[(name.to_owned(), "what was written\n".to_owned())]);
            show()
        });
        let mut boot = [0; 512];
        disk.read_exact_at(&mut boot, at).unwrap();
        assert_eq!(&boot[54..59], b"FAT16");
        let word = |place: usize| u64::from(u16::from_le_bytes([boot[place], boot[place + 1]]));
        let (sector, reserved, tables, length) = (word(11), word(14), u64::from(boot[16]), word(22));
        // "<2-4> <7>" behind the name.
        for run in shown.unwrap().split('<').skip(1).filter_map(|run| run.split('>').next()) {
            let mut ends = run.split('-').map(|cluster| cluster.trim().parse::<u64>().unwrap());
            let first = ends.next().unwrap();
            for cluster in first..=ends.next().unwrap_or(first) {
                for table in 0..tables {
                    disk.write_all_at(&[0; 2], at + (reserved + table * length) * sector + 2 * cluster).unwrap();
                }
            }
        }
    }

    /// Switches it on.
    ///
    /// # Panics
    /// If QEMU cannot be started.
    pub fn boot(&mut self) -> Running {
        let plain = format!("if=none,id=d0,file={},format=raw,cache=writeback", self.disk().display());
        self.start(&["-drive", &plain])
    }

    /// The same, with everything that is written to the disk written down in `log` as well ([`crate::cuts::log`]). The disk itself is not
    /// flushed: QEMU writes a flush down when it is done, and what was written while it went on would stand before it, as if it had been
    /// forced. So a flush stands where it was asked for.
    ///
    /// # Panics
    /// If QEMU cannot be started.
    pub fn boot_recorded(&mut self, log: &Path) -> Running {
        fs::File::create(log).unwrap().set_len(LOG_BYTES).unwrap();
        let nodes = [
            format!("driver=file,node-name=f0,filename={},cache.no-flush=on", self.disk().display()),
            "driver=raw,node-name=r0,file=f0,cache.no-flush=on".to_owned(),
            format!("driver=file,node-name=l0,filename={}", log.display()),
            "driver=raw,node-name=lr,file=l0".to_owned(),
            "driver=blklogwrites,node-name=d0,file=r0,log=lr,log-sector-size=512".to_owned(),
        ];
        self.start(&nodes.iter().flat_map(|node| ["-blockdev", node]).collect::<Vec<_>>())
    }

    fn start(&mut self, disk: &[&str]) -> Running {
        self.boots += 1;
        let (console, agent) = (self.dir.join(format!("console-{}", self.boots)), self.dir.join(format!("agent-{}", self.boots)));
        // It ends with whoever started it, however that ends.
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL", "taskset", "--cpu-list", &one_processor(), "qemu-system-x86_64"]);
        qemu.args(["-machine", "q35", "-accel", "tcg", "-cpu", "max", "-display", "none", "-monitor", "none"]);
        qemu.args(["-m", &self.system.memory_mib.to_string()]);
        qemu.args(["-nodefaults", "-no-reboot"]);
        qemu.args(["-serial", &format!("file:{}", console.display())]);
        qemu.args(["-serial", &format!("unix:{},server=on,wait=off", agent.display())]);
        qemu.args(["-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0,romfile="]);
        qemu.args(disk);
        qemu.args(["-device", "nvme,drive=d0,serial=x,bootindex=0"]);
        match self.loader {
            Loader::GrubBios => {}
            Loader::SystemdBoot | Loader::SystemdBootVerity => {
                qemu.args(["-drive", &format!("if=pflash,format=raw,readonly=on,file={}", OVMF[0])]);
                qemu.args(["-drive", &format!("if=pflash,format=raw,file={}", self.variables().display())]);
            }
        }
        let errors = fs::File::create(self.dir.join("qemu.log")).unwrap();
        let qemu = qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn().unwrap();
        let updatectl = self.system.updatectl;
        Running { qemu, console, updatectl, agent: BufReader::new(connected(&agent)), listens: false }
    }
}

impl Running {
    /// Everything that was written to the console in this boot.
    #[must_use]
    pub fn console(&self) -> String {
        let bytes = fs::read(&self.console).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    /// Waits for words on the console.
    ///
    /// # Panics
    /// If they do not come.
    pub fn wait_for(&mut self, words: &str) {
        let began = Instant::now();
        while !self.console().contains(words) {
            let is_over = !self.is_on() && !self.console().contains(words);
            assert!(!is_over && began.elapsed() < PATIENCE, "no {words:?} on the console:\n{}", self.console());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the guest reboots or switches itself off; what was on the console until then.
    ///
    /// # Panics
    /// If it does not.
    pub fn wait_off(mut self) -> String {
        let began = Instant::now();
        while self.is_on() {
            assert!(began.elapsed() < PATIENCE, "the guest does not reboot:\n{}", self.console());
            std::thread::sleep(Duration::from_millis(50));
        }
        self.console()
    }

    /// It has neither rebooted nor switched itself off.
    ///
    /// # Panics
    /// If QEMU cannot be asked.
    pub fn is_on(&mut self) -> bool {
        self.qemu.try_wait().unwrap().is_none()
    }

    /// Ends it as a power cut does.
    pub fn power_cut(mut self) -> String {
        self.end();
        self.console()
    }

    /// The same of a boot that is recorded: QEMU stops the guest at once, and writes down what was under way before it ends.
    ///
    /// # Panics
    /// If it does not end.
    pub fn power_cut_logged(self) -> String {
        let qemu = Pid::from_raw(i32::try_from(self.qemu.id()).unwrap());
        kill(qemu, Signal::SIGTERM).unwrap();
        self.wait_off()
    }

    /// Runs a command in the guest, once that is up; its output, and how it ended.
    ///
    /// # Panics
    /// If the guest does not answer.
    pub fn ask(&mut self, command: &str) -> (i32, String) {
        if !std::mem::replace(&mut self.listens, true) {
            self.answer("its start");
        }
        writeln!(self.agent.get_mut(), "{command}").unwrap();
        self.answer(command)
    }

    /// The same for what the guest does not come back from.
    ///
    /// # Panics
    /// If the guest does not listen.
    pub fn order(&mut self, command: &str) {
        if !std::mem::replace(&mut self.listens, true) {
            self.answer("its start");
        }
        writeln!(self.agent.get_mut(), "{command}").unwrap();
    }

    fn answer(&mut self, command: &str) -> (i32, String) {
        let mut answer = String::new();
        loop {
            let mut line = String::new();
            let read = self.agent.read_line(&mut line);
            let length = read.unwrap_or_else(|error| panic!("`{command}`: {error}; so far {answer}\n{}", self.console()));
            assert!(length > 0, "the guest went down during `{command}`; so far {answer}\n{}", self.console());
            if let Some(code) = line.trim().strip_prefix("@@ ").and_then(|rest| rest.strip_suffix(" @@")) {
                return (code.parse().unwrap(), answer.trim_end().to_owned());
            }
            answer.push_str(&line);
        }
    }

    /// What `updatectl` says there.
    pub fn updatectl(&mut self, arguments: &str) -> (i32, String) {
        self.ask(&format!("{} {arguments}", self.updatectl))
    }

    /// The status of the daemon, once `wanted` of it holds.
    ///
    /// # Panics
    /// If that never is.
    pub fn wait_status(&mut self, what: &str, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let began = Instant::now();
        loop {
            let asked = Instant::now();
            let (_, answer) = self.updatectl("status --json");
            let status = serde_json::from_str(&answer).unwrap_or_default();
            if wanted(&status) {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "{what}: {status:#}\n{}", self.console());
            pause_after(asked);
        }
    }

    /// Waits until the guest reboots (`false`), or the status of its daemon is as `wanted` (`true`); and what is on the console then.
    ///
    /// # Errors
    /// If neither comes, with what is on the console; or once `is_over`.
    pub fn rests_or_reboots(
        mut self,
        wanted: &dyn Fn(&serde_json::Value) -> bool,
        is_over: &AtomicBool,
    ) -> Result<(bool, String), String> {
        let (began, mut last) = (Instant::now(), String::new());
        while began.elapsed() < PATIENCE && !is_over.load(Ordering::Relaxed) {
            if self.qemu.try_wait().map_err(|error| error.to_string())?.is_some() {
                return Ok((false, self.console()));
            }
            let asked = Instant::now();
            if let Some(answer) = self.try_ask(&format!("{} status --json", self.updatectl)) {
                if serde_json::from_str(&answer).is_ok_and(|status| wanted(&status)) {
                    return Ok((true, self.console()));
                }
                last = answer;
            }
            pause_after(asked);
        }
        Err(format!("it does not rest; its last status: {last}; its console:\n{}", self.console()))
    }

    /// Like [`Running::ask`], of a guest that may go down at any time.
    fn try_ask(&mut self, command: &str) -> Option<String> {
        if !std::mem::replace(&mut self.listens, true) {
            self.try_answer()?;
        }
        writeln!(self.agent.get_mut(), "{command}").ok()?;
        self.try_answer()
    }

    fn try_answer(&mut self) -> Option<String> {
        let mut answer = String::new();
        loop {
            let mut line = String::new();
            if self.agent.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line.trim().strip_prefix("@@ ").is_some_and(|rest| rest.ends_with(" @@")) {
                return Some(answer);
            }
            answer.push_str(&line);
        }
    }

    fn end(&mut self) {
        let _ended_already = self.qemu.kill();
        let _reaped = self.qemu.wait();
    }
}

/// Between two questions: an emulated guest that does nothing but answer gets nothing else done.
fn pause_after(asked: Instant) {
    std::thread::sleep((2 * asked.elapsed()).clamp(Duration::from_millis(200), Duration::from_secs(2)));
}

/// The processors that this process may use, one after the other.
///
/// Each QEMU has one for itself: version 7.2 reads the doorbell of its NVMe in memory without the barrier that its guest counts on, so where
/// its threads run on two processors, a request of the guest gets lost now and then, and with it the disk ("I/O timeout, aborting").
fn one_processor() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let allowed: Vec<usize> = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).collect();
    allowed[NEXT.fetch_add(1, Ordering::Relaxed) % allowed.len()].to_string()
}

/// QEMU opens its end of a serial line when it starts.
fn connected(agent: &Path) -> UnixStream {
    let began = Instant::now();
    let stream = loop {
        match UnixStream::connect(agent) {
            Ok(stream) => break stream,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{}: {error}", agent.display()),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}
