//! The host's configuration: files → fragments → one merged table → [`Settings`].
//!
//! ```text
//! config.toml ─┐  each file by itself:      tables deeply,
//! config.d/*  ─┴► fragment (all optional) ─► arrays replaced ─► checked once ─► Settings
//! ```
//!
//! Promises: every problem is named with file, line, column, key, what was expected and what was found, and all of them at
//! once; a key that this build cannot honour is refused by name rather than ignored; whatever is shown has no credentials.
//!
//! Never: follows an unknown key (what another version wrote may have some: [`parse_of_another`] leaves them out and says so), guesses a unit, reads more than [`source::MAX_FILES`] files of [`source::MAX_FILE_BYTES`]
//! each, or looks at the disk for anything but the files themselves ([`trust`] does, when asked).
//!
//! ```
//! use update_engine::config::{Source, parse};
//!
//! let text = r#"
//!     server.app_id = "{e96281a6-d1af-4bde-9a0a-97b76e56dc57}"
//!     disk.device = "/dev/vda"
//!     slots.a.root = "partlabel:root-a"
//!     slots.b.root = "partlabel:root-b"
//! "#;
//! let settings = parse(&[Source::new("config.toml", text)])?;
//! assert_eq!(settings.server.channel, "stable");
//!
//! let error = parse(&[Source::new("config.toml", "server.chanel = \"beta\"")]).unwrap_err();
//! assert!(error.to_string().starts_with("config.toml:1:8: server.chanel: unknown key"));
//! # Ok::<(), update_engine::config::ConfigError>(())
//! ```

mod boot;
mod check;
mod fragment;
mod merge;
mod problem;
mod settings;
pub mod source;
pub mod trust;
mod url;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use boot::{
    BootSettings, CustomSettings, EfiSettings, GrubSettings, GrubVariables, Names, RpiTrybootSettings, SystemdBootSettings,
    UBootSettings,
};
pub use problem::{ConfigError, Problem};
pub use settings::{
    DiskSettings, FetchSettings, HealthSettings, LockSettings, RebootPurpose, RebootSettings, ServerSettings, Settings,
    SlotSettings, SlotsSettings, Strategy, TrustSettings,
};
pub use source::Source;
pub use url::{HttpUrl, hide_credentials};

/// Where the configuration stands when nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/update-engine/config.toml";

/// Time a new slot has to show that it is healthy, when the configuration does not say otherwise.
pub const USUAL_DEADLINE: Duration = Duration::from_secs(300);

/// Where the control socket stands when the configuration does not say otherwise.
pub const DEFAULT_SOCKET: &str = "/run/update-engine/control.sock";

/// The commented default configuration, as packaged: every key there is, with its default.
pub const COMMENTED_DEFAULT: &str = include_str!("../../../dist/config.toml");

/// A configuration that was read from files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// What it says.
    pub settings: Settings,
    /// The files it came from, in the order they were merged.
    pub files: Vec<PathBuf>,
}

/// Reads `file` and `config.d/*.toml` beside it, and checks them.
pub fn load(file: &Path) -> Result<Loaded, ConfigError> {
    let sources = source::read(file)?;
    let settings = parse(&sources)?;
    Ok(Loaded { settings, files: sources.into_iter().map(|source| PathBuf::from(source.name)).collect() })
}

/// Merges sources in their order and checks the whole. Reads nothing.
pub fn parse(sources: &[Source]) -> Result<Settings, ConfigError> {
    let merged = merge::merge(sources)?;
    check::check(merged)
}

/// Checks what another version of this program wrote by [`Settings::to_toml`]: a key that is not known here is left out, and named beside
/// the settings. Everything else is as strict as in [`parse`].
pub fn parse_of_another(source: &Source) -> Result<(Settings, Vec<String>), ConfigError> {
    let (merged, ignored) = merge::merge_of_another(source)?;
    Ok((check::check(merged)?, ignored))
}

/// The control socket that the files name, without asking whether the rest of them is right: a command must be able to
/// find a daemon whose configuration was broken after it started.
pub fn socket_of(file: &Path) -> Result<PathBuf, ConfigError> {
    let sources = source::read(file)?;
    let socket = merge::lenient_string(&sources, "socket");
    Ok(socket.map_or_else(|| PathBuf::from(DEFAULT_SOCKET), PathBuf::from))
}
