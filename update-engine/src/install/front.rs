//! The front of a payload: header and frame table, from the first source whose front fits the record.

use std::sync::Arc;

use manifests::release::Record;
use payload::format::{Frame, FrameTable, Header, Kind};
use payload::limits::HEADER_BYTES;

use super::error::InstallError;
use super::{budget_for, bytes_of_images};
use crate::fetch::{SourceId, Sources};

/// What the first request asks for: the front of most payloads, so that one round trip is enough.
const FIRST_REQUEST_BYTES: u64 = 64 * 1024;

/// What a payload is to a release.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Role {
    /// It leans on nothing but itself, and is the one that the record names, if that names one.
    Full,
    /// It leans on the slot that runs. No record names it.
    Delta,
}

/// A payload, and everyone who offers it.
pub(super) struct Offered {
    pub(super) role: Role,
    pub(super) sources: Sources,
    /// Its length, if the update server named it.
    pub(super) size: Option<u64>,
    /// Once it is known.
    pub(super) front: Option<Arc<Front>>,
}

impl Offered {
    /// Its front, which is fetched if it has to be.
    pub(super) async fn front(&mut self, record: &Record) -> Result<Arc<Front>, InstallError> {
        if let Some(front) = &self.front {
            return Ok(Arc::clone(front));
        }
        let front = Arc::new(fetch(&mut self.sources, record, self.size, self.role).await?);
        self.front = Some(Arc::clone(&front));
        Ok(front)
    }
}

/// A frame table that makes the record's images, by its own account.
pub(super) struct Front {
    pub(super) table: Arc<FrameTable>,
    /// Who gave it.
    pub(super) giver: SourceId,
    /// The record names this very table: then wrong windows are never its fault.
    pub(super) is_vouched: bool,
}

/// Fetches a front. Sources whose front is another payload's, or none, lose their turn.
async fn fetch(sources: &mut Sources, record: &Record, payload_size: Option<u64>, role: Role) -> Result<Front, InstallError> {
    sources.expect_size(payload_size);
    loop {
        sources.announce(0..FIRST_REQUEST_BYTES.min(payload_size.unwrap_or(u64::MAX)));
        match try_once(sources, record, payload_size, role).await? {
            Ok((table, giver)) => {
                let header = table.header();
                sources.expect_size(Some(header.total_len()));
                let budget = budget_for(header.total_len().min(bytes_of_images(record)));
                match role {
                    Role::Full => sources.budget().set_limit(budget),
                    Role::Delta => sources.limit_share(budget),
                }
                let is_vouched = role == Role::Full && record.payload_table_sha256 == Some(header.table_sha256());
                return Ok(Front { table: Arc::new(table), giver, is_vouched });
            }
            Err(why) => sources.garbage(why).await?,
        }
    }
}

/// One source's front, or why it is not the one.
async fn try_once(
    sources: &mut Sources,
    record: &Record,
    payload_size: Option<u64>,
    role: Role,
) -> Result<Result<(FrameTable, SourceId), String>, InstallError> {
    let mut bytes = Vec::new();
    let header_bytes = u64::try_from(HEADER_BYTES).unwrap_or(u64::MAX);
    let giver = sources.read(0..header_bytes, &mut bytes).await?;
    let header = match Header::parse(&bytes) {
        Ok(header) => header,
        Err(error) => return Ok(Err(error.to_string())),
    };
    if let Some(why) = misfit(&header, record, payload_size, role) {
        return Ok(Err(why));
    }
    // If another source has to go on with it, the digest in the header still tells whether it is this table.
    sources.read(header.table_range(), &mut bytes).await?;
    let table = FrameTable::parse(header, bytes, record).and_then(|table| available(&table, role).map(|()| table));
    Ok(table.map(|table| (table, giver)).map_err(|error| error.to_string()))
}

/// Refuses what this build cannot make before anything is written. A frame of a delta may be of a kind it lacks: the full payload has its windows,
/// too.
fn available(table: &FrameTable, role: Role) -> Result<(), payload::Error> {
    if role == Role::Delta {
        return Ok(());
    }
    let is_unknown = |frame: &Frame<'_>| matches!(frame.kind(), Kind::Unknown(_));
    match (table.frames().find(is_unknown), table.sources().first()) {
        (Some(frame), _) => Err(payload::Error::NotAvailable { frame: frame.name(), kind: frame.kind() }),
        (None, Some(source)) => {
            let got = format!("a delta that leans on image {:?}", source.name);
            Err(payload::Error::Field { what: "payload".to_owned(), expected: "a full one".to_owned(), got })
        }
        (None, None) => Ok(()),
    }
}

/// Why a payload with this header is not the one to install.
fn misfit(header: &Header, record: &Record, payload_size: Option<u64>, role: Role) -> Option<String> {
    let got = header.table_sha256();
    let named = record.payload_table_sha256.filter(|_| role == Role::Full);
    if let Some(expected) = named.filter(|expected| *expected != got) {
        return Some(format!("another payload than the record names: expected frame table sha256 {expected}, got {got}"));
    }
    let expected = payload_size.filter(|expected| *expected != header.total_len())?;
    Some(format!("the payload's header says {} bytes, the update server said {expected}", header.total_len()))
}
