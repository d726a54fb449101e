//! Fetching: bytes from servers (or local files) that nobody trusts.
//!
//! One [`Fetcher`] per daemon asks the update server ([`Fetcher::post_omaha`]) and fetches small files whole
//! ([`Fetcher::get_capped`]). [`Sources`] reads one large file, piece by piece, from whoever of several offers it.
//!
//! # Promises
//!
//! * Everything is capped ([`limits`]): bodies, header fields, redirects, retries, waiting, and the bytes of an attempt.
//! * What is returned has the length that was asked for, and came from the one source that is named. Whether it is *right* is
//!   for the reader to say: nothing that arrives here is trusted.
//! * A redirect keeps the scheme, and credentials go to the host they were configured for. No URL is shown with its secrets.
//! * A body compressed in transit is refused by name, never unpacked.
//!
//! Never: a decision about what to install, a write to a disk.
//!
//! # What [`Sources`] does about faults
//!
//! | fault | what follows |
//! | --- | --- |
//! | refused, reset, cut short, no answer, 408, 425, 429, 5xx | the same source again after a pause (about 1 s, doubling to 30 s); the next source after ten in a row |
//! | stalled; 4xx; wrong range, size or ETag; compressed; redirect refused; not the file | the next source at once |
//! | 206 with less than was asked for | goes on from there |
//! | 200 where a range was asked for | read past what is not wanted, if that is short or nobody knows ranges; else the next source |
//! | an answer with `Retry-After` | the next source; that one not before its time; the attempt ends if all want more than 5 minutes |
//! | 8 wrong windows, or twice something that is not the file | the source is dropped for the attempt |
//!
//! Past the last source comes the first again, after a pause. 64 KiB of wanted bytes or a finished piece count as progress and
//! reset counts and pauses. Three rounds or 24 faults in a row without progress end the attempt.
//!
//! ```no_run
//! # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
//! use manifests::omaha::{Codebase, PackageName};
//! use update_engine::fetch::{Budget, Fetcher, Options, Source, Sources};
//!
//! let fetcher = Fetcher::new(Options::default())?;
//! let codebases = [Codebase::parse("https://a.example/")?, Codebase::parse("https://b.example/mirror/")?];
//! let offered = Source::of_package(&codebases, &PackageName::parse("1.1.0.payload")?)?;
//! let mut payload = Sources::new(fetcher, offered, Budget::new(64 * 1024 * 1024))?;
//! payload.announce(0..65_536);
//! let mut header = Vec::new();
//! let source = payload.read(0..64, &mut header).await?;
//! # Ok(()) }
//! ```

mod address;
mod budget;
mod client;
mod error;
mod file;
pub mod limits;
mod pace;
pub mod range;
mod rate;
pub mod retry_after;
mod roster;
mod sources;
mod timing;

pub use address::{Address, Source};
pub use budget::Budget;
pub use client::{Answer, Fetcher, Options};
pub use error::{Fault, FetchError};
pub use file::LocalFile;
pub use limits::Patience;
pub use rate::{MaxRate, Rate};
pub use roster::SourceId;
pub use sources::Sources;
pub use timing::{Pause, SystemTiming, Timing};
