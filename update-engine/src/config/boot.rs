//! `[boot]`: which boot loader is told what to start, and where it keeps that.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::check::Check;
use super::fragment::{
    BootFragment, CustomFragment, EfiFragment, GrubFragment, NamesFragment, PartitionsFragment, RpiTrybootFragment,
    SystemdBootFragment, UBootFragment,
};
use super::settings::shown;

/// Longest name that a loader has for a slot.
const MAX_NAME: usize = 32;
/// Longest name of an entry's file before `-a`: with `-a+3-0.conf` behind it, it fits into one entry of a FAT folder.
const MAX_PREFIX: usize = 2;
/// GPT has 128 partitions by default; the firmware counts from 1.
const MAX_PARTITION: u64 = 128;
/// What the Raspberry Pi's firmware has to be told to start the slot of `[tryboot]`: the default partition, with the flag.
const TRYBOOT: &str = "0 tryboot";
/// The same without the flag: the slot of `[all]`.
const NO_TRYBOOT: &str = "0";
/// Programs that reboot without an argument for the firmware unless they are given one.
const PLAIN_REBOOTS: [&str; 3] = ["systemctl", "reboot", "shutdown"];
/// More boots of a slot that does not come up keep nobody waiting longer for a good reason.
const CUSTOM_TRIES: RangeInclusive<u64> = 1..=9;

/// `[boot]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootSettings {
    /// Attribute bits of the GPT's entries.
    Gpt,
    /// GRUB's environment block.
    Grub(GrubSettings),
    /// Boot counting of systemd-boot.
    SystemdBoot(SystemdBootSettings),
    /// U-Boot's environment.
    UBoot(UBootSettings),
    /// The firmware's own boot entries.
    Efi(EfiSettings),
    /// `autoboot.txt` of the Raspberry Pi.
    RpiTryboot(RpiTrybootSettings),
    /// A program that knows the loader.
    Custom(CustomSettings),
}

/// What a loader calls the two slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Slot `a`.
    pub a: String,
    /// Slot `b`.
    pub b: String,
}

/// `[boot.grub]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrubSettings {
    /// The environment block.
    pub env: PathBuf,
    /// Its copy, which the loader reads where the block is damaged.
    pub copy: PathBuf,
    /// Whose variables.
    pub variables: GrubVariables,
}

/// `[boot.grub] variables`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GrubVariables {
    /// Ours, for `dist/grub/ota.cfg`.
    Ota,
    /// Those of RAUC, and its names of the slots.
    Rauc(Names),
}

/// `[boot.systemd-boot]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemdBootSettings {
    /// Where the partition is mounted that the loader reads (ESP or XBOOTLDR).
    pub esp: PathBuf,
    /// How the files of our entries begin.
    pub prefix: String,
}

/// `[boot.u-boot]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UBootSettings {
    /// Says where the environment is, in the form of `fw_setenv`.
    pub config: PathBuf,
    /// Names in `BOOT_ORDER` and `BOOT_…_LEFT`.
    pub names: Names,
}

/// `[boot.efi]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EfiSettings {
    /// Where the firmware's variables are mounted.
    pub efivars: PathBuf,
    /// Descriptions of the boot entries.
    pub names: Names,
}

/// `[boot.rpi-tryboot]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpiTrybootSettings {
    /// The file of the first partition that the firmware reads.
    pub autoboot: PathBuf,
    /// Number of the boot partition of slot `a`.
    pub a: u32,
    /// Number of the boot partition of slot `b`.
    pub b: u32,
}

/// `[boot.custom]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomSettings {
    /// The program.
    pub program: PathBuf,
    /// Boots that the loader gives to a slot on trial.
    pub tries: u8,
    /// What it calls the slots.
    pub names: Names,
}

impl BootSettings {
    /// The word in the configuration.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Gpt => "gpt",
            Self::Grub(_) => "grub",
            Self::SystemdBoot(_) => "systemd-boot",
            Self::UBoot(_) => "u-boot",
            Self::Efi(_) => "efi",
            Self::RpiTryboot(_) => "rpi-tryboot",
            Self::Custom(_) => "custom",
        }
    }

    /// An armed slot is started only by a reboot that asks the firmware for it; every other reboot starts the slot that is not on trial.
    pub const fn needs_flag(&self) -> bool {
        matches!(self, Self::RpiTryboot(_))
    }

    /// A command that asks for the slot on trial, as one that leaves it: as long as no mark is written, the flag names that slot still.
    pub(super) fn to_leave(&self, command: &[String]) -> Vec<String> {
        let word = |word: &String| if self.needs_flag() { word.replace(TRYBOOT, NO_TRYBOOT) } else { word.clone() };
        command.iter().map(word).collect()
    }

    pub(super) fn to_fragment(&self) -> BootFragment {
        let control = Some(self.as_str().to_owned());
        let none = BootFragment { control, ..BootFragment::default() };
        match self {
            Self::Gpt => none,
            Self::Grub(grub) => BootFragment { grub: Some(grub.to_fragment()), ..none },
            Self::SystemdBoot(loader) => BootFragment { systemd_boot: Some(loader.to_fragment()), ..none },
            Self::UBoot(loader) => {
                let fragment = UBootFragment { config: Some(shown(&loader.config)), names: Some(loader.names.to_fragment()) };
                BootFragment { u_boot: Some(fragment), ..none }
            }
            Self::Efi(efi) => {
                let fragment = EfiFragment { efivars: Some(shown(&efi.efivars)), names: Some(efi.names.to_fragment()) };
                BootFragment { efi: Some(fragment), ..none }
            }
            Self::RpiTryboot(rpi) => {
                let partitions = PartitionsFragment { a: Some(u64::from(rpi.a)), b: Some(u64::from(rpi.b)) };
                let fragment = RpiTrybootFragment { autoboot: Some(shown(&rpi.autoboot)), partitions: Some(partitions) };
                BootFragment { rpi_tryboot: Some(fragment), ..none }
            }
            Self::Custom(custom) => {
                let fragment = CustomFragment {
                    program: Some(shown(&custom.program)),
                    tries: Some(u64::from(custom.tries)),
                    names: Some(custom.names.to_fragment()),
                };
                BootFragment { custom: Some(fragment), ..none }
            }
        }
    }
}

impl GrubSettings {
    fn to_fragment(&self) -> GrubFragment {
        let (variables, names) = match &self.variables {
            GrubVariables::Ota => ("ota", None),
            GrubVariables::Rauc(names) => ("rauc", Some(names.to_fragment())),
        };
        GrubFragment { env: Some(shown(&self.env)), copy: Some(shown(&self.copy)), variables: Some(variables.to_owned()), names }
    }
}

impl SystemdBootSettings {
    fn to_fragment(&self) -> SystemdBootFragment {
        SystemdBootFragment { esp: Some(shown(&self.esp)), prefix: Some(self.prefix.clone()) }
    }
}

impl Names {
    fn to_fragment(&self) -> NamesFragment {
        NamesFragment { a: Some(self.a.clone()), b: Some(self.b.clone()) }
    }
}

impl Check {
    pub(super) fn boot(&mut self, boot: BootFragment) -> BootSettings {
        let control = boot.control.unwrap_or_else(|| "gpt".to_owned());
        match control.as_str() {
            "gpt" => BootSettings::Gpt,
            "grub" => BootSettings::Grub(self.grub(boot.grub.unwrap_or_default())),
            "systemd-boot" => BootSettings::SystemdBoot(self.systemd_boot(boot.systemd_boot.unwrap_or_default())),
            "u-boot" => BootSettings::UBoot(self.u_boot(boot.u_boot.unwrap_or_default())),
            "efi" => BootSettings::Efi(self.efi(boot.efi.unwrap_or_default())),
            "rpi-tryboot" => BootSettings::RpiTryboot(self.rpi_tryboot(boot.rpi_tryboot.unwrap_or_default())),
            "custom" => BootSettings::Custom(self.custom(boot.custom.unwrap_or_default())),
            other => {
                let got = other.escape_debug();
                self.problem("boot.control", format!("expected one of {}, got \"{got}\"", CONTROLS.join(", ")));
                BootSettings::Gpt
            }
        }
    }

    fn grub(&mut self, grub: GrubFragment) -> GrubSettings {
        let env = self.path("boot.grub.env", grub.env, "/boot/grub/grubenv");
        let beside = || PathBuf::from(format!("{}.ota", env.display()));
        let copy = self.optional_path("boot.grub.copy", grub.copy).unwrap_or_else(beside);
        if copy == env {
            self.problem("boot.grub.copy", "expected another file than boot.grub.env, got the same");
        }
        let names = grub.names.is_some();
        let variables = match grub.variables.as_deref() {
            None | Some("ota") => {
                if names {
                    self.problem("boot.grub.names", "names of slots count only with boot.grub.variables = \"rauc\"");
                }
                GrubVariables::Ota
            }
            Some("rauc") => GrubVariables::Rauc(self.names("boot.grub.names", grub.names, ["A", "B"])),
            Some(other) => {
                self.problem("boot.grub.variables", format!("expected ota or rauc, got \"{}\"", other.escape_debug()));
                GrubVariables::Ota
            }
        };
        GrubSettings { env, copy, variables }
    }

    fn systemd_boot(&mut self, loader: SystemdBootFragment) -> SystemdBootSettings {
        let prefix = loader.prefix.unwrap_or_else(|| "os".to_owned());
        let fits = (1..=MAX_PREFIX).contains(&prefix.len()) && prefix.bytes().all(|byte| byte.is_ascii_lowercase());
        if !fits {
            let got = prefix.escape_debug();
            self.problem(
                "boot.systemd-boot.prefix",
                format!("expected 1 or {MAX_PREFIX} of a-z, so that the names of entries stay short enough to be changed in one piece, got \"{got}\""),
            );
        }
        SystemdBootSettings { esp: self.path("boot.systemd-boot.esp", loader.esp, "/efi"), prefix }
    }

    fn u_boot(&mut self, loader: UBootFragment) -> UBootSettings {
        UBootSettings {
            config: self.path("boot.u-boot.config", loader.config, "/etc/fw_env.config"),
            names: self.u_boot_names(loader.names),
        }
    }

    /// They are parts of names of variables, of which a script of U-Boot reads `${BOOT_A_LEFT}`; what else may stand between the braces
    /// differs between its shells.
    fn u_boot_names(&mut self, names: Option<NamesFragment>) -> Names {
        let names = self.names("boot.u-boot.names", names, ["A", "B"]);
        for (slot, name) in [("a", &names.a), ("b", &names.b)].into_iter().filter(|(_, name)| name.contains(['-', '.'])) {
            self.problem(
                &format!("boot.u-boot.names.{slot}"),
                format!("expected A-Z, a-z, 0-9, \"_\", as in the names of U-Boot's variables, got \"{}\"", name.escape_debug()),
            );
        }
        names
    }

    fn efi(&mut self, efi: EfiFragment) -> EfiSettings {
        EfiSettings {
            efivars: self.path("boot.efi.efivars", efi.efivars, "/sys/firmware/efi/efivars"),
            names: self.names("boot.efi.names", efi.names, ["ota-a", "ota-b"]),
        }
    }

    fn rpi_tryboot(&mut self, rpi: RpiTrybootFragment) -> RpiTrybootSettings {
        let partitions = rpi.partitions.unwrap_or_default();
        let (a, b) = (self.partition("a", partitions.a), self.partition("b", partitions.b));
        if a == b {
            self.problem("boot.rpi-tryboot.partitions", format!("expected two partitions, got {a} for both slots"));
        }
        RpiTrybootSettings { autoboot: self.path("boot.rpi-tryboot.autoboot", rpi.autoboot, "/boot/autoboot/autoboot.txt"), a, b }
    }

    fn partition(&mut self, slot: &str, number: Option<u64>) -> u32 {
        let default = if slot == "a" { 2 } else { 3 };
        let number = number.unwrap_or(default);
        if !(1..=MAX_PARTITION).contains(&number) {
            let key = format!("boot.rpi-tryboot.partitions.{slot}");
            self.problem(&key, format!("expected the number of a partition, 1 to {MAX_PARTITION}, got {number}"));
        }
        u32::try_from(number).unwrap_or_default()
    }

    /// Without the argument the firmware never starts an armed slot. What a program of the host's own does is not known here.
    pub(super) fn tryboot_argument(&mut self, boot: &BootSettings, command: &[String]) {
        let program = command.first().and_then(|program| program.rsplit('/').next());
        let is_plain = program.is_some_and(|program| PLAIN_REBOOTS.contains(&program));
        let has_argument = command.iter().any(|word| word.contains(TRYBOOT));
        if boot.needs_flag() && is_plain && !has_argument {
            let got = command.join(" ");
            self.problem(
                "reboot.command",
                format!(
                    "boot.control = \"rpi-tryboot\" needs a reboot with the argument \"0 tryboot\": expected one such as [\"systemctl\", \"reboot\", \"--reboot-argument=0 tryboot\"], got \"{}\"",
                    got.escape_debug()
                ),
            );
        }
    }

    fn custom(&mut self, custom: CustomFragment) -> CustomSettings {
        let program = self.optional_path("boot.custom.program", custom.program);
        if program.is_none() {
            self.problem("boot.custom.program", "expected the program that knows the boot loader, got nothing");
        }
        let tries = self.number("boot.custom.tries", custom.tries, 1, CUSTOM_TRIES, "boots");
        CustomSettings {
            program: program.unwrap_or_default(),
            tries: u8::try_from(tries).unwrap_or_default(),
            names: self.names("boot.custom.names", custom.names, ["A", "B"]),
        }
    }

    fn names(&mut self, key: &str, names: Option<NamesFragment>, default: [&str; 2]) -> Names {
        let names = names.unwrap_or_default();
        let [a, b] = default.map(str::to_owned);
        let names = Names { a: names.a.unwrap_or(a), b: names.b.unwrap_or(b) };
        for (slot, name) in [("a", &names.a), ("b", &names.b)] {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(allowed) {
                let got = name.escape_debug();
                self.problem(
                    &format!("{key}.{slot}"),
                    format!("expected 1 to {MAX_NAME} of A-Z, a-z, 0-9, \"-\", \"_\", \".\", got \"{got}\""),
                );
            }
        }
        if names.a == names.b {
            self.problem(key, format!("expected two names, got \"{}\" for both slots", names.a.escape_debug()));
        }
        names
    }
}

/// The words of `boot.control`.
const CONTROLS: [&str; 7] = ["gpt", "grub", "systemd-boot", "u-boot", "efi", "rpi-tryboot", "custom"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::policy::MAX_BAD_BOOTS;

    #[test]
    fn a_bad_slot_is_left_as_often_as_any_loader_may_try_it() {
        assert!(*CUSTOM_TRIES.end() <= u64::from(MAX_BAD_BOOTS));
    }
}
