//! What a checked configuration says. Every value here is in range and of its type; nothing was looked up on the disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

use super::boot::BootSettings;
use super::fragment::{
    DiskFragment, FetchFragment, Fragment, HealthFragment, LockFragment, RateHoursFragment, RebootFragment, ServerFragment,
    SlotFragment, SlotsFragment, TrustFragment,
};
use super::trust::Target;
use super::url::HttpUrl;
use crate::fetch::MaxRate;
use crate::hours::Hours;
use crate::slot::{Location, Writes};

/// The host's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Journal, floor and caches. Absolute; whether it lies outside both slots is for the daemon to find out.
    pub state_dir: PathBuf,
    /// The control socket. Short enough for a socket's address.
    pub socket: PathBuf,
    /// Where the running system's files are found; `/` on a real host.
    pub sysroot: PathBuf,
    /// The update server, and who this host is towards it.
    pub server: ServerSettings,
    /// Whose releases are believed.
    pub trust: TrustSettings,
    /// How fast payloads may come.
    pub fetch: FetchSettings,
    /// The disk that carries the slots.
    pub disk: DiskSettings,
    /// The two slots. Both name the same images.
    pub slots: SlotsSettings,
    /// The boot loader's way of choosing a slot.
    pub boot: BootSettings,
    /// When and how to reboot.
    pub reboot: RebootSettings,
    /// How a new slot shows that it is healthy.
    pub health: HealthSettings,
}

/// `[server]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    /// Where updates are asked for; `None`: nobody is asked, and only `updatectl install` brings releases.
    pub url: Option<HttpUrl>,
    /// The product: releases of another one are refused.
    pub app_id: String,
    /// A name for people; empty when there is none.
    pub alias: String,
    /// The channel followed until `updatectl channel` says otherwise.
    pub channel: String,
    /// The board: releases for another one are refused. Never empty; `generic` for a product without boards.
    pub board: String,
    /// The architecture, as `uname -m` says unless configured.
    pub arch: String,
    /// Usual time between two checks.
    pub check_interval: Duration,
    /// PEM file of extra trust anchors for HTTPS.
    pub ca_file: Option<PathBuf>,
}

/// `[trust]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustSettings {
    /// Folder of `*.pub`, under `sysroot`.
    pub keyring_dir: PathBuf,
    /// Distinct keys that must have signed a release.
    pub threshold: u32,
    /// Age from which the newest release seen counts as stale.
    pub stale_after: Duration,
}

/// `[fetch]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FetchSettings {
    /// Bytes a second; `None`: as fast as it goes.
    pub max_rate: MaxRate,
    /// Other limits at some hours; where several say something, the first one does.
    pub hours: Vec<RateHours>,
}

/// A limit that holds at some hours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateHours {
    /// When.
    pub hours: Hours,
    /// The limit.
    pub max_rate: MaxRate,
}

impl FetchSettings {
    /// The limit of this moment, and whether it is that of some hours.
    pub fn max_rate_at(&self, now: Timestamp) -> (MaxRate, bool) {
        self.hours.iter().find(|at| at.hours.contain(now)).map_or((self.max_rate, false), |at| (at.max_rate, true))
    }

    fn to_fragment(&self) -> FetchFragment {
        let hours = |at: &RateHours| RateHoursFragment {
            days: Some(at.hours.days()),
            start: Some(at.hours.start()),
            length: Some(at.hours.length()),
            zone: Some(at.hours.zone().to_owned()),
            max_rate: Some(at.max_rate.to_string()),
        };
        FetchFragment { max_rate: Some(self.max_rate.to_string()), hours: Some(self.hours.iter().map(hours).collect()) }
    }
}

/// `[disk]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSettings {
    /// A block device, or a disk image file.
    pub device: PathBuf,
    /// Where the EFI system partition is mounted, below `sysroot`: for the targets `esp:/PATH`.
    pub esp: PathBuf,
    /// What of a window that differs is written.
    pub writes: Writes,
}

/// `[slots]`: exactly two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotsSettings {
    /// `[slots.a]`.
    pub a: SlotSettings,
    /// `[slots.b]`.
    pub b: SlotSettings,
}

/// Where each image of a release goes in one slot. At least one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotSettings {
    /// By the image's name.
    pub images: BTreeMap<String, Location>,
}

/// `[reboot] strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// Gates and windows, no lock.
    Immediate,
    /// Gates and windows, then the lock.
    Lock,
    /// A person reboots.
    Manual,
}

/// What a reboot is to do with the slot of its attempt. The command is told by `OTA_REBOOT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RebootPurpose {
    /// To start it.
    Start,
    /// To start the other one.
    Leave,
}

impl RebootPurpose {
    /// The word of `OTA_REBOOT`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Leave => "leave",
        }
    }
}

/// `[reboot]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RebootSettings {
    /// When.
    pub strategy: Strategy,
    /// Program and arguments that reboot the host. At least the program.
    pub command: Vec<String>,
    /// Time between two looks at gates that said wait.
    pub retry: Duration,
    /// Folder of `gate.d`, `drain.d`, `undrain.d`, `health`.
    pub hooks_dir: PathBuf,
    /// The reboot lock, when there is one. Never with [`Strategy::Immediate`], always with [`Strategy::Lock`].
    pub lock: Option<LockSettings>,
}

/// `[reboot.lock]` with `backend = "fleetlock"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockSettings {
    /// Base URL of the lock service.
    pub url: HttpUrl,
    /// The group of hosts that share the lock.
    pub group: String,
    /// The id this host locks under; `None`: its machine id.
    pub id: Option<String>,
    /// File with the bearer token for the lock service.
    pub token_file: Option<PathBuf>,
}

/// `[health]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthSettings {
    /// Time a new slot has to show that it is healthy.
    pub deadline: Duration,
    /// Time it must stay healthy. Shorter than the deadline.
    pub settle: Duration,
    /// Time the host must have been up before a new slot is kept. Shorter than the deadline; zero: as soon as it is healthy.
    pub min_uptime: Duration,
    /// Time each hook has, of every kind.
    pub hook_timeout: Duration,
}

impl Settings {
    /// A path of the running system, under `sysroot`.
    pub fn under_sysroot(&self, path: &str) -> PathBuf {
        self.sysroot.join(path.trim_start_matches('/'))
    }

    /// The least uptime that counts here: with another `sysroot` this machine is not the one that is updated, and its uptime says nothing.
    pub fn min_uptime(&self) -> Duration {
        if self.sysroot == Path::new("/") { self.health.min_uptime } else { Duration::ZERO }
    }

    /// The reboot command for this purpose. One that leaves a slot starts the other one, whether the slot could be marked or not.
    pub fn reboot_command(&self, purpose: RebootPurpose) -> Vec<String> {
        match purpose {
            RebootPurpose::Start => self.reboot.command.clone(),
            RebootPurpose::Leave => self.boot.to_leave(&self.reboot.command),
        }
    }

    /// Since the start of the host: after that a slot on trial is left by [`crate::deadline`]. Its daemon has given up long before.
    pub fn trial_deadline(&self) -> Duration {
        self.health.deadline.saturating_mul(2)
    }

    /// The running image's own floor.
    pub fn floor_file(&self) -> PathBuf {
        self.under_sysroot("/usr/share/update-engine/floor")
    }

    /// What must belong to root and be writable by nobody else (design 11.16), given the files the settings came from.
    pub fn trust_targets(&self, files: &[PathBuf]) -> Vec<Target> {
        let mut targets: Vec<Target> = files.iter().map(|file| Target::File(file.clone())).collect();
        targets.push(Target::Folder(self.state_dir.clone()));
        targets.push(Target::FolderAndFiles(self.trust.keyring_dir.clone()));
        targets.extend(crate::hooks::FOLDERS.iter().map(|name| Target::FolderAndFiles(self.reboot.hooks_dir.join(name))));
        if let BootSettings::Custom(custom) = &self.boot {
            targets.push(Target::File(custom.program.clone()));
        }
        targets.extend(self.server.ca_file.iter().cloned().map(Target::File));
        let token_file = self.reboot.lock.as_ref().and_then(|lock| lock.token_file.clone());
        targets.extend(token_file.map(Target::File));
        targets
    }

    /// The effective configuration as a file would say it, every key spelled out, without credentials.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(&self.to_fragment())
    }

    fn to_fragment(&self) -> Fragment {
        Fragment {
            state_dir: Some(shown(&self.state_dir)),
            socket: Some(shown(&self.socket)),
            sysroot: Some(shown(&self.sysroot)),
            server: Some(self.server.to_fragment()),
            trust: Some(self.trust.to_fragment(&self.sysroot)),
            fetch: Some(self.fetch.to_fragment()),
            disk: Some(DiskFragment {
                device: Some(shown(&self.disk.device)),
                esp: Some(shown(&self.disk.esp)),
                writes: Some(self.disk.writes.as_str().to_owned()),
            }),
            slots: Some(SlotsFragment { a: Some(self.slots.a.to_fragment()), b: Some(self.slots.b.to_fragment()) }),
            boot: Some(self.boot.to_fragment()),
            reboot: Some(self.reboot.to_fragment()),
            health: Some(self.health.to_fragment()),
        }
    }
}

impl ServerSettings {
    fn to_fragment(&self) -> ServerFragment {
        ServerFragment {
            url: Some(self.url.as_ref().map(ToString::to_string).unwrap_or_default()),
            app_id: Some(self.app_id.clone()),
            alias: Some(self.alias.clone()),
            channel: Some(self.channel.clone()),
            board: Some(self.board.clone()),
            arch: Some(self.arch.clone()),
            check_interval_s: Some(self.check_interval.as_secs()),
            ca_file: Some(shown_optional(self.ca_file.as_deref())),
        }
    }
}

impl TrustSettings {
    fn to_fragment(&self, sysroot: &Path) -> TrustFragment {
        let below = self.keyring_dir.strip_prefix(sysroot).unwrap_or(&self.keyring_dir);
        TrustFragment {
            keyring_dir: Some(shown(&Path::new("/").join(below))),
            threshold: Some(u64::from(self.threshold)),
            stale_after_days: Some(self.stale_after.as_secs() / 86_400),
        }
    }
}

impl SlotSettings {
    fn to_fragment(&self) -> SlotFragment {
        self.images.iter().map(|(image, location)| (image.clone(), Location::to_string(location))).collect()
    }
}

impl Strategy {
    /// The word in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Immediate => "immediate",
            Self::Lock => "lock",
            Self::Manual => "manual",
        }
    }
}

impl RebootSettings {
    fn to_fragment(&self) -> RebootFragment {
        RebootFragment {
            strategy: Some(self.strategy.as_str().to_owned()),
            command: Some(self.command.clone()),
            retry_s: Some(self.retry.as_secs()),
            windows: Some(Vec::new()),
            hooks_dir: Some(shown(&self.hooks_dir)),
            lock: Some(self.lock.as_ref().map_or_else(LockSettings::none, LockSettings::to_fragment)),
        }
    }
}

impl LockSettings {
    fn none() -> LockFragment {
        LockFragment { backend: Some("none".to_owned()), ..LockFragment::default() }
    }

    fn to_fragment(&self) -> LockFragment {
        LockFragment {
            backend: Some("fleetlock".to_owned()),
            url: Some(self.url.to_string()),
            group: Some(self.group.clone()),
            id: Some(self.id.clone().unwrap_or_default()),
            token_file: Some(shown_optional(self.token_file.as_deref())),
        }
    }
}

impl HealthSettings {
    fn to_fragment(&self) -> HealthFragment {
        HealthFragment {
            deadline_s: Some(self.deadline.as_secs()),
            settle_s: Some(self.settle.as_secs()),
            min_uptime_s: Some(self.min_uptime.as_secs()),
            hook_timeout_s: Some(self.hook_timeout.as_secs()),
        }
    }
}

pub(super) fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn shown_optional(path: Option<&Path>) -> String {
    path.map(shown).unwrap_or_default()
}
