//! The strict FleetLock client of a host, and the operator's client of locksmithd.
//!
//! It works with locksmithd and with plain FleetLock servers (airlock and its kin). Which of the two answered is seen by
//! the `fence` of the grant:
//!
//! | | locksmithd (`fence`) | plain server (none) |
//! |---|---|---|
//! | [`Client::lock`] | a place for this attempt, `draining` | a place for this id |
//! | [`Client::renew`] | a sign of life; tells if the grant was lost | asks nothing: there is no lease |
//! | [`Client::set_phase_rebooting`] | acknowledged durably for this very grant | asks again for the lock: still ours? |
//! | [`Client::release`] | by attempt, with the outcome | by id |
//!
//! How a host uses it
//! 1. Make a [`Ticket`] with a random attempt and write it down, durably.
//! 2. [`Client::lock`]. A refusal says who, why and when to ask again; after [`Error::Unreachable`] or
//!    [`Error::BadAnswer`] nobody knows whether a place was granted: ask again with the *same* ticket, or release it.
//! 3. While draining, [`Client::renew`] every [`Grant::renew_every`].
//! 4. [`Client::set_phase_rebooting`], and flip only after it answered `Ok`.
//! 5. After the reboot and the health check, [`Client::release`] with the ticket that was written down.
//!
//! Promises: exactly 200 is a grant; redirects are not followed, proxies of the environment not used, answers are read
//! up to 64 KiB; a question takes 15 s at most (5 s to connect). A token is sent only to the server it was given for.
//! Never: retries by itself, spawns a task, or needs more than a current-thread runtime.
//!
//! ```no_run
//! use locksmith::client::{BaseUrl, Client, Error, Ticket};
//! use locksmith::names::{AttemptId, GroupName, HostId};
//! use locksmith::semaphore::{Facts, Outcome};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new()?;
//! let ticket = Ticket {
//!     base_url: BaseUrl::parse("http://locksmith.example:8085/")?,
//!     group: GroupName::parse("default")?,
//!     id: HostId::parse("e0f3745b108f471cbd4883c6fbed8cdd")?,
//!     attempt: AttemptId::random()?,
//! };
//! // … write the ticket down …
//! match client.lock(&ticket, &Facts::default()).await {
//!     Ok(grant) => {
//!         client.set_phase_rebooting(&grant, None).await?;
//!         // … flip, reboot, check; then, perhaps in another process:
//!         client.release(&ticket, Outcome::Ok).await?;
//!     }
//!     Err(Error::Refused(refused)) => println!("wait {:?}: {refused}", refused.retry_after),
//!     Err(error) => println!("ask again with the same ticket: {error}"),
//! }
//! # Ok(())
//! # }
//! ```

mod admin;
mod base_url;
pub mod meaning;
mod transport;

use std::time::Duration;

use jiff::Timestamp;
use reqwest::Method;
use serde::{Deserialize, Serialize};

pub use admin::Admin;
pub use base_url::{BaseUrl, BaseUrlError};
pub use meaning::Meaning;
pub use transport::{Token, TokenError};

use crate::fleetlock::{Body, ClientParams, GrantBody, HolderBody, MAX_BODY_BYTES, Ota, PRE_REBOOT, STEADY_STATE};
use crate::names::{AttemptId, GroupName, HostId, Label};
use crate::semaphore::{Facts, MAX_DEADLINE_S, Outcome, Phase};
use meaning::{No, RawAnswer, Reading};
use transport::{BoundToken, Limits, Transport};

/// Longest time to connect, unless told otherwise.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time for a whole question, unless told otherwise.
pub const TOTAL_TIMEOUT: Duration = Duration::from_secs(15);

/// A client. Cheap to keep; it holds no connection between questions.
pub struct Client {
    transport: Transport,
}

/// What tells a client apart from [`Client::new`].
#[derive(Default)]
pub struct Options {
    token: Option<BoundToken>,
    limits: Option<Limits>,
}

/// The system's TLS or HTTP machinery cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client cannot be set up: {0}")]
pub struct SetupError(String);

/// What a host must write down *before* it asks for the lock, and needs to release it however the world has changed
/// since: configuration, group and server of then. Serialises flat; the attempt is in it, so keep it private.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// Where the lock is asked for.
    pub base_url: BaseUrl,
    /// Of which group.
    pub group: GroupName,
    /// By which host.
    pub id: HostId,
    /// Under which attempt.
    pub attempt: AttemptId,
}

/// A place that was granted. Serialises flat, the ticket's members beside its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Whose it is.
    #[serde(flatten)]
    pub ticket: Ticket,
    /// The number of the grant at a locksmithd; none at a plain server.
    #[serde(default)]
    pub fence: Option<u64>,
    /// The phase the locksmithd acknowledged; none at a plain server.
    #[serde(default)]
    pub phase: Option<Phase>,
    /// After how long a silence a draining holder is freed, in seconds; none at a plain server or once rebooting.
    #[serde(default)]
    pub lease_s: Option<u64>,
}

/// What became of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// The place is free now.
    Freed,
    /// A locksmithd says that this attempt held none: released before, or freed by its lease or an operator.
    HeldNone,
    /// A plain server says that this id holds none now.
    Acknowledged,
}

/// Why there is no yes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The lock service understood and said no. Nothing was granted.
    #[error(transparent)]
    Refused(Box<Refused>),
    /// Nobody answered. Whether the question arrived is unknown: ask again with the same ticket.
    #[error("the lock service cannot be reached at {url}: {reason}")]
    Unreachable {
        /// What was asked, without credentials.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// What answered does not speak as a lock service does. It is no grant.
    #[error("what answers at {url} is no lock service, or a broken one: status {status}, {why}")]
    BadAnswer {
        /// What was asked, without credentials.
        url: String,
        /// The status of the answer.
        status: u16,
        /// What is wrong with it.
        why: String,
    },
}

/// A no, with everything the server said about it. Its `Display` is one sentence for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the lock service at {url} refused ({status} {kind}): {value}")]
pub struct Refused {
    /// What was asked, without credentials.
    pub url: String,
    /// The status of the answer.
    pub status: u16,
    /// The server's word for it.
    pub kind: String,
    /// The server's sentence.
    pub value: String,
    /// What it means, whichever server said it.
    pub meaning: Meaning,
    /// Who holds the places, where the server tells.
    pub holders: Vec<HolderBody>,
    /// How many hold one.
    pub holders_total: Option<u64>,
    /// How many may.
    pub max: Option<u32>,
    /// Our place in the queue; 1 is next.
    pub place: Option<u64>,
    /// Since when we wait.
    pub waiting_since: Option<Timestamp>,
    /// When to ask again.
    pub retry_after: Option<Duration>,
}

impl Options {
    /// A bearer token that is sent to the server of `base_url` and to no other, whatever a stored ticket says.
    #[must_use]
    pub fn token(mut self, base_url: &BaseUrl, token: Token) -> Self {
        self.token = Some(BoundToken { to: base_url.clone(), token });
        self
    }

    /// Other time limits than [`CONNECT_TIMEOUT`] and [`TOTAL_TIMEOUT`].
    #[must_use]
    pub fn timeouts(mut self, connect: Duration, total: Duration) -> Self {
        self.limits = Some(Limits { connect, total });
        self
    }

    /// Makes the client.
    pub fn build(self) -> Result<Client, SetupError> {
        if self.token.as_ref().is_some_and(|bound| bound.to.has_credentials()) {
            return Err(SetupError("a token and a user:password@ in the URL exclude each other".to_owned()));
        }
        let limits = self.limits.unwrap_or(Limits { connect: CONNECT_TIMEOUT, total: TOTAL_TIMEOUT });
        Ok(Client { transport: Transport::new(limits, self.token)? })
    }
}

impl Client {
    /// A client without a token, with the usual time limits.
    pub fn new() -> Result<Self, SetupError> {
        Options::default().build()
    }

    /// Asks for a place. Asking again with the same ticket is safe and answers with the same grant.
    pub async fn lock(&self, ticket: &Ticket, facts: &Facts) -> Result<Grant, Error> {
        let (url, yes) = self.pre_reboot(ticket, draining(ticket, facts)).await?;
        grant(ticket, &url, yes)
    }

    /// Shows that the host is alive while it drains. A refusal with [`Meaning::NotHeld`] means that the grant is lost:
    /// undrain, and ask anew. Asks nothing of a plain server.
    pub async fn renew(&self, held: &Grant) -> Result<(), Error> {
        let Some(fence) = held.fence else { return Ok(()) };
        let mut ota = draining(&held.ticket, &Facts::default());
        ota.fence = Some(fence);
        let (url, yes) = self.pre_reboot(&held.ticket, ota).await?;
        same_grant(held, &url, &yes)
    }

    /// Tells the server that the host is about to flip and reboot, and that it expects to be back within `deadline`.
    /// **Flip only with what this answers**: then the change is durable at a locksmithd, and no lease can free the
    /// place any more. A plain server is asked for the lock again, which it must still grant.
    pub async fn set_phase_rebooting(&self, held: &Grant, deadline: Option<Duration>) -> Result<RebootAcknowledged, Error> {
        let facts = Facts { deadline_s: deadline.map(|deadline| deadline.as_secs().min(MAX_DEADLINE_S)), ..Facts::default() };
        let mut ota = draining(&held.ticket, &facts);
        ota.phase = Some(Phase::Rebooting.as_str().to_owned());
        ota.fence = held.fence;
        let (url, yes) = self.pre_reboot(&held.ticket, ota).await?;
        if held.fence.is_some() {
            same_grant(held, &url, &yes)?;
            if yes.phase != Some(Phase::Rebooting) {
                return Err(url.bad("it does not acknowledge that the host is about to reboot"));
            }
        }
        Ok(RebootAcknowledged { grant: grant(&held.ticket, &url, yes)? })
    }

    /// Gives the place back, or makes sure that this attempt holds none. Safe to repeat until it answers `Ok`.
    pub async fn release(&self, ticket: &Ticket, outcome: Outcome) -> Result<Released, Error> {
        let attempt = Some(ticket.attempt.as_str().to_owned());
        let outcome = Some(outcome.as_str().to_owned());
        let ota = Ota { attempt, outcome, ..Ota::default() };
        let (_, raw) = self.fleetlock(ticket, STEADY_STATE, ota).await?;
        #[derive(Deserialize)]
        struct Ours {
            released: bool,
        }
        Ok(match serde_json::from_slice(&raw.body) {
            Ok(Ours { released: true }) => Released::Freed,
            Ok(Ours { released: false }) => Released::HeldNone,
            Err(_) => Released::Acknowledged,
        })
    }

    async fn pre_reboot(&self, ticket: &Ticket, ota: Ota) -> Result<(Asked, GrantBody), Error> {
        let (url, raw) = self.fleetlock(ticket, PRE_REBOOT, ota).await?;
        let yes = url.yes(&raw)?;
        if yes.attempt.as_ref().is_some_and(|attempt| *attempt != ticket.attempt) {
            return Err(url.bad("it answers about another attempt"));
        }
        Ok((url, yes))
    }

    /// Asks, and answers with what was said if it was a yes.
    async fn fleetlock(&self, ticket: &Ticket, path: &str, ota: Ota) -> Result<(Asked, RawAnswer), Error> {
        let path: Vec<&str> = path.split('/').collect();
        let asked = Asked::at(&ticket.base_url, &path);
        let client_params = ClientParams { id: ticket.id.as_str().to_owned(), group: ticket.group.as_str().to_owned() };
        let body = asked.encode(&Body { client_params, ota: Some(ota) })?;
        let raw = self.transport.ask(&ticket.base_url, Method::POST, &path, Some(body), MAX_BODY_BYTES).await?;
        asked.yes(&raw)?;
        Ok((asked, raw))
    }
}

/// That a lock server knows that the host is about to reboot. [`Client::set_phase_rebooting`] alone makes one.
#[derive(Debug, PartialEq, Eq)]
pub struct RebootAcknowledged {
    grant: Grant,
}

impl RebootAcknowledged {
    /// The grant, as it stands now.
    pub const fn grant(&self) -> &Grant {
        &self.grant
    }
}

impl Grant {
    /// How often to [`Client::renew`] while draining: a quarter of the lease, so that three may be lost. None where
    /// there is nothing to renew.
    pub fn renew_every(&self) -> Option<Duration> {
        self.lease_s.map(|lease| Duration::from_secs(lease) / 4)
    }
}

impl Error {
    /// When the server said to ask again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refused) => refused.retry_after,
            Self::Unreachable { .. } | Self::BadAnswer { .. } => None,
        }
    }
}

/// What was asked, for the errors about it.
#[derive(Debug)]
struct Asked {
    url: String,
}

impl Asked {
    fn at(base: &BaseUrl, path: &[&str]) -> Self {
        Self { url: base_url::shown(&base.join(path)) }
    }

    fn encode<T: Serialize>(&self, body: &T) -> Result<Vec<u8>, Error> {
        let reason = |error: serde_json::Error| format!("the question cannot be written: {error}");
        serde_json::to_vec(body).map_err(|error| Error::Unreachable { url: self.url.clone(), reason: reason(error) })
    }

    fn yes(&self, raw: &RawAnswer) -> Result<GrantBody, Error> {
        match meaning::read(raw) {
            Reading::Yes(yes) => Ok(yes),
            Reading::No(no) => Err(self.refused(raw.status, *no)),
            Reading::Nonsense(why) => Err(Error::BadAnswer { url: self.url.clone(), status: raw.status, why }),
        }
    }

    fn bad(&self, why: &str) -> Error {
        Error::BadAnswer { url: self.url.clone(), status: 200, why: why.to_owned() }
    }

    fn refused(&self, status: u16, no: No) -> Error {
        let No { body, meaning, retry_after } = no;
        Error::Refused(Box::new(Refused {
            url: self.url.clone(),
            status,
            kind: body.kind,
            value: body.value,
            meaning,
            holders: body.holders,
            holders_total: body.holders_total,
            max: body.max,
            place: body.place,
            waiting_since: body.waiting_since,
            retry_after,
        }))
    }
}

fn draining(ticket: &Ticket, facts: &Facts) -> Ota {
    let text = |label: &Option<Label>| label.as_ref().map(|label| label.as_str().to_owned());
    Ota {
        attempt: Some(ticket.attempt.as_str().to_owned()),
        boot_id: text(&facts.boot_id),
        product: text(&facts.product),
        version: text(&facts.version),
        sequence: facts.sequence,
        phase: Some(Phase::Draining.as_str().to_owned()),
        fence: None,
        outcome: None,
        deadline_s: facts.deadline_s,
    }
}

fn grant(ticket: &Ticket, asked: &Asked, yes: GrantBody) -> Result<Grant, Error> {
    let GrantBody { attempt, fence, phase, lease_s } = yes;
    if fence.is_none() {
        return Ok(Grant { ticket: ticket.clone(), fence: None, phase: None, lease_s: None });
    }
    if attempt.is_none() {
        return Err(asked.bad("it gives a fence without saying for which attempt"));
    }
    Ok(Grant { ticket: ticket.clone(), fence, phase, lease_s })
}

fn same_grant(held: &Grant, asked: &Asked, yes: &GrantBody) -> Result<(), Error> {
    if yes.fence == held.fence { Ok(()) } else { Err(asked.bad("it answers about another grant")) }
}
