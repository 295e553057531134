//! The database on a real file.

use super::*;
use crate::vm::plan::{HostFacts, RESERVE, draft};
use crate::vm::record::VmRecord;
use banger_api::{Config, VmSpec, VmState};
use banger_names::{ByteSize, Digest, VmId};
use std::os::unix::fs::PermissionsExt;

fn record(bits: u32, name: &str) -> VmRecord {
    let spec = VmSpec {
        name: Some(name.parse().unwrap()),
        ..VmSpec::default()
    };
    let facts = HostFacts {
        memory: ByteSize::gib(4),
        disk_free: ByteSize::gib(4),
        reserve: RESERVE,
    };
    let id = VmId::from_bits(bits);
    let digest = Digest::from_sha256([7; 32]);
    let plan = draft(&spec, &Config::default(), &facts, false)
        .unwrap()
        .resolve(&id, digest.clone(), "k".parse().unwrap(), digest)
        .unwrap();
    VmRecord::new(id, plan)
}

#[tokio::test]
async fn rows_come_back_as_written_after_reopening() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("bangerd.db");
    let mut one = record(1, "one");
    let database = Database::open(&path).unwrap();
    database.insert(&one).await.unwrap();
    one.begin();
    one.end(VmState::Crashed, "failed", "because");
    database.update(&one).await.unwrap();
    drop(database);
    let database = Database::open(&path).unwrap();
    assert_eq!(database.all().await.unwrap(), vec![one.clone()]);
    database.delete(&one.id).await.unwrap();
    database.delete(&one.id).await.unwrap();
    assert!(database.all().await.unwrap().is_empty());
}

#[tokio::test]
async fn insert_refuses_taken_names_and_ids() {
    let temp = tempfile::tempdir().unwrap();
    let database = Database::open(&temp.path().join("bangerd.db")).unwrap();
    database.insert(&record(1, "one")).await.unwrap();
    let name = database.insert(&record(2, "one")).await.unwrap_err();
    assert!(matches!(name, StoreError::Taken { what: "name", .. }));
    let id = database.insert(&record(1, "two")).await.unwrap_err();
    assert!(matches!(id, StoreError::Taken { what: "id", .. }));
    assert_eq!(database.all().await.unwrap().len(), 1);
}

#[tokio::test]
async fn update_of_an_older_generation_changes_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let database = Database::open(&temp.path().join("bangerd.db")).unwrap();
    let old = record(1, "one");
    let mut new = old.clone();
    new.begin();
    database.insert(&new).await.unwrap();
    database.update(&old).await.unwrap();
    assert_eq!(database.all().await.unwrap(), vec![new]);
}

#[test]
fn open_refuses_a_newer_file_and_makes_files_private() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("bangerd.db");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let database = Database::open(&path).unwrap();
    for entry in std::fs::read_dir(temp.path()).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0);
    }
    database
        .connection
        .lock()
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    drop(database);
    let refused = Database::open(&path).unwrap_err();
    assert!(
        matches!(refused, StoreError::Newer { found: 99, .. }),
        "{refused}"
    );
    let garbage = temp.path().join("garbage.db");
    std::fs::write(&garbage, vec![b'x'; 8192]).unwrap();
    assert!(Database::open(&garbage).is_err());
}

#[tokio::test]
async fn full_disk_is_told_apart_from_a_fault() {
    let temp = tempfile::tempdir().unwrap();
    let database = Database::open(&temp.path().join("bangerd.db")).unwrap();
    let limit = |connection: &rusqlite::Connection| {
        connection
            .query_row("PRAGMA max_page_count = 1", [], |_| Ok(()))
            .map_err(sqlite("limit"))
    };
    database.call(limit).await.unwrap();
    let mut refusal = None;
    for number in 0..100 {
        let record = record(number, &format!("vm{number}"));
        if let Err(error) = database.insert(&record).await {
            refusal = Some(crate::problem::Refusal::from(error).0);
            break;
        }
    }
    let refusal = refusal.unwrap();
    assert_eq!(refusal.code, banger_api::ProblemCode::Exhausted);
    assert!(refusal.hint.unwrap().contains("disk space"));
}
