//! The ledger against what it must not believe, and against running out.

use super::*;
use crate::entry::TapEntry;
use banger_ids::Subnet;
use std::os::unix::fs::PermissionsExt;

fn vm(bits: u32, generation: u32) -> VmRef {
    let id = VmId::from_bits(bits);
    VmRef { id, generation }
}

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o700)).unwrap();
    directory
}

fn load(directory: &tempfile::TempDir) -> Ledger {
    Ledger::load(Dir::open(directory.path().to_str().unwrap()).unwrap()).unwrap()
}

fn with_tap(ledger: &Ledger, vm: &VmRef, last: u8) -> VmEntry {
    let mut entry = ledger.entry_or_new(vm).unwrap();
    entry.tap = Some(TapEntry {
        address: [10, 0, 0, last].into(),
        has_nat: false,
    });
    entry
}

#[test]
fn what_is_written_is_read_again_and_what_is_empty_is_forgotten() {
    let directory = directory();
    let mut ledger = load(&directory);
    let entry = with_tap(&ledger, &vm(1, 1), 2);
    ledger.write(entry.clone()).unwrap();
    let bridge = BridgeEntry {
        name: "br-fc".parse().unwrap(),
        subnet: Subnet::parse("10.0.0.1/24").unwrap(),
        uplinks: vec!["eth0".to_owned()],
        resolver_port: Some(8053),
    };
    ledger.write_bridge(Some(bridge.clone())).unwrap();
    let mode = std::fs::metadata(directory.path().join("bridge.json")).unwrap();
    assert_eq!(mode.permissions().mode() & 0o7777, 0o600);

    let mut ledger = load(&directory);
    assert_eq!(ledger.entry(&vm(1, 1)).unwrap(), entry);
    assert_eq!(ledger.bridge(), Some(&bridge));
    ledger.update(&vm(1, 1), |entry| entry.tap = None).unwrap();
    ledger.write_bridge(None).unwrap();
    assert_eq!(ledger.entries(), []);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn r31_unknown_vms_and_other_generations_are_as_of_none() {
    let directory = directory();
    let mut ledger = load(&directory);
    let entry = with_tap(&ledger, &vm(1, 2), 2);
    ledger.write(entry).unwrap();
    for other in [vm(1, 1), vm(1, 3), vm(2, 2)] {
        let refusal = ledger.entry(&other).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Unknown, "{other}");
    }
    for other in [vm(1, 1), vm(1, 3)] {
        let refusal = ledger.entry_or_new(&other).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Exists, "{other}");
    }
}

#[test]
fn r7_r19_addresses_and_uids_of_other_vms_are_refused() {
    let directory = directory();
    let mut ledger = load(&directory);
    let first = with_tap(&ledger, &vm(1, 1), 2);
    ledger.write(first.clone()).unwrap();
    let second = with_tap(&ledger, &vm(2, 1), 2);
    assert_ne!(first.uid, second.uid);
    let refusal = ledger.write(second.clone()).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Exists, "{refusal}");
    let mut second = with_tap(&ledger, &vm(2, 1), 3);
    for uid in [
        first.uid,
        0,
        1000,
        65_534,
        u32::MAX,
        FIRST_UID - 1,
        FIRST_UID + UIDS,
    ] {
        second.uid = uid;
        assert!(ledger.write(second.clone()).is_err(), "{uid}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn torn_and_foreign_files_are_reported_and_stop_new_vms_until_dropped() {
    let directory = directory();
    let mut ledger = load(&directory);
    let entry = with_tap(&ledger, &vm(1, 1), 2);
    ledger.write(entry).unwrap();
    let path = |name: &str| directory.path().join(name);
    let good = std::fs::read_to_string(path("vm-00000001.json")).unwrap();
    let torn = good.get(..good.len() / 2).unwrap();
    std::fs::write(path("vm-00000002.json"), torn).unwrap();
    std::fs::write(path("vm-00000003.json"), &good).unwrap();
    std::fs::write(path("vm-00000004.json"), vec![b' '; MAX_ENTRY + 1]).unwrap();
    std::os::unix::fs::symlink("vm-00000001.json", path("vm-00000005.json")).unwrap();
    std::fs::hard_link(path("vm-00000003.json"), path("vm-00000006.json")).unwrap();
    std::fs::write(path("vm-00000007.json"), good.replace("}", ",\"x\":1}")).unwrap();
    std::fs::write(path("new.tmp"), "half").unwrap();
    for name in ["vm-00000002.json", "vm-00000003.json", "vm-00000004.json"] {
        std::fs::set_permissions(path(name), PermissionsExt::from_mode(0o600)).unwrap();
    }

    let mut ledger = load(&directory);
    assert!(!path("new.tmp").exists());
    assert_eq!(ledger.entries().len(), 1);
    let mut foreign: Vec<_> = ledger
        .foreign()
        .iter()
        .map(|(name, _)| name.clone())
        .collect();
    foreign.sort();
    let names = (2..=7).map(|n| format!("vm-0000000{n}.json"));
    assert_eq!(foreign, names.collect::<Vec<_>>());
    assert!(ledger.entry_or_new(&vm(9, 1)).is_err());
    assert!(ledger.entry_or_new(&vm(1, 1)).is_ok());

    let removed = ledger.drop_torn(&[vm(2, 1)]).unwrap();
    assert_eq!(removed.len(), 5);
    assert!(path("vm-00000002.json").exists());
    ledger.drop_torn(&[]).unwrap();
    assert!(ledger.entry_or_new(&vm(9, 1)).is_ok());
    std::fs::write(path("notes.txt"), "an admin's").unwrap();
    let mut ledger = load(&directory);
    assert_eq!(ledger.drop_torn(&[]).unwrap(), Vec::<String>::new());
    assert!(path("notes.txt").exists());
}

#[test]
fn a_directory_that_others_can_enter_is_no_ledger() {
    let directory = directory();
    for mode in [0o777, 0o755, 0o710, 0o701] {
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(mode)).unwrap();
        let dir = Dir::open(directory.path().to_str().unwrap()).unwrap();
        assert!(Ledger::load(dir).is_err(), "{mode:o}");
    }
}

#[test]
fn there_are_at_most_so_many_vms_each_with_a_uid_of_its_own() {
    let directory = directory();
    let mut ledger = load(&directory);
    for n in 0..u32::try_from(MAX_VMS).unwrap() {
        let mut entry = with_tap(&ledger, &vm(n, 1), 0);
        let address = std::net::Ipv4Addr::from(0x0a00_0000 + n);
        entry.tap.as_mut().unwrap().address = address;
        ledger.write(entry).unwrap();
    }
    let refusal = ledger.entry_or_new(&vm(0xffff, 1)).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Limit);
    ledger.update(&vm(5, 1), |entry| entry.tap = None).unwrap();
    let mut uids: Vec<u32> = (0..UIDS - 199)
        .map(|n| ledger.entry_or_new(&vm(0xffff + n, 1)).unwrap().uid)
        .collect();
    assert!(uids.contains(&(FIRST_UID + 5)));
    uids.sort_unstable();
    uids.dedup();
    // Also of those that were given out and not yet written, no two are one.
    assert_eq!(uids.len(), usize::try_from(UIDS - 199).unwrap());
}

#[test]
fn a_write_that_fails_leaves_memory_and_directory_as_before() {
    let directory = directory();
    let mut ledger = load(&directory);
    let entry = with_tap(&ledger, &vm(1, 1), 2);
    ledger.write(entry.clone()).unwrap();
    // Nothing can be written over a directory.
    std::fs::create_dir(directory.path().join("vm-00000002.json")).unwrap();
    let second = with_tap(&ledger, &vm(2, 1), 3);
    assert!(ledger.write(second).is_err());
    assert_eq!(ledger.entries(), std::slice::from_ref(&entry));
    assert_eq!(load(&directory).entry(&vm(1, 1)).unwrap(), entry);
}
