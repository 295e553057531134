//! The database on a real file.

use super::*;
use crate::vm::record::VmRecord;
use banger_api::VmState;
use banger_names::{Subnet, VmId};
use std::os::unix::fs::PermissionsExt;

/// The database at `path`, with the VMs' directories beside it.
pub(super) fn open(path: &Path) -> Result<Database, StoreError> {
    Database::open(path, &path.with_file_name("vms"))
}

pub(super) fn record(bits: u32, name: &str) -> VmRecord {
    VmRecord::new(
        VmId::from_bits(bits),
        crate::vm::record::tests::record(name).plan,
    )
}

#[tokio::test]
async fn rows_come_back_as_written_after_reopening() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("bangerd.db");
    let mut one = record(1, "one");
    let database = open(&path).unwrap();
    database.insert(&mut one, None).await.unwrap();
    one.begin(false);
    one.end(VmState::Crashed, "failed", "because");
    database.update(&one).await.unwrap();
    drop(database);
    let database = open(&path).unwrap();
    assert_eq!(database.all().await.unwrap(), vec![one.clone()]);
    database.delete(&one.id).await.unwrap();
    database.delete(&one.id).await.unwrap();
    assert!(database.all().await.unwrap().is_empty());
}

#[tokio::test]
async fn insert_refuses_taken_names_and_ids() {
    let temp = tempfile::tempdir().unwrap();
    let database = open(&temp.path().join("bangerd.db")).unwrap();
    database.insert(&mut record(1, "one"), None).await.unwrap();
    let name = database
        .insert(&mut record(2, "one"), None)
        .await
        .unwrap_err();
    assert!(matches!(name, StoreError::Taken { what: "name", .. }));
    let id = database
        .insert(&mut record(1, "two"), None)
        .await
        .unwrap_err();
    assert!(matches!(id, StoreError::Taken { what: "id", .. }));
    assert_eq!(database.all().await.unwrap().len(), 1);
}

#[tokio::test]
async fn update_of_an_older_generation_changes_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let database = open(&temp.path().join("bangerd.db")).unwrap();
    let old = record(1, "one");
    let mut new = old.clone();
    new.begin(false);
    database.insert(&mut new, None).await.unwrap();
    database.update(&old).await.unwrap();
    assert_eq!(database.all().await.unwrap(), vec![new]);
}

#[test]
fn open_refuses_a_newer_file_and_makes_files_private() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("bangerd.db");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let database = open(&path).unwrap();
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
    let refused = open(&path).unwrap_err();
    assert!(
        matches!(refused, StoreError::Newer { found: 99, .. }),
        "{refused}"
    );
    let garbage = temp.path().join("garbage.db");
    std::fs::write(&garbage, vec![b'x'; 8192]).unwrap();
    assert!(open(&garbage).is_err());
}

#[tokio::test]
async fn full_disk_is_told_apart_from_a_fault() {
    let temp = tempfile::tempdir().unwrap();
    let database = open(&temp.path().join("bangerd.db")).unwrap();
    let limit = |connection: &rusqlite::Connection| {
        connection
            .query_row("PRAGMA max_page_count = 1", [], |_| Ok(()))
            .map_err(sqlite("limit"))
    };
    database.call(limit).await.unwrap();
    let mut refusal = None;
    for number in 0..100 {
        let mut record = record(number, &format!("vm{number}"));
        if let Err(error) = database.insert(&mut record, None).await {
            refusal = Some(crate::problem::Refusal::from(error).0);
            break;
        }
    }
    let refusal = refusal.unwrap();
    assert_eq!(refusal.code, banger_api::ProblemCode::Exhausted);
    assert!(refusal.hint.unwrap().contains("disk space"));
}

#[tokio::test]
async fn parallel_creates_get_addresses_of_their_own_until_none_is_free() {
    let temp = tempfile::tempdir().unwrap();
    let database = open(&temp.path().join("bangerd.db")).unwrap();
    let subnet = Subnet::parse("172.30.0.1/29").unwrap();
    let made = (0..50).map(|number| {
        let database = database.clone();
        tokio::spawn(async move {
            let mut record = record(number, &format!("vm{number}"));
            let made = database.insert(&mut record, Some(subnet)).await;
            made.map(|()| record)
        })
    });
    let mut kept = Vec::new();
    for made in futures_util::future::join_all(made).await {
        match made.unwrap() {
            Ok(record) => kept.push(record),
            Err(StoreError::NoAddress { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    let mut addresses: Vec<_> = kept
        .iter()
        .map(|vm| vm.address.unwrap().octets()[3])
        .collect();
    addresses.sort_unstable();
    assert_eq!(addresses, [2, 3, 4, 5, 6]);
    // Freed by deletion, and kept over changes.
    let gone = kept.remove(2);
    database.delete(&gone.id).await.unwrap();
    let mut other = record(99, "other");
    database.insert(&mut other, Some(subnet)).await.unwrap();
    assert_eq!(other.address, gone.address);
    let mut first = kept.remove(0);
    first.begin(false);
    database.update(&first).await.unwrap();
    assert!(database.all().await.unwrap().contains(&first));
    // Another subnet, another address.
    let wider = Subnet::parse("10.9.0.1/24").unwrap();
    database.readdress(&mut first, wider).await.unwrap();
    assert_eq!(first.address.unwrap().to_string(), "10.9.0.2");
    assert!(database.all().await.unwrap().contains(&first));
}

#[tokio::test]
async fn a_kept_vms_record_has_a_copy_and_a_runs_has_none() {
    let temp = tempfile::tempdir().unwrap();
    let vms = temp.path().join("vms");
    let database = open(&temp.path().join("bangerd.db")).unwrap();
    let (mut kept, mut run) = (record(1, "kept"), record(2, "run"));
    run.plan.ephemeral = true;
    for vm in [&mut kept, &mut run] {
        std::fs::create_dir_all(vms.join(vm.id.as_str())).unwrap();
        database.insert(vm, None).await.unwrap();
        vm.begin(false);
        database.update(vm).await.unwrap();
    }
    let orphans = copies::orphans(&vms, |_| false).unwrap();
    assert_eq!(orphans[0].as_ref().ok(), Some(&kept));
    assert!(orphans[1].is_err());
    let unknown = copies::orphans(&vms, |id| *id == kept.id).unwrap();
    assert_eq!(unknown.len(), 1);
    // A record is believed in its own directory only.
    let other = vms.join(VmId::from_bits(3).as_str());
    std::fs::create_dir(&other).unwrap();
    std::fs::copy(
        vms.join(kept.id.as_str()).join("vm.json"),
        other.join("vm.json"),
    )
    .unwrap();
    assert!(copies::orphans(&vms, |_| false).unwrap()[2].is_err());
}

#[tokio::test]
async fn damaged_files_are_put_aside_and_newer_ones_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("bangerd.db");
    let vms = temp.path().join("vms");
    let fresh = |damage: &dyn Fn(&Path)| {
        for entry in std::fs::read_dir(temp.path()).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        let database = open(&path).unwrap();
        {
            let connection = database.connection.lock().unwrap();
            let row = "INSERT INTO vms VALUES (?1, ?1, 0, 0, 'x', NULL)";
            for number in 0..500 {
                connection.execute(row, [format!("{number:0200}")]).unwrap();
            }
            connection.execute("DELETE FROM vms", []).unwrap();
            connection
                .execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
                .unwrap();
        }
        drop(database);
        damage(&path);
        Database::open_whatever(&path, &vms).unwrap().1
    };
    let sql = |text: &'static str| {
        move |path: &Path| {
            let connection = rusqlite::Connection::open(path).unwrap();
            connection.execute_batch(text).unwrap();
        }
    };
    assert_eq!(fresh(&|_| ()), Condition::Sound);
    assert_eq!(
        fresh(&|path| std::fs::write(path, "").unwrap()),
        Condition::Sound
    );
    let cut = |path: &Path| {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2 + 100)
            .unwrap();
    };
    let noise = |path: &Path| std::fs::write(path, vec![b'x'; 40_000]).unwrap();
    let row = sql("INSERT INTO vms VALUES ('a', 'a', 0, 0, '{}', NULL)");
    let tables = sql("DROP TABLE vms");
    for damage in [&cut as &dyn Fn(&Path), &noise, &row, &tables] {
        let condition = fresh(damage);
        let Condition::Damaged { aside, why } = condition else {
            panic!("{condition:?}");
        };
        assert!(aside.exists() && !why.is_empty());
        assert!(Database::open_whatever(&path, &vms).unwrap().1 == Condition::Sound);
    }
    let condition = fresh(&sql("PRAGMA user_version = 99"));
    assert!(
        matches!(condition, Condition::Newer { .. }),
        "{condition:?}"
    );
    let left = rusqlite::Connection::open(&path).unwrap();
    let version: i64 = left
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .unwrap();
    assert_eq!(version, 99);
}
