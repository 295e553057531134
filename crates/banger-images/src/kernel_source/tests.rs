//! Tests of `kernel_source`.

use super::*;
use crate::NoProgress;

/// A tar archive's entry: name, type flag, mode, link target, content.
type Member<'a> = (&'a str, u8, u16, &'a str, &'a [u8]);

fn tar(members: &[Member<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, flag, mode, link, content) in members {
        let mut header = [0_u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..108].copy_from_slice(format!("{mode:07o}\0").as_bytes());
        for at in [108, 116] {
            header[at..at + 8].copy_from_slice(b"0000000\0");
        }
        header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        header[136..148].copy_from_slice(b"00000001750\0");
        header[148..156].fill(b' ');
        header[156] = *flag;
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend(header);
        out.extend(*content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn package(dir: &Path, members: &[Member<'_>]) -> PathBuf {
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::default()).unwrap();
    xz.write_all(&tar(members)).unwrap();
    let source = xz.finish().unwrap();
    let name = "./usr/src/linux-source-6.1.tar.xz";
    let data = tar(&[
        ("./usr/share/doc/copyright", b'0', 0o644, "", b"text"),
        (name, b'0', 0o644, "", &source),
    ]);
    let mut deb = b"!<arch>\n".to_vec();
    for (name, content) in [("debian-binary", &b"2.0\n"[..]), ("data.tar", &data)] {
        let size = content.len();
        deb.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, 644).bytes());
        deb.extend(content);
        deb.resize(deb.len().next_multiple_of(2), b'\n');
    }
    let path = dir.join("x.deb");
    fs::write(&path, deb).unwrap();
    path
}

fn unpacked(members: &[Member<'_>]) -> (tempfile::TempDir, Result<SourceTree, ImagesError>) {
    let dir = tempfile::tempdir().unwrap();
    let package = package(dir.path(), members);
    let tree = unpack(
        &package,
        dir.path().join("source"),
        &Limits::default(),
        &NoProgress,
    );
    (dir, tree)
}

#[test]
fn unpacks_what_a_build_needs_and_leaves_the_rest() {
    let (_dir, tree) = unpacked(&[
        ("linux-source-6.1/", b'5', 0o755, "", b""),
        ("linux-source-6.1/Makefile", b'0', 0o644, "", b"all:"),
        ("linux-source-6.1/scripts/run.sh", b'0', 0o755, "", b"#!"),
        (
            "linux-source-6.1/scripts/link",
            b'2',
            0o777,
            "../Makefile",
            b"",
        ),
        ("linux-source-6.1/arch/Kconfig", b'0', 0o644, "", b"k"),
        ("linux-source-6.1/arch/x86/a.c", b'0', 0o644, "", b"x86"),
        ("linux-source-6.1/arch/arm/a.c", b'0', 0o644, "", b"arm"),
        (
            "linux-source-6.1/Documentation/Kconfig",
            b'0',
            0o644,
            "",
            b"k",
        ),
        (
            "linux-source-6.1/Documentation/long.rst",
            b'0',
            0o644,
            "",
            b"d",
        ),
    ]);
    let tree = tree.unwrap();
    assert_eq!(tree.made_unix, 1000);
    let has = |path: &str| tree.directory.join(path).exists();
    for path in ["arch/Kconfig", "arch/x86/a.c", "Documentation/Kconfig"] {
        assert!(has(path), "{path}");
    }
    assert!(!has("arch/arm/a.c") && !has("Documentation/long.rst"));
    let link = fs::read(tree.directory.join("scripts/link")).unwrap();
    assert_eq!(link, b"all:");
    let script = fs::metadata(tree.directory.join("scripts/run.sh")).unwrap();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&script.permissions()) & 0o777,
        0o700
    );
}

#[test]
fn unpack_refuses_names_and_links_that_leave_the_source() {
    let makefile = ("s/Makefile", b'0', 0o644, "", &b""[..]);
    for bad in [
        ("s/../../escape", b'0', 0o644, "", &b"x"[..]),
        ("s/a", b'2', 0o777, "/etc/passwd", b""),
        ("s/a/b", b'2', 0o777, "../../../up", b""),
        ("s/fifo", b'6', 0o644, "", b""),
        ("s/hard", b'1', 0o644, "s/Makefile", b""),
    ] {
        let (dir, tree) = unpacked(&[makefile, bad]);
        let error = tree.unwrap_err();
        assert!(
            matches!(error, ImagesError::RefusedEntry { .. }),
            "{bad:?}: {error}"
        );
        assert!(!dir.path().join("escape").exists());
    }
}

#[test]
fn unpack_refuses_a_package_without_a_source() {
    let (_dir, tree) = unpacked(&[("s/README", b'0', 0o644, "", b"")]);
    assert!(tree.unwrap_err().to_string().contains("no Makefile"));
}

#[test]
fn a_files_contents_are_never_written_through_a_link() {
    let (dir, tree) = unpacked(&[
        ("s/Makefile", b'0', 0o644, "", b""),
        ("s/d", b'2', 0o777, "e", b""),
        ("s/d/file", b'0', 0o644, "", b"x"),
    ]);
    // The link comes last and finds its place taken.
    assert!(tree.is_err());
    assert!(!dir.path().join("source/e").exists());
}
