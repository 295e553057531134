//! The rows of VMs.

use super::{Database, StoreError, copies, sqlite};
use crate::net_plan;
use crate::vm::record::VmRecord;
use banger_names::{Subnet, VmId};
use rusqlite::{Connection, params};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

impl Database {
    /// Adds a VM, with the lowest free address of `subnet` if it is to have one, which is then
    /// its own as long as it is there. Refuses an id or name that another VM has.
    pub(crate) async fn insert(
        &self,
        record: &mut VmRecord,
        subnet: Option<Subnet>,
    ) -> Result<(), StoreError> {
        let mut new = record.clone();
        *record = self
            .call(move |connection| {
                if let Some(subnet) = subnet {
                    new.address = Some(free_address(connection, &new.id, &subnet)?);
                }
                let row = Row::of(&new)?;
                connection
                    .execute(
                        "INSERT INTO vms (id, name, created_unix_ms, generation, record, address)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                        params![
                            row.id,
                            row.name,
                            row.created,
                            row.generation,
                            row.record,
                            row.address
                        ],
                    )
                    .map_err(|error| taken(error, &row))?;
                Ok(new)
            })
            .await?;
        Ok(())
    }

    /// Gives a VM an address of `subnet` in place of the one it has.
    pub(crate) async fn readdress(
        &self,
        record: &mut VmRecord,
        subnet: Subnet,
    ) -> Result<(), StoreError> {
        let mut new = record.clone();
        *record = self
            .call(move |connection| {
                new.address = Some(free_address(connection, &new.id, &subnet)?);
                let row = Row::of(&new)?;
                connection
                    .execute(UPDATE, row.update())
                    .map_err(sqlite("write"))?;
                Ok(new)
            })
            .await?;
        Ok(())
    }

    /// Replaces a VM's record, and its copy. A row of a later generation, or none, is left as it is.
    /// Refuses a name that another VM has.
    pub(crate) async fn update(&self, record: &VmRecord) -> Result<(), StoreError> {
        let row = Row::of(record)?;
        let record = record.clone();
        let vms = self.vms.clone();
        self.call(move |connection| {
            let changed = connection
                .execute(UPDATE, row.update())
                .map_err(|error| taken(error, &row))?;
            if changed > 0
                && let Some(vms) = vms
            {
                copies::keep(&vms, &record);
            }
            Ok(())
        })
        .await
    }

    /// Writes the copy of a record whose row is there. Blocks.
    pub(crate) fn keep_copy(&self, record: &VmRecord) {
        if let Some(vms) = &self.vms {
            copies::keep(vms, record);
        }
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
        self.call(read_all).await
    }
}

/// Reads every row.
pub(super) fn read_all(connection: &Connection) -> Result<Vec<VmRecord>, StoreError> {
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
}

/// Replaces a row that is not of a later generation.
const UPDATE: &str = "UPDATE vms SET generation = ?2, record = ?3, address = ?4, name = ?5
                      WHERE id = ?1 AND generation <= ?2";

/// The lowest address that no other VM has. The connection is locked: nobody takes it in between.
fn free_address(
    connection: &Connection,
    id: &VmId,
    subnet: &Subnet,
) -> Result<Ipv4Addr, StoreError> {
    let mut statement = connection
        .prepare("SELECT address FROM vms WHERE address IS NOT NULL AND id <> ?1")
        .map_err(sqlite("read"))?;
    let rows = statement
        .query_map([id.as_str()], |row| row.get::<_, String>(0))
        .map_err(sqlite("read"))?;
    let mut taken = BTreeSet::new();
    for row in rows {
        // What is no address takes none.
        taken.extend(row.map_err(sqlite("read"))?.parse::<Ipv4Addr>());
    }
    net_plan::lowest_free(subnet, &taken).ok_or(StoreError::NoAddress { subnet: *subnet })
}

struct Row {
    id: String,
    name: String,
    created: i64,
    generation: i64,
    record: String,
    address: Option<String>,
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
            address: record.address.map(|address| address.to_string()),
        })
    }

    /// The parameters of [`UPDATE`].
    fn update(&self) -> (&str, i64, &str, Option<&str>, &str) {
        (
            &self.id,
            self.generation,
            &self.record,
            self.address.as_deref(),
            &self.name,
        )
    }
}

fn taken(error: rusqlite::Error, row: &Row) -> StoreError {
    let rusqlite::Error::SqliteFailure(failure, Some(message)) = &error else {
        return sqlite("write")(error);
    };
    if failure.code != rusqlite::ErrorCode::ConstraintViolation {
        return sqlite("write")(error);
    }
    let (what, text) = if message.contains("vms.name") {
        ("name", row.name.clone())
    } else if message.contains("vms.address") {
        ("address", row.address.clone().unwrap_or_default())
    } else {
        ("id", row.id.clone())
    };
    StoreError::Taken { what, text }
}
