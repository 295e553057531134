//! The tables, and how an older file becomes a newer one.

use super::{StoreError, sqlite};
use rusqlite::Connection;
use std::time::Duration;

/// The schema's steps; the file's `user_version` says how many were taken. Each has a fixture in
/// `fixtures/`, a database as it was written then: without one the tests do not build.
pub(super) const STEPS: [&str; 2] = [
    "
    CREATE TABLE vms (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        created_unix_ms INTEGER NOT NULL,
        generation INTEGER NOT NULL,
        record TEXT NOT NULL
    ) STRICT;
",
    "
    ALTER TABLE vms ADD COLUMN address TEXT;
    CREATE UNIQUE INDEX vms_address ON vms (address);
",
];

/// Sets the connection up and brings the schema up to date.
pub(super) fn prepare(connection: &mut Connection) -> Result<(), StoreError> {
    connection
        .busy_timeout(Duration::from_secs(5))
        .map_err(sqlite("set up"))?;
    let known = i64::try_from(STEPS.len()).expect("a handful");
    let found: i64 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(sqlite("read"))?;
    if found > known || found < 0 {
        return Err(StoreError::Newer { found, known });
    }
    let settings =
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;";
    connection
        .execute_batch(settings)
        .map_err(sqlite("set up"))?;
    for (index, step) in STEPS.iter().enumerate() {
        let version = i64::try_from(index).expect("a handful") + 1;
        if version <= found {
            continue;
        }
        let transaction = connection.transaction().map_err(sqlite("upgrade"))?;
        transaction.execute_batch(step).map_err(sqlite("upgrade"))?;
        transaction
            .pragma_update(None, "user_version", version)
            .map_err(sqlite("upgrade"))?;
        transaction.commit().map_err(sqlite("upgrade"))?;
    }
    Ok(())
}
