//! Every version of the schema that there ever was is opened, and its rows are kept.
//!
//! A fixture is a database that a bangerd of that version wrote, as SQL text (`sqlite3 FILE .dump` and the
//! version). There have been two versions: the one that came before the current one is the first. Of
//! the current one the fixture is its first bangerd's, whose rows lack what was added to them since.

use super::schema::STEPS;
use super::tests::open;
use banger_api::VmState;
use banger_names::Subnet;
use rusqlite::Connection;
use std::path::Path;

/// A database of each version, the first one first. Whoever adds a step adds what it begins from, and
/// what it leads to.
const FIXTURES: [&str; STEPS.len()] = [
    include_str!("fixtures/1.sql"),
    include_str!("fixtures/2.sql"),
];

/// The VMs in every fixture, by name: one that was only made, one whose start failed.
const VMS: [(&str, VmState); 2] = [("made", VmState::Created), ("failed", VmState::Crashed)];

/// Writes the fixture to a file.
fn write(fixture: &str, path: &Path) -> Connection {
    let old = Connection::open(path).unwrap();
    old.execute_batch(fixture).unwrap();
    old
}

/// All that makes the schema, and its version.
fn schema(connection: &Connection) -> (Vec<(String, String)>, i64) {
    let mut statement = connection
        .prepare("SELECT name, coalesce(sql, '') FROM sqlite_schema ORDER BY name")
        .unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    let things = rows.unwrap().map(Result::unwrap).collect();
    let version = connection.query_row("PRAGMA user_version", [], |row| row.get(0));
    (things, version.unwrap())
}

/// What a row is found by.
fn rows(connection: &Connection) -> Vec<(String, String, i64, i64)> {
    let mut statement = connection
        .prepare("SELECT id, name, created_unix_ms, generation FROM vms ORDER BY id")
        .unwrap();
    let rows = statement.query_map([], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

#[tokio::test]
async fn every_version_becomes_the_current_one_with_its_rows() {
    let temp = tempfile::tempdir().unwrap();
    let fresh_path = temp.path().join("fresh.db");
    drop(open(&fresh_path).unwrap());
    let fresh = schema(&Connection::open(&fresh_path).unwrap());
    for (version, fixture) in (1..).zip(FIXTURES) {
        let path = temp.path().join(format!("{version}.db"));
        let old = write(fixture, &path);
        assert_eq!(schema(&old).1, version, "the fixture's own version");
        assert_eq!(schema(&old).0 == fresh.0, version == fresh.1, "{version}");
        let before = rows(&old);
        drop(old);

        let database = open(&path).unwrap();
        let vms = database.all().await.unwrap();
        for (name, state) in VMS {
            let vm = vms.iter().find(|vm| vm.plan.name.as_str() == name);
            let vm = vm.unwrap_or_else(|| panic!("version {version} loses {name}"));
            assert_eq!(vm.state, state, "{version}: {name}");
            assert_eq!(vm.exit.is_some(), state == VmState::Crashed);
        }
        assert_eq!(vms.len(), VMS.len());
        // They can be written, and others beside them.
        let mut vm = vms[0].clone();
        vm.begin(false);
        database.update(&vm).await.unwrap();
        let subnet = Subnet::parse("172.30.0.1/24").unwrap();
        database.readdress(&mut vm, subnet).await.unwrap();
        assert!(database.all().await.unwrap().contains(&vm));
        let mut other = super::tests::record(1, "other");
        database.insert(&mut other, Some(subnet)).await.unwrap();
        database.delete(&other.id).await.unwrap();
        drop(database);

        let new = Connection::open(&path).unwrap();
        assert_eq!(schema(&new), fresh, "{version}");
        let mut after = rows(&new);
        for row in &mut after {
            row.3 -= i64::from(row.0 == vm.id.as_str());
        }
        assert_eq!(after, before, "{version}");
        // A second opening finds nothing to do.
        drop(new);
        open(&path).unwrap();
        assert_eq!(schema(&Connection::open(&path).unwrap()), fresh);
    }
}

#[test]
fn an_upgrade_that_fails_leaves_the_file_as_it_was() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("bangerd.db");
    let old = write(FIXTURES[0], &path);
    // What the next step would make is there already.
    old.execute_batch("CREATE TABLE vms_address (x)").unwrap();
    let before = (schema(&old), rows(&old));
    drop(old);
    assert!(open(&path).is_err());
    let left = Connection::open(&path).unwrap();
    assert_eq!((schema(&left), rows(&left)), before);
}
