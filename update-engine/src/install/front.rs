//! The front of a payload: header and frame table, from the first source whose front fits the record.

use std::sync::Arc;

use manifests::release::Record;
use payload::format::{Frame, FrameTable, Header, Kind};
use payload::limits::HEADER_BYTES;

use super::budget_for;
use super::error::InstallError;
use crate::fetch::{SourceId, Sources};

/// What the first request asks for: the front of most payloads, so that one round trip is enough.
const FIRST_REQUEST_BYTES: u64 = 64 * 1024;

/// A frame table that makes the record's images, by its own account.
pub(super) struct Front {
    pub(super) table: Arc<FrameTable>,
    /// Who gave it.
    pub(super) giver: SourceId,
    /// The record names this very table: then wrong windows are never its fault.
    pub(super) is_vouched: bool,
}

/// Fetches a front. Sources whose front is another payload's, or none, lose their turn.
pub(super) async fn fetch(sources: &mut Sources, record: &Record, payload_size: Option<u64>) -> Result<Front, InstallError> {
    sources.expect_size(payload_size);
    loop {
        sources.announce(0..FIRST_REQUEST_BYTES.min(payload_size.unwrap_or(u64::MAX)));
        match try_once(sources, record, payload_size).await? {
            Ok((table, giver)) => {
                let header = table.header();
                sources.expect_size(Some(header.total_len()));
                sources.set_budget(budget_for(header.total_len()));
                let is_vouched = record.payload_table_sha256 == Some(header.table_sha256());
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
) -> Result<Result<(FrameTable, SourceId), String>, InstallError> {
    let mut bytes = Vec::new();
    let header_bytes = u64::try_from(HEADER_BYTES).unwrap_or(u64::MAX);
    let giver = sources.read(0..header_bytes, &mut bytes).await?;
    let header = match Header::parse(&bytes) {
        Ok(header) => header,
        Err(error) => return Ok(Err(error.to_string())),
    };
    if let Some(why) = misfit(&header, record, payload_size) {
        return Ok(Err(why));
    }
    // If another source has to go on with it, the digest in the header still tells whether it is this table.
    sources.read(header.table_range(), &mut bytes).await?;
    let table = FrameTable::parse(header, bytes, record).and_then(|table| available(&table).map(|()| table));
    Ok(table.map(|table| (table, giver)).map_err(|error| error.to_string()))
}

/// Refuses frames that lean on other windows or need a codec that this build lacks, before anything is written.
fn available(table: &FrameTable) -> Result<(), payload::Error> {
    let known = |frame: &Frame<'_>| matches!(frame.kind(), Kind::Zero | Kind::Raw | Kind::Zstd);
    match table.frames().find(|frame| !known(frame)) {
        None => Ok(()),
        Some(frame) => Err(payload::Error::NotAvailable { frame: frame.name(), kind: frame.kind() }),
    }
}

/// Why a payload with this header is not the one to install.
fn misfit(header: &Header, record: &Record, payload_size: Option<u64>) -> Option<String> {
    let got = header.table_sha256();
    if let Some(expected) = record.payload_table_sha256.filter(|expected| *expected != got) {
        return Some(format!("another payload than the record names: expected frame table sha256 {expected}, got {got}"));
    }
    let expected = payload_size.filter(|expected| *expected != header.total_len())?;
    Some(format!("the payload's header says {} bytes, the update server said {expected}", header.total_len()))
}
