//! Archives made to do harm. Each is refused by name, and nothing of it stays.

use crate::archive::{Scene, Tar};
use std::io::Write;

#[test]
fn i1_paths_that_leave_the_tree_are_refused() {
    let scene = Scene::new();
    for (name, reason) in [
        ("../x", "contains \"..\""),
        ("a/../../x", "contains \"..\""),
        ("a/..", "contains \"..\""),
        ("/etc/x", "absolute"),
        ("//x", "absolute"),
    ] {
        scene.refuse(&Tar::new().file(name, b"x").finish(), reason);
        scene.refuse(
            &Tar::new()
                .pax(&[("path", name.as_bytes())])
                .file("ok", b"x")
                .finish(),
            reason,
        );
        scene.refuse(&Tar::new().directory(name).finish(), reason);
        scene.refuse(&Tar::new().symlink(name, "x").finish(), reason);
    }
}

#[test]
fn i2_paths_through_links_are_refused() {
    let scene = Scene::new();
    let chain = Tar::new()
        .symlink("a", "b")
        .symlink("b", "/etc")
        .file("a/passwd", b"x");
    scene.refuse(&chain.finish(), "symbolic link");
    let parent = Tar::new().symlink("a", "..").directory("a/b");
    scene.refuse(&parent.finish(), "symbolic link");
    let file = Tar::new().file("a", b"").file("a/b", b"");
    scene.refuse(&file.finish(), "not a directory");
}

#[test]
fn i3_link_then_directory_of_its_name_is_refused_rustsec_2026_0067() {
    let scene = Scene::new();
    let mode = |header: &mut [u8; 512]| header[100..108].copy_from_slice(b"0000777\0");
    let archive = Tar::new()
        .symlink("a", "/tmp")
        .add_with(b'5', b"a", b"", b"", mode);
    scene.refuse(&archive.finish(), "file or link already");
    let archive = Tar::new().directory("a").symlink("a", "/tmp");
    scene.refuse(&archive.finish(), "would replace a directory");
    let archive = Tar::new().directory("a").file("a", b"");
    scene.refuse(&archive.finish(), "would replace a directory");
    scene.refuse(&Tar::new().symlink("./", "/tmp").finish(), "root directory");
}

#[test]
fn names_of_the_file_systems_own_are_refused() {
    let scene = Scene::new();
    scene.refuse(&Tar::new().file("lost+found", b"").finish(), "lost+found");
    scene.refuse(&Tar::new().file("lost+found/x", b"").finish(), "lost+found");
}

#[test]
fn i4_hard_links_to_elsewhere_are_refused() {
    let scene = Scene::new();
    for (target, reason) in [
        ("/etc/shadow", "absolute"),
        ("../../etc/shadow", "outside"),
        ("missing", "not there"),
        ("link", "symbolic link"),
        ("link/passwd", "not there"),
        ("dir", "directory"),
        ("", "malformed"),
    ] {
        let archive = Tar::new()
            .symlink("link", "/etc")
            .directory("dir")
            .hardlink("x", target);
        scene.refuse(&archive.finish(), reason);
    }
}

#[test]
fn i5_sockets_and_unknown_types_are_refused_by_type() {
    let scene = Scene::new();
    for (kind, reason) in [
        (b's', "type 's'"),
        (b'D', "type 'D'"),
        (b'M', "type 'M'"),
        (0x1b, "type '\\u{1b}'"),
    ] {
        scene.refuse(&Tar::new().add(kind, b"x", b"", b"").finish(), reason);
    }
}

#[test]
fn i7_decompression_bombs_stop_at_the_cap() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..64 {
        gzip.write_all(&vec![0; 1 << 20]).unwrap();
    }
    let bomb = gzip.finish().unwrap();
    let scene = Scene::with_limits(|limits| limits.ratio_floor = 8 << 20);
    scene.refuse(&bomb, "decompression bomb");
    let scene = Scene::with_limits(|limits| {
        limits.tar_bytes = 4 << 20;
        limits.tar_entries = 10;
    });
    scene.refuse(&bomb, "unpacks to more than");
}

#[test]
fn i7_huge_declared_sizes_and_counts_stop_at_the_cap() {
    let scene = Scene::with_limits(|limits| limits.tar_entries = 100);
    // 8 EiB, as base-256 in the header and as PAX.
    let huge = |header: &mut [u8; 512]| {
        header[124..136].copy_from_slice(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\x00\0");
    };
    scene.refuse(
        &Tar::new().add_with(b'0', b"x", b"", b"", huge).finish(),
        "more than",
    );
    let pax = Tar::new()
        .pax(&[("size", b"9223372036854775000")])
        .file("x", b"");
    scene.refuse(&pax.finish(), "more than");
    let over = Tar::new()
        .pax(&[("size", b"18446744073709551615")])
        .file("x", b"");
    scene.refuse(&over.finish(), "not in range");
    let many = (0..101).fold(Tar::new(), |tar, i| tar.file(&format!("f{i}"), b""));
    scene.refuse(&many.finish(), "more than 100 entries");
    let minus = |header: &mut [u8; 512]| header[124..136].fill(0xff);
    scene.refuse(
        &Tar::new().add_with(b'0', b"x", b"", b"", minus).finish(),
        "size is not a number",
    );
}

#[test]
fn i7_sparse_files_are_refused_by_name() {
    let scene = Scene::new();
    scene.refuse(&Tar::new().add(b'S', b"x", b"", b"").finish(), "sparse");
    let pax = Tar::new().pax(&[("GNU.sparse.major", b"1")]).file("x", b"");
    scene.refuse(&pax.finish(), "sparse");
}

#[test]
fn i7_extended_headers_are_capped() {
    let scene = Scene::new();
    let long = Tar::new()
        .add(b'L', b"x", &vec![b'a'; 5000], b"")
        .file("x", b"");
    scene.refuse(&long.finish(), "extended header");
    let pax = Tar::new()
        .add(b'x', b"x", &vec![b'a'; (1 << 20) + 1], b"")
        .file("x", b"");
    scene.refuse(&pax.finish(), "extended header");
}

#[test]
fn i7_extended_headers_cannot_pile_up_in_memory() {
    let scene = Scene::new();
    // Each is within its cap; only together are they too much.
    let piled = (0..4).fold(Tar::new(), |tar, header| {
        let names: Vec<String> = (0..10_000)
            .map(|i| format!("SCHILY.xattr.user.{header}.{i}"))
            .collect();
        let records: Vec<(&str, &[u8])> = names.iter().map(|n| (n.as_str(), &b"x"[..])).collect();
        tar.pax(&records)
    });
    scene.refuse(&piled.file("x", b"").finish(), "extended attributes");
    let many = (0..100).fold(Tar::new(), |tar, _| tar.pax(&[("mtime", b"1")]));
    scene.refuse(&many.file("x", b"").finish(), "extended headers");
}

#[test]
fn i7_directories_that_no_entry_describes_count_too() {
    let scene = Scene::with_limits(|limits| limits.tar_entries = 1000);
    let deep = (0..3).fold(Tar::new(), |tar, i| {
        let path = format!("{i}/{}f", "d/".repeat(500));
        tar.pax(&[("path", path.as_bytes())]).file("x", b"")
    });
    scene.refuse(&deep.finish(), "more than 1000");
}

#[test]
fn i7_names_and_attributes_cannot_fill_the_memory() {
    let scene = Scene::with_limits(|limits| limits.tree_bytes = 100_000);
    let value = vec![b'v'; 3000];
    let heavy = (0..40).fold(Tar::new(), |tar, i| {
        tar.pax(&[("SCHILY.xattr.user.a", &value)])
            .file(&format!("f{i}"), b"")
    });
    scene.refuse(&heavy.finish(), "names, links and attributes");
}

#[test]
fn truncated_and_damaged_archives_are_refused() {
    let scene = Scene::new();
    let archive = Tar::new().file("a", &[7; 3000]).file("b", b"b");
    let whole = archive.clone().finish();
    for length in [1, 511, 513, 2000, 3584, 3700, 4096] {
        scene.refuse(&whole[..length], "ends in the middle");
    }
    scene.refuse(&archive.bytes(), "ends in the middle");
    let mut damaged = whole.clone();
    damaged[3600] ^= 1;
    scene.refuse(&damaged, "wrong header checksum");
    scene.refuse(&vec![b'x'; 4096], "not a tar archive");
    scene.refuse(b"", "empty");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&whole).unwrap();
    let gzip = gzip.finish().unwrap();
    scene.refuse(&gzip[..gzip.len() / 2], "damaged");
    scene.refuse(b"\xfd7zXZ\0 no xz at all, this", "damaged");
    scene.refuse(b"\x28\xb5\x2f\xfd no zstd at all, this", "damaged");
}

#[test]
fn malformed_pax_headers_are_refused() {
    let scene = Scene::new();
    for bad in [&b"5"[..], b"0 a=b\n", b"99 a=b\n", b"6 a=bx", b"-6 a=b\n"] {
        scene.refuse(
            &Tar::new().add(b'x', b"x", bad, b"").file("x", b"").finish(),
            "PAX",
        );
    }
    for (key, value) in [
        ("size", &b"x"[..]),
        ("uid", b"4294967296"),
        ("mtime", b"now"),
        ("gid", b"-1"),
    ] {
        scene.refuse(
            &Tar::new().pax(&[(key, value)]).file("x", b"").finish(),
            "its value is not",
        );
    }
}

#[test]
fn i19_long_and_foreign_names_are_refused() {
    let scene = Scene::new();
    let name = "n".repeat(256);
    scene.refuse(&Tar::new().file(&name, b"").finish(), "longer than 255");
    let path = "d/".repeat(2048) + "x";
    scene.refuse(
        &Tar::new()
            .pax(&[("path", path.as_bytes())])
            .file("x", b"")
            .finish(),
        "longer than 4096",
    );
    scene.refuse(
        &Tar::new().add(b'0', b"\xff\xfe", b"", b"").finish(),
        "not UTF-8",
    );
    scene.refuse(
        &Tar::new().add(b'2', b"x", b"", b"\xff").finish(),
        "not UTF-8",
    );
    scene.refuse(&Tar::new().symlink("x", "").finish(), "empty");
    scene.refuse(
        &Tar::new().pax(&[("path", b"a\0b")]).file("x", b"").finish(),
        "NUL",
    );
    let escape = Tar::new().add(b's', b"\x1b[31mred", b"", b"");
    scene.refuse(&escape.finish(), "\\u{1b}");
}

#[test]
fn i19_xattrs_that_do_not_fit_are_refused() {
    let scene = Scene::new();
    let value = vec![b'v'; 5000];
    for (key, value, reason) in [
        ("SCHILY.xattr.user.a", &value[..], "does not fit"),
        ("SCHILY.xattr.user.", b"v", "namespaces"),
        ("SCHILY.xattr.other.a", b"v", "namespaces"),
        ("SCHILY.xattr.", b"v", "namespaces"),
        (
            "SCHILY.xattr.system.posix_acl_access",
            b"v",
            "access control list",
        ),
    ] {
        scene.refuse(
            &Tar::new().pax(&[(key, value)]).file("x", b"").finish(),
            reason,
        );
    }
    let name = format!("SCHILY.xattr.user.{}", "n".repeat(300));
    scene.refuse(
        &Tar::new().pax(&[(&name, b"v")]).file("x", b"").finish(),
        "too long a name",
    );
}

#[test]
fn i24_ids_and_times_out_of_range_are_refused() {
    let scene = Scene::new();
    let uid = |header: &mut [u8; 512]| header[108..116].copy_from_slice(b"\x80\0\0\x01\0\0\0\0");
    scene.refuse(
        &Tar::new().add_with(b'0', b"x", b"", b"", uid).finish(),
        "uid",
    );
    let late = Tar::new().pax(&[("mtime", b"99999999999")]).file("x", b"");
    scene.refuse(&late.finish(), "time 99999999999 is not in range");
    let early = Tar::new().pax(&[("mtime", b"-2147483649")]).file("x", b"");
    scene.refuse(&early.finish(), "not in range");
    let device = |header: &mut [u8; 512]| header[329..337].copy_from_slice(b"0777777\0");
    scene.refuse(
        &Tar::new().add_with(b'3', b"x", b"", b"", device).finish(),
        "device number",
    );
}
