//! The journal: what the engine remembers, in one SQLite file, one transaction a step.
//!
//! # Tables of `state_dir/journal.db`
//!
//! | table | holds | may change |
//! | --- | --- | --- |
//! | `meta` | `schema`, `min_reader` | never in form |
//! | `model` | the engine's [`Model`] as JSON | fields are added |
//! | `attempt` | every attempt: what, when, how it ended, its lock claim | columns are only added |
//! | `outbox` | reports and lock releases that a server has not acknowledged yet | columns are only added |
//! | `refusal` | releases that rolled back here | columns are only added |
//!
//! # Promises
//!
//! * What [`Journal::commit`] returned from is on the disk (`synchronous=FULL`).
//! * A journal whose `min_reader` is above [`SCHEMA`] was written by a newer daemon: it is set aside under another name, and its
//!   attempts, outbox and refusals — whose form never changes — are carried over. So going back to an older image never blinds it.
//! * An unreadable journal is set aside too, with as much of them as can be read, and said aloud. A power cut at any moment of
//!   setting aside loses none of it. The floor does not live here (see [`crate::floor`]).
//! * A state folder that cannot be used at all is [`Journal::stand_in`]'s: nothing is lost, nothing can be written.
//! * A row that cannot be read is left out of what is read, and stays.
//! * Bounded: [`MAX_ATTEMPTS`], [`MAX_REPORTS`], [`MAX_REFUSALS`] and [`MAX_SET_ASIDE`] files; lock releases are never dropped.

mod aside;

use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use serde::{Deserialize, Serialize};

use manifests::release::SlotName;
use manifests::version::{Sequence, Version};

use crate::engine::effect::{LockOutcome, Outcome, Report, Row};
use crate::engine::event::{Fault, Orphan};
use crate::engine::model::{Ended, Model, Refusal};
use crate::engine::policy::MAX_REFUSALS;
use crate::engine::state::{Claim, Kind, Plan};
use crate::engine::time::Wall;
use aside::{Carried, beside};

/// Schema this build writes.
pub const SCHEMA: i64 = 1;
/// Oldest build that can read it.
const MIN_READER: i64 = 1;
/// Attempts kept.
pub const MAX_ATTEMPTS: u32 = 500;
/// Reports kept while no server takes them; the oldest go first.
pub const MAX_REPORTS: u32 = 1000;
/// Journals kept that were set aside.
pub const MAX_SET_ASIDE: usize = 3;

const CREATE: &str = "
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS model (id INTEGER PRIMARY KEY CHECK (id = 1), json TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS attempt (
  id TEXT PRIMARY KEY, kind TEXT NOT NULL, slot TEXT NOT NULL, from_version TEXT NOT NULL, to_version TEXT NOT NULL,
  to_sequence INTEGER NOT NULL, to_digest TEXT NOT NULL, started_at_ms INTEGER NOT NULL, ended_at_ms INTEGER,
  outcome TEXT, code TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT '', bytes_downloaded INTEGER NOT NULL DEFAULT 0,
  notes TEXT NOT NULL DEFAULT '', claim TEXT);
CREATE TABLE IF NOT EXISTS outbox (
  id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, attempt TEXT NOT NULL, created_at_ms INTEGER NOT NULL, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS refusal (
  digest TEXT PRIMARY KEY, sequence INTEGER NOT NULL, version TEXT NOT NULL, reason TEXT NOT NULL, at_ms INTEGER NOT NULL);
";

/// Why the journal could not be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// SQLite said no.
    #[error("journal {path}: {source}", path = path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// SQLite's words.
        source: rusqlite::Error,
    },
    /// The system said no.
    #[error("journal {path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// The file is broken somewhere.
    #[error("journal {path}: the file is damaged: {reason}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// SQLite's words.
        reason: String,
    },
    /// There is none: the state folder could not be used at the start.
    #[error("{reason}")]
    StandIn {
        /// Why not, and where.
        reason: String,
    },
    /// What stands in the model row is no model.
    #[error("journal {path}: the model is unreadable: {reason}", path = path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// What was expected, and where.
        reason: String,
    },
}

/// The open journal.
pub struct Journal {
    path: PathBuf,
    db: Connection,
    last_json: String,
    /// The last commit failed: the next one writes, whether there is news or not, or nobody would know that it can.
    failed: bool,
    /// This only stands in for one that cannot be used, for this reason.
    stand_in: Option<String>,
}

/// One attempt, for `history`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Attempt id.
    pub id: String,
    /// `update`, `rollback`, `found`.
    pub kind: String,
    /// Slot that was written.
    pub slot: String,
    /// From which version.
    pub from_version: String,
    /// To which.
    pub to_version: String,
    /// Sequence of the release.
    pub to_sequence: u64,
    /// When it began.
    pub started_at: Wall,
    /// When it ended; `None` = it runs.
    pub ended_at: Option<Wall>,
    /// `committed`, `rolled-back`, `failed`, `abandoned`; `None` = it runs.
    pub outcome: Option<String>,
    /// Stable word of the cause.
    pub code: String,
    /// Sentence.
    pub reason: String,
    /// Bytes received, all runs together.
    pub bytes_downloaded: u64,
    /// Recorded permissions: forced reboot, older release.
    pub notes: String,
}

/// Something a server has to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRow {
    /// Key, rising.
    pub id: i64,
    /// Attempt it is about.
    pub attempt: String,
    /// When it happened.
    pub created_at: Wall,
    /// What.
    pub message: Message,
}

/// Messages of the outbox; the JSON form is kept for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "kebab-case")]
pub enum Message {
    /// For the update server.
    Report(Report),
    /// For the lock server.
    Release {
        /// What to release, and where.
        claim: Claim,
        /// What to say of the attempt.
        outcome: LockOutcome,
    },
}

impl Journal {
    /// Opens the journal in `state_dir`, or a fresh one; [`Model::journal_note`] says when an old one was set aside.
    pub fn open(state_dir: &Path, now: Wall) -> Result<(Self, Model), JournalError> {
        let path = state_dir.join("journal.db");
        aside::finish(&path)?;
        if !path.try_exists().map_err(|source| JournalError::Io { path: path.clone(), source })? {
            Self::make_first(&path)?;
        }
        // SQLite takes a file of one byte for an empty one.
        let was_empty = std::fs::metadata(&path).is_ok_and(|data| data.is_file() && data.len() <= 1);
        match Self::open_file(&path) {
            Ok(Found::Usable(journal, mut model)) => {
                if was_empty {
                    model.journal_note = Some("the journal was empty: nothing that was under way is known".to_owned());
                }
                Ok((journal, *model))
            }
            Ok(Found::Newer { schema, carried }) => {
                let why = format!("was written by a newer daemon (schema {schema}, this one reads {SCHEMA})");
                Self::start_anew(&path, "newer", &why, &carried, now)
            }
            Err(error) if error.is_damage() && path.is_file() => {
                Self::start_anew(&path, "unreadable", &format!("was unreadable ({error})"), &Carried::salvage(&path), now)
            }
            Err(error) => Err(error),
        }
    }

    /// Stands in for a journal that cannot be used: it is empty, and nothing can be written to it. `reason` says why and where.
    pub fn stand_in(state_dir: &Path, reason: String) -> Result<Self, JournalError> {
        let path = state_dir.join("journal.db");
        let sqlite = |source| JournalError::Sqlite { path: path.clone(), source };
        let db = Connection::open_in_memory().map_err(sqlite)?;
        db.execute_batch(CREATE).map_err(sqlite)?;
        Ok(Self { path, db, last_json: String::new(), failed: false, stand_in: Some(reason) })
    }

    /// It only stands in for one that cannot be used.
    pub const fn is_stand_in(&self) -> bool {
        self.stand_in.is_some()
    }

    /// Writes the model and the rows of one step, in one transaction, before the step's effects run. Nothing new, nothing written.
    pub fn commit(&mut self, model: &Model, rows: &[&Row], now: Wall) -> Result<(), JournalError> {
        if let Some(reason) = &self.stand_in {
            return Err(JournalError::StandIn { reason: reason.clone() });
        }
        let json = serde_json::to_string(model)
            .map_err(|error| JournalError::Model { path: self.path.clone(), reason: error.to_string() })?;
        if rows.is_empty() && json == self.last_json && !self.failed {
            return Ok(());
        }
        self.failed = true;
        let path = self.path.clone();
        let sqlite = |source| JournalError::Sqlite { path: path.clone(), source };
        let transaction = self.db.transaction().map_err(sqlite)?;
        write_step(&transaction, &json, rows, now).map_err(sqlite)?;
        transaction.commit().map_err(sqlite)?;
        self.last_json = json;
        self.failed = false;
        Ok(())
    }

    /// Attempts, newest first.
    pub fn history(&self) -> Result<Vec<Attempt>, JournalError> {
        let query = "SELECT id, kind, slot, from_version, to_version, to_sequence, started_at_ms, ended_at_ms, outcome, code, reason, bytes_downloaded, notes
                     FROM attempt ORDER BY rowid DESC";
        self.all(query, |row| {
            Ok(Attempt {
                id: row.get(0)?,
                kind: row.get(1)?,
                slot: row.get(2)?,
                from_version: row.get(3)?,
                to_version: row.get(4)?,
                to_sequence: row.get::<_, i64>(5)?.unsigned_abs(),
                started_at: Wall(row.get(6)?),
                ended_at: row.get::<_, Option<i64>>(7)?.map(Wall),
                outcome: row.get(8)?,
                code: row.get(9)?,
                reason: row.get(10)?,
                bytes_downloaded: row.get::<_, i64>(11)?.unsigned_abs(),
                notes: row.get(12)?,
            })
        })
    }

    /// Attempts that never ended, other than `current`: an older journal was set aside, or lost its model.
    pub fn orphans(&self, current: Option<&str>) -> Result<Vec<Orphan>, JournalError> {
        let query = "SELECT id, slot, from_version, to_version, to_sequence, to_digest, started_at_ms, claim FROM attempt WHERE outcome IS NULL ORDER BY rowid";
        let rows = self.all(query, |row| {
            let text = |column| row.get::<_, String>(column);
            let digest = manifests::digest::Sha256Digest::from_hex(&text(5)?);
            Ok(Orphan {
                attempt: text(0)?,
                slot: if text(1)? == "a" { SlotName::A } else { SlotName::B },
                from_version: text(2)?,
                version: Version::parse(&text(3)?).unwrap_or_else(|_| Version::unknown()),
                sequence: Sequence::new(row.get::<_, i64>(4)?.unsigned_abs()).unwrap_or(Sequence::ZERO),
                digest: digest.unwrap_or(manifests::digest::Sha256Digest::from_bytes([0; 32])),
                started_at: Wall(row.get(6)?),
                claim: row.get::<_, Option<String>>(7)?.and_then(|json| serde_json::from_str(&json).ok()),
            })
        })?;
        Ok(rows.into_iter().filter(|orphan| Some(orphan.attempt.as_str()) != current).collect())
    }

    /// What waits to be delivered, oldest first. A row that cannot be read any more is left out (and stays).
    pub fn outbox(&self) -> Result<Vec<OutboxRow>, JournalError> {
        let rows = self.all("SELECT id, attempt, created_at_ms, body FROM outbox ORDER BY id", |row| {
            Ok((row.get(0)?, row.get(1)?, Wall(row.get(2)?), row.get::<_, String>(3)?))
        })?;
        let read = |(id, attempt, created_at, body): (i64, String, Wall, String)| {
            let message = serde_json::from_str(&body)
                .map_err(|error| tracing::error!("{}: outbox row {id} is unreadable: {error}", self.path.display()));
            message.ok().map(|message| OutboxRow { id, attempt, created_at, message })
        };
        Ok(rows.into_iter().filter_map(read).collect())
    }

    /// A server acknowledged it.
    pub fn delivered(&mut self, id: i64) -> Result<(), JournalError> {
        self.db.execute("DELETE FROM outbox WHERE id = ?1", params![id]).map(drop).map_err(|source| self.sqlite(source))
    }

    /// Closes a journal in whose place another may lie by now. SQLite takes the write-ahead log away by its path when it closes, and goes by
    /// the number of the inode alone, which two file systems may well have in common: the log of the other journal would go, and with it
    /// whatever was not moved out of it. This one's stays beside it, and is read by whoever opens it again.
    pub fn leave(self) {
        if let Err(error) = self.db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true) {
            // Not closed at all then: what the kernel closes in the end takes nothing away.
            tracing::error!("{}: {error}", self.path.display());
            std::mem::forget(self.db);
        }
    }

    /// From now on nothing can be written, as on a full disk; or it can again.
    #[cfg(test)]
    pub(crate) fn refuse_writes(&self, refuse: bool) {
        self.db.pragma_update(None, "query_only", refuse).unwrap();
    }

    fn open_file(path: &Path) -> Result<Found, JournalError> {
        let sqlite = |source| JournalError::Sqlite { path: path.to_owned(), source };
        let db = Connection::open(path).map_err(sqlite)?;
        configure(&db).map_err(sqlite)?;
        // Nothing is written to a journal before it is known whose it is.
        let schema = read_meta(&db, "schema").map_err(sqlite)?;
        let min_reader = read_meta(&db, "min_reader").map_err(sqlite)?;
        if let Some(schema) = schema.filter(|_| min_reader.unwrap_or(1) > SCHEMA) {
            return Ok(Found::Newer { schema, carried: Carried::read(&db) });
        }
        check_whole(&db, path)?;
        db.execute_batch(CREATE).map_err(sqlite)?;
        if schema.is_none_or(|schema| schema < SCHEMA) {
            db.execute("INSERT OR REPLACE INTO meta VALUES ('schema', ?1), ('min_reader', ?2)", params![SCHEMA, MIN_READER])
                .map_err(sqlite)?;
        }
        let mut journal = Self { path: path.to_owned(), db, last_json: String::new(), failed: false, stand_in: None };
        let model = journal.read_model()?;
        Ok(Found::Usable(journal, Box::new(model)))
    }

    /// Sets the journal aside, and goes on with a fresh one that knows what was carried over.
    fn start_anew(path: &Path, word: &str, why: &str, carried: &Carried, now: Wall) -> Result<(Self, Model), JournalError> {
        let set_aside = beside(path, &format!(".{word}-{}", now.0));
        let note = format!("the journal {why}: it was set aside as {}, {}", set_aside.display(), carried.words());
        let new = beside(path, ".new");
        Self::make_fresh(&new, note, carried, now)?;
        aside::move_journal(path, &set_aside)?;
        aside::move_journal(&new, path)?;
        aside::drop_oldest(path);
        match Self::open_file(path)? {
            Found::Usable(journal, model) => Ok((journal, *model)),
            Found::Newer { .. } => {
                Err(JournalError::Model { path: path.to_owned(), reason: "a fresh journal is newer than this build".to_owned() })
            }
        }
    }

    /// Whole before it has its name: after a power cut there is none or this one, and an empty file is always one that lost what it held.
    fn make_first(path: &Path) -> Result<(), JournalError> {
        let new = beside(path, ".first");
        aside::remove_journal(&new)?;
        if let Found::Usable(journal, _) = Self::open_file(&new)? {
            journal.db.close().map_err(|(_, source)| JournalError::Sqlite { path: new.clone(), source })?;
        }
        // The log of a journal that is gone must not be taken for this one's.
        aside::remove_journal(path)?;
        aside::move_journal(&new, path)
    }

    /// A journal as one whole file: closing it moves its write-ahead log into it.
    fn make_fresh(path: &Path, note: String, carried: &Carried, now: Wall) -> Result<(), JournalError> {
        aside::remove_journal(path)?;
        let Found::Usable(mut journal, mut model) = Self::open_file(path)? else { return Ok(()) };
        carried.write(&mut journal.db).map_err(|source| JournalError::Sqlite { path: path.to_owned(), source })?;
        model.ended = journal.count_ended()?;
        model.journal_note = Some(note);
        journal.commit(&model, &[], now)?;
        let path = path.to_owned();
        journal.db.close().map_err(|(_, source)| JournalError::Sqlite { path, source })
    }

    fn count_ended(&self) -> Result<Ended, JournalError> {
        let rows = self.all("SELECT outcome, COUNT(*) FROM attempt WHERE outcome IS NOT NULL GROUP BY outcome", |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?.unsigned_abs()))
        })?;
        let count = |outcome: &str| rows.iter().find(|(word, _)| word == outcome).map_or(0, |(_, count)| *count);
        Ok(Ended { committed: count("committed"), rolled_back: count("rolled-back"), failed: count("failed") })
    }

    fn read_model(&mut self) -> Result<Model, JournalError> {
        let json: Option<String> = self
            .db
            .query_row("SELECT json FROM model WHERE id = 1", [], |row| row.get(0))
            .optional()
            .map_err(|source| self.sqlite(source))?;
        let mut model = match &json {
            None => Model::default(),
            Some(json) => serde_json::from_str(json)
                .map_err(|error| JournalError::Model { path: self.path.clone(), reason: error.to_string() })?,
        };
        model.refusals = self.read_refusals()?;
        self.last_json = json.unwrap_or_default();
        Ok(model)
    }

    fn read_refusals(&self) -> Result<Vec<Refusal>, JournalError> {
        let rows = self.all("SELECT digest, sequence, version, reason, at_ms FROM refusal ORDER BY rowid", |row| {
            let (digest, sequence): (String, i64) = (row.get(0)?, row.get(1)?);
            let digest = manifests::digest::Sha256Digest::from_hex(&digest);
            let sequence = manifests::version::Sequence::new(sequence.unsigned_abs());
            Ok(digest.zip(sequence).zip(Some((row.get(2)?, row.get(3)?, Wall(row.get(4)?)))))
        })?;
        let refusal = |((digest, sequence), (version, reason, at))| Refusal { digest, sequence, version, reason, at };
        Ok(rows.into_iter().flatten().map(refusal).collect())
    }

    fn all<T>(&self, query: &str, read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>) -> Result<Vec<T>, JournalError> {
        let run = || -> rusqlite::Result<Vec<T>> {
            let mut statement = self.db.prepare_cached(query)?;
            let rows = statement.query_map([], read)?;
            rows.filter(|row| !row.as_ref().is_err_and(is_odd_value)).collect()
        };
        run().map_err(|source| self.sqlite(source))
    }

    fn sqlite(&self, source: rusqlite::Error) -> JournalError {
        JournalError::Sqlite { path: self.path.clone(), source }
    }
}

enum Found {
    Usable(Journal, Box<Model>),
    Newer { schema: i64, carried: Carried },
}

impl JournalError {
    /// The file itself is the trouble, not a full disk or its rights. One that cannot be read where it lies counts: a fresh one is
    /// written first, so a disk that fails as a whole loses nothing by it.
    fn is_damage(&self) -> bool {
        match self {
            Self::Model { .. } | Self::Damaged { .. } => true,
            Self::Sqlite { source, .. } if source.sqlite_error().is_some_and(is_unreadable) => true,
            Self::Sqlite { source, .. } => match source.sqlite_error_code() {
                Some(
                    rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::TypeMismatch,
                ) => true,
                // A table of another shape: "no such column" and the like.
                Some(rusqlite::ErrorCode::Unknown) => true,
                Some(_) => false,
                None => true,
            },
            Self::Io { .. } | Self::StandIn { .. } => false,
        }
    }
}

/// The medium does not give back what the file holds.
const fn is_unreadable(error: &rusqlite::ffi::Error) -> bool {
    use rusqlite::ffi::{SQLITE_IOERR_CORRUPTFS, SQLITE_IOERR_DATA, SQLITE_IOERR_READ, SQLITE_IOERR_SHORT_READ};
    matches!(error.extended_code, SQLITE_IOERR_READ | SQLITE_IOERR_SHORT_READ | SQLITE_IOERR_DATA | SQLITE_IOERR_CORRUPTFS)
}

/// The row is there, a value in it is of another kind than expected.
const fn is_odd_value(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
    matches!(error, FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) | Utf8Error(..))
}

/// Damage that no query of the start touches would stop every later step: it is looked for while setting aside is still possible.
fn check_whole(db: &Connection, path: &Path) -> Result<(), JournalError> {
    let verdict: Result<String, _> = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0));
    match verdict {
        Ok(verdict) if verdict == "ok" => Ok(()),
        Ok(reason) => Err(JournalError::Damaged { path: path.to_owned(), reason }),
        Err(source) => Err(JournalError::Sqlite { path: path.to_owned(), source }),
    }
}

/// `None` = no such key, or no such table yet.
fn read_meta(db: &Connection, key: &str) -> rusqlite::Result<Option<i64>> {
    let there: i64 = db.query_row("SELECT COUNT(*) FROM sqlite_master WHERE name = 'meta'", [], |row| row.get(0))?;
    if there == 0 {
        return Ok(None);
    }
    db.query_row("SELECT value FROM meta WHERE key = ?1", params![key], |row| row.get(0)).optional()
}

fn configure(db: &Connection) -> rusqlite::Result<()> {
    db.busy_timeout(std::time::Duration::from_secs(5))?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    // FULL: a committed step is on the medium, not only in its cache.
    db.pragma_update(None, "synchronous", "FULL")?;
    // The daemon lives in 15 MiB: 256 KiB of page cache are plenty for a few rows.
    db.pragma_update(None, "cache_size", -256)?;
    db.pragma_update(None, "journal_size_limit", 1 << 20)
}

fn write_step(db: &Transaction<'_>, json: &str, rows: &[&Row], now: Wall) -> rusqlite::Result<()> {
    db.execute("INSERT INTO model VALUES (1, ?1) ON CONFLICT (id) DO UPDATE SET json = ?1", params![json])?;
    for row in rows {
        write_row(db, row, now)?;
    }
    if !rows.is_empty() {
        // By the order of rows, not by the clock: it may have jumped.
        db.execute("DELETE FROM attempt WHERE outcome IS NOT NULL AND rowid NOT IN (SELECT rowid FROM attempt ORDER BY rowid DESC LIMIT ?1)", params![MAX_ATTEMPTS])?;
        db.execute(
            "DELETE FROM refusal WHERE rowid NOT IN (SELECT rowid FROM refusal ORDER BY rowid DESC LIMIT ?1)",
            params![MAX_REFUSALS],
        )?;
        db.execute("DELETE FROM outbox WHERE kind = 'report' AND id NOT IN (SELECT id FROM outbox WHERE kind = 'report' ORDER BY id DESC LIMIT ?1)", params![MAX_REPORTS])?;
    }
    Ok(())
}

fn write_row(db: &Transaction<'_>, row: &Row, now: Wall) -> rusqlite::Result<()> {
    match row {
        Row::Open(plan) => open_attempt(db, plan).map(drop),
        Row::Update(plan) => db
            .execute(
                "UPDATE attempt SET claim = ?2, notes = ?3 WHERE id = ?1",
                params![plan.attempt, claim_json(plan), notes(plan)],
            )
            .map(drop),
        Row::Close { attempt, outcome, fault } => close_attempt(db, attempt, *outcome, fault.as_ref(), now).map(drop),
        Row::Downloaded { attempt, bytes } => db
            .execute(
                "UPDATE attempt SET bytes_downloaded = bytes_downloaded + ?2 WHERE id = ?1",
                params![attempt, i64::try_from(*bytes).unwrap_or(i64::MAX)],
            )
            .map(drop),
        Row::Report(report) => post(db, "report", &report.attempt, &Message::Report(report.clone()), now),
        Row::Release { attempt, claim, outcome } => {
            post(db, "release", attempt, &Message::Release { claim: claim.clone(), outcome: *outcome }, now)
        }
        Row::Refuse(refusal) => db
            .execute(
                "INSERT OR REPLACE INTO refusal (digest, sequence, version, reason, at_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    refusal.digest.to_string(),
                    signed(refusal.sequence.get()),
                    refusal.version,
                    refusal.reason,
                    refusal.at.0
                ],
            )
            .map(drop),
        Row::Forgive(digest) => db.execute("DELETE FROM refusal WHERE digest = ?1", params![digest.to_string()]).map(drop),
    }
}

fn open_attempt(db: &Transaction<'_>, plan: &Plan) -> rusqlite::Result<usize> {
    let kind = match plan.kind {
        Kind::Update => "update",
        Kind::Rollback => "rollback",
        Kind::Found => "found",
    };
    db.execute(
        "INSERT OR IGNORE INTO attempt (id, kind, slot, from_version, to_version, to_sequence, to_digest, started_at_ms, notes, claim)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![
            plan.attempt,
            kind,
            plan.slot.as_str(),
            plan.from_version,
            plan.version.as_str(),
            signed(plan.sequence.get()),
            plan.digest.to_string(),
            plan.started_at.0,
            notes(plan),
            claim_json(plan)
        ],
    )
}

fn close_attempt(
    db: &Transaction<'_>,
    attempt: &str,
    outcome: Outcome,
    fault: Option<&Fault>,
    now: Wall,
) -> rusqlite::Result<usize> {
    let (code, reason) = fault.map(|fault| (fault.code.word(), fault.message.as_str())).unwrap_or_default();
    db.execute(
        "UPDATE attempt SET ended_at_ms = ?2, outcome = ?3, code = ?4, reason = ?5 WHERE id = ?1 AND outcome IS NULL",
        params![attempt, now.0, outcome.as_str(), code, reason],
    )
}

fn post(db: &Transaction<'_>, kind: &str, attempt: &str, message: &Message, now: Wall) -> rusqlite::Result<()> {
    let body = serde_json::to_string(message).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    db.execute(
        "INSERT INTO outbox (kind, attempt, created_at_ms, body) VALUES (?1, ?2, ?3, ?4)",
        params![kind, attempt, now.0, body],
    )
    .map(drop)
}

fn claim_json(plan: &Plan) -> Option<String> {
    plan.claim.as_ref().and_then(|claim| serde_json::to_string(claim).ok())
}

fn notes(plan: &Plan) -> String {
    let forced = plan.forced.then_some("reboot forced: lock and inhibitors skipped");
    let older = plan.allow_older.then_some("an older release, permitted by a person");
    let found = plan.warnings.iter().map(|warning| format!("wanted health check: {warning}"));
    [older, forced].into_iter().flatten().map(str::to_owned).chain(found).collect::<Vec<_>>().join("; ")
}

/// Sequences are at most 2^53.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
