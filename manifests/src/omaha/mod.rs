//! Omaha 3.0 in the CoreOS/Flatcar dialect: requests and answers, written and read by client and server alike.
//!
//! Promises: bytes in, types out, nothing else; every reader ends quickly on any input (the caps below) and says what was wrong,
//! where, what was expected and what it got; what is written is well-formed XML whatever the values are; a message for
//! update_engine is byte for byte the shape update_engine sends, and elements or attributes not known here are passed over.
//!
//! Never: trust. An answer says which release to look at and from where; sizes and hashes in it are advice, the signed release
//! record decides. No entity is expanded but XML's own five, no DTD is read, nothing is fetched.
//!
//! ```
//! use manifests::omaha::{AppRequest, Request, UpdateAnswer, Verdict};
//!
//! let app = AppRequest { app_id: "{e96281a6-d1af-4bde-9a0a-97b76e56dc57}".into(), update_check: true, ..AppRequest::default() };
//! let request = Request { apps: vec![app], ..Request::default() };
//! assert_eq!(Request::read(request.write().as_bytes())?, request);
//!
//! let body = br#"<response protocol="3.0"><app appid="E96281A6-D1AF-4BDE-9A0A-97B76E56DC57" status="ok">
//!     <updatecheck status="noupdate" ota_hold="window" ota_reason="outside the group's window"/></app></response>"#;
//! let answer = UpdateAnswer::read(body, "{e96281a6-d1af-4bde-9a0a-97b76e56dc57}")?;
//! let Verdict::NoUpdate { hold: Some(hold) } = answer.verdict else { panic!("no hold") };
//! assert_eq!(hold.reason.as_deref(), Some("outside the group's window"));
//! # Ok::<(), manifests::omaha::Error>(())
//! ```

mod error;
mod event;
mod package;
mod request;
mod response;
mod update;
mod xml;

pub use error::{Error, Place};
pub use event::{ActionCode, ErrorCode, Event, EventResult, EventType, Flags};
pub use package::{Codebase, InvalidCodebase, InvalidPackageName, Package, PackageKind, PackageName};
pub use request::{AppRequest, INSTALL_ON_DEMAND, INSTALL_SCHEDULED, Os, Ping, Request};
pub use response::{Acknowledgement, AppAnswer, Hold, Response, STATUS_OK, ServerError, UpdateAnswer, Verdict};
pub use update::{Postinstall, Update};

/// The protocol both sides speak.
pub const PROTOCOL: &str = "3.0";

/// Longest answer read, in bytes: hundreds of times the largest sample from the field, so only an attack meets it.
pub const MAX_RESPONSE_BYTES: usize = 1 << 20;
/// Longest request read, in bytes: four times what the servers in the field take (64 KiB), so no client of theirs is turned away.
pub const MAX_REQUEST_BYTES: usize = 256 << 10;
/// Deepest nesting: the dialect needs 8 (`response/app/updatecheck/manifest/packages/package/metadata`, and one more).
pub const MAX_DEPTH: usize = 16;
/// Most attributes of one element: the busiest sample has 14, ours 16; the rest is room for the free `_name` attributes of other clients.
pub const MAX_ATTRIBUTES: usize = 64;
/// Most elements of a document: a 256 KiB request of nothing but events has about 7,000; it bounds memory, not only time.
pub const MAX_ELEMENTS: usize = 8192;
/// Longest attribute value, in bytes as written: the longest in the field are base64 signatures (344) and cohorts (1024).
pub const MAX_VALUE_BYTES: usize = 8192;
/// Longest name of an element or attribute, in bytes: they are words.
pub const MAX_NAME_BYTES: usize = 128;
/// Most codebases of an answer: a client tries every one of them for every file.
pub const MAX_CODEBASES: usize = 32;
/// Most packages of an answer: a release lists itself, its record and one delta per older version.
pub const MAX_PACKAGES: usize = 256;
/// Longest text for people that is kept or sent (reasons, statuses), in characters: it stands in status lines and logs.
pub const MAX_TEXT_CHARS: usize = 1024;

/// Whether two application ids are one: servers send them back with or without braces and in either case.
///
/// ```
/// assert!(manifests::omaha::same_id("{E96281A6-D1AF}", "e96281a6-d1af"));
/// ```
pub fn same_id(left: &str, right: &str) -> bool {
    bare_id(left).eq_ignore_ascii_case(bare_id(right))
}

/// An id without the braces some clients and servers put around it.
pub fn bare_id(id: &str) -> &str {
    id.strip_prefix('{').and_then(|id| id.strip_suffix('}')).unwrap_or(id)
}

/// Text of others made fit to show: control characters (terminals obey some of them) become spaces, and it is cut to
/// [`MAX_TEXT_CHARS`].
fn displayable(text: &str) -> String {
    text.chars().take(MAX_TEXT_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
