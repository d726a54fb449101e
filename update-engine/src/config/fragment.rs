//! One file's share of the configuration: every key there is, all optional, nothing unknown.
//!
//! The fields are the keys of the file; what they mean is said in `dist/config.toml` and at [`super::Settings`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

macro_rules! tables {
    ($($(#[$meta:meta])* $name:ident { $($field:ident: $type:ty,)* })*) => {
        $(
            #[derive(Debug, Clone, Default, Deserialize, Serialize)]
            #[serde(deny_unknown_fields)]
            $(#[$meta])*
            pub(super) struct $name {
                $(#[serde(skip_serializing_if = "Option::is_none")] pub(super) $field: Option<$type>,)*
            }
        )*
    };
}

/// Image name → target.
pub(super) type SlotFragment = BTreeMap<String, String>;

tables! {
    Fragment {
        state_dir: String,
        socket: String,
        sysroot: String,
        server: ServerFragment,
        trust: TrustFragment,
        fetch: FetchFragment,
        disk: DiskFragment,
        slots: SlotsFragment,
        boot: BootFragment,
        reboot: RebootFragment,
        health: HealthFragment,
    }
    ServerFragment {
        url: String,
        app_id: String,
        alias: String,
        channel: String,
        board: String,
        arch: String,
        check_interval_s: u64,
        ca_file: String,
    }
    TrustFragment {
        keyring_dir: String,
        threshold: u64,
        stale_after_days: u64,
    }
    FetchFragment {
        max_rate: String,
        hours: Vec<RateHoursFragment>,
    }
    RateHoursFragment {
        days: Vec<String>,
        start: String,
        length: String,
        zone: String,
        max_rate: String,
    }
    DiskFragment {
        device: String,
        esp: String,
        writes: String,
    }
    SlotsFragment {
        a: SlotFragment,
        b: SlotFragment,
    }
    #[serde(rename_all = "kebab-case")]
    BootFragment {
        control: String,
        grub: GrubFragment,
        systemd_boot: SystemdBootFragment,
        u_boot: UBootFragment,
        efi: EfiFragment,
        rpi_tryboot: RpiTrybootFragment,
        custom: CustomFragment,
    }
    GrubFragment {
        env: String,
        copy: String,
        variables: String,
        names: NamesFragment,
    }
    SystemdBootFragment {
        esp: String,
        prefix: String,
    }
    UBootFragment {
        config: String,
        names: NamesFragment,
    }
    EfiFragment {
        efivars: String,
        names: NamesFragment,
    }
    RpiTrybootFragment {
        autoboot: String,
        partitions: PartitionsFragment,
    }
    CustomFragment {
        program: String,
        tries: u64,
        names: NamesFragment,
    }
    NamesFragment {
        a: String,
        b: String,
    }
    PartitionsFragment {
        a: u64,
        b: u64,
    }
    RebootFragment {
        strategy: String,
        command: Vec<String>,
        retry_s: u64,
        windows: Vec<toml::Table>,
        hooks_dir: String,
        lock: LockFragment,
    }
    LockFragment {
        backend: String,
        url: String,
        group: String,
        id: String,
        token_file: String,
    }
    HealthFragment {
        deadline_s: u64,
        settle_s: u64,
        min_uptime_s: u64,
        hook_timeout_s: u64,
    }
}
