//! From a merged fragment to [`Settings`]: every value in range, every pair of values that must agree agrees, and what this
//! build cannot do is refused by name.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use locksmith::names::{GroupName, HostId};
use manifests::limits::{MAX_IMAGES, MAX_KEYS, MAX_NAME_CHARS};
use manifests::release::DEFAULT_BOARD;

use super::boot::BootSettings;
use super::fragment::{
    DiskFragment, FetchFragment, HealthFragment, LockFragment, RebootFragment, ServerFragment, SlotFragment, SlotsFragment,
    TrustFragment,
};
use super::merge::{Merged, Origin};
use super::problem::{ConfigError, Problem};
use super::settings::{
    DiskSettings, FetchSettings, HealthSettings, LockSettings, RateHours, RebootSettings, ServerSettings, Settings, SlotSettings,
    SlotsSettings, Strategy, TrustSettings,
};
use super::url::HttpUrl;
use super::{DEFAULT_SOCKET, USUAL_DEADLINE};
use crate::fetch::MaxRate;
use crate::hours::{Hours, HoursText};
use crate::slot::{Location, Writes};

/// Longest path of a Unix socket: `sun_path` has 108 bytes, one of them the final zero.
const MAX_SOCKET_BYTES: usize = 107;
/// A server's poll interval counts up to four hours, so a longer interval of our own could never be kept.
const CHECK_INTERVAL_S: RangeInclusive<u64> = 1..=14_400;
const STALE_AFTER_DAYS: RangeInclusive<u64> = 1..=3_650;
const RETRY_S: RangeInclusive<u64> = 1..=3_600;
const DEADLINE_S: RangeInclusive<u64> = 1..=86_400;
const SETTLE_S: RangeInclusive<u64> = 0..=86_400;
const MIN_UPTIME_S: RangeInclusive<u64> = 0..=86_400;
/// What shows only after a while (a leak, a crash loop, a driver that gives up) shows in a few minutes or not so soon.
const USUAL_MIN_UPTIME_S: u64 = 120;
const HOOK_TIMEOUT_S: RangeInclusive<u64> = 1..=3_600;
const THRESHOLD: RangeInclusive<u64> = 1..=MAX_KEYS as u64;
/// Longest name for people.
const MAX_ALIAS_CHARS: usize = 64;
/// Most words of the reboot command.
const MAX_COMMAND_WORDS: usize = 64;

/// Checks the whole.
pub(super) fn check(merged: Merged) -> Result<Settings, ConfigError> {
    let Merged { fragment, origins, main } = merged;
    let mut check = Check { origins, main, problems: Vec::new() };
    let sysroot = check.path("sysroot", fragment.sysroot, "/");
    let settings = Settings {
        state_dir: check.path("state_dir", fragment.state_dir, "/var/lib/update-engine"),
        socket: check.socket(fragment.socket),
        server: check.server(fragment.server.unwrap_or_default()),
        trust: check.trust(fragment.trust.unwrap_or_default(), &sysroot),
        fetch: check.fetch(fragment.fetch.unwrap_or_default()),
        disk: check.disk(fragment.disk.unwrap_or_default()),
        slots: check.slots(fragment.slots.unwrap_or_default()),
        boot: check.boot(fragment.boot.unwrap_or_default()),
        reboot: check.reboot(fragment.reboot.unwrap_or_default()),
        health: check.health(&fragment.health.unwrap_or_default()),
        sysroot,
    };
    check.entries_of_slots(&settings);
    check.tryboot_argument(&settings.boot, &settings.reboot.command);
    ConfigError::none_of(check.problems)?;
    Ok(settings)
}

/// Where the text of a slot's entry comes from.
const ENTRY: &str = "/ota/{slot}.entry";

/// Collects problems. After one, a stand-in value goes on, so that all of them are found in one run.
pub(super) struct Check {
    origins: BTreeMap<String, Origin>,
    main: String,
    problems: Vec<Problem>,
}

impl Check {
    pub(super) fn problem(&mut self, key: &str, words: impl Into<String>) {
        let (file, place) = match self.origins.get(key) {
            Some(origin) => (origin.file.clone(), Some(origin.place)),
            None => (self.main.clone(), None),
        };
        self.problems.push(Problem { file, place, key: key.to_owned(), words: words.into() });
    }

    pub(super) fn is_set(&self, key: &str) -> bool {
        self.origins.contains_key(key)
    }

    pub(super) fn number(&mut self, key: &str, value: Option<u64>, default: u64, range: RangeInclusive<u64>, unit: &str) -> u64 {
        let value = value.unwrap_or(default);
        if !range.contains(&value) {
            self.problem(key, format!("expected {} to {} {unit}, got {value}", range.start(), range.end()));
        }
        value
    }

    fn seconds(&mut self, key: &str, value: Option<u64>, default: u64, range: RangeInclusive<u64>) -> Duration {
        Duration::from_secs(self.number(key, value, default, range, "seconds"))
    }

    pub(super) fn path(&mut self, key: &str, value: Option<String>, default: &str) -> PathBuf {
        let text = value.unwrap_or_else(|| default.to_owned());
        if !text.starts_with('/') {
            self.problem(key, format!("expected an absolute path, got \"{}\"", text.escape_debug()));
        }
        PathBuf::from(text)
    }

    pub(super) fn optional_path(&mut self, key: &str, value: Option<String>) -> Option<PathBuf> {
        let text = value.filter(|text| !text.is_empty())?;
        Some(self.path(key, Some(text), ""))
    }

    pub(super) fn required(&mut self, key: &str, value: Option<String>, what: &str) -> String {
        let text = value.unwrap_or_default();
        if text.is_empty() {
            self.problem(key, format!("expected {what}, got nothing"));
        }
        text
    }

    fn name(&mut self, key: &str, text: &str) {
        let fits = text.chars().count() <= MAX_NAME_CHARS && text.chars().all(|c| c.is_ascii_graphic());
        if !fits {
            let got = text.escape_debug();
            self.problem(
                key,
                format!("expected at most {MAX_NAME_CHARS} printable ASCII characters without blanks, got \"{got}\""),
            );
        }
    }

    fn url(&mut self, key: &str, value: Option<String>) -> Option<HttpUrl> {
        let text = value.filter(|text| !text.is_empty())?;
        HttpUrl::parse(&text).map_err(|words| self.problem(key, words)).ok()
    }

    fn socket(&mut self, value: Option<String>) -> PathBuf {
        let path = self.path("socket", value, DEFAULT_SOCKET);
        let length = path.as_os_str().len();
        if length > MAX_SOCKET_BYTES {
            self.problem("socket", format!("expected a path of at most {MAX_SOCKET_BYTES} bytes, got {length}"));
        }
        path
    }

    fn server(&mut self, server: ServerFragment) -> ServerSettings {
        let app_id = self.required("server.app_id", server.app_id, "the product's id, such as \"{e96281a6-…}\"");
        let channel = server.channel.unwrap_or_else(|| "stable".to_owned());
        let channel = self.required("server.channel", Some(channel), "a channel's name");
        let board = server.board.unwrap_or_else(|| DEFAULT_BOARD.to_owned());
        let board = self.required("server.board", Some(board), "a board's name (\"generic\" for a product without boards)");
        let arch = server.arch.filter(|arch| !arch.is_empty()).unwrap_or_else(machine);
        for (key, text) in
            [("server.app_id", &app_id), ("server.channel", &channel), ("server.board", &board), ("server.arch", &arch)]
        {
            self.name(key, text);
        }
        ServerSettings {
            url: self.url("server.url", server.url),
            app_id,
            alias: self.alias(server.alias),
            channel,
            board,
            arch,
            check_interval: self.seconds("server.check_interval_s", server.check_interval_s, 2_700, CHECK_INTERVAL_S),
            ca_file: self.optional_path("server.ca_file", server.ca_file),
        }
    }

    fn alias(&mut self, value: Option<String>) -> String {
        let alias = value.unwrap_or_default();
        if alias.chars().count() > MAX_ALIAS_CHARS || alias.chars().any(char::is_control) {
            self.problem(
                "server.alias",
                format!(
                    "expected at most {MAX_ALIAS_CHARS} characters without control characters, got \"{}\"",
                    alias.escape_debug()
                ),
            );
        }
        alias
    }

    fn trust(&mut self, trust: TrustFragment, sysroot: &std::path::Path) -> TrustSettings {
        let keyring_dir = self.path("trust.keyring_dir", trust.keyring_dir, "/usr/share/update-engine/keys");
        let keyring_dir = keyring_dir.strip_prefix("/").map(|below| sysroot.join(below)).unwrap_or(keyring_dir);
        let threshold = self.number("trust.threshold", trust.threshold, 1, THRESHOLD, "keys");
        let days = self.number("trust.stale_after_days", trust.stale_after_days, 60, STALE_AFTER_DAYS, "days");
        TrustSettings {
            keyring_dir,
            threshold: u32::try_from(threshold).unwrap_or(u32::MAX),
            stale_after: Duration::from_secs(days.saturating_mul(86_400)),
        }
    }

    fn fetch(&mut self, fetch: FetchFragment) -> FetchSettings {
        let max_rate = self.max_rate("fetch.max_rate", fetch.max_rate);
        let mut hours = Vec::new();
        for (number, at) in (1..).zip(fetch.hours.unwrap_or_default()) {
            let days = at.days.unwrap_or_default();
            let [start, length, zone] = [at.start, at.length, at.zone].map(Option::unwrap_or_default);
            let parsed = Hours::parse(&HoursText { days: &days, start: &start, length: &length, zone: &zone });
            // One that is left out would lift the limit just when there is to be another one.
            let rate = at.max_rate.ok_or_else(|| "expected a rate, or \"none\" for as fast as it goes, got nothing".to_owned());
            match (parsed, rate.and_then(|rate| rate.parse())) {
                (Ok(hours_of_it), Ok(max_rate)) => hours.push(RateHours { hours: hours_of_it, max_rate }),
                (Err((key, words)), _) => self.problem("fetch.hours", format!("entry {number}: {key}: {words}")),
                (Ok(_), Err(words)) => self.problem("fetch.hours", format!("entry {number}: max_rate: {words}")),
            }
        }
        FetchSettings { max_rate, hours }
    }

    fn max_rate(&mut self, key: &str, value: Option<String>) -> MaxRate {
        let parsed = value.unwrap_or_default().parse();
        parsed.unwrap_or_else(|words: String| {
            self.problem(key, words);
            MaxRate::default()
        })
    }

    fn disk(&mut self, disk: DiskFragment) -> DiskSettings {
        let device = self.required("disk.device", disk.device, "the disk that carries the slots, such as \"/dev/vda\"");
        let device = if device.is_empty() { PathBuf::new() } else { self.path("disk.device", Some(device), "") };
        let writes = match disk.writes.as_deref() {
            None | Some("all") => Writes::All,
            Some("changed") => Writes::Changed,
            Some(got) => {
                self.problem("disk.writes", format!("expected one of all, changed, got \"{got}\""));
                Writes::All
            }
        };
        DiskSettings { device, esp: self.path("disk.esp", disk.esp, "/efi"), writes }
    }

    fn slots(&mut self, slots: SlotsFragment) -> SlotsSettings {
        let settings = SlotsSettings { a: self.slot("slots.a", slots.a), b: self.slot("slots.b", slots.b) };
        for image in settings.a.images.keys().filter(|image| !settings.b.images.contains_key(*image)) {
            self.problem("slots.b", format!("expected the image \"{image}\" that slots.a has, got none"));
        }
        for image in settings.b.images.keys().filter(|image| !settings.a.images.contains_key(*image)) {
            self.problem("slots.a", format!("expected the image \"{image}\" that slots.b has, got none"));
        }
        self.distinct_targets(&settings);
        settings
    }

    fn slot(&mut self, key: &str, slot: Option<SlotFragment>) -> SlotSettings {
        let slot = slot.unwrap_or_default();
        if slot.is_empty() {
            self.problem(key, "expected a target for each image of a release, such as root = \"partlabel:root-a\", got nothing");
        }
        if slot.len() > MAX_IMAGES {
            self.problem(key, format!("expected at most {MAX_IMAGES} images, got {}", slot.len()));
        }
        let mut images = BTreeMap::new();
        for (image, target) in slot {
            let key = format!("{key}.{image}");
            self.name(&key, &image);
            match target.parse::<Location>() {
                Ok(location) => {
                    images.insert(image, location);
                }
                Err(error) => self.problem(&key, error.to_string()),
            }
        }
        SlotSettings { images }
    }

    /// Two images in one place would overwrite each other, and the running slot with them (P2).
    fn distinct_targets(&mut self, slots: &SlotsSettings) {
        let in_a = slots.a.images.iter().map(|(image, location)| ('a', format!("slots.a.{image}"), location));
        let in_b = slots.b.images.iter().map(|(image, location)| ('b', format!("slots.b.{image}"), location));
        let all: Vec<(char, String, &Location)> = in_a.chain(in_b).collect();
        for (index, (slot, key, location)) in all.iter().enumerate() {
            // A path on the ESP has the slot's name in it.
            let is_same = |of: char| of == *slot || !matches!(location, Location::Esp(_));
            if let Some((_, other, _)) = all[..index].iter().find(|(of, _, earlier)| earlier == location && is_same(*of)) {
                self.problem(key, format!("expected a place of its own, got the one of {other}"));
            }
        }
    }

    /// What systemd-boot would start without being asked is no place for an image, and the text of an entry has to come with its release.
    fn entries_of_slots(&mut self, settings: &Settings) {
        let BootSettings::SystemdBoot(loader) = &settings.boot else { return };
        let of_slots = settings.under_sysroot(&settings.disk.esp.to_string_lossy());
        if loader.esp != of_slots {
            let (esp, other) = (loader.esp.display(), of_slots.display());
            self.problem(
                "boot.systemd-boot.esp",
                format!("expected the partition of disk.esp ({other}), which has the slots' files, got {esp}"),
            );
        }
        for (slot, of_slot) in [("slots.a", &settings.slots.a), ("slots.b", &settings.slots.b)] {
            let on_esp = of_slot.images.iter().filter_map(|(image, place)| match place {
                Location::Esp(path) => Some((image, path)),
                _ => None,
            });
            let mut has_entry = of_slot.images.is_empty();
            for (image, path) in on_esp {
                has_entry |= path.to_string() == ENTRY;
                if let Some(folder) = ["/EFI/Linux", "/loader"].into_iter().find(|folder| path.is_below(folder)) {
                    self.problem(
                        &format!("{slot}.{image}"),
                        format!("expected a file that systemd-boot does not find by itself, such as \"esp:/ota/{{slot}}.efi\", got one in {folder}"),
                    );
                }
            }
            if !has_entry {
                self.problem(
                    slot,
                    format!("expected an image at \"esp:{ENTRY}\", the text of its entry for systemd-boot, got none"),
                );
            }
        }
    }

    pub(super) fn unavailable(&mut self, key: &str, what: &str, available: &str) {
        self.problem(key, format!("{what} is not available in this build; {available}"));
    }

    fn reboot(&mut self, reboot: RebootFragment) -> RebootSettings {
        let strategy = self.strategy(reboot.strategy.as_deref());
        if reboot.windows.is_some_and(|windows| !windows.is_empty()) {
            self.unavailable("reboot.windows", "reboot.windows", "leave it empty");
        }
        RebootSettings {
            strategy,
            command: self.command(reboot.command),
            retry: self.seconds("reboot.retry_s", reboot.retry_s, 60, RETRY_S),
            hooks_dir: self.path("reboot.hooks_dir", reboot.hooks_dir, "/etc/update-engine"),
            lock: self.lock(reboot.lock.unwrap_or_default(), strategy),
        }
    }

    fn strategy(&mut self, value: Option<&str>) -> Strategy {
        match value {
            None | Some("immediate") => Strategy::Immediate,
            Some("lock") => Strategy::Lock,
            Some("manual") => Strategy::Manual,
            Some(other) => {
                let got = other.escape_debug();
                self.problem("reboot.strategy", format!("expected one of immediate, lock, manual, got \"{got}\""));
                Strategy::Manual
            }
        }
    }

    fn command(&mut self, value: Option<Vec<String>>) -> Vec<String> {
        let command = value.unwrap_or_else(|| vec!["systemctl".to_owned(), "reboot".to_owned()]);
        if command.first().is_none_or(String::is_empty) {
            self.problem("reboot.command", "expected a program and its arguments, such as [\"systemctl\", \"reboot\"], got none");
        }
        if command.len() > MAX_COMMAND_WORDS {
            self.problem("reboot.command", format!("expected at most {MAX_COMMAND_WORDS} words, got {}", command.len()));
        }
        if command.iter().any(|word| word.contains('\0')) {
            self.problem("reboot.command", "expected words without zero bytes, got one with");
        }
        command
    }

    fn lock(&mut self, lock: LockFragment, strategy: Strategy) -> Option<LockSettings> {
        match lock.backend.as_deref() {
            Some("fleetlock") => {}
            Some("none") | None => {
                self.no_lock(&lock, strategy);
                return None;
            }
            Some(other) => {
                let got = other.escape_debug();
                self.problem("reboot.lock.backend", format!("expected none or fleetlock, got \"{got}\""));
                return None;
            }
        }
        if strategy == Strategy::Immediate {
            let words = "expected no lock with reboot.strategy = \"immediate\", got backend = \"fleetlock\"; say strategy = \"lock\" to use it";
            self.problem("reboot.lock.backend", words);
        }
        self.fleetlock(lock)
    }

    fn no_lock(&mut self, lock: &LockFragment, strategy: Strategy) {
        if strategy == Strategy::Lock {
            let words = "reboot.strategy = \"lock\" needs a lock: expected backend = \"fleetlock\" and a url, got none";
            self.problem("reboot.lock.backend", words);
        } else if lock.backend.is_none() && lock.url.as_ref().is_some_and(|url| !url.is_empty()) {
            self.problem("reboot.lock.url", "expected backend = \"fleetlock\" (or \"none\") beside it, got no backend");
        }
    }

    fn fleetlock(&mut self, lock: LockFragment) -> Option<LockSettings> {
        let group = lock.group.unwrap_or_else(|| "default".to_owned());
        if let Err(error) = GroupName::parse(&group) {
            self.problem("reboot.lock.group", error.to_string());
        }
        let id = lock.id.filter(|id| !id.is_empty());
        if let Some(Err(error)) = id.as_deref().map(HostId::parse) {
            self.problem("reboot.lock.id", error.to_string());
        }
        let token_file = self.optional_path("reboot.lock.token_file", lock.token_file);
        if lock.url.as_ref().is_none_or(String::is_empty) {
            self.problem("reboot.lock.url", "expected the URL of the lock service, got nothing");
        }
        let url = self.url("reboot.lock.url", lock.url)?;
        Some(LockSettings { url, group, id, token_file })
    }

    fn health(&mut self, health: &HealthFragment) -> HealthSettings {
        let deadline = self.seconds("health.deadline_s", health.deadline_s, USUAL_DEADLINE.as_secs(), DEADLINE_S);
        // Who sets a short deadline alone has not asked for what does not fit into it.
        let usual_min_uptime_s = USUAL_MIN_UPTIME_S.min(deadline.as_secs() / 2);
        let settings = HealthSettings {
            deadline,
            settle: self.seconds("health.settle_s", health.settle_s, 30, SETTLE_S),
            min_uptime: self.seconds("health.min_uptime_s", health.min_uptime_s, usual_min_uptime_s, MIN_UPTIME_S),
            hook_timeout: self.seconds("health.hook_timeout_s", health.hook_timeout_s, 60, HOOK_TIMEOUT_S),
        };
        if settings.settle >= settings.deadline {
            let (settle, deadline) = (settings.settle.as_secs(), settings.deadline.as_secs());
            let key = if self.is_set("health.settle_s") { "health.settle_s" } else { "health.deadline_s" };
            self.problem(key, format!("expected settle_s below deadline_s, got {settle} and {deadline}"));
        }
        if self.is_set("health.min_uptime_s") && settings.min_uptime >= settings.deadline {
            let (uptime, deadline) = (settings.min_uptime.as_secs(), settings.deadline.as_secs());
            self.problem("health.min_uptime_s", format!("expected min_uptime_s below deadline_s, got {uptime} and {deadline}"));
        }
        settings
    }
}

/// As `uname -m` says.
fn machine() -> String {
    let said = nix::sys::utsname::uname().ok().and_then(|name| name.machine().to_str().map(str::to_owned));
    said.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}
