//! A database that cannot be used: put aside and begun anew, or left alone and only looked at.
//! In both cases no VM is lost with it: their records have copies.

use super::vms::read_all;
use super::{Database, StoreError, sqlite};
use crate::problem::Refusal;
use rusqlite::{Connection, ErrorCode};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::{SystemTime, UNIX_EPOCH};

impl Condition {
    /// Whether what is changed is kept.
    pub(crate) fn may_change(&self) -> bool {
        !matches!(self, Self::Newer { .. })
    }

    /// Refuses whatever changes something, where that would not be kept.
    pub(crate) fn refuse_changes(&self) -> Result<(), Refusal> {
        match self {
            Self::Newer { why } => Err(Refusal::conflict(format!("change anything: {why}"))
                .hint("install the newer banger again; nothing of its VMs is touched until then")),
            Self::Sound | Self::Damaged { .. } => Ok(()),
        }
    }
}

/// In which condition the database was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    /// It can be used.
    Sound,
    /// It was damaged: it lies aside, and another took its place.
    Damaged {
        /// Where it lies now.
        aside: PathBuf,
        /// What was wrong with it.
        why: String,
    },
    /// A newer banger has written it: it is left alone, and what is changed here is not kept.
    Newer {
        /// In which words that was found.
        why: String,
    },
}

impl Database {
    /// Opens the database as [`Database::open`] does; one that cannot be used is put aside if it
    /// is damaged, and left alone if it is newer. Blocks.
    pub(crate) fn open_whatever(path: &Path, vms: &Path) -> Result<(Self, Condition), StoreError> {
        let why = match Self::open(path, vms).and_then(Self::checked) {
            Ok(database) => return Ok((database, Condition::Sound)),
            Err(error @ StoreError::Newer { .. }) => {
                let why = error.to_string();
                let memory = Connection::open_in_memory().map_err(sqlite("open"))?;
                // The newer banger's copies have what this one would drop.
                return Ok((Self::over(memory, None)?, Condition::Newer { why }));
            }
            Err(error) if is_damage(&error) => chain(&error),
            Err(error) => return Err(error),
        };
        let aside = put_aside(path).map_err(|source| StoreError::Protect {
            path: path.to_owned(),
            source,
        })?;
        tracing::error!(why, aside = %aside.display(), "the database is damaged; it was put aside");
        Ok((Self::open(path, vms)?, Condition::Damaged { aside, why }))
    }

    /// Has SQLite check the file, and reads every row.
    fn checked(self) -> Result<Self, StoreError> {
        let connection = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let finding: String = connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(sqlite("check"))?;
        if finding != "ok" {
            return Err(StoreError::Faulty { finding });
        }
        read_all(&connection)?;
        drop(connection);
        Ok(self)
    }
}

/// Whether the file's content is at fault, and not the host.
fn is_damage(error: &StoreError) -> bool {
    match error {
        StoreError::Faulty { .. } | StoreError::Row { .. } => true,
        StoreError::Sqlite { source, .. } => matches!(
            source.sqlite_error_code(),
            // The last is what a table that is there although no version says so gives, or one
            // that is not.
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown)
        ),
        _ => false,
    }
}

/// The error and its causes, in one line.
fn chain(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Renames the file and its journals; gives its new name.
fn put_aside(path: &Path) -> io::Result<PathBuf> {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let with = |path: &Path, suffix: &str| {
        let mut name = OsString::from(path);
        name.push(suffix);
        PathBuf::from(name)
    };
    let free = (0..)
        .map(|number| with(path, &format!(".damaged-{}", seconds + number)))
        .find(|aside| !aside.exists())
        .expect("some second is free");
    // The journals first: without them the file is not taken for a whole one.
    for suffix in ["-wal", "-shm", ""] {
        match std::fs::rename(with(path, suffix), with(&free, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(free)
}
