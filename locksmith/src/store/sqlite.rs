//! The store of one machine: an SQLite file in a data folder.
//!
//! ```text
//! DIR/                  mode 0700, made if missing
//! ├── locksmith.sqlite  mode 0600; journal_mode=WAL, synchronous=FULL: a commit is on the disk before it is answered
//! └── locksmithd.lock   held by flock while a locksmithd runs; holds its process id
//!
//! clock(only, revision)              one row: the number of the last change anywhere
//! groups(name, revision, document)   document: the JSON of semaphore::Document
//! history(seq, group_name, entry)    entry: the JSON of semaphore::history::Entry; 1,000 newest per group. One of the
//!                                    group '', which there cannot be, is left of a rehearsal and means nothing
//! user_version = 1                   the schema's number; a higher one is refused by name
//! ```
//!
//! Promises: one process per folder (the second is refused with the first one's process id), and what is described in
//! [`super`].
//! Never: repairs or replaces a file it cannot read.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, TransactionBehavior, params};
use tokio::sync::Mutex;

use super::{Expected, Groups, History, MAX_GROUPS, Revision, Store, StoreError, Stored, Swap, Write};
use crate::names::GroupName;
use crate::semaphore::history::{Entry, MAX_ENTRIES};
use crate::semaphore::{Document, DocumentError};

const DATABASE: &str = "locksmith.sqlite";
const LOCK: &str = "locksmithd.lock";

/// Marks the file as ours ("LKSM").
const APPLICATION_ID: i32 = 0x4c4b_534d;

/// The schema written by this version.
const SCHEMA: i32 = 1;

const CREATE: &str = "
    CREATE TABLE clock (only INTEGER PRIMARY KEY CHECK (only = 1), revision INTEGER NOT NULL) STRICT;
    INSERT INTO clock VALUES (1, 0);
    CREATE TABLE groups (name TEXT PRIMARY KEY, revision INTEGER NOT NULL, document TEXT NOT NULL) STRICT;
    CREATE TABLE history (seq INTEGER PRIMARY KEY AUTOINCREMENT, group_name TEXT NOT NULL, entry TEXT NOT NULL) STRICT;
    CREATE INDEX history_of_group ON history (group_name, seq);
";

/// Longest wait for a reader from outside (a backup, a curious operator) that holds the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What a rehearsal writes beside as much as the largest document: a round of a group's task adds up to a hundred holders of at most
/// 1 KiB and as many entries of the history, and something lies between pages.
const REHEARSED_BYTES: usize = 256 << 10;

/// Why a data folder could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process serves it.
    #[error("data folder {dir}: {holder} is running on it")]
    InUse {
        /// The folder.
        dir: PathBuf,
        /// Who, with its process id where known.
        holder: String,
    },
    /// It cannot be read or written.
    #[error("data folder {dir}: {what}: {source}")]
    Io {
        /// The folder.
        dir: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not a database, is damaged, or cannot be opened.
    #[error("database {file}: {source}")]
    Database {
        /// The file.
        file: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The file belongs to another program.
    #[error("database {file}: it is another program's (application id {found:#x}, expected {APPLICATION_ID:#x})")]
    Foreign {
        /// The file.
        file: PathBuf,
        /// Its application id.
        found: i32,
    },
    /// The file was written by a newer locksmithd.
    #[error("database {file}: it has schema {found}, this locksmithd knows up to {SCHEMA}: start the newer locksmithd")]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its schema number.
        found: i32,
    },
}

/// A store in a data folder, held by this process alone.
#[derive(Debug)]
pub struct SqliteStore {
    file: PathBuf,
    connection: Arc<Mutex<Connection>>,
    /// How much that cannot be read was told of, of the list of groups and of each group's history: it lies there until somebody
    /// acts, and is said when it becomes more.
    told: std::sync::Mutex<BTreeMap<Option<GroupName>, usize>>,
    /// Dropped last: while it is held nobody else opens the folder.
    _lock: File,
}

impl SqliteStore {
    /// Opens the store in `dir`, making folder and file if they are missing. Blocks on the disk.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let io = |what| move |source| OpenError::Io { dir: dir.to_owned(), what, source };
        make_dir(dir).map_err(io("cannot make it"))?;
        let lock = take_lock(dir)?;
        let file = dir.join(DATABASE);
        private(&file).map_err(io("cannot make the database in it"))?;
        let connection = open_database(&file)?;
        sync_dir(dir).map_err(io("cannot sync it"))?;
        Ok(Self { file, connection: Arc::new(Mutex::new(connection)), told: std::sync::Mutex::default(), _lock: lock })
    }

    /// Runs a piece of work on the connection, off the runtime's threads, one at a time.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let mut connection = Arc::clone(&self.connection).lock_owned().await;
        let done = tokio::task::spawn_blocking(move || work(&mut connection)).await;
        match done {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Failure::Database(error))) => Err(self.out(&error)),
            Ok(Err(Failure::Document { group, source })) => Err(StoreError::Document { place: self.place(), group, source }),
            Ok(Err(Failure::Names { unreadable })) => Err(StoreError::UnreadableNames { place: self.place(), unreadable }),
            Err(error) => Err(self.out(&error)),
        }
    }

    fn is_news(&self, of: Option<&GroupName>, unreadable: usize) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let before = told.get(&of.cloned()).copied().unwrap_or_default();
        if unreadable > before {
            told.insert(of.cloned(), unreadable);
        }
        unreadable > before
    }

    fn out(&self, reason: &dyn std::fmt::Display) -> StoreError {
        StoreError::Unavailable { place: self.place(), reason: reason.to_string() }
    }

    fn place(&self) -> String {
        self.file.display().to_string()
    }
}

impl Store for SqliteStore {
    async fn get(&self, group: &GroupName) -> Result<Option<Stored>, StoreError> {
        let group = group.clone();
        self.run(move |connection| read(connection, &group)).await
    }

    async fn swap(&self, group: &GroupName, expected: Expected, write: Write) -> Result<Swap, StoreError> {
        let group = group.clone();
        self.run(move |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let swap = swap_in(&transaction, &group, expected, &write)?;
            transaction.commit()?;
            Ok(swap)
        })
        .await
    }

    async fn groups(&self) -> Result<Groups, StoreError> {
        let Read { found: names, unreadable } = self.run(|connection| names_in(connection)).await?;
        if self.is_news(None, unreadable) {
            tracing::error!(
                store = self.place(),
                unreadable,
                "groups whose names cannot be read are not served, and no group is made beside them: mend the names, or restore a backup"
            );
        }
        Ok(Groups { names, unreadable })
    }

    async fn history(&self, group: &GroupName, limit: usize) -> Result<History, StoreError> {
        let of = group.clone();
        let Read { found: entries, unreadable } = self.run(move |connection| entries_in(connection, &of, limit)).await?;
        if self.is_news(Some(group), unreadable) {
            tracing::warn!(store = self.place(), %group, unreadable, "history entries that cannot be read are left out");
        }
        Ok(History { entries, unreadable })
    }

    async fn rehearse(&self) -> Result<(), StoreError> {
        self.run(rehearse).await
    }
}

/// What can go wrong on the connection's thread.
enum Failure {
    Database(rusqlite::Error),
    Document { group: String, source: DocumentError },
    Names { unreadable: usize },
}

/// What was found of what is there.
struct Read<T> {
    found: Vec<T>,
    unreadable: usize,
}

impl<T> Read<T> {
    /// Reads until `limit` are found that can be read.
    fn first(limit: usize, rows: impl Iterator<Item = Result<Option<T>, rusqlite::Error>>) -> Result<Self, Failure> {
        let mut read = Self { found: Vec::new(), unreadable: 0 };
        for row in rows {
            match row? {
                _ if read.found.len() >= limit => break,
                Some(readable) => read.found.push(readable),
                None => read.unreadable += 1,
            }
        }
        Ok(read)
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

fn names_in(connection: &Connection) -> Result<Read<GroupName>, Failure> {
    let mut statement = connection.prepare_cached("SELECT name FROM groups ORDER BY name")?;
    let names = statement.query_map([], |row| Ok(bytes_in(row, 0)?.and_then(name_in)))?;
    Read::first(MAX_GROUPS, names)
}

fn entries_in(connection: &Connection, group: &GroupName, limit: usize) -> Result<Read<Entry>, Failure> {
    let mut statement = connection.prepare_cached("SELECT entry FROM history WHERE group_name = ?1 ORDER BY seq DESC")?;
    let entry = |row: &Row<'_>| Ok(bytes_in(row, 0)?.and_then(|bytes| serde_json::from_slice(bytes).ok()));
    Read::first(limit, statement.query_map([group.as_str()], entry)?)
}

fn read(connection: &Connection, group: &GroupName) -> Result<Option<Stored>, Failure> {
    let mut statement = connection.prepare_cached("SELECT revision, document FROM groups WHERE name = ?1")?;
    let stored = |row: &Row<'_>| Ok(stored_in(row.get(0)?, bytes_in(row, 1)?.unwrap_or_default()));
    let stored = statement.query_row([group.as_str()], stored).optional()?;
    stored.transpose().map_err(|source| Failure::Document { group: group.to_string(), source })
}

fn stored_in(revision: i64, document: &[u8]) -> Result<Stored, DocumentError> {
    let text = std::str::from_utf8(document).map_err(|error| DocumentError::Malformed(error.to_string()))?;
    let revision = u64::try_from(revision).map_err(|_| DocumentError::Malformed(format!("its revision is {revision}")))?;
    Ok(Stored { document: Document::from_json(text)?, revision: Revision(revision) })
}

fn swap_in(transaction: &Transaction<'_>, group: &GroupName, expected: Expected, write: &Write) -> Result<Swap, Failure> {
    let document = write.document.to_json().map_err(|source| Failure::Document { group: group.to_string(), source })?;
    let next: i64 = transaction.prepare_cached("SELECT revision + 1 FROM clock")?.query_row([], |row| row.get(0))?;
    let revision = revision_in(next)?;
    let changed = match expected {
        Expected::Absent => {
            let Read { found, unreadable } = names_in(transaction)?;
            match unreadable {
                0 if found.len() < MAX_GROUPS => transaction
                    .prepare_cached("INSERT INTO groups VALUES (?1, ?2, ?3) ON CONFLICT (name) DO NOTHING")?
                    .execute(params![group.as_str(), next, document])?,
                0 => 0,
                _ if found.contains(group) => 0,
                _ => return Err(Failure::Names { unreadable }),
            }
        }
        Expected::At(Revision(expected)) => transaction
            .prepare_cached("UPDATE groups SET revision = ?2, document = ?3 WHERE name = ?1 AND revision = ?4")?
            .execute(params![group.as_str(), next, document, i64::try_from(expected).unwrap_or(-1)])?,
    };
    if changed == 0 {
        return Ok(Swap::Lost);
    }
    transaction.prepare_cached("UPDATE clock SET revision = ?1")?.execute([next])?;
    append(transaction, group, &write.history)?;
    Ok(Swap::Done(revision))
}

fn append(transaction: &Transaction<'_>, group: &GroupName, history: &[Entry]) -> Result<(), Failure> {
    if history.is_empty() {
        return Ok(());
    }
    let mut insert = transaction.prepare_cached("INSERT INTO history (group_name, entry) VALUES (?1, ?2)")?;
    for entry in history {
        insert.execute(params![group.as_str(), to_json(entry)?])?;
    }
    transaction
        .prepare_cached(
            "DELETE FROM history WHERE group_name = ?1 AND seq <=
             (SELECT seq FROM history WHERE group_name = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
        )?
        .execute(params![group.as_str(), sql_size(MAX_ENTRIES)])?;
    Ok(())
}

/// In two transactions: what is written and taken back in one, SQLite does not write.
fn rehearse(connection: &mut Connection) -> Result<(), Failure> {
    const FORGET: &str = "DELETE FROM history WHERE group_name = ''";
    const WRITE: &str = "
        INSERT INTO history (group_name, entry)
        SELECT '', hex(zeroblob((?1 + coalesce(max(length(CAST(document AS BLOB))), 0)) / 2)) FROM groups";
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute(FORGET, [])?;
    transaction.execute("UPDATE clock SET revision = revision + 1", [])?;
    transaction.execute(WRITE, [sql_size(REHEARSED_BYTES)])?;
    transaction.commit()?;
    connection.execute(FORGET, [])?;
    Ok(())
}

fn open_database(file: &Path) -> Result<Connection, OpenError> {
    let database = |source| OpenError::Database { file: file.to_owned(), source };
    let mut connection = Connection::open(file).map_err(database)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(database)?;
    let number = |connection: &Connection, name: &str| {
        connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0)).map_err(database)
    };
    let (found, schema) = (number(&connection, "application_id")?, number(&connection, "user_version")?);
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(database)?;
    if tables > 0 && found != APPLICATION_ID {
        return Err(OpenError::Foreign { file: file.to_owned(), found });
    }
    if schema > SCHEMA {
        return Err(OpenError::Newer { file: file.to_owned(), found: schema });
    }
    configure(&connection).map_err(database)?;
    if tables == 0 {
        create(&mut connection).map_err(database)?;
    }
    Ok(connection)
}

fn configure(connection: &Connection) -> Result<(), rusqlite::Error> {
    // The answer to this pragma is a row, and in-memory or odd file systems answer with another mode.
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        tracing::warn!(mode, "the database cannot use a write-ahead log here; it stays correct but is slower");
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    // The log is cut back to this after a checkpoint, so one burst does not keep the disk for ever.
    connection.pragma_update(None, "journal_size_limit", 4 << 20)
}

fn create(connection: &mut Connection) -> Result<(), rusqlite::Error> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(CREATE)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", SCHEMA)?;
    transaction.commit()
}

fn make_dir(dir: &Path) -> std::io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => match dir.parent() {
            Some(parent) if parent.as_os_str().is_empty() => sync_dir(Path::new(".")),
            Some(parent) => sync_dir(parent),
            None => Ok(()),
        },
    }
}

fn sync_dir(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Makes a file that only its owner may read; SQLite gives its log the same mode.
fn private(file: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(file)
}

fn take_lock(dir: &Path) -> Result<File, OpenError> {
    let io = |what| move |source| OpenError::Io { dir: dir.to_owned(), what, source };
    let mut lock = private(&dir.join(LOCK)).map_err(io("cannot make its lock file"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(OpenError::InUse { dir: dir.to_owned(), holder: holder_of(&mut lock) });
        }
        Err(TryLockError::Error(source)) => return Err(io("cannot lock it")(source)),
    }
    lock.set_len(0).map_err(io("cannot write its lock file"))?;
    lock.write_all(format!("{}\n", std::process::id()).as_bytes()).map_err(io("cannot write its lock file"))?;
    Ok(lock)
}

fn holder_of(lock: &mut File) -> String {
    let mut text = String::new();
    let read = lock.rewind().and_then(|()| lock.take(32).read_to_string(&mut text));
    match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(pid)) => format!("another locksmithd (process {pid})"),
        _ => "another locksmithd".to_owned(),
    }
}

/// The bytes of a text, which another program may have written: that they are one is for whoever reads it to find.
fn bytes_in<'a>(row: &'a Row<'_>, column: usize) -> Result<Option<&'a [u8]>, rusqlite::Error> {
    Ok(row.get_ref(column)?.as_bytes().ok())
}

fn name_in(bytes: &[u8]) -> Option<GroupName> {
    GroupName::parse(std::str::from_utf8(bytes).ok()?).ok()
}

fn revision_in(number: i64) -> Result<Revision, Failure> {
    let number = u64::try_from(number).map_err(|_| Failure::Database(unreadable(format!("revision {number} is negative"))))?;
    Ok(Revision(number))
}

fn to_json<T: serde::Serialize>(value: &T) -> Result<String, rusqlite::Error> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

fn unreadable(message: String) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, message.into())
}

fn sql_size(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_second_process_on_the_same_folder_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let first = SqliteStore::open(&data).unwrap();
        let refused = SqliteStore::open(&data).unwrap_err().to_string();
        let expected =
            format!("data folder {}: another locksmithd (process {}) is running on it", data.display(), std::process::id());
        assert_eq!(refused, expected);
        drop(first);
        SqliteStore::open(&data).unwrap();
    }

    #[test]
    fn the_folder_and_its_files_are_their_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let _store = SqliteStore::open(&data).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&data), 0o700);
        for file in std::fs::read_dir(&data).unwrap() {
            let path = file.unwrap().path();
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
    }

    #[test]
    fn every_commit_is_flushed_before_it_is_answered() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).unwrap();
        let connection = store.connection.try_lock().unwrap();
        let pragma = |name: &str| -> String {
            connection
                .pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0))
                .map(|value| format!("{value:?}"))
                .unwrap()
        };
        assert_eq!(pragma("journal_mode"), r#"Text("wal")"#);
        assert_eq!(pragma("synchronous"), "Integer(2)", "2 is FULL");
    }

    #[test]
    fn a_file_of_a_newer_schema_or_of_another_program_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        drop(SqliteStore::open(dir.path()).unwrap());
        let file = dir.path().join(DATABASE);
        let change = |pragma: &str, value: i32| {
            Connection::open(&file).unwrap().pragma_update(None, pragma, value).unwrap();
        };
        change("user_version", 7);
        assert!(matches!(SqliteStore::open(dir.path()), Err(OpenError::Newer { found: 7, .. })));
        change("user_version", SCHEMA);
        change("application_id", 1);
        assert!(matches!(SqliteStore::open(dir.path()), Err(OpenError::Foreign { found: 1, .. })));
        change("application_id", APPLICATION_ID);
        SqliteStore::open(dir.path()).unwrap();
    }

    /// Origin of the fixture: `testdata/README.md`.
    #[tokio::test]
    async fn a_database_of_schema_1_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let old = Connection::open(dir.path().join(DATABASE)).unwrap();
        old.execute_batch(include_str!("../../testdata/store_v1.sql")).unwrap();
        drop(old);
        let store = SqliteStore::open(dir.path()).unwrap();
        let web = GroupName::parse("web").unwrap();
        let stored = store.get(&web).await.unwrap().unwrap();
        let holders: Vec<String> = stored
            .document
            .holders()
            .iter()
            .map(|h| format!("{} {} {} {:?}", h.id, h.fence, h.phase, h.facts.deadline_s))
            .collect();
        let expected = ["host-a 4 rebooting Some(600)", "host-b 5 draining None", "host-c 6 rebooting None"];
        assert_eq!((stored.revision, stored.document.max().get()), (Revision(7), 3));
        assert_eq!(holders, expected);
        let events: Vec<&str> =
            store.history(&web, 100).await.unwrap().entries.iter().map(|entry| entry.event.as_str()).collect();
        let expected = ["held", "max-changed", "forced-unlock", "lease-expired", "released", "rebooting", "granted", "created"];
        assert_eq!(events, expected);
        let write = Write { document: stored.document, history: Vec::new() };
        let swap = store.swap(&web, Expected::At(Revision(7)), write).await.unwrap();
        assert_eq!(swap, Swap::Done(Revision(8)));
    }

    #[tokio::test]
    async fn what_cannot_be_read_hides_nothing_else_and_stops_no_change() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).unwrap();
        let (web, db) = (GroupName::parse("web").unwrap(), GroupName::parse("db").unwrap());
        let document = Document::new(crate::semaphore::Max::new(1).unwrap());
        let history = vec![Entry::created(document.max(), "2026-01-01T00:00:00Z".parse().unwrap())];
        let write = Write { document, history };
        store.swap(&web, Expected::Absent, write.clone()).await.unwrap();
        store.swap(&db, Expected::Absent, write.clone()).await.unwrap();
        let other_program = Connection::open(dir.path().join(DATABASE)).unwrap();
        let damage = "
            INSERT INTO groups SELECT 'a b', 1, document FROM groups WHERE name = 'db';
            INSERT INTO groups SELECT CAST(x'ff' AS TEXT), 1, document FROM groups WHERE name = 'db';
            UPDATE groups SET document = CAST(x'7bff' AS TEXT) WHERE name = 'web';
            INSERT INTO history (group_name, entry) VALUES ('db', '{\"event\":\"invented\"}'), ('db', CAST(x'ff' AS TEXT))";
        other_program.execute_batch(damage).unwrap();
        assert_eq!(store.groups().await.unwrap(), Groups { names: vec![db.clone(), web.clone()], unreadable: 2 });
        let unusable = store.get(&web).await.unwrap_err();
        assert!(matches!(unusable, StoreError::Document { .. }), "{unusable}");
        for limit in [1, 100] {
            let history = History { entries: write.history.clone(), unreadable: 2 };
            assert_eq!(store.history(&db, limit).await.unwrap(), history, "the newest entries cannot be read");
        }
        store.rehearse().await.unwrap();
        other_program.execute("UPDATE groups SET revision = -1 WHERE name = 'db'", []).unwrap();
        let unusable = store.get(&db).await.unwrap_err().to_string();
        assert!(unusable.ends_with("group \"db\": the document is not what locksmith writes: its revision is -1"), "{unusable}");
    }

    #[tokio::test]
    async fn no_group_is_made_that_could_be_one_whose_name_cannot_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).unwrap();
        let (web, db) = (GroupName::parse("web").unwrap(), GroupName::parse("db").unwrap());
        let write = Write { document: Document::new(crate::semaphore::Max::new(1).unwrap()), history: vec![] };
        for group in [&web, &db] {
            store.swap(group, Expected::Absent, write.clone()).await.unwrap();
        }
        let other_program = Connection::open(dir.path().join(DATABASE)).unwrap();
        let rename = |from: &str, to: &str| {
            assert_eq!(other_program.execute("UPDATE groups SET name = ?2 WHERE name = ?1", [from, to]).unwrap(), 1);
        };
        rename("web", "we b");
        let refused = store.swap(&web, Expected::Absent, write.clone()).await.unwrap_err();
        assert!(matches!(refused, StoreError::UnreadableNames { unreadable: 1, .. }), "{refused}");
        assert_eq!(store.get(&web).await.unwrap(), None);
        assert_eq!(store.swap(&db, Expected::Absent, write.clone()).await.unwrap(), Swap::Lost, "that one is there");
        rename("we b", "web");
        assert_eq!(store.swap(&web, Expected::Absent, write).await.unwrap(), Swap::Lost);
        assert_eq!(store.groups().await.unwrap(), Groups { names: vec![db, web], unreadable: 0 });
    }

    #[tokio::test]
    async fn a_rehearsal_needs_the_room_of_a_change_even_where_less_can_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(dir.path()).unwrap();
        let web = GroupName::parse("web").unwrap();
        let document = Document::new(crate::semaphore::Max::new(1).unwrap());
        let entry = Entry::created(document.max(), "2026-01-01T00:00:00Z".parse().unwrap());
        let write = |entries| Write { document: document.clone(), history: vec![entry.clone(); entries] };
        let Swap::Done(mut revision) = store.swap(&web, Expected::Absent, write(0)).await.unwrap() else { panic!("lost") };
        let room_for = async |pages: i64| {
            let connection = store.connection.lock().await;
            let used: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
            connection.pragma_update_and_check(None, "max_page_count", used + pages, |row| row.get::<_, i64>(0)).unwrap();
        };
        // As a disk with room for what is there already.
        room_for(0).await;
        let full = store.swap(&web, Expected::At(revision), write(100)).await.unwrap_err().to_string();
        assert!(full.ends_with("is out: database or disk is full"), "{full}");
        for _ in 0..2 {
            assert_eq!(store.rehearse().await.unwrap_err().to_string(), full);
            let small = store.swap(&web, Expected::At(revision), write(0)).await.unwrap();
            revision = if let Swap::Done(next) = small { next } else { panic!("lost") };
        }
        room_for(1000).await;
        store.rehearse().await.unwrap();
        let connection = store.connection.lock().await;
        let rows: i64 = connection.query_row("SELECT count(*) FROM history", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 0, "nothing of a rehearsal is left");
    }

    #[test]
    fn a_file_that_is_no_database_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(DATABASE);
        let junk = "no database at all\n".repeat(100);
        std::fs::write(&file, &junk).unwrap();
        let error = SqliteStore::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("locksmith.sqlite") && error.contains("not a database"), "{error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), junk);
    }
}
