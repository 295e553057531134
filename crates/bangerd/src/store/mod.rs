//! What was acknowledged: one SQLite file, written through to the disk.
//!
//! Every call blocks for a flush; [`Database`] moves it off the asynchronous threads. A call
//! whose caller went away still completes, so a row is never half written.

mod condition;
pub(crate) mod copies;
mod schema;
mod vms;

pub(crate) use condition::Condition;

use banger_names::Subnet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Why the database could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite failed.
    #[error("{what} the database")]
    Sqlite {
        /// What was tried.
        what: &'static str,
        /// What SQLite says.
        #[source]
        source: rusqlite::Error,
    },
    /// The file cannot be made private.
    #[error("protect the database {path:?}")]
    Protect {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A newer banger has written it.
    #[error(
        "open the database: it has version {found}, this bangerd knows up to {known}; use the newer banger"
    )]
    Newer {
        /// The version it has.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// SQLite's own check finds faults.
    #[error("check the database: {finding}")]
    Faulty {
        /// Its first finding.
        finding: String,
    },
    /// The name, address or id belongs to another VM.
    #[error("take the {what} {text:?}: another VM has it")]
    Taken {
        /// `name`, `address` or `id`.
        what: &'static str,
        /// It.
        text: String,
    },
    /// Every address of the subnet is a VM's.
    #[error("give the VM an address: all of {subnet} are taken")]
    NoAddress {
        /// The subnet.
        subnet: Subnet,
    },
    /// A row is not what was written.
    #[error("understand the row of {id:?}")]
    Row {
        /// The VM.
        id: String,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// The thread that worked on it died.
    #[error("work on the database: its thread died")]
    Thread,
}

impl StoreError {
    /// Whether the disk is full.
    pub(crate) fn is_full(&self) -> bool {
        let Self::Sqlite { source, .. } = self else {
            return false;
        };
        source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
    }
}

/// The database; clones share one connection.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    connection: Arc<Mutex<rusqlite::Connection>>,
    /// The directory of all VMs' state, where copies of their records are written.
    vms: Option<Arc<Path>>,
}

impl Database {
    /// Opens the database at `path` (0600), making or upgrading it; copies of records go
    /// below `vms`. Blocks.
    pub(crate) fn open(path: &Path, vms: &Path) -> Result<Self, StoreError> {
        protect(path)?;
        let connection = rusqlite::Connection::open(path).map_err(sqlite("open"))?;
        Self::over(connection, Some(vms.into()))
    }

    fn over(
        mut connection: rusqlite::Connection,
        vms: Option<Arc<Path>>,
    ) -> Result<Self, StoreError> {
        schema::prepare(&mut connection)?;
        Ok(Self {
            connection: Arc::new(Mutex::new(connection)),
            vms,
        })
    }

    /// Runs `work` on a thread that may block.
    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let connection = Arc::clone(&self.connection);
        tokio::task::spawn_blocking(move || {
            // Every change is one statement or one transaction: a panic leaves no half of it.
            let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            work(&connection)
        })
        .await
        .map_err(|_| StoreError::Thread)?
    }
}

/// Makes the file with mode 0600 before SQLite would make it with another; its journals
/// take the file's mode.
fn protect(path: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let io = |source| StoreError::Protect {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(io)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))
        .map_err(io)
}

fn sqlite(what: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError {
    move |source| StoreError::Sqlite { what, source }
}

#[cfg(test)]
mod migration_tests;
#[cfg(test)]
mod tests;
