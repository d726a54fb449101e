//! Setting a journal aside without losing what it holds of lasting worth, whenever power is cut.
//!
//! ```text
//! journal.db.new   is made with all that is carried over, and closed
//! journal.db       is renamed to journal.db.WHY-TIME
//! journal.db.new   is renamed to journal.db
//! ```
//!
//! A start that finds no `journal.db` but a `journal.db.new` does the last step.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::journal::{JournalError, MAX_SET_ASIDE};

/// The tables whose form never changes, on their way from another journal into a fresh one: as much of them as can be read.
#[derive(Default)]
pub(super) struct Carried {
    tables: Vec<Table>,
}

struct Table {
    name: &'static str,
    columns: &'static str,
    rows: Vec<Vec<rusqlite::types::Value>>,
}

impl Carried {
    const TABLES: [(&'static str, &'static str); 3] = [
        (
            "attempt",
            "id, kind, slot, from_version, to_version, to_sequence, to_digest, started_at_ms, ended_at_ms, outcome, code, reason, bytes_downloaded, notes, claim",
        ),
        ("outbox", "id, kind, attempt, created_at_ms, body"),
        ("refusal", "digest, sequence, version, reason, at_ms"),
    ];

    pub(super) fn read(db: &Connection) -> Self {
        let table = |(name, columns)| Table { name, columns, rows: read_rows(db, name, columns).unwrap_or_default() };
        Self { tables: Self::TABLES.into_iter().map(table).collect() }
    }

    /// From a journal that is damaged somewhere.
    pub(super) fn salvage(path: &Path) -> Self {
        Connection::open(path).map(|db| Self::read(&db)).unwrap_or_default()
    }

    pub(super) fn write(&self, db: &mut Connection) -> rusqlite::Result<()> {
        let transaction = db.transaction()?;
        for Table { name, columns, rows } in &self.tables {
            let marks = vec!["?"; columns.split(',').count()].join(", ");
            let mut statement = transaction.prepare(&format!("INSERT OR IGNORE INTO {name} ({columns}) VALUES ({marks})"))?;
            for row in rows {
                statement.execute(rusqlite::params_from_iter(row))?;
            }
        }
        transaction.commit()
    }

    pub(super) fn words(&self) -> String {
        let count = |name| self.tables.iter().find(|table| table.name == name).map_or(0, |table| table.rows.len());
        format!(
            "and of it were kept: {} attempts, {} messages to servers, {} refusals",
            count("attempt"),
            count("outbox"),
            count("refusal")
        )
    }
}

/// Rows in their order, up to the first that cannot be read.
fn read_rows(db: &Connection, table: &str, columns: &str) -> rusqlite::Result<Vec<Vec<rusqlite::types::Value>>> {
    let width = columns.split(',').count();
    let mut statement = db.prepare(&format!("SELECT {columns} FROM {table} ORDER BY rowid"))?;
    let rows = statement.query_map([], |row| (0..width).map(|column| row.get(column)).collect())?;
    Ok(rows.map_while(Result::ok).collect())
}

/// SQLite keeps a journal in up to three files.
const PARTS: [&str; 3] = ["", "-wal", "-shm"];

pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Renames all its files, the main one first: a write-ahead log without it is nothing, one beside a foreign file is poison.
pub(super) fn move_journal(from: &Path, to: &Path) -> Result<(), JournalError> {
    let io = |source| JournalError::Io { path: from.to_owned(), source };
    for part in PARTS {
        match std::fs::rename(beside(from, part), beside(to, part)) {
            Err(error) if part.is_empty() || error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
    }
    sync_folder(from).map_err(io)
}

pub(super) fn remove_journal(path: &Path) -> Result<(), JournalError> {
    for part in PARTS {
        let file = beside(path, part);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(JournalError::Io { path: file, source: error });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Setting aside was cut off between its two renames: the fresh journal is whole, and its place is free.
pub(super) fn finish(path: &Path) -> Result<(), JournalError> {
    let new = beside(path, ".new");
    let there = |path: &Path| path.try_exists().unwrap_or(true);
    if !there(&new) || there(path) {
        return Ok(());
    }
    // The log of the journal that was set aside must not be taken for this one's.
    remove_journal(path)?;
    move_journal(&new, path)
}

fn sync_folder(file: &Path) -> std::io::Result<()> {
    let Some(folder) = file.parent() else { return Ok(()) };
    std::fs::File::open(folder)?.sync_all()
}

/// Old ones are removed as far as that works: a full folder must not keep a host from starting.
pub(super) fn drop_oldest(path: &Path) {
    let Some(Ok(entries)) = path.parent().map(std::fs::read_dir) else { return };
    let name = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let is_aside = |name: &str| {
        (name.starts_with("journal.db.newer-") || name.starts_with("journal.db.unreadable-"))
            && !name.ends_with("-wal")
            && !name.ends_with("-shm")
    };
    let mut aside: Vec<_> = entries.flatten().filter(|entry| is_aside(&name(entry))).collect();
    aside.sort_by_key(|entry| entry.metadata().and_then(|data| data.modified()).ok());
    let surplus = aside.len().saturating_sub(MAX_SET_ASIDE);
    for entry in aside.into_iter().take(surplus) {
        // One that cannot be removed stays one of those that are kept.
        let _gone_or_not = remove_journal(&entry.path());
    }
}
