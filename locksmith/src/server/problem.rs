//! Every answer that is not a yes, in FleetLock's shape.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::group::{Trouble, Verdict};
use crate::api::TroubledGroup;
use crate::fleetlock::{HolderBody, LISTED_HOLDERS, RefusalBody};
use crate::names::GroupName;
use crate::semaphore::Refusal;

/// What kind of answer it was: FleetLock's `kind`, and a label of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ok,
    Full,
    Queued,
    IdInUse,
    NotHeld,
    UnknownGroup,
    NoSuchGroup,
    NoSuchHolder,
    GroupExists,
    TooManyGroups,
    BadRequest,
    MissingHeader,
    MethodNotAllowed,
    NotFound,
    Timeout,
    TooLarge,
    Unauthorized,
    Forbidden,
    StoreOut,
    UnusableGroup,
    Busy,
}

impl Kind {
    pub(super) const ALL: [Self; 21] = [
        Self::Ok,
        Self::Full,
        Self::Queued,
        Self::IdInUse,
        Self::NotHeld,
        Self::UnknownGroup,
        Self::NoSuchGroup,
        Self::NoSuchHolder,
        Self::GroupExists,
        Self::TooManyGroups,
        Self::BadRequest,
        Self::MissingHeader,
        Self::MethodNotAllowed,
        Self::NotFound,
        Self::Timeout,
        Self::TooLarge,
        Self::Unauthorized,
        Self::Forbidden,
        Self::StoreOut,
        Self::UnusableGroup,
        Self::Busy,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Full => "full",
            Self::Queued => "queued",
            Self::IdInUse => "id_in_use",
            Self::NotHeld => "not_held",
            Self::UnknownGroup | Self::NoSuchGroup => "unknown_group",
            Self::NoSuchHolder => "no_such_holder",
            Self::GroupExists => "group_exists",
            Self::TooManyGroups => "too_many_groups",
            Self::BadRequest => "bad_request",
            Self::MissingHeader => "missing_header",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::NotFound => "not_found",
            Self::Timeout => "timeout",
            Self::TooLarge => "too_large",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::StoreOut => "store_out",
            Self::UnusableGroup => "unusable_group",
            Self::Busy => "busy",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::Ok => StatusCode::OK,
            Self::Full | Self::Queued => StatusCode::LOCKED,
            Self::IdInUse | Self::NotHeld | Self::GroupExists | Self::TooManyGroups => StatusCode::CONFLICT,
            Self::UnknownGroup | Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NoSuchGroup | Self::NoSuchHolder | Self::NotFound => StatusCode::NOT_FOUND,
            Self::BadRequest | Self::MissingHeader => StatusCode::BAD_REQUEST,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::StoreOut | Self::UnusableGroup | Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// When to ask again, where that is the answer's business.
    fn retry_after_s(self) -> Option<u64> {
        match self {
            Self::StoreOut | Self::Busy => Some(10),
            // A person has to act first.
            Self::UnusableGroup => Some(300),
            _ => None,
        }
    }
}

/// An answer that is not a yes.
#[derive(Debug)]
pub(super) struct Problem {
    kind: Kind,
    body: Box<RefusalBody>,
}

impl Problem {
    pub(super) fn new(kind: Kind, value: impl Into<String>) -> Self {
        let body = RefusalBody {
            kind: kind.as_str().to_owned(),
            value: value.into(),
            holders: Vec::new(),
            holders_total: None,
            max: None,
            place: None,
            waiting_since: None,
            retry_after_s: kind.retry_after_s(),
        };
        Self { kind, body: Box::new(body) }
    }

    /// What stands in a list in the stead of a group that has this problem.
    pub(super) fn of_group(self, group: GroupName) -> TroubledGroup {
        TroubledGroup { group, kind: self.body.kind, value: self.body.value }
    }

    pub(super) fn unknown_group(kind: Kind, group: &GroupName) -> Self {
        let how = format!("an operator makes one with: locksmithctl group create --max N {}", group.as_last_word());
        Self::new(kind, format!("unknown group \"{group}\"; {how}"))
    }

    /// The refusal of a group, with everything a waiting host may tell its people.
    pub(super) fn refused(group: &GroupName, refusal: &Refusal, verdict: &Verdict) -> Self {
        let kind = match refusal {
            Refusal::Full => Kind::Full,
            Refusal::Kept => Kind::Queued,
            Refusal::IdInUse(_) | Refusal::Occupied(_) => Kind::IdInUse,
            Refusal::NotHeld(_) => Kind::NotHeld,
        };
        let holders = verdict.upon.holders();
        let mut problem = Self::new(kind, refusal.sentence(group, &verdict.upon, verdict.place));
        let body = &mut problem.body;
        body.holders = holders.iter().take(LISTED_HOLDERS).map(HolderBody::from).collect();
        body.holders_total = u64::try_from(holders.len()).ok();
        body.max = Some(verdict.upon.max().get());
        body.place = verdict.place.and_then(|place| u64::try_from(place.number).ok());
        body.waiting_since = verdict.place.map(|place| place.since);
        if matches!(refusal, Refusal::Full | Refusal::Kept | Refusal::IdInUse(_)) {
            body.retry_after_s = Some(verdict.retry_after.as_secs());
        }
        problem
    }
}

impl From<Trouble> for Problem {
    fn from(trouble: Trouble) -> Self {
        let kind = match trouble {
            Trouble::StoreOut(_) | Trouble::Contended | Trouble::Gone => Kind::StoreOut,
            Trouble::Unusable(_) => Kind::UnusableGroup,
            Trouble::Busy => Kind::Busy,
        };
        Self::new(kind, trouble.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let retry_after_s = self.body.retry_after_s;
        let mut response = (self.kind.status(), Json(self.body)).into_response();
        response.extensions_mut().insert(self.kind);
        let headers = response.headers_mut();
        if let Some(seconds) = retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.kind == Kind::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // Who is refused comes back in half a minute or more: its connection would only take another's room.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    }
}
