//! What hostile guests send, and what must come of it.

use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use tar::{Builder, EntryType, Header};

struct Case {
    temp: tempfile::TempDir,
    tar: Builder<Vec<u8>>,
}

impl Case {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("to")).unwrap();
        std::fs::write(temp.path().join("victim"), "before").unwrap();
        Self {
            temp,
            tar: Builder::new(Vec::new()),
        }
    }

    /// Adds an entry whose name and target are written as they are, also where tar would refuse.
    fn add(&mut self, kind: EntryType, name: &str, target: &str, mode: u32, content: &[u8]) {
        let mut header = Header::new_gnu();
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..name.len()].copy_from_slice(name.as_bytes());
        gnu.linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.tar.append(&header, content).unwrap();
    }

    fn to(&self) -> std::path::PathBuf {
        self.temp.path().join("to")
    }

    fn unpack_with(&mut self, name: Option<&str>, max_bytes: u64) -> io::Result<Outcome> {
        let tar = std::mem::replace(&mut self.tar, Builder::new(Vec::new()));
        let tar = tar.into_inner().unwrap();
        let destination = OwnedFd::from(File::open(self.to()).unwrap());
        let rules = Rules {
            top: b"top".to_vec(),
            name: name.map(|name| name.as_bytes().to_vec()),
            max_bytes,
        };
        unpack(&tar[..], &destination, &rules)
    }

    fn unpack(&mut self) -> io::Result<Outcome> {
        self.unpack_with(None, 1 << 20)
    }

    fn victim(&self) -> String {
        std::fs::read_to_string(self.temp.path().join("victim")).unwrap()
    }
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o7777
}

#[test]
fn unpack_writes_files_directories_and_links() {
    let mut case = Case::new();
    case.add(EntryType::Directory, "top/", "", 0o755, b"");
    case.add(EntryType::Directory, "top/ro", "", 0o555, b"");
    case.add(EntryType::Regular, "top/ro/a", "", 0o4755, b"hello");
    case.add(EntryType::Symlink, "top/link", "ro/a", 0o777, b"");
    case.add(EntryType::Link, "top/hard", "top/ro/a", 0o755, b"");
    case.add(EntryType::Char, "top/null", "", 0o666, b"");
    let outcome = case.unpack().unwrap();
    assert_eq!(
        (outcome.written, outcome.bytes, outcome.left_out),
        (4, 5, 1)
    );
    let to = case.to();
    assert_eq!(std::fs::read(to.join("ro/a")).unwrap(), b"hello");
    assert_eq!(
        mode(&to.join("ro/a")) & 0o7000,
        0,
        "set-id bits are dropped"
    );
    assert_eq!(mode(&to.join("ro")), 0o555);
    assert_eq!(to.join("hard").metadata().unwrap().nlink(), 2);
    assert_eq!(
        std::fs::read_link(to.join("link")).unwrap(),
        Path::new("ro/a")
    );
    assert!(!to.join("null").exists());
}

#[test]
fn unpack_renames_the_top_and_replaces_files() {
    let mut case = Case::new();
    std::fs::hard_link(case.temp.path().join("victim"), case.to().join("new")).unwrap();
    case.add(EntryType::Regular, "top", "", 0o600, b"after");
    case.unpack_with(Some("new"), 1 << 20).unwrap();
    assert_eq!(std::fs::read(case.to().join("new")).unwrap(), b"after");
    assert_eq!(
        case.victim(),
        "before",
        "a hard link is not written through"
    );
}

#[test]
fn unpack_refuses_names_that_climb() {
    for name in [
        "top/../../victim",
        "../victim",
        "/victim",
        "top/a/../../../victim",
        "other",
    ] {
        let mut case = Case::new();
        case.add(EntryType::Regular, name, "", 0o644, b"after");
        let error = case.unpack().unwrap_err();
        assert!(error.to_string().contains("refused"), "{name}: {error}");
        assert_eq!(case.victim(), "before");
    }
}

#[test]
fn unpack_refuses_to_write_through_its_own_links() {
    let mut case = Case::new();
    let outside = case.temp.path().display().to_string();
    case.add(EntryType::Symlink, "top/out", &outside, 0o777, b"");
    case.add(EntryType::Regular, "top/out/victim", "", 0o644, b"after");
    assert!(case.unpack().unwrap_err().to_string().contains("refused"));
    assert_eq!(case.victim(), "before");

    // The same name first as a link, then as a directory with another mode (RUSTSEC-2026-0067).
    let mut case = Case::new();
    let outside = case.temp.path().display().to_string();
    case.add(EntryType::Symlink, "top/out", &outside, 0o777, b"");
    case.add(EntryType::Directory, "top/out", "", 0o777, b"");
    assert!(case.unpack().is_err());
    assert_ne!(mode(case.temp.path()), 0o777);
}

#[test]
fn unpack_refuses_links_that_were_there_before() {
    let mut case = Case::new();
    symlink(case.temp.path(), case.to().join("out")).unwrap();
    case.add(EntryType::Regular, "top/out/victim", "", 0o644, b"after");
    assert!(case.unpack().is_err());
    assert_eq!(case.victim(), "before");

    let mut case = Case::new();
    symlink("../victim", case.to().join("leaf")).unwrap();
    case.add(EntryType::Regular, "top/leaf", "", 0o644, b"after");
    case.unpack().unwrap();
    assert_eq!(
        case.victim(),
        "before",
        "the link is replaced, not followed"
    );
    assert_eq!(std::fs::read(case.to().join("leaf")).unwrap(), b"after");
}

#[test]
fn unpack_refuses_hard_links_to_foreign_files() {
    for target in ["/etc/passwd", "../victim", "top/../../victim", "top/mine"] {
        let mut case = Case::new();
        std::fs::write(case.to().join("mine"), "the user's own").unwrap();
        case.add(EntryType::Link, "top/hard", target, 0o644, b"");
        assert!(case.unpack().is_err(), "{target}");
        assert!(!case.to().join("hard").exists());
    }
}

#[test]
fn unpack_refuses_more_than_the_cap() {
    let mut case = Case::new();
    case.add(EntryType::Regular, "top/a", "", 0o644, &[0; 600]);
    case.add(EntryType::Regular, "top/b", "", 0o644, &[0; 600]);
    let error = case.unpack_with(None, 1000).unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
    assert!(!case.to().join("b").exists());
}

#[test]
fn unpack_refuses_endless_long_names() {
    let mut case = Case::new();
    case.add(
        EntryType::GNULongName,
        "././@LongLink",
        "",
        0o644,
        &vec![b'a'; 300_000],
    );
    case.add(EntryType::Regular, "top/x", "", 0o644, b"");
    assert!(case.unpack().unwrap_err().to_string().contains("256 KiB"));
    let mut case = Case::new();
    case.add(EntryType::XHeader, "pax", "", 0o644, b"99 path=x\n");
    assert!(case.unpack().unwrap_err().to_string().contains("PAX"));
}

#[test]
fn unpack_refuses_a_file_for_contents() {
    let mut case = Case::new();
    case.add(EntryType::Regular, "top", "", 0o644, b"x");
    assert!(case.unpack().is_err());
}

#[test]
fn unpack_reads_long_names() {
    let mut case = Case::new();
    let long = format!("top/{}", "d/".repeat(60) + &"f".repeat(200));
    let mut header = Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(2);
    case.tar
        .append_data(&mut header, &long, &b"ok"[..])
        .unwrap();
    case.unpack().unwrap();
    let path = case.to().join(long.strip_prefix("top/").unwrap());
    assert_eq!(std::fs::read(path).unwrap(), b"ok");
}
