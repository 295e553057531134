//! The rows of VMs.

use super::{Database, StoreError, sqlite};
use crate::vm::record::VmRecord;
use banger_names::VmId;
use rusqlite::params;

impl Database {
    /// Adds a VM. Refuses an id or name that another VM has.
    pub(crate) async fn insert(&self, record: &VmRecord) -> Result<(), StoreError> {
        let row = Row::of(record)?;
        self.call(move |connection| {
            connection
                .execute(
                    "INSERT INTO vms (id, name, created_unix_ms, generation, record)
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                    params![row.id, row.name, row.created, row.generation, row.record],
                )
                .map_err(|error| taken(error, &row))?;
            Ok(())
        })
        .await
    }

    /// Replaces a VM's record. A row of a later generation, or none, is left as it is.
    pub(crate) async fn update(&self, record: &VmRecord) -> Result<(), StoreError> {
        let row = Row::of(record)?;
        self.call(move |connection| {
            connection
                .execute(
                    "UPDATE vms SET generation = ?2, record = ?3 WHERE id = ?1 AND generation <= ?2",
                    params![row.id, row.generation, row.record],
                )
                .map_err(sqlite("write"))?;
            Ok(())
        })
        .await
    }

    /// Removes a VM; one that is gone already is no error.
    pub(crate) async fn delete(&self, id: &VmId) -> Result<(), StoreError> {
        let id = id.clone();
        self.call(move |connection| {
            connection
                .execute("DELETE FROM vms WHERE id = ?1", params![id.as_str()])
                .map_err(sqlite("write"))?;
            Ok(())
        })
        .await
    }

    /// All VMs, the oldest first.
    pub(crate) async fn all(&self) -> Result<Vec<VmRecord>, StoreError> {
        self.call(|connection| {
            let mut statement = connection
                .prepare("SELECT id, record FROM vms ORDER BY created_unix_ms, id")
                .map_err(sqlite("read"))?;
            let rows = statement
                .query_map([], |row| {
                    Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
                })
                .map_err(sqlite("read"))?;
            rows.map(|row| {
                let (id, record) = row.map_err(sqlite("read"))?;
                serde_json::from_str(&record).map_err(|source| StoreError::Row { id, source })
            })
            .collect()
        })
        .await
    }
}

struct Row {
    id: String,
    name: String,
    created: i64,
    generation: i64,
    record: String,
}

impl Row {
    fn of(record: &VmRecord) -> Result<Self, StoreError> {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        Ok(Self {
            id: record.id.as_str().to_owned(),
            name: record.plan.name.as_str().to_owned(),
            created: number(record.created_unix_ms),
            generation: number(record.generation),
            record: serde_json::to_string(record).map_err(|source| StoreError::Row {
                id: record.id.as_str().to_owned(),
                source,
            })?,
        })
    }
}

fn taken(error: rusqlite::Error, row: &Row) -> StoreError {
    let rusqlite::Error::SqliteFailure(failure, Some(message)) = &error else {
        return sqlite("write")(error);
    };
    if failure.code != rusqlite::ErrorCode::ConstraintViolation {
        return sqlite("write")(error);
    }
    if message.contains("vms.name") {
        StoreError::Taken {
            what: "name",
            text: row.name.clone(),
        }
    } else {
        StoreError::Taken {
            what: "id",
            text: row.id.clone(),
        }
    }
}
